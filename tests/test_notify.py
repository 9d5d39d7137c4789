"""What systemd hears: a real datagram socket in its place, by path and by abstract name."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monitor.notify import Notifier

ROOT = Path(__file__).parent.parent


@contextmanager
def systemd_at(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(10)
        heard.bind(address)
        yield heard


def heard_by(line: socket.socket) -> list[bytes]:
    """Everything that waits to be heard."""
    messages = []
    line.setblocking(False)
    try:
        while True:
            messages.append(line.recv(4096))
    except BlockingIOError:
        return messages


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_hears_each_message_once(kind: str, tmp_path: Path) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@emosllm-test-{os.getpid()}"
    with systemd_at(name.replace("@", "\0", 1) if kind == "abstract" else name) as line:
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000"})
        notifier.ready()
        notifier.status("listening\nMAINPID=1")
        notifier.alive()
        notifier.stopping()
        assert heard_by(line) == [b"READY=1", b"STATUS=listening MAINPID=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_daemon_process_reaches_the_socket_of_its_environment(tmp_path: Path) -> None:
    with systemd_at(str(tmp_path / "notify")) as line:
        code = "from monitor.notify import Notifier; n = Notifier(); n.ready(); n.alive()"
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, check=True)
        assert heard_by(line) == [b"READY=1"], "the watchdog was meant for another process"


def test_signs_of_life_are_sent_three_times_within_the_timeout_however_often_they_are_given(tmp_path: Path) -> None:
    now = 100.0
    with systemd_at(str(tmp_path / "notify")) as line:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        notifier = Notifier(environment, lambda: now)
        assert notifier.watchdog_s == 30
        for _ in range(300):
            notifier.alive()
            now += 0.1
        assert heard_by(line) == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize("usec", ["0", "", "soon", "-1"])
def test_without_a_watchdog_no_sign_is_sent(usec: str, tmp_path: Path) -> None:
    with systemd_at(str(tmp_path / "notify")) as line:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": usec})
        notifier.alive()
        assert notifier.watchdog_s == 0
        assert heard_by(line) == []


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/gone/notify"}])
def test_without_systemd_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier({**environment, "WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.status("listening")
    notifier.alive()
    notifier.stopping()


def test_a_systemd_that_does_not_listen_blocks_nobody(tmp_path: Path) -> None:
    with systemd_at(str(tmp_path / "notify")) as line:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(5000):
            notifier.ready()
        assert 0 < len(heard_by(line)) < 5000, "the queue was not full, so this test shows nothing"
