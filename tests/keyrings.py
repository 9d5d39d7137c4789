"""Keyrings as `keyring` knows them, for one test: one that works, and those that are not to be relied on."""

import threading

import keyring
import keyring.core
import pytest
from keyring.backend import KeyringBackend

from monitor.store import key_places


class Memory(KeyringBackend):
    """A keyring that keeps what it is given while the test lasts."""

    priority = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


class Plain(Memory):
    """Keeps keys where anybody can read them, and says so by its priority."""

    priority = 0.5  # type: ignore[assignment]


class Locked(Memory):
    """Waits for its owner, who does not come."""

    def __init__(self) -> None:
        super().__init__()
        self.unlocked = threading.Event()

    def get_password(self, service: str, username: str) -> str | None:
        self.unlocked.wait(60)
        return super().get_password(service, username)


class Broken(Memory):
    """Answers with an error of its own."""

    def get_password(self, service: str, username: str) -> str | None:
        raise RuntimeError("the bus is gone")


def use(monkeypatch: pytest.MonkeyPatch, backend: KeyringBackend) -> None:
    """Make `backend` the keyring of this process, until the test ends."""
    monkeypatch.setattr(keyring.core, "_keyring_backend", None)  # so that what was there comes back
    keyring.set_keyring(backend)
    monkeypatch.setattr(key_places, "KEYRING_TIMEOUT_S", 0.2 if isinstance(backend, Locked) else 10.0)
