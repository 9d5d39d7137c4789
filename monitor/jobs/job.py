"""A job: something that is done once a day at a set time, and what came of it. Knows no scheduler and no timeline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """done: what it is for was done. nothing: there was nothing to do. refused: it was done, and its result was not good enough to be
    used. stopped: the person, or the end of the monitor, ended it. failed: it could not be done."""

    DONE = "done"
    NOTHING = "nothing"
    REFUSED = "refused"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """reason: one sentence for people. details: what else is to be remembered, in JSON's types; counts and figures, no words."""

    outcome: Outcome
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class NotNow(Exception):
    """The conditions for a job do not hold at the moment; says which."""


@dataclass(frozen=True, slots=True)
class Job:
    """name: of the command line and the settings. what: in words. run: does it, at a moment in UTC; raises NotNow, EmosllmError."""

    name: str
    what: str
    run: Callable[[datetime], Result]
