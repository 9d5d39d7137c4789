"""What became of one night's training: whether its bundle may be used, and every figure that decided it. No torch here.

It is printed by the training, kept in the bundle that may be used (`decision.json`), and stored in the monitor's history. It holds counts
and figures, no words and no sound.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from model.types import Emotion

DECISION = "decision.json"


class Verdict(StrEnum):
    """promoted: better, by both tests, and no worse elsewhere. refused: not shown to be. too-little: nothing was trained."""

    PROMOTED = "promoted"
    REFUSED = "refused"
    TOO_LITTLE = "too-little"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Learned(_Record):
    """What was there to learn from, in segments: by kind; those that the new bundle learned from, and those that told it when to stop;
    those that were held out for the gate, in one round or another; left_out: those that could not be used, by reason."""

    corrections: int
    confirmations: int
    checkins: int
    trained: int
    stopping: int
    held_out: int
    left_out: dict[str, int] = {}


class OwnTest(_Record):
    """The person's held-out segments, each later than all that was learned from before it was asked about.

    right_before, right_after: answered as the person says, by the bundle in use and by the new one. gained, lost: by one of the two only.
    p_no_better: exact one-sided McNemar test. p_by_chance: of hitting the corrections so well with labels that say nothing about the sound.
    alpha: what both must not exceed.
    """

    segments: int
    right_before: int
    right_after: int
    gained: int
    lost: int
    p_no_better: float
    p_by_chance: float
    alpha: float


class ClassChange(_Record):
    """Recall of one emotion in the public set, 0 to 1: of the released bundle that all this began with, and of the new one."""

    clips: int
    before: float
    after: float


class PublicTest(_Record):
    """The public set that comes with the bundle: voices that this night did not learn from.

    uar: unweighted accuracy. change_at_least: one-sided 95 % lower bound of how it changed, which must not lie under -margin; no recall may
    fall by more than class_margin.
    """

    clips: int
    speakers: int
    uar_before: float
    uar_after: float
    change_at_least: float
    margin: float
    classes: dict[Emotion, ClassChange]
    class_margin: float


class Recalibration(_Record):
    """temperature and unsure_below, before and after; sure_share: of the public set's answers."""

    temperature_before: float
    temperature_after: float
    unsure_below_before: float
    unsure_below_after: float
    sure_share_before: float
    sure_share_after: float


class Decision(_Record):
    """verdict and reason, one sentence for people. parent: version it began with. version: of the new bundle, where there is one.

    steps: optimizer steps of the kept weights. seconds: of the whole.
    """

    verdict: Verdict
    reason: str
    parent: str
    version: str | None = None
    learned: Learned
    own: OwnTest | None = None
    public: PublicTest | None = None
    calibration: Recalibration | None = None
    steps: int = 0
    seconds: float = 0.0
