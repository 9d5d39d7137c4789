"""Paths of the files that the program keeps beside a timeline."""

from pathlib import Path


def job_store_path(database: Path) -> Path:
    """Where APScheduler keeps when each job comes."""
    return database.with_name(database.name + ".jobs")


def disabled_jobs_path(database: Path) -> Path:
    """Where it is kept which jobs are switched off."""
    return database.with_name(database.name + ".schedule")
