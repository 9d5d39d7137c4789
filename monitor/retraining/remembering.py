"""What trainings came to, as the history of jobs remembers it: the last one, and writing down one that the person asks for."""

from collections.abc import Callable
from datetime import UTC, datetime

from model.errors import EmosllmError
from monitor.config import Config
from monitor.jobs.job import NotNow, Outcome, Result
from monitor.retraining.job import NAME
from monitor.retraining.retrain import LastAttempt
from monitor.store.history import History
from monitor.store.reader import TimelineReader

_LOOKED_AT = 500
_CAME_TO_SOMETHING = (Outcome.DONE, Outcome.REFUSED, Outcome.NOTHING)


def last_attempt(config: Config) -> LastAttempt | None:
    """The last training that came to a decision; None where none has, or that is long ago. Raises TimelineError, StoreKeyError."""
    with TimelineReader.open(config.timeline.database_path(), config.timeline.keys()) as reader:
        runs = reader.job_runs(_LOOKED_AT, NAME)
    attempts = (LastAttempt.of(run.started_at, run.details) for run in runs if run.outcome in _CAME_TO_SOMETHING)
    return next((attempt for attempt in attempts if attempt is not None), None)


def remembered(config: Config, now: datetime, train: Callable[[], Result]) -> Result:
    """Have the history know of a training that the person asks for: it counts as that day's. now: UTC.

    Raises what `train` raises, TimelineError, and EmosllmError when one is going on.
    """
    settings = config.timeline
    with History.open(settings.database_path(), settings.keys()) as history:
        run = history.begin(NAME, now.astimezone(settings.zone_info()).date(), now)
        if run is None:
            raise EmosllmError("another training is going on; see `emosllm-monitor schedule list`")
        try:
            result = train()
        except NotNow:
            history.take_back(run)
            raise
        except EmosllmError as error:
            history.end(run, datetime.now(UTC), Outcome.FAILED, str(error), {})
            raise
        history.end(run, datetime.now(UTC), result.outcome, result.reason, result.details)
        return result
