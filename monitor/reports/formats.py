"""The report formats: chooses one, loads the data, renders the report, and writes it to a private file.

Libraries of a format are imported when that format is rendered, so a text report appears at once.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Self

from model.errors import ReportError
from monitor.analysis.days import Day
from monitor.analysis.timeline_query import TimelineQuery
from monitor.analysis.trend import WARM_UP_DAYS
from monitor.bundles.registry import BundleRegistry
from monitor.clinic.address import ClinicAddress
from monitor.config import Config
from monitor.fileio import open_private_atomic
from monitor.reports.data import SELF_REPORT_DAYS, PeriodOptions, RenderOptions, ReportData, load_report_data, with_self_report


class ReportFormat(StrEnum):
    """How a report is written: its name, the module that renders it, the endings of its files.

    A new format is a module in this folder with `render(report: ReportData, options: RenderOptions) -> bytes`, and one line here.
    """

    TEXT = "text", "text_report", ".txt"
    JSON = "json", "json_report", ".json"
    HTML = "html", "html_report", ".html", ".htm"
    PDF = "pdf", "pdf", ".pdf"
    CSV = "csv", "csv_report", ".csv"
    FHIR = "fhir", "fhir"

    module: str
    suffixes: tuple[str, ...]

    def __new__(cls, name: str, module: str, *suffixes: str) -> Self:
        """See the class."""
        made = str.__new__(cls, name)
        made._value_, made.module, made.suffixes = name, module, suffixes
        return made


_SHEET_FORMATS = (ReportFormat.HTML, ReportFormat.PDF)


def choose_format(asked: ReportFormat | None, out: Path | None, plain: bool, sheet: bool) -> ReportFormat:
    """The format that was asked for, or else that the file's name ends with. Raises ReportError for what does not go together."""
    usual = ReportFormat.HTML if sheet else ReportFormat.TEXT
    named = (form for form in ReportFormat if out is not None and out.suffix.lower() in form.suffixes)
    form = asked or next(named, usual)
    if plain and form is not ReportFormat.TEXT:
        raise ReportError(f"--plain works with text only, not {form}; remove one of the two")
    if sheet and form not in _SHEET_FORMATS:
        raise ReportError(f"--sheet needs --format html or pdf, not {form}")
    if form is ReportFormat.PDF and out is None:
        raise ReportError("a PDF cannot be printed to the terminal; pass --out FILE")
    return form


def check_output_path(out: Path, force: bool) -> None:
    """Raise ReportError where a report cannot go to `out`, before the work of making it."""
    if out.is_dir():
        raise ReportError(f"{out} is a folder; name a file")
    if not out.parent.is_dir():
        raise ReportError(f"folder {out.parent} does not exist; create it or name another file")
    if out.exists() and not force:
        raise ReportError(f"{out} already exists; name another file or pass --force")


def write_private(out: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises ReportError."""
    try:
        with open_private_atomic(out) as file:
            file.write(content)
    except OSError as error:
        raise ReportError(f"cannot write {out}: {error.strerror}; choose another file or free some space") from error


def collect_report(config: Config, asked: PeriodOptions, now: datetime, usual_days: int = 1) -> ReportData:
    """What the report is made of. Raises DayError for days that cannot be meant, TimelineError and StoreKeyError."""
    period = asked.period(config.timeline.zone_info(), now, usual_days)
    with TimelineQuery.open(config.timeline, now, BundleRegistry.of(config).active()) as look:
        return with_self_report(load_report_data(look, period, config.report), look)


def collect_shared_report(config: Config, subject: str, asked: PeriodOptions, now: datetime, usual_days: int = 1) -> ReportData:
    """The same of what a subject shares with the clinic, in the zone of their days. Raises DayError, ClinicError, ConfigError."""
    from monitor.clinic.reader import ClinicReader, subject_zone

    address = ClinicAddress.needed(config.store)
    zone = subject_zone(address, subject) or config.timeline.zone_info()
    period = asked.period(zone, now, usual_days)
    first = period.first - timedelta(days=max(WARM_UP_DAYS, SELF_REPORT_DAYS) + 1)
    reader = ClinicReader.open(address, subject, Day(first, zone).start, Day(period.last + timedelta(days=1), zone).end)
    with TimelineQuery.at_clinic(reader, zone, now, BundleRegistry.of(config).active()) as look:
        return with_self_report(load_report_data(look, period, config.report), look)


def render_report(report: ReportData, form: ReportFormat, options: RenderOptions) -> bytes:
    """The report as the bytes of a file."""
    rendered: bytes = import_module(f"monitor.reports.{form.module}").render(report, options)
    return rendered
