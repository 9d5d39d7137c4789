"""The numbered changes of the timeline's tables, applied by Alembic when `monitor/storage/writer.py` opens the database."""
