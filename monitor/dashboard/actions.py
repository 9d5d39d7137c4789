"""The forms that change something: check-ins, corrections, pausing the microphone, locking the pages.

The authentication middleware ensures that only this dashboard's own pages can post here. Each action redirects back to a page.
"""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from pydantic import BaseModel, BeforeValidator

from model.emotions import Emotion
from monitor.config import TimelineConfig
from monitor.control import send_command
from monitor.dashboard.auth import SESSION_SCOPE_KEY, Sessions

if TYPE_CHECKING:
    from monitor.storage.feedback import FeedbackStore

router = APIRouter()


class SegmentForm(BaseModel):
    """About one segment. seen: the correction that the page showed, None for none. day, hour: where the page was."""

    segment: int
    # Forms have no None, only empty fields.
    seen: Annotated[int | None, BeforeValidator(lambda text: text or None)] = None
    day: date
    hour: int


class CorrectionForm(SegmentForm):
    """The same, with what it really was."""

    emotion: Emotion


@router.post("/checkin")
def check_in(
    request: Request,
    valence: Annotated[float, Form(ge=-1, le=1)],
    emotion: Annotated[Emotion, Form()],
    note: Annotated[str, Form()] = "",
) -> Response:
    """Keep how the person says they feel now."""
    with _feedback(request) as words:
        words.check_in(datetime.now(UTC), valence, emotion, note)
    return _back(request, "/checkin?done=checkin")


@router.post("/checkin/erase")
def erase_checkin(request: Request, checkin: Annotated[int, Form()]) -> Response:
    """Take a check-in back."""
    with _feedback(request) as words:
        words.retract(checkin)
    return _back(request, "/checkin?done=erased")


@router.post("/piece/correct")
def correct(request: Request, about: Annotated[CorrectionForm, Form()]) -> Response:
    """Keep what the segment really was."""
    with _feedback(request) as words:
        words.correct(about.segment, about.emotion, about.seen)
    return _back_to_segment(request, about, "correct")


@router.post("/piece/confirm")
def confirm(request: Request, about: Annotated[SegmentForm, Form()]) -> Response:
    """Keep that the estimate is right."""
    with _feedback(request) as words:
        words.confirm(about.segment, about.seen)
    return _back_to_segment(request, about, "confirm")


@router.post("/piece/undo")
def undo(request: Request, about: Annotated[SegmentForm, Form()]) -> Response:
    """Take back what was said last."""
    with _feedback(request) as words:
        words.undo(about.segment, about.seen)
    return _back_to_segment(request, about, "undo")


@router.post("/pause")
def pause(request: Request, span: Annotated[str, Form()] = "") -> Response:
    """Close the microphone; span: as `emosllm-monitor pause --for` takes it, empty until the person resumes."""
    send_command(_timeline(request).database_path(), "pause", **({"for": span} if span else {}))
    return _back(request, "/?done=pause")


@router.post("/resume")
def resume(request: Request) -> Response:
    """Open it again."""
    send_command(_timeline(request).database_path(), "resume")
    return _back(request, "/?done=resume")


@router.post("/leave")
def leave(request: Request) -> Response:
    """End the session: what is open in the browser answers no more."""
    sessions: Sessions = request.app.state.sessions
    sessions.leave(request.scope[SESSION_SCOPE_KEY])
    farewell = "Locked. For a new link, press Enter in the terminal where the dashboard runs.\n"
    return PlainTextResponse(farewell, headers={"Clear-Site-Data": '"cache", "storage"'})


def _timeline(request: Request) -> TimelineConfig:
    found: TimelineConfig = request.app.state.rendering.settings.timeline
    return found


def _feedback(request: Request) -> "FeedbackStore":
    # Imported here: it takes most of a second, and whoever only looks need not wait for it.
    from monitor.storage.feedback import FeedbackStore

    timeline = _timeline(request)
    return FeedbackStore.open(timeline.database_path(), timeline.zone_info(), timeline.keys())


def _back(request: Request, where: str) -> Response:
    """303, so that loading the page again posts nothing again."""
    return RedirectResponse(request.scope["root_path"] + where, status_code=303)


def _back_to_segment(request: Request, about: SegmentForm, done: str) -> Response:
    return _back(request, f"/day/{about.day}/pieces?hour={about.hour}&piece={about.segment}&done={done}")
