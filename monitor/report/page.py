"""Reports as one page of HTML that stands alone: no script, no request, charts within; the same page is printed and becomes the PDF.

A day fits one sheet of A4. Layout is in templates/, words are in `rows` and `sentences`, charts in `figures`.
"""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from monitor.charts.render import Drawing
from monitor.day.summary import DayState, Speech
from monitor.day.wording import NOTICE, percent, pieces
from monitor.report import figures, rows, sentences
from monitor.report.figures import Table
from monitor.report.material import Material

_TEMPLATES = Path(__file__).parent / "templates"


def to_page(material: Material) -> str:
    """The report of a day or a period."""
    return render("page.html", material, **(_day(material) if material.period.is_day else _period(material)))


def render(template: str, material: Material, **values: Any) -> str:
    """A template with what every page has: style, notice, contacts, when it was made."""
    zone = material.period.zone
    made = f"Made on {material.now.astimezone(zone):%Y-%m-%d at %H:%M}; time zone {zone}."
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    values = {"under": made, **values}
    return _environment().get_template(template).render(style=style, notice=NOTICE, contacts=material.contacts, **values)


def _day(material: Material) -> dict[str, Any]:
    day = material.day
    with Drawing() as drawing:
        drawn = figures.of_one_day(material, drawing) if day.state is not DayState.NO_DATA or material.checkins else []
    tables = [("What was heard", Table([[row.name, row.amount, row.remark] for row in rows.coverage(day)], numbers=frozenset({1})))]
    if day.speech.total.segments:
        tables.append(("How the voice sounded", emotions(day.speech)))
    return {
        "title": rows.title(day),
        "state": rows.state(day),
        "said": sentences.of_day(material),
        "tables": tables,
        "all_figures": drawn,
        "days": None,
        "gaps": {},
        "models": rows.models(material.bundles),
    }


def _period(material: Material) -> dict[str, Any]:
    with Drawing() as drawing:
        drawn = figures.of_period(material, drawing)
    return {
        "title": rows.period_title(material.period),
        "state": "" if material.known else "NO DATA: nothing was heard, so nothing can be said about these days.",
        "said": sentences.of_days(material),
        "tables": [],
        "all_figures": drawn if material.known or material.checkins else [],
        "days": Table([rows.day_cells(day) for day in material.days], rows.DAY_COLUMNS, numbers=frozenset({2, 3, 4, 6})),
        "gaps": rows.gaps(material.days),
        "models": rows.models(material.bundles, "days"),
    }


def emotions(speech: Speech) -> Table:
    """The emotions of a day, the largest share first."""
    if not rows.found(speech):
        return Table([], caption="Nothing was sure enough to be given a name.")
    absent = rows.absent(speech)
    caption = f"{rows.basis(speech)}{f'; not found: {absent}' if absent else ''}"
    listed = [
        [found.emotion.word, "" if found.share is None else percent(found.share), rows.interval(found.interval), _amount(found)]
        for found in rows.found(speech)
    ]
    if not speech.intervals:
        listed = [[name, share, amount] for name, share, _, amount in listed]
    return Table(listed, caption=caption, numbers=frozenset({1, 2, 3}))


def _amount(found: rows.Found) -> str:
    return f"{rows.amount(found)} in {pieces(found.amount.segments)}" if found.amount.segments else rows.amount(found)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
