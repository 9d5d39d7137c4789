"""What the monitor did by itself: each run of a job, for which day, and what came of it."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "job_run",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("job", AutoString(), nullable=False),
        sa.Column("day", AutoString(), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.Column("outcome", AutoString(), nullable=True),
        sa.Column("reason", AutoString(), nullable=False),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=True),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="job_run_ended"),
    )
    op.create_index("job_run_by_job", "job_run", ["job", "day"])
    op.create_index("job_run_by_start", "job_run", ["started_at"])
