"""The sound of segments that wait to be judged (or is kept because the person wants it), and what was said, where that is kept."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table of sounds and the column of words."""
    op.create_table(
        "sound",
        sa.Column("segment_id", sa.Integer(), sa.ForeignKey("segment.id", ondelete="CASCADE"), nullable=False, primary_key=True),
        sa.Column("pcm", sa.LargeBinary(), nullable=False),
        sa.Column("stored_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("length(pcm) > 0", name="sound_not_empty"),
    )
    op.add_column("segment", sa.Column("transcript", AutoString(), nullable=True))
    # Until now sound was only in memory: what an earlier program left waiting has none.
    op.execute("UPDATE segment SET state = 'unjudged', reason = 'the monitor ended before this was judged' WHERE state = 'waiting'")
