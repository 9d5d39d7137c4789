"""The numbered changes of the timeline's tables, applied by Alembic when `monitor/timeline.py` opens the database."""
