"""The numbered changes of the clinic's tables, applied by Alembic when an administrator sets the clinic up or brings it up to date."""
