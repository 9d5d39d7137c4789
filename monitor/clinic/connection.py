"""Connections to the clinic's PostgreSQL. The only file that knows the driver; turns its errors into messages for people."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from model.errors import ClinicError
from monitor.clinic.address import ClinicAddress

Connection = psycopg.Connection[dict[str, Any]]
Cursor = psycopg.Cursor[dict[str, Any]]

# A server that is gone without a word is noticed, and a transaction of ours that hangs holds nobody up.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
_OPTIONS = "-c statement_timeout=120s -c lock_timeout=30s -c idle_in_transaction_session_timeout=120s -c TimeZone=UTC"
_SHORT_TIMEOUTS = "-c statement_timeout=5s -c lock_timeout=3s"
_LONGEST = 300
# What libpq says of a server's certificate; it has no codes for it.
_CERTIFICATE_ERRORS = ("certificate verify failed", "does not match host name", "root certificate file")


def connect(address: ClinicAddress, patient: bool = True) -> Connection:
    """Log in. patient: for statements that take a while, as long as any takes. Raises ClinicError."""
    with clinic_errors(address):
        return psycopg.connect(_conninfo(address, _OPTIONS if patient else f"{_OPTIONS} {_SHORT_TIMEOUTS}"), row_factory=dict_row)


@contextmanager
def clinic_connection(address: ClinicAddress) -> Iterator[Connection]:
    """One connection; what is done is kept when the block ends in good order, and errors are ClinicError."""
    with clinic_errors(address), connect(address) as connection:
        yield connection


@contextmanager
def clinic_errors(address: ClinicAddress) -> Iterator[None]:
    """Turn what the driver raises into ClinicError."""
    try:
        yield
    except psycopg.Error as error:
        raise ClinicError(_error_text(error, address)) from error


def plain_connection(address: ClinicAddress) -> Any:
    """A connection whose rows are tuples, for libraries that speak to the driver themselves. Raises psycopg's own errors."""
    return psycopg.connect(_conninfo(address, ""))


def password_verifier(connection: Connection, login: str, password: str) -> str:
    """What a server keeps of a password, so that the password itself need not go there."""
    return connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()


def _conninfo(address: ClinicAddress, options: str) -> str:
    told: dict[str, Any] = {**address.parameters(), **_KEEPALIVE}
    return make_conninfo(**told, options=options, application_name="emosllm-monitor")


def _explain_refusal(refusal: str) -> str:
    """Who may do it: what PostgreSQL says of a function means nothing to whoever typed a command."""
    if not refusal.startswith("permission denied for function"):
        return refusal
    if "read_" in refusal:
        return "only a clinician with access to this subject may do that"
    return "only subjects may do that" if "begin_sending" in refusal or "own_subject" in refusal else "only an operator may do that"


def _error_text(error: psycopg.Error, address: ClinicAddress) -> str:
    said = error.diag.message_primary or " ".join(str(error).split())
    if address.password:
        said = said.replace(address.password, "***")
    said = said[:_LONGEST]
    if any(sign in said for sign in _CERTIFICATE_ERRORS):
        return (
            f"the clinic's database {address} could not prove its identity: {said}; pass the certificate of its authority with"
            " &sslrootcert=FILE in the URL, and use the host name in its certificate"
        )
    match error:
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedFunction() | psycopg.errors.InvalidSchemaName():
            return f"{address} is not set up or is outdated; run `emosllm-monitor clinic setup` ({said})"
        case psycopg.errors.InsufficientPrivilege():
            return f"{address} denied this login: {_explain_refusal(said)}"
        case psycopg.errors.NoDataFound() | psycopg.errors.InvalidParameterValue() | psycopg.errors.DuplicateObject():
            return said
        case psycopg.errors.ActiveSqlTransaction() | psycopg.errors.IntegrityError() | psycopg.errors.DataError():
            return f"{address} rejected the data: {said}"
        case _:
            return f"cannot use the clinic's database {address}: {said}"
