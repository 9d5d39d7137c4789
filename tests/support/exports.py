"""Exports of a timeline in a test, in every format that can be imported again."""

from datetime import timedelta
from pathlib import Path

from monitor.analysis.days import ALL_TIME, TimeRange
from monitor.config import Config, TimelineConfig
from monitor.transfer.export import export_data
from monitor.transfer.schema import ExportFormat
from tests.support.storage import NOON

FORMS = [form for form in ExportFormat if form is not ExportFormat.FHIR]
NOW = NOON + timedelta(days=30)


def at(path: Path) -> TimelineConfig:
    return TimelineConfig(database=str(path), zone="Europe/Paris")


def write(path: Path, form: ExportFormat, out: Path, time_range: TimeRange = ALL_TIME, force: bool = False) -> dict[str, int]:
    return export_data(Config(timeline=at(path)), form, time_range, str(out), force, NOW)


def exported(path: Path, form: ExportFormat, out: Path, time_range: TimeRange = ALL_TIME) -> dict[str, bytes]:
    """The files of an export, by name."""
    write(path, form, out, time_range, force=True)
    return {file.name: file.read_bytes() for file in out.iterdir()} if out.is_dir() else {"": out.read_bytes()}
