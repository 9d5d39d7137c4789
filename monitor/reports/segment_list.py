"""Lists one day segment by segment, with estimates, the person's labels and check-ins: text of 80 columns, or JSON.

Nothing depends on colour and nothing is computed. Knows no database.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from textwrap import wrap
from typing import Any

from monitor.analysis.days import Day
from monitor.analysis.formatting import DISCLAIMER, emotion_list, format_valence
from monitor.storage.records import CheckIn, SegmentRecord, SegmentState

_WIDTH = 80
_MARGIN = "  "
_ESTIMATE_WIDTH = 28
_TIED = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class SegmentList:
    """What a day holds, by time. only_unsure: of the segments those alone that the model was unsure of and the person has not named."""

    day: Day
    now: datetime
    entries: Sequence[SegmentRecord]
    checkins: Sequence[CheckIn]
    only_unsure: bool = False

    @property
    def shown(self) -> list[SegmentRecord]:
        """The segments that are asked for."""
        return [entry for entry in self.entries if not self.only_unsure or _is_open(entry)]

    def text(self) -> str:
        """Lines of at most 80 columns."""
        return "\n".join(f"{_MARGIN}{line}".rstrip() for line in self._lines())

    def as_json(self) -> str:
        """The same for programs: seconds, probabilities from 0 to 1, valence from -1 to 1, moments in ISO 8601 UTC."""
        listing = {
            "day": self.day.on.isoformat(),
            "zone": str(self.day.zone),
            "start": self.day.start.isoformat(),
            "end": self.day.end.isoformat(),
            "as_of": self.now.isoformat(),
            "segments": [_entry_json(entry) for entry in self.shown],
            "checkins": [_checkin_json(checkin) for checkin in self.checkins],
            "notice": DISCLAIMER,
        }
        return json.dumps(listing, indent=2)

    def _lines(self) -> Iterator[str]:
        width = _WIDTH - 2 * len(_MARGIN)
        zone, on = str(self.day.zone), self.day.on
        yield f"{on:%A} {on.day} {on:%B %Y}".ljust(width - len(zone)) + zone
        yield from wrap(self._counts(), width)
        if self.shown or self.checkins:
            yield ""
            yield from self._rows()
        if self.shown:
            yield ""
            yield "To label one: emosllm-monitor label ID LETTER, or label ID --confirm"
            # A letter stays with its word.
            yield from (line.replace(_TIED, " ") for line in wrap(emotion_list().replace(" ", _TIED).replace(f",{_TIED}", ", "), width))
        yield ""
        yield from wrap(DISCLAIMER, width)

    def _counts(self) -> str:
        if not self.entries and not self.checkins:
            return "No speech and no check-ins are stored for this day. `emosllm-monitor report` shows how much was recorded."
        kinds = Counter(_kind(entry) for entry in self.entries)
        counts = [f"{_counted(len(self.entries), 'segment')}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"]
        named = sum(entry.correction is not None for entry in self.entries)
        if named:
            counts.append(f"{named} labelled by you")
        counts = counts if self.entries else ["no speech"]
        if self.checkins:
            counts.append(_counted(len(self.checkins), "check-in"))
        if self.only_unsure:
            counts.append(f"showing {len(self.shown)} unsure and unlabelled")
        text = "; ".join(counts)
        return f"{text[0].upper()}{text[1:]}."

    def _rows(self) -> Iterator[str]:
        id_width = max((len(str(entry.id)) for entry in self.shown), default=0)
        id_width = max(id_width, len("ID"))
        if self.shown:
            yield f"{'ID':>{id_width}}  from       length  {'estimate':<{_ESTIMATE_WIDTH}}your label"
        offset = self.day.start.astimezone(self.day.zone).utcoffset()
        moments = [(entry.start_at, entry) for entry in self.shown] + [(checkin.at, checkin) for checkin in self.checkins]
        for moment, item in sorted(moments, key=lambda row: row[0]):
            local = moment.astimezone(self.day.zone)
            if offset is not None and local.utcoffset() not in (None, offset) and moment >= self.day.start:
                yield f"{'':{id_width}}  {_clock_change(offset, local.utcoffset() or offset)}"
                offset = local.utcoffset()
            if isinstance(item, CheckIn):
                yield from _checkin_lines(item, f"{'':{id_width}}  {local:%H:%M:%S}           ")
            else:
                yield from _entry_lines(item, f"{item.id:>{id_width}}  {local:%H:%M:%S}  {_length_s(item):5.1f} s  ")


def format_estimate(entry: SegmentRecord) -> str:
    """Return the estimate as text: `fear 84 %`, `unsure (fear 41 %)`, or why there is none."""
    if entry.prediction is None:
        return f"not analysed: {entry.reason}" if entry.state is SegmentState.UNJUDGED else "waiting for analysis"
    likely = f"{entry.prediction.emotion.word} {entry.prediction.confidence * 100:.0f} %"
    return f"unsure ({likely})" if entry.prediction.unsure else likely


def format_label(entry: SegmentRecord) -> str:
    """What the person says of a segment: an emotion, that the estimate is right, or nothing."""
    if entry.correction is None:
        return ""
    agrees = entry.prediction is not None and entry.prediction.emotion is entry.correction.emotion
    return f"{entry.correction.emotion.word} (confirmed)" if agrees else entry.correction.emotion.word


def _is_open(entry: SegmentRecord) -> bool:
    return entry.prediction is not None and entry.prediction.unsure and entry.correction is None


def _kind(entry: SegmentRecord) -> str:
    if entry.prediction is None:
        return "waiting" if entry.state is SegmentState.WAITING else "not analysed"
    return "unsure" if entry.prediction.unsure else "sure"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _length_s(entry: SegmentRecord) -> float:
    return (entry.end_at - entry.start_at).total_seconds()


def _entry_lines(entry: SegmentRecord, head: str) -> Iterator[str]:
    estimate, said = format_estimate(entry), format_label(entry)
    first, *rest = wrap(estimate, _WIDTH - 2 * len(_MARGIN) - len(head) if not said else _ESTIMATE_WIDTH - 1) or [""]
    yield f"{head}{first:<{_ESTIMATE_WIDTH}}{said}"
    for line in rest:
        yield " " * len(head) + line


def _checkin_lines(checkin: CheckIn, head: str) -> Iterator[str]:
    yield f"{head}check-in: {format_valence(checkin.valence)}, {checkin.emotion.word}"
    for line in wrap(checkin.note or "", _WIDTH - 2 * len(_MARGIN) - len(head)):
        yield " " * len(head) + line


def _clock_change(before: timedelta, after: timedelta) -> str:
    minutes = round((after - before).total_seconds() / 60)
    return f"(clocks went {'forward' if minutes > 0 else 'back'} by {abs(minutes)} minutes)"


def _entry_json(entry: SegmentRecord) -> dict[str, Any]:
    prediction, said = entry.prediction, entry.correction
    estimate = prediction and {
        "letter": prediction.emotion.value,
        "emotion": prediction.emotion.word,
        "confidence": round(prediction.confidence, 6),
        "unsure": prediction.unsure,
        "posterior": {emotion.value: round(probability, 6) for emotion, probability in prediction.posterior.items()},
        "model": prediction.bundle_version,
    }
    word = said and {"letter": said.emotion.value, "emotion": said.emotion.word, "confirmed": said.confirmed, "at": said.at.isoformat()}
    return {
        "id": entry.id,
        "start": entry.start_at.isoformat(),
        "end": entry.end_at.isoformat(),
        "seconds": round(_length_s(entry), 3),
        "state": entry.state.value,
        "reason": entry.reason,
        "estimate": estimate,
        "said": word,
    }


def _checkin_json(checkin: CheckIn) -> dict[str, Any]:
    return {
        "id": checkin.id,
        "at": checkin.at.isoformat(),
        "valence": round(checkin.valence, 6),
        "valence_words": format_valence(checkin.valence),
        "letter": checkin.emotion.value,
        "emotion": checkin.emotion.word,
        "note": checkin.note,
    }
