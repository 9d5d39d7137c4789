"""Commands for whoever runs a clinic's PostgreSQL; EMOSLLM_STORE_URL, or [store] url, says which and as whom."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import ClinicError
from monitor.commands.settings import settings_of

if TYPE_CHECKING:
    from monitor.clinic.address import Address
    from monitor.clinic.logins import Noted

clinic = typer.Typer(no_args_is_help=True)

_NAME = "Lower-case letters, digits and _, the first a letter; at most 40. Better no real name: it is in the audit and the server's log."
Name = Annotated[str, typer.Argument(metavar="NAME", help=_NAME)]
Renew = Annotated[bool, typer.Option("--renew", help="The login is there already: give it another password.")]
Known = Annotated[str, typer.Argument(metavar="SUBJECT", help="As `clinic subjects` lists it.")]
Clinician = Annotated[str, typer.Argument(metavar="CLINICIAN", help="The login of a clinician.")]


def _address(context: typer.Context) -> "Address":
    from monitor.clinic.address import Address

    return Address.needed(settings_of(context).store)


@clinic.command()
def setup(context: typer.Context) -> None:
    """Make roles and tables, or bring them up to date; for an administrator of the database. Again does no harm."""
    from monitor.clinic.setup import set_up

    address = _address(context)
    print(f"{address} is set up (tables {set_up(address)})")


@clinic.command()
def add_subject(context: typer.Context, name: Name, renew: Renew = False) -> None:
    """Add somebody who shares with the clinic; prints the URL for their [store] url, with the password, this once."""
    _add(context, name, "subject", renew)


@clinic.command()
def add_clinician(context: typer.Context, name: Name, renew: Renew = False) -> None:
    """Add somebody who reads what is entrusted to them; prints their URL, with the password, this once."""
    _add(context, name, "clinician", renew)


@clinic.command()
def add_operator(context: typer.Context, name: Name, renew: Renew = False) -> None:
    """Add somebody who looks after logins and reads nothing; for an administrator. Prints their URL, this once."""
    _add(context, name, "operator", renew)


def _add(context: typer.Context, name: str, kind: str, renew: bool) -> None:
    from monitor.clinic.logins import add_login, renew_password

    address = _address(context)
    password = renew_password(address, name) if renew else add_login(address, name, kind)
    print(address.url_for(name, password))
    print(f"for {name} alone: whoever has this is {name} to the clinic, and it cannot be shown again", file=sys.stderr)


@clinic.command()
def entrust(context: typer.Context, clinician: Clinician, subject: Known) -> None:
    """Let a clinician read what a subject shares; each reading is written down."""
    from monitor.clinic.logins import entrust as run

    run(_address(context), clinician, subject)
    print(f"{subject} is entrusted to {clinician}")


@clinic.command()
def withdraw(context: typer.Context, clinician: Clinician, subject: Known) -> None:
    """Let them read it no longer, from now on."""
    from monitor.clinic.logins import withdraw as run

    run(_address(context), clinician, subject)
    print(f"{subject} is not entrusted to {clinician} any more")


@clinic.command()
def subjects(context: typer.Context) -> None:
    """List who shares: since when, when something arrived last, and who may read it."""
    from monitor.clinic.logins import subjects as found

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
    from monitor.clinic.logins import audit as found

    for line in found(_address(context), subject, last):
        print(_told(line))


def _told(line: "Noted") -> str:
    words = [f"{line.at:%Y-%m-%d %H:%M:%S}", line.login, line.what]
    words += [f"of {line.subject}"] if line.subject else []
    words += [f"({line.about})"] if line.about and line.about != line.subject else []
    words += [f"{line.from_at:%Y-%m-%d %H:%M} to {line.to_at:%Y-%m-%d %H:%M}"] if line.from_at and line.to_at else []
    words += [f"from {line.address}"] if line.address else []
    return "  ".join(words)


@clinic.command()
def remove_subject(context: typer.Context, subject: Known, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Erase all that a subject shared, and their login. Their own timeline stays theirs."""
    from monitor.clinic.logins import remove_subject as run

    if not yes:
        if not sys.stdin.isatty():
            raise ClinicError("nobody is there to be asked: say --yes to remove the subject")
        if not typer.confirm(f"Everything that {subject} shared will be erased here. It cannot be undone. Remove it?"):
            raise typer.Exit(1)
    print(f"{subject} is removed, with {run(_address(context), subject)} rows; that it was done stays in the audit")


@clinic.command()
def send_again(context: typer.Context) -> None:
    """After a backup of the database was put back: have all monitors send again what they share."""
    from monitor.clinic.logins import send_again as run

    run(_address(context))
    print("each monitor sends everything again as soon as it sends anything")
