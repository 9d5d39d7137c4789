"""Where the clinic's PostgreSQL is and which login to use: a URL, refused where the connection would not be protected.

Beyond this machine the server must prove its identity (sslmode=verify-full). Passwords are never shown, and neither is a URL that
cannot be parsed, because it may hold one. Knows no driver.
"""

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from model.errors import ConfigError
from monitor.config import STORE_URL_VARIABLE, StoreConfig

_PORT = 5432
_SOCKETS = "/var/run/postgresql"
_SAFE = "verify-full"
_EXAMPLE = "postgresql://anna@clinic.example/emosllm?sslmode=verify-full"
# Others could lead elsewhere than the URL seems to.
_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "connect_timeout", "passfile", "host")


@dataclass(frozen=True, slots=True)
class ClinicAddress:
    """host: a name, an address, or the folder of a Unix socket. options: libpq's, from the URL."""

    host: str
    port: int
    database: str
    user: str
    password: str | None = field(repr=False)
    options: Mapping[str, str]

    @classmethod
    def of(cls, settings: StoreConfig) -> Self | None:
        """From the environment or the settings; None where neither names one. Raises ConfigError as `parse` does."""
        if given := os.environ.get(STORE_URL_VARIABLE):
            return cls.parse(given, f"environment variable {STORE_URL_VARIABLE}")
        return cls.parse(settings.url, "[store] url") if settings.url else None

    @classmethod
    def needed(cls, settings: StoreConfig) -> Self:
        """For what cannot be done without one. Raises ConfigError where there is none, and as `parse` does."""
        found = cls.of(settings)
        if found is None:
            raise ConfigError(f"no clinic is configured; set {STORE_URL_VARIABLE}={_EXAMPLE}, or [store] url in the settings")
        return found

    @classmethod
    def parse(cls, url: str, named: str) -> Self:
        """named: what the URL is called. Raises ConfigError when it cannot be used, or the way there would be open to others."""
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
            port, host = parts.port or _PORT, unquote(parts.hostname or "")
        except ValueError:
            raise ConfigError(f"{named} is not a valid PostgreSQL URL; use for example {_EXAMPLE}") from None
        database = unquote(parts.path.removeprefix("/"))
        if parts.scheme not in ("postgresql", "postgres") or not parts.username or not database or parts.fragment:
            raise ConfigError(f"{named} must name a login and a database on a PostgreSQL server, for example {_EXAMPLE}")
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise ConfigError(f"{named}: unknown option {', '.join(unknown)}; allowed are {', '.join(_OPTIONS)}")
        host = host or options.pop("host", "") or _SOCKETS
        found = cls(host, port, database, unquote(parts.username), parts.password and unquote(parts.password), options)
        if "host" in options or "," in host:
            raise ConfigError(f"{named} must name exactly one server, for example {_EXAMPLE}")
        if not found.is_here and options.get("sslmode") != _SAFE:
            raise ConfigError(
                f"{named}: a server on another machine must prove its identity; add ?sslmode={_SAFE} (and &sslrootcert=FILE if the"
                " clinic's certificate is not from a public authority)"
            )
        return found

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        if self.host.startswith("/") or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        where = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{where}{'' if self.port == _PORT else f':{self.port}'}/{self.database}"

    def parameters(self) -> dict[str, str | int]:
        """What libpq is told. Set even where a variable of the environment would say otherwise."""
        told: dict[str, str | int] = {"host": self.host, "port": self.port, "dbname": self.database, "user": self.user}
        if self.password:
            told["password"] = self.password
        # libpq alone would look for ~/.postgresql/root.crt.
        trusted = {"sslrootcert": _trusted()} if self.options.get("sslmode") == _SAFE else {}
        # hostaddr would come before the host, a service before all of it.
        return {"connect_timeout": 10, "gssencmode": "disable", "sslmode": "prefer", **trusted, **self.options, **told}

    def url_for(self, user: str, password: str) -> str:
        """The same place for another login."""
        where = f"[{self.host}]" if ":" in self.host else self.host
        options = [f"{name}={value}" for name, value in self.options.items() if name in ("sslmode", "sslrootcert", "channel_binding")]
        if self.host.startswith("/"):
            where, options = "", [*options, f"host={self.host}"]
        port = "" if self.port == _PORT else f":{self.port}"
        return f"postgresql://{user}:{password}@{where}{port}/{self.database}" + (f"?{'&'.join(options)}" if options else "")


def _trusted() -> str:
    """The file of the authorities that this machine trusts. The OpenSSL that comes with the driver may look elsewhere for them."""
    return ssl.get_default_verify_paths().cafile or "system"


@dataclass(frozen=True, slots=True)
class SharingState:
    """How things stand with the clinic that rows are shared with. clinic: where, without a password. waiting: changes, since then.

    sent_at: when something arrived last since the start.
    """

    clinic: str
    waiting: int
    since: datetime | None
    sent_at: datetime | None

    def as_json(self) -> dict[str, Any]:
        """In JSON's types; moments in ISO 8601 UTC."""
        return {
            "clinic": self.clinic,
            "waiting": self.waiting,
            "waiting_since": self.since and self.since.isoformat(timespec="seconds"),
            "sent_at": self.sent_at and self.sent_at.isoformat(timespec="seconds"),
        }
