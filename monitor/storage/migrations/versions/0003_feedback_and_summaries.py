"""What the person says of their day and of segments, how a voice sounded, and the summaries of days that are over."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0003"
down_revision = "0002"

# A summary that no longer follows from what is stored must not be there; so whatever changes a stretch of time removes those of its days,
# whichever program makes the change.
_FORGET_SUMMARIES = "DELETE FROM day_summary WHERE start_at < {row}.end_at AND end_at > {row}.start_at;"
_FORGET_OF_SEGMENT = (
    "DELETE FROM day_summary WHERE EXISTS (SELECT 1 FROM segment WHERE segment.id = {row}.segment_id"
    " AND day_summary.start_at < segment.end_at AND day_summary.end_at > segment.start_at);"
)


def upgrade() -> None:
    """Create the tables, and the triggers that keep summaries true."""
    op.add_column("segment", sa.Column("loudness_db", sa.Float(), nullable=True))
    op.add_column("segment", sa.Column("pitch_hz", sa.Float(), nullable=True))
    op.create_table(
        "correction",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("segment_id", sa.Integer(), sa.ForeignKey("segment.id", ondelete="CASCADE"), nullable=False),
        sa.Column("emotion", AutoString(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("undone_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint("length(emotion) = 1", name="correction_letter"),
    )
    op.create_index("correction_by_segment", "correction", ["segment_id"])
    op.create_table(
        "checkin",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("zone", AutoString(), nullable=False),
        sa.Column("valence", sa.Float(), nullable=False),
        sa.Column("emotion", AutoString(), nullable=False),
        sa.Column("note", AutoString(), nullable=True),
        sa.CheckConstraint("valence BETWEEN -1 AND 1", name="checkin_valence"),
        sa.CheckConstraint("length(emotion) = 1", name="checkin_letter"),
    )
    op.create_index("checkin_by_time", "checkin", ["at"])
    op.create_table(
        "prompt",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("zone", AutoString(), nullable=False),
        sa.Column("checkin_id", sa.Integer(), sa.ForeignKey("checkin.id", ondelete="SET NULL"), nullable=True),
    )
    op.create_index("prompt_by_time", "prompt", ["at"])
    op.create_table(
        "day_summary",
        sa.Column("on_date", AutoString(), nullable=False, primary_key=True),
        sa.Column("zone", AutoString(), nullable=False, primary_key=True),
        sa.Column("start_at", UTCDateTime(), nullable=False),
        sa.Column("end_at", UTCDateTime(), nullable=False),
        sa.Column("format", sa.Integer(), nullable=False),
        sa.Column("summary", AutoString(), nullable=False),
        sa.CheckConstraint("start_at < end_at", name="day_summary_times"),
    )
    op.create_index("day_summary_by_end", "day_summary", ["end_at"])
    for table in ("segment", "coverage"):
        _trigger(table, "INSERT", _FORGET_SUMMARIES.format(row="NEW"))
        _trigger(table, "UPDATE", _FORGET_SUMMARIES.format(row="OLD") + _FORGET_SUMMARIES.format(row="NEW"))
        _trigger(table, "DELETE", _FORGET_SUMMARIES.format(row="OLD"))
    _trigger("correction", "INSERT", _FORGET_OF_SEGMENT.format(row="NEW"))
    _trigger("correction", "UPDATE", _FORGET_OF_SEGMENT.format(row="NEW"))
    _trigger("correction", "DELETE", _FORGET_OF_SEGMENT.format(row="OLD"))


def _trigger(table: str, change: str, what: str) -> None:
    op.execute(f"CREATE TRIGGER {table}_{change.lower()}_forgets_summaries AFTER {change} ON {table} BEGIN {what} END")
