"""Turns values into pages: templates, what they may call, and what every page shows. Knows no route and no timeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitor.config import Config
from monitor.dashboard.microphone import look
from monitor.day.wording import NOTICE, long_date, percent, pieces, short_date, span
from monitor.report.rows import amount, interval

_TEMPLATES = Path(__file__).parent / "templates"
DONE = {
    "checkin": "Thank you. What you said is kept.",
    "erased": "That check-in is erased.",
    "pause": "Paused: the microphone is closed.",
    "resume": "The microphone is being opened again.",
    "correct": "Kept: what you say counts from now on.",
    "confirm": "Kept: you agree with the estimate.",
    "undo": "Taken back.",
}
"""What is said after a change, by the word that is handed on in the address."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """Pages for one set of settings."""

    settings: Config
    templates: Environment

    def page(self, request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> HTMLResponse:
        """A whole page. values: what its template asks for."""
        timeline = self.settings.timeline
        zone = timeline.zone_info()
        text = self.templates.get_template(template).render(
            values,
            root=request.scope["root_path"],
            here=request.url.path,
            zone=zone,
            today=datetime.now(UTC).astimezone(zone).date(),
            microphone=look(timeline.database_path(), zone),
            contacts=self.settings.report.contacts,
            done=DONE.get(request.query_params.get("done", "")),
            notice=NOTICE,
        )
        return HTMLResponse(text, status_code=status)

    def problem(self, request: Request, problem: str, status: int) -> HTMLResponse:
        """A page that says what did not work, and leads back."""
        return self.page(request, "problem.html", {"problem": problem}, status)


def rendering_of(settings: Config) -> Rendering:
    """Templates with the words they use; a name that a template asks for and nobody gave is a bug."""
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for named in (span, percent, pieces, long_date, short_date, interval, amount):
        templates.filters[named.__name__] = named
    return Rendering(settings, templates)
