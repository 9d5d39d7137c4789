"""What is known of the person's voice, by microphone and hour; and which microphone and which reference a segment was heard with."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the tables, and the columns of segments."""
    op.add_column("segment", sa.Column("microphone", AutoString(), nullable=True))
    op.add_column("segment", sa.Column("voice_version", AutoString(), nullable=True))
    op.create_table(
        "voice_reference",
        sa.Column("id", sa.Integer(), nullable=False, primary_key=True),
        sa.Column("version", AutoString(), nullable=False),
        sa.Column("voice_space", AutoString(), nullable=False),
        sa.Column("microphone", AutoString(), nullable=False),
        sa.Column("frozen", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("voice_space", "microphone", name="voice_reference_once"),
        sa.UniqueConstraint("version", name="voice_reference_version"),
    )
    op.create_table(
        "voice_hour",
        sa.Column("reference_id", sa.Integer(), sa.ForeignKey("voice_reference.id", ondelete="CASCADE"), nullable=False, primary_key=True),
        sa.Column("on_date", AutoString(), nullable=False, primary_key=True),
        sa.Column("hour_at", UTCDateTime(), nullable=False, primary_key=True),
        sa.Column("start_at", UTCDateTime(), nullable=False),
        sa.Column("end_at", UTCDateTime(), nullable=False),
        sa.Column("segments", sa.Float(), nullable=False),
        sa.Column("speech_s", sa.Float(), nullable=False),
        sa.Column("sums", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("start_at < end_at", name="voice_hour_times"),
    )
