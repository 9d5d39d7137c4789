"""Administration of a clinic's database: roles and tables, logins, access, audit, removing a subject. Functions raise ClinicError.

Setting up is idempotent: it creates what is missing and applies pending migrations.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from monitor.clinic.address import ClinicAddress
from monitor.clinic.connection import Connection, clinic_connection, clinic_errors, password_verifier, plain_connection

# Nobody logs in as one of these: logins are given them.
_ROLES = """
DO $$
DECLARE one text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('emosllm set-up'));
    FOREACH one IN ARRAY ARRAY['emosllm_owner', 'emosllm_subject', 'emosllm_clinician', 'emosllm_operator'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = one) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', one);
        END IF;
    END LOOP;
    ALTER ROLE emosllm_owner CREATEROLE;
    GRANT emosllm_subject, emosllm_clinician, emosllm_operator TO emosllm_owner WITH ADMIN OPTION;
    IF NOT pg_has_role(session_user, 'emosllm_owner', 'MEMBER') THEN
        EXECUTE format('GRANT emosllm_owner TO %I', session_user);
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO emosllm_subject, emosllm_clinician, emosllm_operator', current_database());
    CREATE SCHEMA IF NOT EXISTS emosllm AUTHORIZATION emosllm_owner;
END $$
"""


def set_up_clinic(address: ClinicAddress) -> str:
    """Returns the version of the tables. Raises ClinicError; then nothing has changed."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", "monitor.clinic:migrations")
    engine = create_engine("postgresql+psycopg://", creator=lambda: plain_connection(address), poolclass=NullPool)
    with clinic_errors(address):
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(_ROLES, execution_options={"no_parameters": True})
                connection.exec_driver_sql("SET LOCAL ROLE emosllm_owner")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                return str(connection.exec_driver_sql("SELECT version_num FROM emosllm.alembic_version").scalar())
        except DBAPIError as error:
            raise error.orig or error from None


LoginKind = Literal["subject", "clinician", "operator"]

_PASSWORD_BYTES = 24


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject: since when, when a monitor of theirs sent something last (UTC), and which clinicians they are entrusted to."""

    name: str
    added_at: datetime
    seen_at: datetime | None
    clinicians: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A line of the audit: at that moment (UTC) a login did `what`, of a subject; about: another login; from_at, to_at: what was read."""

    at: datetime
    login: str
    what: str
    subject: str | None
    about: str | None
    from_at: datetime | None
    to_at: datetime | None
    address: str | None


def add_login(address: ClinicAddress, name: str, kind: LoginKind | str) -> str:
    """Add a login; returns its password, which nobody can be told again. Only an administrator adds operators."""
    with clinic_connection(address) as connection:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        connection.execute("SELECT emosllm.add_login(%s, %s, %s)", (name, kind, password_verifier(connection, name, password)))
        return password


def renew_password(address: ClinicAddress, name: str) -> str:
    """Give a login another password; returns it."""
    with clinic_connection(address) as connection:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        connection.execute("SELECT emosllm.renew_password(%s, %s)", (name, password_verifier(connection, name, password)))
        return password


def entrust(address: ClinicAddress, clinician: str, subject: str) -> None:
    """Let a clinician read what a subject shares."""
    _execute(address, "SELECT emosllm.entrust(%s, %s)", clinician, subject)


def withdraw(address: ClinicAddress, clinician: str, subject: str) -> None:
    """Let them read it no longer."""
    _execute(address, "SELECT emosllm.withdraw(%s, %s)", clinician, subject)


def subjects(address: ClinicAddress) -> list[Subject]:
    """All subjects, by name."""
    with clinic_connection(address) as connection:
        rows = connection.execute("SELECT * FROM emosllm.subjects()").fetchall()
    return [Subject(row["subject"], row["added_at"], row["seen_at"], tuple(row["clinicians"])) for row in rows]


def audit(address: ClinicAddress, subject: str | None, at_most: int) -> list[AuditEntry]:
    """The last lines of the audit, oldest first: of one subject or all. A subject sees those about themselves only."""
    with clinic_connection(address) as connection:
        rows = connection.execute(
            "SELECT at, login, what, subject, about, from_at, to_at, host(address) AS address FROM emosllm.audit"
            " WHERE %(subject)s::text IS NULL OR subject = %(subject)s ORDER BY id DESC LIMIT %(most)s",
            {"subject": subject, "most": at_most},
        ).fetchall()
    return [AuditEntry(**_in_utc(row)) for row in reversed(rows)]


def remove_subject(address: ClinicAddress, subject: str) -> int:
    """Erase all that a subject shared, and their login; returns how many rows went. That it was done stays in the audit."""
    with clinic_connection(address) as connection:
        row = connection.execute("SELECT emosllm.remove_subject(%s) AS removed", (subject,)).fetchone()
        return int(row["removed"]) if row else 0


def send_again(address: ClinicAddress) -> None:
    """Have every monitor send everything it shares again: what was lost with a backup that was put back."""
    _execute(address, "SELECT emosllm.send_again()")


def _execute(address: ClinicAddress, statement: str, *values: str) -> None:
    with clinic_connection(address) as connection:
        _run_statement(connection, statement, values)


def _run_statement(connection: Connection, statement: str, values: tuple[str, ...]) -> None:
    connection.execute(statement.encode(), values)


def _in_utc(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}
