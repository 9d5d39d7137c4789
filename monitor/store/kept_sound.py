"""Reads the sound that is kept of judged segments, one at a time, while others write. `Timeline.sound` is for those that still wait."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from monitor.store.cipher import DRIVER, Connection, Error, connect
from monitor.store.keys import Keys
from monitor.store.reader import current_key, explain

_BUSY_TIMEOUT_S = 5.0
_BYTES_A_SAMPLE = 2
# Both by the primary key, which is all that an index says; a length is in a row's head, so that no sound is read for it.
_LENGTHS = """
    SELECT segment_id, length(pcm) AS bytes FROM json_each(:ids) CROSS JOIN sound ON segment_id = value
    JOIN segment ON segment.id = segment_id WHERE state = 'judged'"""
_SOUND = "SELECT pcm FROM sound JOIN segment ON segment.id = segment_id WHERE segment_id = :id AND state = 'judged'"


class KeptSound:
    """One connection that only reads. Use it in the thread that opened it, and close it. Every method raises TimelineError."""

    def __init__(self, path: Path, connection: Connection | None) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, keys: Keys) -> Self:
        """The timeline in `path`; where there is none yet, no sound is kept. Raises TimelineError and StoreKeyError."""
        key = current_key(path, keys)
        if key is None:
            return cls(path, None)
        connection = connect(path, key, read_only=True, timeout_s=_BUSY_TIMEOUT_S)
        connection.row_factory = DRIVER.Row
        return cls(path, connection)

    def lengths(self, segment_ids: Iterable[int]) -> dict[int, int]:
        """How many samples of segments are kept, by their ids; without those of which none are."""
        rows = self._query(_LENGTHS, {"ids": json.dumps(list(segment_ids))})
        return {row["segment_id"]: row["bytes"] // _BYTES_A_SAMPLE for row in rows}

    def sound(self, segment_id: int) -> bytes | None:
        """Mono int16 at SAMPLE_RATE, little endian; None where none is kept, or the segment still waits."""
        return next((bytes(row["pcm"]) for row in self._query(_SOUND, {"id": segment_id})), None)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def _query(self, query: str, values: Mapping[str, object]) -> list[Any]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(query, values).fetchall()
        except Error as error:
            raise explain(error, self._path) from error
