"""The first tables: segments of speech and the coverage they stand in."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "segment",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("stream", AutoString(), nullable=False),
        sa.Column("start_sample", sa.Integer(), nullable=False),
        sa.Column("end_sample", sa.Integer(), nullable=False),
        sa.Column("start_at", UTCDateTime(), nullable=False),
        sa.Column("end_at", UTCDateTime(), nullable=False),
        sa.Column("zone", AutoString(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("reason", AutoString(), nullable=True),
        sa.Column("emotion", AutoString(), nullable=True),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("unsure", sa.Boolean(), nullable=True),
        sa.Column("posterior", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("bundle_version", AutoString(), nullable=True),
        sa.Column("judged_at", UTCDateTime(), nullable=True),
        sa.UniqueConstraint("stream", "start_sample", name="segment_once"),
        sa.CheckConstraint("0 <= start_sample AND start_sample < end_sample", name="segment_samples"),
        sa.CheckConstraint("start_at < end_at", name="segment_times"),
        sa.CheckConstraint("state IN ('waiting', 'judged', 'unjudged')", name="segment_state"),
        sa.CheckConstraint("(state = 'unjudged') = (reason IS NOT NULL)", name="segment_reason"),
        sa.CheckConstraint(
            "(emotion IS NOT NULL) + (confidence IS NOT NULL) + (unsure IS NOT NULL) + (posterior IS NOT NULL)"
            " + (bundle_version IS NOT NULL) + (judged_at IS NOT NULL) = 6 * (state = 'judged')",
            name="segment_judged",
        ),
        sa.CheckConstraint("confidence BETWEEN 0 AND 1", name="segment_confidence"),
    )
    op.create_index("segment_by_start", "segment", ["start_at"])
    op.create_index("segment_waiting", "segment", ["state"], sqlite_where=sa.text("state = 'waiting'"))
    op.create_table(
        "coverage",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("stream", AutoString(), nullable=False),
        sa.Column("kind", AutoString(), nullable=False),
        sa.Column("start_at", UTCDateTime(), nullable=False),
        sa.Column("end_at", UTCDateTime(), nullable=False),
        sa.Column("zone", AutoString(), nullable=False),
        sa.Column("reason", AutoString(), nullable=False),
        sa.CheckConstraint("start_at < end_at", name="coverage_times"),
    )
    op.create_index("coverage_by_end", "coverage", ["end_at"])
    op.create_index("coverage_last", "coverage", ["stream", "kind", "end_at"])
