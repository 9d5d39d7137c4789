"""The numbered changes of the timeline's tables, applied by Alembic when `monitor/store/timeline.py` opens the database."""
