"""The small files that belong to the jobs of a timeline: beside it, and without anything personal in them."""

from pathlib import Path


def plans_path(database: Path) -> Path:
    """Where APScheduler keeps when each job comes."""
    return database.with_name(database.name + ".jobs")


def switches_path(database: Path) -> Path:
    """Where it is kept which jobs are switched off."""
    return database.with_name(database.name + ".schedule")
