"""The retraining as a job of the night."""

import logging
from datetime import datetime
from threading import Event

from monitor.config import Config
from monitor.jobs.job import Job, Result

_logger = logging.getLogger(__name__)

NAME = "retrain"


def retrain_job(config: Config, stop: Event | None = None) -> Job:
    """stop: ends a training that runs, in good order; whoever ends the monitor sets it. Without it the training ends with its parent."""
    ending = stop or Event()

    def run(now: datetime) -> Result:
        # Here, because whoever only lists jobs must not wait for it.
        from monitor.retraining.remembering import last_attempt
        from monitor.retraining.retrain import retrain

        last = last_attempt(config)
        return retrain(config, now=now, regardless=False, dry_run=False, tell=_logger.info, stop=ending, last=last)

    return Job(NAME, "learn from your corrections", run)
