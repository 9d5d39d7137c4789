"""What is said to the clinic's PostgreSQL of rows: stored or stored anew, gone, and forgotten. Saying it twice is the same as once.

Policies there confine each statement to the subject who is logged in. The keys are those of the clinic's tables.
"""

from collections.abc import Mapping, Sequence

from monitor.store.outbox import SHARED
from monitor.store.records import ANSWER_WITHIN, LONGEST_SEGMENT_S

_MORE = {"correction": ("stream", "start_sample", "start_at")}
_KEYS: Mapping[str, tuple[str, ...]] = {
    "segment": ("subject", "stream", "start_sample", "start_at"),
    "coverage": ("subject", "stream", "kind", "start_at", "reason"),
    "correction": ("subject", "stream", "start_sample", "at", "emotion", "confirmed"),
    "checkin": ("subject", "at", "zone", "valence", "emotion"),
    "prompt": ("subject", "at", "zone"),
}
# Coverage only ever grows, but for what is forgotten, which is said apart: so what a clinic knows of later than a backup that was put
# back stays known.
_TAKEN = {("coverage", "end_at"): "greatest(coverage.end_at, excluded.end_at)"}


def _store(table: str) -> str:
    columns = ("subject", *SHARED[table], *_MORE.get(table, ()))
    values = ", ".join(f"%({column})s{'::json' if column == 'posterior' else ''}" for column in columns)
    taken = [f"{column} = {_TAKEN.get((table, column), f'excluded.{column}')}" for column in columns if column not in _KEYS[table]]
    return (
        f"INSERT INTO emosllm.{table} ({', '.join(columns)}) VALUES ({values})"
        f" ON CONFLICT ({', '.join(_KEYS[table])}) DO UPDATE SET {', '.join(taken)}"
    )


STORE: Mapping[str, str] = {table: _store(table) for table in SHARED}
"""For each table: store a row, or store it anew. Values by column."""

GONE: Mapping[str, Sequence[str]] = {
    "segment": (
        "DELETE FROM emosllm.correction WHERE stream = %(stream)s AND start_sample = %(start_sample)s",
        "DELETE FROM emosllm.segment WHERE stream = %(stream)s AND start_sample = %(start_sample)s AND start_at = %(at)s",
    ),
    "coverage": (
        "DELETE FROM emosllm.coverage WHERE stream = %(stream)s AND kind = %(name)s AND start_at = %(at)s AND reason = %(reason)s",
    ),
    "correction": (
        "DELETE FROM emosllm.correction WHERE stream = %(stream)s AND start_sample = %(start_sample)s AND at = %(at)s"
        " AND emotion = %(name)s AND confirmed = (%(number)s = 1)",
    ),
    "checkin": ("DELETE FROM emosllm.checkin WHERE at = %(at)s AND zone = %(zone)s AND emotion = %(name)s AND valence = %(number)s",),
    "prompt": ("DELETE FROM emosllm.prompt WHERE at = %(at)s AND zone = %(zone)s",),
}
"""For each table: a row is gone. Values as the outbox names them."""

_SPEECH = f"start_at > %(start)s - interval '{LONGEST_SEGMENT_S} s' AND start_at < %(end)s AND end_at > %(start)s"
_WITHIN = "at >= %(start)s AND at < %(end)s"
_ANSWERED = (
    f"at >= %(start)s - interval '{ANSWER_WITHIN.total_seconds()} s' AND at < %(start)s"
    f" AND checkin_id IN (SELECT id FROM emosllm.checkin WHERE {_WITHIN})"
)
FORGET: Sequence[str] = (
    "INSERT INTO emosllm.coverage (subject, id, stream, kind, start_at, end_at, zone, reason)"
    " SELECT subject, id, stream, kind, %(end)s, end_at, zone, reason FROM emosllm.coverage"
    " WHERE start_at < %(end)s AND end_at > %(end)s"
    " ON CONFLICT (subject, stream, kind, start_at, reason) DO UPDATE SET end_at = greatest(coverage.end_at, excluded.end_at)",
    "UPDATE emosllm.coverage SET end_at = %(start)s WHERE start_at < %(start)s AND end_at > %(start)s",
    "DELETE FROM emosllm.coverage WHERE start_at >= %(start)s AND start_at < %(end)s",
    "DELETE FROM emosllm.correction USING emosllm.segment WHERE correction.stream = segment.stream"
    f" AND correction.start_sample = segment.start_sample AND {_SPEECH.replace('start_at', 'segment.start_at')}",
    "DELETE FROM emosllm.correction WHERE start_at >= %(start)s AND start_at < %(end)s",
    f"DELETE FROM emosllm.segment WHERE {_SPEECH}",
    f"DELETE FROM emosllm.prompt WHERE ({_WITHIN}) OR ({_ANSWERED})",
    f"DELETE FROM emosllm.checkin WHERE {_WITHIN}",
)
"""Forget from `start` to `end` what the timeline's own erasure does, whichever machine it came from."""

FORGET_ALL: Sequence[str] = tuple(f"DELETE FROM emosllm.{table}" for table in SHARED)
"""Forget everything."""
