"""What an operator does at the clinic: logins, entrusting, the audit, removing a subject. Every function raises ClinicError."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from monitor.clinic.address import Address
from monitor.clinic.connection import Connection, connected, verifier

Kind = Literal["subject", "clinician", "operator"]

_PASSWORD_BYTES = 24


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject: since when, when a monitor of theirs sent something last (UTC), and which clinicians they are entrusted to."""

    name: str
    added_at: datetime
    seen_at: datetime | None
    clinicians: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """A line of the audit: at that moment (UTC) a login did `what`, of a subject; about: another login; from_at, to_at: what was read."""

    at: datetime
    login: str
    what: str
    subject: str | None
    about: str | None
    from_at: datetime | None
    to_at: datetime | None
    address: str | None


def add_login(address: Address, name: str, kind: Kind | str) -> str:
    """Add a login; returns its password, which nobody can be told again. Only an administrator adds operators."""
    with connected(address) as connection:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        connection.execute("SELECT emosllm.add_login(%s, %s, %s)", (name, kind, verifier(connection, name, password)))
        return password


def renew_password(address: Address, name: str) -> str:
    """Give a login another password; returns it."""
    with connected(address) as connection:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        connection.execute("SELECT emosllm.renew_password(%s, %s)", (name, verifier(connection, name, password)))
        return password


def entrust(address: Address, clinician: str, subject: str) -> None:
    """Let a clinician read what a subject shares."""
    _do(address, "SELECT emosllm.entrust(%s, %s)", clinician, subject)


def withdraw(address: Address, clinician: str, subject: str) -> None:
    """Let them read it no longer."""
    _do(address, "SELECT emosllm.withdraw(%s, %s)", clinician, subject)


def subjects(address: Address) -> list[Subject]:
    """All subjects, by name."""
    with connected(address) as connection:
        rows = connection.execute("SELECT * FROM emosllm.subjects()").fetchall()
    return [Subject(row["subject"], row["added_at"], row["seen_at"], tuple(row["clinicians"])) for row in rows]


def audit(address: Address, subject: str | None, at_most: int) -> list[Noted]:
    """The last lines of the audit, oldest first: of one subject or all. A subject sees those about themselves only."""
    with connected(address) as connection:
        rows = connection.execute(
            "SELECT at, login, what, subject, about, from_at, to_at, host(address) AS address FROM emosllm.audit"
            " WHERE %(subject)s::text IS NULL OR subject = %(subject)s ORDER BY id DESC LIMIT %(most)s",
            {"subject": subject, "most": at_most},
        ).fetchall()
    return [Noted(**_in_utc(row)) for row in reversed(rows)]


def remove_subject(address: Address, subject: str) -> int:
    """Erase all that a subject shared, and their login; returns how many rows went. That it was done stays in the audit."""
    with connected(address) as connection:
        row = connection.execute("SELECT emosllm.remove_subject(%s) AS removed", (subject,)).fetchone()
        return int(row["removed"]) if row else 0


def send_again(address: Address) -> None:
    """Have every monitor send everything it shares again: what was lost with a backup that was put back."""
    _do(address, "SELECT emosllm.send_again()")


def _do(address: Address, statement: str, *values: str) -> None:
    with connected(address) as connection:
        _run(connection, statement, values)


def _run(connection: Connection, statement: str, values: tuple[str, ...]) -> None:
    connection.execute(statement.encode(), values)


def _in_utc(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}
