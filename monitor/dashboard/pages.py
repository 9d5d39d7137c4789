"""The pages that show something, and how they are rendered. Changes nothing."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model.errors import BundleError, EmosllmError
from monitor.analysis.affect import AFFECT_SOURCE
from monitor.analysis.days import parse_day
from monitor.analysis.formatting import (
    DISCLAIMER,
    EMOTION_PHRASES,
    VALENCE_SCALE,
    format_duration,
    format_percent,
    format_segments,
    long_date,
    short_date,
    valence_of,
)
from monitor.analysis.timeline_query import TimelineQuery
from monitor.analysis.trend import BASELINE_MAX_DAYS, BASELINE_MIN_DAYS, FALSE_ALARMS
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config
from monitor.control import send_command
from monitor.dashboard import view_models
from monitor.dashboard.auth import SESSION_SCOPE_KEY, Sessions
from monitor.dashboard.live import LiveUpdates, microphone_state
from monitor.dashboard.view_models import PeriodLength, page_period
from monitor.reports import sentences, view_model
from monitor.reports.charts.style import EMOTION_FILLS
from monitor.reports.data import SELF_REPORT_DAYS, ReportPeriod, load_report_data
from monitor.reports.view_model import format_interval, format_sure_time
from monitor.scheduler.job_status import offline_job_states

if TYPE_CHECKING:
    from model.bundle_format import BundleManifest


_TEMPLATES = Path(__file__).parent / "templates"
DONE_MESSAGES = {
    "checkin": "Thank you. Your check-in is stored.",
    "erased": "The check-in was erased.",
    "pause": "Paused. The microphone is closed.",
    "resume": "Resumed. The microphone is opening.",
    "correct": "Saved. Your label counts from now on.",
    "confirm": "Saved. You confirmed the estimate.",
    "undo": "Undone.",
}
"""What is said after a change, by the word that is handed on in the address."""


@dataclass(frozen=True, slots=True)
class PageRenderer:
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
            microphone=microphone_state(timeline.database_path(), zone),
            contacts=self.settings.report.contacts,
            done=DONE_MESSAGES.get(request.query_params.get("done", "")),
            notice=DISCLAIMER,
        )
        return HTMLResponse(text, status_code=status)

    def problem(self, request: Request, problem: str, status: int) -> HTMLResponse:
        """A page that says what did not work, and leads back."""
        return self.page(request, "problem.html", {"problem": problem}, status)


def create_renderer(settings: Config) -> PageRenderer:
    """Templates with the words they use; a name that a template asks for and nobody gave is a bug."""
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for named in (format_duration, format_percent, format_segments, long_date, short_date, format_interval, format_sure_time):
        templates.filters[named.__name__] = named
    return PageRenderer(settings, templates)


router = APIRouter()

_LATEST_SEGMENTS = 6
_CHECKIN_DAYS = 7
_RUNS = 60


def page_renderer(request: Request) -> PageRenderer:
    """How this dashboard makes its pages."""
    made: PageRenderer = request.app.state.rendering
    return made


Pages = Annotated[PageRenderer, Depends(page_renderer)]


@router.get("/")
def today(request: Request, pages: Pages) -> HTMLResponse:
    """The day that goes on now."""
    return day(request, pages, "today")


@router.get("/day/{which}")
def day(request: Request, pages: Pages, which: str) -> HTMLResponse:
    """One day."""
    with _open_query(pages) as look:
        asked = parse_day(which, look.zone, look.now)
        material = load_report_data(look, ReportPeriod(asked.on, asked.on, look.zone), pages.settings.report)
        checkins = look.checkins(asked.on, asked.on)
    summary = material.day
    charts = view_models.day_page_charts(summary, material.entries, checkins)
    values = {
        "day": asked,
        "summary": summary,
        "live": asked.end > look.now,
        "state": view_model.state_text(summary),
        "coverage": view_model.coverage_rows(summary),
        "found": view_model.emotion_rows(summary.speech),
        "basis": view_model.shares_basis(summary.speech),
        "sentences": sentences.day_sentences(material),
        "hours": view_models.hour_rows(summary, checkins) if charts else [],
        "checkins": [(view_models.format_clock(one.at, look.zone), view_models.format_checkin(one), one.note) for one in checkins],
        "latest": view_models.latest_segments(material.entries, look.zone, _LATEST_SEGMENTS),
        "charts": charts,
        "models": view_model.models_text(summary.bundles),
        "before": asked.on - timedelta(days=1),
        "after": asked.on + timedelta(days=1) if asked.end <= look.now else None,
    }
    return pages.page(request, "day.html", values)


@router.get("/day")
def chosen_day(request: Request, on: str = "today") -> RedirectResponse:
    """Where the choice of a date leads."""
    return RedirectResponse(f"{request.scope['root_path']}/day/{on}", status_code=303)


@router.get("/day/{which}/pieces")
def segments_of_day(
    request: Request, pages: Pages, which: str, hour: int | None = None, piece: int | None = None, done: str = ""
) -> HTMLResponse:
    """The segments of one hour of a day, to be looked through and corrected; by default of the last that has any."""
    with _open_query(pages) as look:
        asked = parse_day(which, look.zone, look.now)
        hours, entries = asked.hours(), look.entries(asked)
    by_hour = [[entry for entry in entries if one.start <= max(entry.start_at, asked.start) < one.end] for one in hours]
    spoken = [index for index, within in enumerate(by_hour) if within]
    shown = hour if hour is not None and 0 <= hour < len(hours) else max(spoken, default=0)
    values = {
        "day": asked,
        "hours": [(index, hours[index].label, len(by_hour[index])) for index in spoken],
        "shown": shown,
        "label": hours[shown].label,
        "pieces": [view_models.segment_view(entry, asked.zone) for entry in by_hour[shown]],
        "changed": piece,
        "emotions": list(EMOTION_FILLS),
        "done_here": DONE_MESSAGES.get(done, ""),
    }
    return pages.page(request, "segments.html", values)


@router.get("/week/{which}")
def week(request: Request, pages: Pages, which: str) -> HTMLResponse:
    """The week that has a day."""
    return _period(request, pages, PeriodLength.WEEK, which)


@router.get("/month/{which}")
def month(request: Request, pages: Pages, which: str) -> HTMLResponse:
    """The month that has a day."""
    return _period(request, pages, PeriodLength.MONTH, which)


@router.get("/checkin")
def checkin(request: Request, pages: Pages) -> HTMLResponse:
    """Where the person says how they feel, and what they said lately."""
    with _open_query(pages) as look:
        here = look.now.astimezone(look.zone).date()
        said = look.checkins(here - timedelta(days=_CHECKIN_DAYS - 1), here)
    values = {
        "valences": [(f"{valence_of(step + 1):.4f}", words) for step, words in enumerate(VALENCE_SCALE)],
        "emotions": [(emotion, EMOTION_PHRASES[emotion]) for emotion in EMOTION_FILLS],
        "said": [
            (one, one.at.astimezone(look.zone).date(), view_models.format_clock(one.at, look.zone), view_models.format_checkin(one))
            for one in reversed(said)
        ],
        "days": _CHECKIN_DAYS,
    }
    return pages.page(request, "checkin.html", values)


@router.get("/about")
def about(request: Request, pages: Pages) -> HTMLResponse:
    """What the figures mean, how good the model is, and how far the person and it agree."""
    with _open_query(pages) as look:
        here = look.now.astimezone(look.zone).date()
        said = look.self_report(here - timedelta(days=SELF_REPORT_DAYS - 1), here)
    model, problem = _model(BundleRegistry.of(pages.settings).active())
    values = {
        "model": model,
        "model_problem": problem,
        "score": model.scores[0] if model and model.scores else None,
        "agreement": said.sentences or said.agreement.sentences,
        "agreement_days": SELF_REPORT_DAYS,
        "source": AFFECT_SOURCE,
        "longest": BASELINE_MAX_DAYS,
        "shortest": BASELINE_MIN_DAYS,
        "alarms": FALSE_ALARMS,
    }
    return pages.page(request, "about.html", values)


@router.get("/nights")
def jobs(request: Request, pages: Pages) -> HTMLResponse:
    """What the monitor does by itself: when each job comes next, and what came of the last runs."""
    settings = pages.settings.timeline
    with _open_query(pages) as look:
        runs = look.last_job_runs(_RUNS)
    jobs, running = _jobs(pages)
    values = {
        "jobs": [view_models.job_row(job, settings.zone_info(), running) for job in jobs],
        "running": running,
        "runs": [view_models.run_row(run, settings.zone_info()) for run in runs],
    }
    return pages.page(request, "jobs.html", values)


@router.get("/microphone")
def microphone(request: Request, pages: Pages) -> HTMLResponse:
    """What every page says at its top, alone."""
    return pages.page(request, "microphone.html", {})


@router.get("/live")
async def live(request: Request) -> StreamingResponse:
    """News for an open page, as server-sent events."""
    source: LiveUpdates = request.app.state.live
    sessions: Sessions = request.app.state.sessions
    events: AsyncIterator[str] = source.events(lambda: sessions.lasts(request.scope[SESSION_SCOPE_KEY]))
    return StreamingResponse(events, media_type="text/event-stream")


def _period(request: Request, pages: PageRenderer, length: PeriodLength, which: str) -> HTMLResponse:
    with _open_query(pages) as look:
        asked = parse_day(which, look.zone, look.now)
        shown = page_period(length, asked.on, look.now.astimezone(look.zone).date())
        material = load_report_data(look, ReportPeriod(shown.first, shown.last, look.zone), pages.settings.report)
    values = {
        "period": shown,
        "other": PeriodLength.MONTH if length is PeriodLength.WEEK else PeriodLength.WEEK,
        "on": asked.on,
        "sentences": sentences.period_sentences(material),
        "compared": view_models.comparison_sentences(sentences.change_sentences(material.trends.values()), material.trends.values()),
        "days": view_models.day_rows(material.days, material.trends["valence"], material.checkins),
        "models": view_model.models_text(material.bundles, "days"),
        "charts": view_models.period_page_charts(material),
    }
    return pages.page(request, "period.html", values)


def _model(bundle: str) -> tuple["BundleManifest | None", str]:
    """What the bundle says about itself, or why that cannot be known."""
    from model.bundle_format import find_bundle, read_bundle_manifest

    try:
        return read_bundle_manifest(find_bundle(bundle)), ""
    except BundleError as error:
        return None, str(error)


def _jobs(pages: PageRenderer) -> tuple[list[dict[str, Any]], bool]:
    """How the jobs stand, and whether a monitor runs that does them."""
    try:
        return send_command(pages.settings.timeline.database_path(), "jobs")["jobs"], True
    except EmosllmError:
        return [state.as_json() for state in offline_job_states(pages.settings, datetime.now(UTC))], False


def _open_query(pages: PageRenderer) -> TimelineQuery:
    return TimelineQuery.open(pages.settings.timeline, datetime.now(UTC), BundleRegistry.of(pages.settings).active())
