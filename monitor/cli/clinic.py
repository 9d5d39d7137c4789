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

_NAME = "Lower-case letters, digits and _, the first a letter; at most 40. Better no real name: it is in the audit and the server's log."
LoginName = Annotated[str, typer.Argument(metavar="NAME", help=_NAME)]
Renew = Annotated[bool, typer.Option("--renew", help="The login is there already: give it another password.")]
SubjectName = Annotated[str, typer.Argument(metavar="SUBJECT", help="As `clinic subjects` lists it.")]
Clinician = Annotated[str, typer.Argument(metavar="CLINICIAN", help="The login of a clinician.")]


def _address(context: typer.Context) -> "ClinicAddress":
    from monitor.clinic.address import ClinicAddress

    return ClinicAddress.needed(settings_of(context).store)


@clinic.command()
def setup(context: typer.Context) -> None:
    """Make roles and tables, or bring them up to date; for an administrator of the database. Again does no harm."""
    from monitor.clinic.admin import set_up_clinic

    address = _address(context)
    print(f"{address} is set up (tables {set_up_clinic(address)})")


@clinic.command()
def add_subject(context: typer.Context, name: LoginName, renew: Renew = False) -> None:
    """Add somebody who shares with the clinic; prints the URL for their [store] url, with the password, this once."""
    _add(context, name, "subject", renew)


@clinic.command()
def add_clinician(context: typer.Context, name: LoginName, renew: Renew = False) -> None:
    """Add somebody who reads what is entrusted to them; prints their URL, with the password, this once."""
    _add(context, name, "clinician", renew)


@clinic.command()
def add_operator(context: typer.Context, name: LoginName, renew: Renew = False) -> None:
    """Add somebody who looks after logins and reads nothing; for an administrator. Prints their URL, this once."""
    _add(context, name, "operator", renew)


def _add(context: typer.Context, name: str, kind: str, renew: bool) -> None:
    from monitor.clinic.admin import add_login, renew_password

    address = _address(context)
    password = renew_password(address, name) if renew else add_login(address, name, kind)
    print(address.url_for(name, password))
    print(f"for {name} alone: whoever has this is {name} to the clinic, and it cannot be shown again", file=sys.stderr)


@clinic.command()
def entrust(context: typer.Context, clinician: Clinician, subject: SubjectName) -> None:
    """Let a clinician read what a subject shares; each reading is written down."""
    from monitor.clinic.admin import entrust as run

    run(_address(context), clinician, subject)
    print(f"{subject} is entrusted to {clinician}")


@clinic.command()
def withdraw(context: typer.Context, clinician: Clinician, subject: SubjectName) -> None:
    """Let them read it no longer, from now on."""
    from monitor.clinic.admin import withdraw as run

    run(_address(context), clinician, subject)
    print(f"{subject} is not entrusted to {clinician} any more")


@clinic.command()
def subjects(context: typer.Context) -> None:
    """List who shares: since when, when something arrived last, and who may read it."""
    from monitor.clinic.admin import subjects as found

    for one in found(_address(context)):
        seen = f"heard of {one.seen_at:%Y-%m-%d %H:%M} UTC" if one.seen_at else "nothing arrived yet"
        print(f"{one.name}  since {one.added_at:%Y-%m-%d}, {seen}; entrusted to {', '.join(one.clinicians) or 'nobody'}")


@clinic.command()
def audit(
    context: typer.Context,
    subject: Annotated[str | None, typer.Option(metavar="SUBJECT", help="About one subject only.")] = None,
    last: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many lines.")] = 1000,
) -> None:
    """Who read what of whom, and what operators did, oldest first; a subject sees what is about them. Times in UTC."""
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
    context: typer.Context, subject: SubjectName, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Erase all that a subject shared, and their login. Their own timeline stays theirs."""
    from monitor.clinic.admin import remove_subject as run

    if not yes:
        if not sys.stdin.isatty():
            raise ClinicError("nobody is there to be asked: say --yes to remove the subject")
        if not typer.confirm(f"Everything that {subject} shared will be erased here. It cannot be undone. Remove it?"):
            raise typer.Exit(1)
    print(f"{subject} is removed, with {run(_address(context), subject)} rows; that it was done stays in the audit")


@clinic.command()
def send_again(context: typer.Context) -> None:
    """After a backup of the database was put back: have all monitors send again what they share."""
    from monitor.clinic.admin import send_again as run

    run(_address(context))
    print("each monitor sends everything again as soon as it sends anything")
