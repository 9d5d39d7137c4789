"""Whether rows are shared with a clinic, and those that wait to be sent there."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0005"
down_revision = "0004"

# Whoever changes a row that is shared notes it in the same transaction. One that changes again before it was sent keeps its place.
_NOTE = (
    "INSERT INTO outbox (kind, row_id, version, queued_at) SELECT '{table}', NEW.id, 1, strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    " WHERE EXISTS (SELECT 1 FROM sharing WHERE active AND {begins} >= since)"
    " ON CONFLICT (kind, row_id) DO UPDATE SET version = version + 1;"
)
_GONE = (
    "INSERT INTO outbox (kind, version, queued_at, {columns}) SELECT '{table}', 1, strftime('%Y-%m-%d %H:%M:%f000', 'now'), {values}"
    " WHERE EXISTS (SELECT 1 FROM sharing WHERE active);"
)
_SEGMENT_OF = "(SELECT {column} FROM segment WHERE segment.id = {row}.segment_id)"
# By which columns a row that is gone is found elsewhere: those by which an import knows it.
_KEYS = {
    "segment": {"stream": "OLD.stream", "start_sample": "OLD.start_sample", "at": "OLD.start_at"},
    "coverage": {"stream": "OLD.stream", "name": "OLD.kind", "at": "OLD.start_at", "reason": "OLD.reason"},
    "correction": {
        "stream": _SEGMENT_OF.format(column="stream", row="OLD"),
        "start_sample": _SEGMENT_OF.format(column="start_sample", row="OLD"),
        "at": "OLD.at",
        "name": "OLD.emotion",
        "number": "OLD.confirmed",
    },
    "checkin": {"at": "OLD.at", "zone": "OLD.zone", "name": "OLD.emotion", "number": "OLD.valence"},
    "prompt": {"at": "OLD.at", "zone": "OLD.zone"},
}
_BEGINS = {
    "segment": "NEW.start_at",
    "coverage": "NEW.start_at",
    "correction": _SEGMENT_OF.format(column="start_at", row="NEW"),
    "checkin": "NEW.at",
    "prompt": "NEW.at",
}


def upgrade() -> None:
    """Create the tables, and the triggers that fill the outbox."""
    op.create_table(
        "sharing",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.Column("clinic", AutoString(), nullable=True),
        sa.Column("edition", AutoString(), nullable=True),
        sa.CheckConstraint("id = 1", name="sharing_once"),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("kind", AutoString(), nullable=False),
        sa.Column("row_id", sa.Integer(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("queued_at", UTCDateTime(), nullable=False),
        sa.Column("stream", AutoString(), nullable=True),
        sa.Column("start_sample", sa.Integer(), nullable=True),
        sa.Column("at", UTCDateTime(), nullable=True),
        sa.Column("zone", AutoString(), nullable=True),
        sa.Column("name", AutoString(), nullable=True),
        sa.Column("number", sa.Float(), nullable=True),
        sa.Column("reason", AutoString(), nullable=True),
        sa.UniqueConstraint("kind", "row_id", name="outbox_once"),
        sa.CheckConstraint("(row_id IS NULL) = (at IS NOT NULL)", name="outbox_which"),
        # A number is never given twice: somebody may be about to take it out.
        sqlite_autoincrement=True,
    )
    settled = "NEW.state <> 'waiting'"
    for table, keys in _KEYS.items():
        note = _NOTE.format(table=table, begins=_BEGINS[table])
        gone = _GONE.format(table=table, columns=", ".join(keys), values=", ".join(keys.values()))
        when = settled if table == "segment" else "TRUE"
        _trigger(table, "INSERT", when, note)
        _trigger(table, "UPDATE", when, note)
        _trigger(table, "DELETE", "TRUE", gone)
    moved = _GONE.format(table="coverage", columns=", ".join(_KEYS["coverage"]), values=", ".join(_KEYS["coverage"].values()))
    op.execute(
        f"CREATE TRIGGER coverage_moved_is_shared AFTER UPDATE OF start_at ON coverage WHEN OLD.start_at <> NEW.start_at BEGIN {moved} END"
    )


def _trigger(table: str, change: str, when: str, what: str) -> None:
    op.execute(f"CREATE TRIGGER {table}_{change.lower()}_is_shared AFTER {change} ON {table} WHEN {when} BEGIN {what} END")
