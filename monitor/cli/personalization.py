"""Personalization: retrain the model, and show or reset the voice reference."""

import json
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import EmosllmError, VoiceError
from monitor.cli.settings import settings_of

if TYPE_CHECKING:
    from monitor.scheduler.jobs import JobResult


_EXIT_INTERRUPTED = 130


def retrain(
    context: typer.Context,
    now: Annotated[bool, typer.Option("--now", help="Also on battery, and while the machine is busy or somebody speaks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and decide, and use nothing of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Learn from what you said of your speech; the new model is used only if it is shown to be better.

    Ctrl-C stops it in good order, and the next time goes on from there.
    """
    from monitor.personalization.formatting import result_lines
    from monitor.scheduler.jobs import ConditionsNotMet, JobOutcome

    try:
        result = _retrain(context, now, dry_run)
    except ConditionsNotMet as reason:
        raise EmosllmError(f"not now: {reason}. With --now, power, load and speech do not matter") from None
    if as_json:
        print(json.dumps(asdict(result), indent=2))
    elif result.outcome is not JobOutcome.FAILED:
        print("\n".join(result_lines(result)))
    if result.outcome is JobOutcome.FAILED:
        raise EmosllmError(f"{result.reason}; the model in use stays as it is")
    if result.outcome is JobOutcome.STOPPED:
        raise typer.Exit(_EXIT_INTERRUPTED)


def _retrain(context: typer.Context, now: bool, dry_run: bool) -> "JobResult":
    from monitor.personalization.retraining import last_attempt, run_recorded
    from monitor.personalization.retraining import retrain as run

    stop, config, at = Event(), settings_of(context), datetime.now(UTC)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())

    def train() -> "JobResult":
        return run(config, now=at, regardless=now, dry_run=dry_run, tell=_tell, stop=stop, last=last_attempt(config))

    return train() if dry_run else run_recorded(config, at, train)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


voice = typer.Typer(invoke_without_command=True)

_RENEW_WARNING = (
    "What the monitor knows of your voice is erased, and learned anew from what you say from now on, over at least {days} days. Until then"
    " emotions are heard less exactly. Days before and after do not compare, and reports say so."
)


@voice.callback()
def show(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show how well the monitor knows your voice, through which microphone, and since when.

    It is compared with itself, so that a voice that is always low or loud is not taken for a mood. It is learned from your first days and
    then stays as it is.
    """
    from monitor.personalization.voice import voice_lines, voice_states

    if context.invoked_subcommand is None:
        config = settings_of(context)
        known = voice_states(config)
        print(json.dumps(known, indent=1) if as_json else "\n".join(voice_lines(known, config.timeline.zone_info())))


@voice.command()
def renew(
    context: typer.Context,
    microphone: Annotated[str | None, typer.Option(metavar="NAME", help="Only as heard through this one, as `voice` names it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Learn your voice anew, because it has changed for good: after an operation, or with a microphone in another place."""
    import sys

    from monitor.personalization.voice import renew_voice_reference as learn_anew
    from monitor.storage.records import MIN_REFERENCE_DAYS

    config = settings_of(context)
    if not yes:
        print(_RENEW_WARNING.format(days=MIN_REFERENCE_DAYS))
        if not sys.stdin.isatty():
            raise VoiceError("not a terminal; pass --yes to confirm")
        if not typer.confirm("Learn it anew?"):
            raise typer.Exit(1)
    print(f"your voice is learned anew, through {', '.join(learn_anew(config, microphone))}")
