"""Commands about what the monitor knows of the person's voice."""

import json
from typing import Annotated

import typer

from model.errors import VoiceError
from monitor.commands.settings import settings_of

voice = typer.Typer(invoke_without_command=True)

_WHAT = (
    "What the monitor knows of your voice is erased, and learned anew from what you say from now on, over at least {days} days. Until then"
    " emotions are heard less exactly. Days before and after do not compare, and reports say so."
)


@voice.callback()
def show(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show how well the monitor knows your voice, through which microphone, and since when.

    It is compared with itself, so that a voice that is always low or loud is not taken for a mood. It is learned from your first days and
    then stays as it is.
    """
    from monitor.known_voice import lines, states

    if context.invoked_subcommand is None:
        config = settings_of(context)
        known = states(config)
        print(json.dumps(known, indent=1) if as_json else "\n".join(lines(known, config.timeline.zone_info())))


@voice.command()
def renew(
    context: typer.Context,
    microphone: Annotated[str | None, typer.Option(metavar="NAME", help="Only as heard through this one, as `voice` names it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Learn your voice anew, because it has changed for good: after an operation, or with a microphone in another place."""
    import sys

    from monitor.known_voice import renew as learn_anew
    from monitor.store.voice_reference import ENOUGH_DAYS

    config = settings_of(context)
    if not yes:
        print(_WHAT.format(days=ENOUGH_DAYS))
        if not sys.stdin.isatty():
            raise VoiceError("not a terminal; pass --yes to confirm")
        if not typer.confirm("Learn it anew?"):
            raise typer.Exit(1)
    print(f"your voice is learned anew, through {', '.join(learn_anew(config, microphone))}")
