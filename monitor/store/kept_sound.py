"""Reads the sound that is kept of judged segments, one at a time, while others write. `Timeline.sound` is for those that still wait."""

import json
from collections.abc import Iterable

from monitor.store.reader import TimelineReader

_BYTES_A_SAMPLE = 2
# Both by the primary key, which is all that an index says; a length is in a row's head, so that no sound is read for it.
_LENGTHS = """
    SELECT segment_id, length(pcm) AS bytes FROM json_each(:ids) CROSS JOIN sound ON segment_id = value
    JOIN segment ON segment.id = segment_id WHERE state = 'judged'"""
_SOUND = "SELECT pcm FROM sound JOIN segment ON segment.id = segment_id WHERE segment_id = :id AND state = 'judged'"


class KeptSound(TimelineReader):
    """A reader of a timeline that knows its kept sound too. Every method raises TimelineError."""

    def lengths(self, segment_ids: Iterable[int]) -> dict[int, int]:
        """How many samples of segments are kept, by their ids; without those of which none are."""
        rows = self._query(_LENGTHS, {"ids": json.dumps(list(segment_ids))})
        return {row["segment_id"]: row["bytes"] // _BYTES_A_SAMPLE for row in rows}

    def sound(self, segment_id: int) -> bytes | None:
        """Mono int16 at SAMPLE_RATE, little endian; None where none is kept, or the segment still waits."""
        return next((bytes(row["pcm"]) for row in self._query(_SOUND, {"id": segment_id})), None)
