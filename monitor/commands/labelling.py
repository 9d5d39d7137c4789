"""Commands that list a day piece by piece, and with which a person says what a piece of speech really was."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import UnknownSegment, WordError
from monitor.commands.settings import settings_of

if TYPE_CHECKING:
    from monitor.config import TimelineConfig
    from monitor.store.records import TimelineEntry
    from monitor.store.words import Words


class Format(StrEnum):
    """How the list is written."""

    TEXT = "text"
    JSON = "json"


def timeline(
    context: typer.Context,
    day: Annotated[str, typer.Option(metavar="DAY", help="today, yesterday or YYYY-MM-DD.")] = "today",
    unsure: Annotated[bool, typer.Option("--unsure", help="Only pieces the model was unsure of and you have not named.")] = False,
    form: Annotated[Format, typer.Option("--format", help="text to read, or json.")] = Format.TEXT,
) -> None:
    """List one day piece by piece: what was estimated, what you say it was, and your check-ins."""
    from monitor.day.days import parse_day
    from monitor.day.listing import Listing
    from monitor.store.reader import TimelineReader

    settings, now = settings_of(context).timeline, datetime.now(UTC)
    asked = parse_day(day, settings.zone_info(), now)
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        entries, checkins = reader.segments_between(asked.start, asked.end), reader.checkins_between(asked.start, asked.end)
    listing = Listing(asked, now, entries, checkins, unsure)
    print(listing.as_json() if form is Format.JSON else listing.text())


def label(
    context: typer.Context,
    segment_id: Annotated[int, typer.Argument(metavar="ID", help="The number of a piece of speech, from `timeline`.")],
    letter: Annotated[str | None, typer.Argument(metavar="LETTER", help="What it really was: A S H U F D C N O, or the word.")] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="The estimate is right.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back what you said of it last.")] = False,
) -> None:
    """Say what a piece of speech really was, or show it.

    What you say holds from then on, in reports too, until you say something else or take it back.
    """
    from monitor.day.feelings import listed, parse_emotion

    if sum((letter is not None, confirm, undo)) > 1:
        raise WordError("give only one of LETTER, --confirm and --undo")
    emotion = None if letter is None else parse_emotion(letter)
    settings = settings_of(context).timeline
    entry = _segment(settings, segment_id)
    if emotion is not None:
        with _words(settings) as words:
            words.correct(segment_id, emotion)
    elif confirm:
        with _words(settings) as words:
            words.confirm(segment_id)
    elif undo:
        with _words(settings) as words:
            words.undo(segment_id)
    print(f"{'Taken back. ' if undo else ''}{_described(settings, _segment(settings, segment_id))}")
    if emotion is not None and entry.prediction is not None and emotion not in entry.prediction.posterior:
        print(f"The model cannot answer {emotion.word}; your word counts all the same.")
    if not (emotion or confirm or undo):
        print(f"What was it? emosllm-monitor label {segment_id} LETTER, or --confirm, or --undo\n{listed()}")


def _words(settings: "TimelineConfig") -> "Words":
    from monitor.store.words import Words

    return Words.open(settings.database_path(), settings.zone_info(), settings.keys())


def _segment(settings: "TimelineConfig", segment_id: int) -> "TimelineEntry":
    """Looked up before anything is written, so that a wrong number is told at once, and no timeline is begun for it."""
    from monitor.store.reader import TimelineReader

    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        found = reader.segment(segment_id)
        if found is None:
            raise UnknownSegment(segment_id, reader.segment_ids())
    return found


def _described(settings: "TimelineConfig", entry: "TimelineEntry") -> str:
    from monitor.day.listing import estimate_words, said_words

    start, seconds = entry.start_at.astimezone(settings.zone_info()), (entry.end_at - entry.start_at).total_seconds()
    said = said_words(entry)
    word = f"you say {said}" if said else "you have said nothing of it"
    return f"{entry.id}  {start:%Y-%m-%d %H:%M:%S}  {seconds:.1f} s: {estimate_words(entry)}; {word}"
