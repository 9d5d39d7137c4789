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
    now: Annotated[bool, typer.Option("--now", help="Ignore the power, load and speech checks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and test, but do not use the new model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Retrain the model on your labels. The new model is used only if it passes the promotion test.

    Ctrl-C stops it; the next run resumes from there.
    """
    from monitor.personalization.formatting import result_lines
    from monitor.scheduler.jobs import ConditionsNotMet, JobOutcome

    try:
        result = _retrain(context, now, dry_run)
    except ConditionsNotMet as reason:
        raise EmosllmError(f"skipped: {reason}. Use --now to ignore the power, load and speech checks.") from None
    if as_json:
        print(json.dumps(asdict(result), indent=2))
    elif result.outcome is not JobOutcome.FAILED:
        print("\n".join(result_lines(result)))
    if result.outcome is JobOutcome.FAILED:
        raise EmosllmError(f"{result.reason}; the model in use is unchanged")
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
    "This erases the reference of your voice. A new one is learned from your speech over at least {days} days; until then estimates are"
    " less accurate. Days before and after are not comparable, and reports say so."
)


@voice.callback()
def show(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show how well the monitor knows your voice, per microphone, and since when.

    Your voice is compared with this reference, so that a voice that is always low or loud is not mistaken for a mood. The reference
    is learned during your first days and then stays fixed.
    """
    from monitor.personalization.voice import voice_lines, voice_states

    if context.invoked_subcommand is None:
        config = settings_of(context)
        known = voice_states(config)
        print(json.dumps(known, indent=1) if as_json else "\n".join(voice_lines(known, config.timeline.zone_info())))


@voice.command()
def renew(
    context: typer.Context,
    microphone: Annotated[str | None, typer.Option(metavar="NAME", help="Only for this microphone, as named by `voice`.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Relearn your voice after a lasting change, such as surgery or a moved microphone."""
    import sys

    from monitor.personalization.voice import renew_voice_reference as learn_anew
    from monitor.storage.records import MIN_REFERENCE_DAYS

    config = settings_of(context)
    if not yes:
        print(_RENEW_WARNING.format(days=MIN_REFERENCE_DAYS))
        if not sys.stdin.isatty():
            raise VoiceError("not a terminal; pass --yes to confirm")
        if not typer.confirm("Relearn your voice?"):
            raise typer.Exit(1)
    print(f"relearning your voice, through {', '.join(learn_anew(config, microphone))}")
