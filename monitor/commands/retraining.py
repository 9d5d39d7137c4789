"""The command that retrains the model at once, or tries what would come of it."""

import json
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import EmosllmError
from monitor.commands.settings import settings_of

if TYPE_CHECKING:
    from monitor.jobs.job import Result

_INTERRUPTED = 130


def retrain(
    context: typer.Context,
    now: Annotated[bool, typer.Option("--now", help="Also on battery, and while the machine is busy or somebody speaks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and decide, and use nothing of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Learn from what you said of your speech; the new model is used only if it is shown to be better.

    Ctrl-C stops it in good order, and the next time goes on from there.
    """
    from monitor.jobs.job import NotNow, Outcome
    from monitor.retraining.telling import result_words

    try:
        result = _retrain(context, now, dry_run)
    except NotNow as reason:
        raise EmosllmError(f"not now: {reason}. With --now, power, load and speech do not matter") from None
    if as_json:
        print(json.dumps(asdict(result), indent=2))
    elif result.outcome is not Outcome.FAILED:
        print("\n".join(result_words(result)))
    if result.outcome is Outcome.FAILED:
        raise EmosllmError(f"{result.reason}; the model in use stays as it is")
    if result.outcome is Outcome.STOPPED:
        raise typer.Exit(_INTERRUPTED)


def _retrain(context: typer.Context, now: bool, dry_run: bool) -> "Result":
    from monitor.retraining.remembering import last_attempt, remembered
    from monitor.retraining.retrain import retrain as run

    stop, config, at = Event(), settings_of(context), datetime.now(UTC)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())

    def train() -> "Result":
        return run(config, now=at, regardless=now, dry_run=dry_run, tell=_tell, stop=stop, last=last_attempt(config))

    return train() if dry_run else remembered(config, at, train)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
