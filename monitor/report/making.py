"""From the timeline to a report in a chosen format. Imports each format's tools only when it is asked for, so that text comes at once."""

import io
from datetime import datetime, timedelta

from monitor.clinic.address import Address
from monitor.config import Config
from monitor.day.days import Day
from monitor.day.trend import WARM_UP_DAYS
from monitor.look import Look, in_use_of
from monitor.report.asking import Format
from monitor.report.material import WORD_DAYS, Material, gather, with_own_word
from monitor.report.period import Asked

_FILE_COLUMNS = 80


def collect(config: Config, asked: Asked, now: datetime, usual_days: int = 1) -> Material:
    """What the report is made of. Raises DayError for days that cannot be meant, TimelineError and StoreKeyError."""
    period = asked.period(config.timeline.zone_info(), now, usual_days)
    with Look.open(config.timeline, now, in_use_of(config)) as look:
        return with_own_word(gather(look, period, config.report), look)


def collect_shared(config: Config, subject: str, asked: Asked, now: datetime, usual_days: int = 1) -> Material:
    """The same of what a subject shares with the clinic, in the zone of their days. Raises DayError, ClinicError, ConfigError."""
    from monitor.clinic.reader import ClinicReader, zone_of

    address = Address.needed(config.store)
    zone = zone_of(address, subject) or config.timeline.zone_info()
    period = asked.period(zone, now, usual_days)
    first = period.first - timedelta(days=max(WARM_UP_DAYS, WORD_DAYS) + 1)
    reader = ClinicReader.open(address, subject, Day(first, zone).start, Day(period.last + timedelta(days=1), zone).end)
    with Look.at_clinic(reader, zone, now, in_use_of(config)) as look:
        return with_own_word(gather(look, period, config.report), look)


def written(material: Material, form: Format, bundle: str, *, plain: bool = False, sheet: bool = False) -> bytes:
    """The report as the bytes of a file. bundle: the name or folder of the model in use, whose figures a sheet quotes."""
    if form is Format.TEXT:
        return _text(material, plain).encode()
    if form is Format.JSON:
        from monitor.report.as_json import to_json

        return f"{to_json(material)}\n".encode()
    if form is Format.CSV:
        from monitor.report.as_csv import to_csv

        return to_csv(material).encode()
    if form is Format.FHIR:
        from monitor.report.fhir import to_fhir

        return f"{to_fhir(material)}\n".encode()
    page = _page(material, bundle, sheet)
    if form is Format.HTML:
        return page.encode()
    from monitor.report.pdf import to_pdf

    return to_pdf(page, one_sheet=sheet or material.period.is_day)


def _text(material: Material, plain: bool) -> str:
    if plain:
        from monitor.report.plain import to_plain

        return f"{to_plain(material)}\n"
    from rich.console import Console

    from monitor.report.text import TextReport

    file = io.StringIO()
    Console(file=file, width=_FILE_COLUMNS).print(TextReport(material), end="")
    return file.getvalue()


def _page(material: Material, bundle: str, sheet: bool) -> str:
    if sheet:
        from monitor.report.sheet import to_sheet

        return to_sheet(material, bundle)
    from monitor.report.page import to_page

    return to_page(material)
