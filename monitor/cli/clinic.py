"""A clinic's PostgreSQL: set it up, manage logins and access, read the audit log. EMOSLLM_STORE_URL or [store] url names the server."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import ClinicError
from monitor.cli.settings import settings_of

if TYPE_CHECKING:
    from monitor.clinic.address import ClinicAddress
    from monitor.clinic.admin import AuditEntry

clinic = typer.Typer(no_args_is_help=True)

_NAME = "Up to 40 lower-case letters, digits and _, starting with a letter. Avoid real names: audit and server logs show it."
LoginName = Annotated[str, typer.Argument(metavar="NAME", help=_NAME)]
Renew = Annotated[bool, typer.Option("--renew", help="Set a new password for an existing login.")]
SubjectName = Annotated[str, typer.Argument(metavar="SUBJECT", help="A subject, as listed by `clinic subjects`.")]
Clinician = Annotated[str, typer.Argument(metavar="CLINICIAN", help="A clinician's login.")]


def _address(context: typer.Context) -> "ClinicAddress":
    from monitor.clinic.address import ClinicAddress

    return ClinicAddress.needed(settings_of(context).store)


@clinic.command()
def setup(context: typer.Context) -> None:
    """Create or upgrade roles and tables. Requires a database administrator; safe to repeat."""
    from monitor.clinic.admin import set_up_clinic

    address = _address(context)
    print(f"set up {address} (schema {set_up_clinic(address)})")


@clinic.command()
def add_subject(context: typer.Context, name: LoginName, renew: Renew = False) -> None:
    """Add a subject, who shares with the clinic. Prints the URL for their [store] url; its password is shown once."""
    _add(context, name, "subject", renew)


@clinic.command()
def add_clinician(context: typer.Context, name: LoginName, renew: Renew = False) -> None:
    """Add a clinician, who reads the subjects they have access to. Prints their URL; its password is shown once."""
    _add(context, name, "clinician", renew)


@clinic.command()
def add_operator(context: typer.Context, name: LoginName, renew: Renew = False) -> None:
    """Add an operator, who manages logins and reads nothing. Requires an administrator. The URL is shown once."""
    _add(context, name, "operator", renew)


def _add(context: typer.Context, name: str, kind: str, renew: bool) -> None:
    from monitor.clinic.admin import add_login, renew_password

    address = _address(context)
    password = renew_password(address, name) if renew else add_login(address, name, kind)
    print(address.url_for(name, password))
    print(f"give this to {name} only: anyone who has it can log in as {name}. It cannot be shown again", file=sys.stderr)


@clinic.command()
def entrust(context: typer.Context, clinician: Clinician, subject: SubjectName) -> None:
    """Give a clinician access to a subject. Every access is recorded in the audit log."""
    from monitor.clinic.admin import entrust as run

    run(_address(context), clinician, subject)
    print(f"{clinician} can now read {subject}")


@clinic.command()
def withdraw(context: typer.Context, clinician: Clinician, subject: SubjectName) -> None:
    """Revoke a clinician's access to a subject."""
    from monitor.clinic.admin import withdraw as run

    run(_address(context), clinician, subject)
    print(f"{clinician} can no longer read {subject}")


@clinic.command()
def subjects(context: typer.Context) -> None:
    """List subjects: since when they share, when data last arrived, and who has access."""
    from monitor.clinic.admin import subjects as found

    for one in found(_address(context)):
        seen = f"last data {one.seen_at:%Y-%m-%d %H:%M} UTC" if one.seen_at else "no data yet"
        print(f"{one.name}  since {one.added_at:%Y-%m-%d}, {seen}; access: {', '.join(one.clinicians) or 'nobody'}")


@clinic.command()
def audit(
    context: typer.Context,
    subject: Annotated[str | None, typer.Option(metavar="SUBJECT", help="Only entries about this subject.")] = None,
    last: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of entries.")] = 1000,
) -> None:
    """Show the audit log, oldest first: who read what, and what operators did. Subjects see only their own entries. UTC."""
    from monitor.clinic.admin import audit as found

    for line in found(_address(context), subject, last):
        print(_format_audit_entry(line))


def _format_audit_entry(line: "AuditEntry") -> str:
    words = [f"{line.at:%Y-%m-%d %H:%M:%S}", line.login, line.what]
    words += [f"of {line.subject}"] if line.subject else []
    words += [f"({line.about})"] if line.about and line.about != line.subject else []
    words += [f"{line.from_at:%Y-%m-%d %H:%M} to {line.to_at:%Y-%m-%d %H:%M}"] if line.from_at and line.to_at else []
    words += [f"from {line.address}"] if line.address else []
    return "  ".join(words)


@clinic.command()
def remove_subject(
    context: typer.Context, subject: SubjectName, yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False
) -> None:
    """Erase everything a subject shared, and their login. Their own timeline is not affected."""
    from monitor.clinic.admin import remove_subject as run

    if not yes:
        if not sys.stdin.isatty():
            raise ClinicError("not a terminal; pass --yes to confirm")
        if not typer.confirm(f"Everything that {subject} shared will be erased at the clinic. This cannot be undone. Continue?"):
            raise typer.Exit(1)
    print(f"removed {subject} ({run(_address(context), subject)} rows); the audit log keeps a record of this")


@clinic.command()
def send_again(context: typer.Context) -> None:
    """Ask all monitors to resend everything they share, for example after restoring a database backup."""
    from monitor.clinic.admin import send_again as run

    run(_address(context))
    print("each monitor resends everything with its next transfer")
