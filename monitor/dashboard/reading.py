"""The pages that show something: each reads what it needs from the timeline and hands it to a template. Changes nothing."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from model.errors import BundleError, EmosllmError
from monitor.charts.palette import EMOTIONS
from monitor.control import ask
from monitor.dashboard import pictures, views
from monitor.dashboard.door import SESSION
from monitor.dashboard.live import Live
from monitor.dashboard.periods import Length, period
from monitor.dashboard.rendering import DONE, Rendering
from monitor.dashboard.sessions import Sessions
from monitor.day.affect import SOURCE
from monitor.day.baseline import FALSE_ALARMS, LONGEST, SHORTEST
from monitor.day.days import parse_day
from monitor.day.feelings import PLAIN, SCALE, valence_of
from monitor.jobs.state import states_without_monitor
from monitor.look import Look, in_use_of
from monitor.report import rows, sentences
from monitor.report.material import WORD_DAYS, gather
from monitor.report.period import Period

if TYPE_CHECKING:
    from model.manifest import BundleManifest

router = APIRouter()

_LATEST = 6
_SAID_DAYS = 7
_RUNS = 60


def rendering(request: Request) -> Rendering:
    """How this dashboard makes its pages."""
    made: Rendering = request.app.state.rendering
    return made


Pages = Annotated[Rendering, Depends(rendering)]


@router.get("/")
def today(request: Request, pages: Pages) -> HTMLResponse:
    """The day that goes on now."""
    return day(request, pages, "today")


@router.get("/day/{which}")
def day(request: Request, pages: Pages, which: str) -> HTMLResponse:
    """One day."""
    with _look(pages) as look:
        asked = parse_day(which, look.zone, look.now)
        material = gather(look, Period(asked.on, asked.on, look.zone), pages.settings.report)
        checkins = look.checkins(asked.on, asked.on)
    summary = material.day
    charts = pictures.of_day(summary, material.entries, checkins)
    values = {
        "day": asked,
        "summary": summary,
        "live": asked.end > look.now,
        "state": rows.state(summary),
        "coverage": rows.coverage(summary),
        "found": rows.found(summary.speech),
        "basis": rows.basis(summary.speech),
        "sentences": sentences.of_day(material),
        "hours": views.hour_rows(summary, checkins) if charts else [],
        "checkins": [(views.clock(one.at, look.zone), views.said(one), one.note) for one in checkins],
        "latest": views.latest(material.entries, look.zone, _LATEST),
        "charts": charts,
        "models": rows.models(summary.bundles),
        "before": asked.on - timedelta(days=1),
        "after": asked.on + timedelta(days=1) if asked.end <= look.now else None,
    }
    return pages.page(request, "day.html", values)


@router.get("/day")
def chosen_day(request: Request, on: str = "today") -> RedirectResponse:
    """Where the choice of a date leads."""
    return RedirectResponse(f"{request.scope['root_path']}/day/{on}", status_code=303)


@router.get("/day/{which}/pieces")
def pieces_of_day(
    request: Request, pages: Pages, which: str, hour: int | None = None, piece: int | None = None, done: str = ""
) -> HTMLResponse:
    """The segments of one hour of a day, to be looked through and corrected; by default of the last that has any."""
    with _look(pages) as look:
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
        "pieces": [views.piece(entry, asked.zone) for entry in by_hour[shown]],
        "changed": piece,
        "emotions": list(EMOTIONS),
        "done_here": DONE.get(done, ""),
    }
    return pages.page(request, "pieces.html", values)


@router.get("/week/{which}")
def week(request: Request, pages: Pages, which: str) -> HTMLResponse:
    """The week that has a day."""
    return _period(request, pages, Length.WEEK, which)


@router.get("/month/{which}")
def month(request: Request, pages: Pages, which: str) -> HTMLResponse:
    """The month that has a day."""
    return _period(request, pages, Length.MONTH, which)


@router.get("/checkin")
def checkin(request: Request, pages: Pages) -> HTMLResponse:
    """Where the person says how they feel, and what they said lately."""
    with _look(pages) as look:
        here = look.now.astimezone(look.zone).date()
        said = look.checkins(here - timedelta(days=_SAID_DAYS - 1), here)
    values = {
        "valences": [(f"{valence_of(step + 1):.4f}", words) for step, words in enumerate(SCALE)],
        "emotions": [(emotion, PLAIN[emotion]) for emotion in EMOTIONS],
        "said": [(one, one.at.astimezone(look.zone).date(), views.clock(one.at, look.zone), views.said(one)) for one in reversed(said)],
        "days": _SAID_DAYS,
    }
    return pages.page(request, "checkin.html", values)


@router.get("/about")
def about(request: Request, pages: Pages) -> HTMLResponse:
    """What the figures mean, how good the model is, and how far the person and it agree."""
    with _look(pages) as look:
        here = look.now.astimezone(look.zone).date()
        said = look.own_word(here - timedelta(days=WORD_DAYS - 1), here)
    model, problem = _model(in_use_of(pages.settings))
    values = {
        "model": model,
        "model_problem": problem,
        "score": model.scores[0] if model and model.scores else None,
        "agreement": said.sentences or said.agreement.sentences,
        "agreement_days": WORD_DAYS,
        "source": SOURCE,
        "longest": LONGEST,
        "shortest": SHORTEST,
        "alarms": FALSE_ALARMS,
    }
    return pages.page(request, "about.html", values)


@router.get("/nights")
def nights(request: Request, pages: Pages) -> HTMLResponse:
    """What the monitor does by itself: when each job comes next, and what came of the last runs."""
    settings = pages.settings.timeline
    with _look(pages) as look:
        runs = look.last_job_runs(_RUNS)
    jobs, running = _jobs(pages)
    values = {
        "jobs": [views.job_row(job, settings.zone_info(), running) for job in jobs],
        "running": running,
        "runs": [views.run_row(run, settings.zone_info()) for run in runs],
    }
    return pages.page(request, "nights.html", values)


@router.get("/microphone")
def microphone(request: Request, pages: Pages) -> HTMLResponse:
    """What every page says at its top, alone."""
    return pages.page(request, "microphone.html", {})


@router.get("/live")
async def live(request: Request) -> StreamingResponse:
    """News for an open page, as server-sent events."""
    source: Live = request.app.state.live
    sessions: Sessions = request.app.state.sessions
    events: AsyncIterator[str] = source.events(lambda: sessions.lasts(request.scope[SESSION]))
    return StreamingResponse(events, media_type="text/event-stream")


def _period(request: Request, pages: Rendering, length: Length, which: str) -> HTMLResponse:
    with _look(pages) as look:
        asked = parse_day(which, look.zone, look.now)
        shown = period(length, asked.on, look.now.astimezone(look.zone).date())
        material = gather(look, Period(shown.first, shown.last, look.zone), pages.settings.report)
    values = {
        "period": shown,
        "other": Length.MONTH if length is Length.WEEK else Length.WEEK,
        "on": asked.on,
        "sentences": sentences.of_days(material),
        "compared": views.compared(sentences.changes(material.trends.values()), material.trends.values()),
        "days": views.day_rows(material.days, material.trends["valence"], material.checkins),
        "models": rows.models(material.bundles, "days"),
        "charts": pictures.of_days(material),
    }
    return pages.page(request, "period.html", values)


def _model(bundle: str) -> tuple["BundleManifest | None", str]:
    """What the bundle says about itself, or why that cannot be known."""
    from model.manifest import find_bundle, read_manifest

    try:
        return read_manifest(find_bundle(bundle)), ""
    except BundleError as error:
        return None, str(error)


def _jobs(pages: Rendering) -> tuple[list[dict[str, Any]], bool]:
    """How the jobs stand, and whether a monitor runs that does them."""
    try:
        return ask(pages.settings.timeline.database_path(), "jobs")["jobs"], True
    except EmosllmError:
        return [state.as_json() for state in states_without_monitor(pages.settings, datetime.now(UTC))], False


def _look(pages: Rendering) -> Look:
    return Look.open(pages.settings.timeline, datetime.now(UTC), in_use_of(pages.settings))
