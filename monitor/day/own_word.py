"""What the person's own word amounts to over some days: does it agree with the estimates, what did they label, did they answer when asked.

Pure arithmetic on records; knows no database and prints nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from monitor.day.agreement import Agreement
from monitor.day.likeness import Figure, share
from monitor.store.records import ANSWER_WITHIN, Prompt, TimelineEntry


@dataclass(frozen=True, slots=True)
class Labels:
    """What the person said of judged pieces: the same as the model, or another emotion; unanswerable: of those, what it cannot answer.

    share: of the same among all, 0 to 1. People label what they notice, so it is not how often the model is right.
    """

    same: int
    other: int
    unanswerable: int
    share: Figure | None

    @property
    def sentence(self) -> str:
        """The same in plain words, for a report; empty where nothing was labelled."""
        if not self.same + self.other:
            return ""
        return (
            f"You named {_counted(self.same + self.other, 'piece')} of speech: the estimate was the same in {self.same} and another in"
            f" {self.other}. You chose what to name, so this is not how often the estimate is right."
        )


@dataclass(frozen=True, slots=True)
class Compliance:
    """How often the person was asked to check in, and how often they did within ANSWER_WITHIN."""

    asked: int
    answered: int

    @property
    def sentence(self) -> str:
        """The same in plain words, for a report; empty where nobody was asked."""
        return f"You answered {self.answered} of {_counted(self.asked, 'prompt')} to check in." if self.asked else ""


@dataclass(frozen=True, slots=True)
class OwnWord:
    """All of it."""

    agreement: Agreement
    labels: Labels
    compliance: Compliance

    @property
    def sentences(self) -> tuple[str, ...]:
        """What there is to tell, in plain words. Nothing where the person never said anything."""
        told = self.agreement.sentences if self.agreement.checkins else ()
        return tuple(sentence for sentence in (*told, self.labels.sentence, self.compliance.sentence) if sentence)


def labels(entries: Iterable[TimelineEntry], zone: ZoneInfo) -> Labels:
    """Compare what the person said of segments with what the model had answered; segments without both are ignored."""
    same: list[bool] = []
    days: list[date] = []
    unanswerable = 0
    for entry in entries:
        if entry.prediction is None or entry.correction is None:
            continue
        same.append(entry.correction.emotion is entry.prediction.emotion)
        days.append(entry.start_at.astimezone(zone).date())
        unanswerable += entry.correction.emotion not in entry.prediction.posterior
    return Labels(sum(same), len(same) - sum(same), unanswerable, share(same, days))


def compliance(prompts: Iterable[Prompt], now: datetime) -> Compliance:
    """Count prompts and answers; one that may still be answered at `now` does not count yet."""
    settled = [prompt for prompt in prompts if prompt.checkin_id is not None or prompt.at + ANSWER_WITHIN < now]
    return Compliance(len(settled), sum(prompt.checkin_id is not None for prompt in settled))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
