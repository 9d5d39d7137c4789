"""The report formats: chooses one, loads the data, renders the report, and writes it to a private file.

Libraries of a format are imported when that format is rendered, so a text report appears at once.
"""

import io
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from model.errors import ReportError
from monitor.analysis.days import Day
from monitor.analysis.timeline_query import TimelineQuery
from monitor.analysis.trend import WARM_UP_DAYS
from monitor.bundles.registry import BundleRegistry
from monitor.clinic.address import ClinicAddress
from monitor.config import Config
from monitor.fileio import open_private_atomic
from monitor.reports.data import SELF_REPORT_DAYS, PeriodOptions, ReportData, load_report_data, with_self_report


class ReportFormat(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    PDF = "pdf"
    CSV = "csv"
    FHIR = "fhir"


_FORMAT_BY_SUFFIX = {
    ".txt": ReportFormat.TEXT,
    ".json": ReportFormat.JSON,
    ".html": ReportFormat.HTML,
    ".htm": ReportFormat.HTML,
    ".pdf": ReportFormat.PDF,
    ".csv": ReportFormat.CSV,
}
_SHEET_FORMATS = (ReportFormat.HTML, ReportFormat.PDF)


def choose_format(asked: ReportFormat | None, out: Path | None, plain: bool, sheet: bool) -> ReportFormat:
    """The format that was asked for, or else that the file's name ends with. Raises ReportError for what does not go together."""
    usual = ReportFormat.HTML if sheet else ReportFormat.TEXT
    form = asked or (_FORMAT_BY_SUFFIX.get(out.suffix.lower(), usual) if out is not None else usual)
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


_FILE_COLUMNS = 80


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


def render_report(material: ReportData, form: ReportFormat, bundle: str, *, plain: bool = False, sheet: bool = False) -> bytes:
    """The report as the bytes of a file. bundle: the name or folder of the model in use, whose figures a sheet quotes."""
    if form is ReportFormat.TEXT:
        return _render_text(material, plain).encode()
    if form is ReportFormat.JSON:
        from monitor.reports.json_report import to_json

        return f"{to_json(material)}\n".encode()
    if form is ReportFormat.CSV:
        from monitor.reports.csv_report import to_csv

        return to_csv(material).encode()
    if form is ReportFormat.FHIR:
        from monitor.reports.fhir import to_fhir

        return f"{to_fhir(material)}\n".encode()
    page = _render_html(material, bundle, sheet)
    if form is ReportFormat.HTML:
        return page.encode()
    from monitor.reports.pdf import to_pdf

    return to_pdf(page, one_sheet=sheet or material.period.is_day)


def _render_text(material: ReportData, plain: bool) -> str:
    if plain:
        from monitor.reports.text_report import to_plain

        return f"{to_plain(material)}\n"
    from rich.console import Console

    from monitor.reports.text_report import TextReport

    file = io.StringIO()
    Console(file=file, width=_FILE_COLUMNS).print(TextReport(material), end="")
    return file.getvalue()


def _render_html(material: ReportData, bundle: str, sheet: bool) -> str:
    if sheet:
        from monitor.reports.clinician_sheet import to_clinician_sheet

        return to_clinician_sheet(material, bundle)
    from monitor.reports.html_report import to_html

    return to_html(material)
