"""What `start` puts together: source, lock, timeline, view and daemon, and the signals and commands that reach it."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console

from model.audio import audio_length_s
from model.errors import ConfigError, EmosllmError, TimelineError
from model.manifest import find_bundle, read_manifest
from monitor.clinic.address import Address
from monitor.config import Config, bundles_file, state_dir
from monitor.control import Answer, Command, ControlServer, socket_path
from monitor.daemon import Daemon
from monitor.day.days import parse_moment
from monitor.day.stretches import Stretch
from monitor.forgetting import finish
from monitor.jobs.asked import commands_of_jobs
from monitor.jobs.making import jobs_of
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.transcription import require_transcriber
from monitor.notify import Notifier
from monitor.pausing import Pause, parse_span
from monitor.prompting import Prompter
from monitor.recorder import Recorder
from monitor.sharing.making import sharing_of
from monitor.sound.capture import MicrophoneSource
from monitor.sound.sources import FileSource, Source, StdinSource
from monitor.status import Status
from monitor.store.keys import Keys
from monitor.store.lock import DatabaseLock, make_private, make_tree_private
from monitor.store.reader import TimelineReader
from monitor.store.timeline import Timeline
from monitor.store.words import Words
from monitor.view import LiveView, PlainView

logger = logging.getLogger(__name__)

_LOG_BYTES, _LOG_COUNT = 1_000_000, 3
# Listening waits for the timeline no longer than this; what cannot be written then waits in memory.
_BUSY_TIMEOUT_S = 1.0
# Whoever asks from another terminal gives up after five.
_SWITCH_PATIENCE_S = 4.0


def start(config: Config, source: str, speed: float | None, at: str | None, unattended: bool = False) -> None:
    """Run the daemon until its source ends or a signal or command ends it. Raises EmosllmError.

    unattended: nobody sees what it prints, so no emotion is printed, and a missing microphone is waited for.
    """
    zone, database, keys = config.timeline.zone_info(), config.timeline.database_path(), config.timeline.keys()
    open_source = source_opener(config, source, speed)
    anchor = anchor_for(source, speed, at, zone)
    read_manifest(find_bundle(config.engine.bundle))  # a wrong bundle is said before anything is opened
    require_transcriber(config.engine, read_manifest(find_bundle(BundleChoice(config.engine.bundle, bundles_file()).current)))
    Address.of(config.store)  # and so is a wrong clinic
    mended = make_tree_private(state_dir())
    _log_to_file(config.log.level)
    if mended:
        logger.warning("others could read %d files or folders of the monitor; no longer", mended)
    with DatabaseLock(database, source), _whole(config) as timeline:
        if anchor is not None:
            _refuse_overlap(database, keys, anchor, source, zone)
        first = open_source()
        status, view = Status(first.description, first.live), _view(zone, unattended)
        choice = BundleChoice(config.engine.bundle, bundles_file())
        recorder = Recorder(config, timeline, choice, state_dir() / "engine.log", status, view)
        pause = Pause(database.with_name(database.name + ".paused"))
        daemon = Daemon(config, open_source, anchor, recorder, pause, status, view, Notifier(), unattended)
        jobs = jobs_of(timeline, config, status.tell_jobs)
        prompter = Prompter(config.checkin, zone, lambda: status.paused or status.muted, _recorded(config), status.tell_prompts)
        sharing = sharing_of(config, datetime.now(UTC), status.tell_sharing)
        control = ControlServer(socket_path(database), {**commands_of(daemon, status), **commands_of_jobs(jobs)})
        with _signals(daemon.stop), control, sharing, jobs, prompter, view.showing(status):
            daemon.run()


def _whole(config: Config) -> Timeline:
    """The timeline, without what was to be forgotten when something interrupted that. For the holder of its lock."""
    if finish(config, locked=True):
        logger.warning("what was to be forgotten is: it had been interrupted")
    return Timeline.open(config.timeline.database_path(), config.timeline.zone_info(), config.timeline.keys(), _BUSY_TIMEOUT_S)


def _recorded(config: Config) -> Callable[[datetime], object]:
    """Stores that the person was asked to check in; a connection of its own each time, as it is needed a few times a day."""
    timeline = config.timeline

    def record(at: datetime) -> None:
        with Words.open(timeline.database_path(), timeline.zone_info(), timeline.keys()) as words:
            words.asked(at)

    return record


def commands_of(daemon: Daemon, status: Status) -> dict[str, Command]:
    """What can be asked of a running monitor from another terminal."""

    def pause(arguments: Mapping[str, Any]) -> Answer:
        span = arguments.get("for")
        until = None if span is None else datetime.now(UTC) + parse_span(str(span))
        daemon.pause(until)
        return {"until": until and until.isoformat(timespec="seconds")}

    def resume(_arguments: Mapping[str, Any]) -> Answer:
        daemon.resume()
        return {}

    def stop(_arguments: Mapping[str, Any]) -> Answer:
        daemon.stop()
        return {}

    def forget(arguments: Mapping[str, Any]) -> Answer:
        try:
            start_at, end_at = (datetime.fromisoformat(arguments[name]).astimezone(UTC) for name in ("start", "end"))
        except (KeyError, TypeError, ValueError) as error:
            raise EmosllmError("forget needs start and end, as moments in ISO 8601") from error
        daemon.forget(Stretch(start_at, end_at))
        return {}

    def voice_changed(_arguments: Mapping[str, Any]) -> Answer:
        daemon.voice_changed()
        return {}

    def use_bundle(arguments: Mapping[str, Any]) -> Answer:
        name = arguments.get("name")
        if not isinstance(name, str) or not name:
            raise EmosllmError("use-bundle needs name: that of a built-in bundle, or a folder from the root on")
        version = daemon.use_bundle(name, _SWITCH_PATIENCE_S)
        return {"version": version or read_manifest(find_bundle(name)).version, "state": "in use" if version else "switching"}

    return {
        "use-bundle": use_bundle,
        "forget": forget,
        "voice-changed": voice_changed,
        "status": lambda _arguments: {"pid": os.getpid(), **status.as_json()},
        "pause": pause,
        "resume": resume,
        "stop": stop,
    }


def source_opener(config: Config, source: str, speed: float | None) -> Callable[[], Source]:
    """What makes a source from its name on the command line: mic, - or a file."""
    audio = config.audio
    if source == "mic":
        return lambda: MicrophoneSource(audio.device, audio.buffer_ms, audio.queue_s)
    if source == "-":
        return lambda: StdinSource(sys.stdin.buffer if sys.stdin else None)
    return lambda: FileSource(Path(source).expanduser(), speed)


def anchor_for(source: str, speed: float | None, at: str | None, zone: ZoneInfo) -> datetime | None:
    """The moment of the first sample; None for what begins when it is opened. Raises ConfigError for a microphone, DayError.

    A file played as fast as possible counts as having ended just now.
    """
    if at is not None and source == "mic":
        raise ConfigError("--at is for recordings; a microphone is heard now")
    if at is not None:
        return parse_moment(at, zone, datetime.now(UTC))
    if source not in ("mic", "-") and speed is None:
        return datetime.now(UTC) - timedelta(seconds=audio_length_s(Path(source).expanduser()))
    return None


def _refuse_overlap(database: Path, keys: Keys, anchor: datetime, source: str, zone: ZoneInfo) -> None:
    """A moment is heard once. How long standard input will go on is not known: nothing may be stored since it began."""
    end = datetime.now(UTC) if source == "-" else anchor + timedelta(seconds=audio_length_s(Path(source).expanduser()))
    with TimelineReader.open(database, keys) as reader:
        known = reader.overlapping(anchor, end)
    if known:
        first, last = (moment.astimezone(zone) for moment in known)
        raise TimelineError(
            f"the timeline already knows what was heard from {first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S}; "
            "say with --at when this was recorded"
        )


def _view(zone: ZoneInfo, unattended: bool) -> LiveView | PlainView:
    console = Console()
    return LiveView(console, zone) if console.is_terminal and not unattended else PlainView(console, zone, answers=not unattended)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the daemon in good order while the block runs."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_to_file(level: str) -> None:
    path = state_dir() / "monitor.log"
    make_private(path)
    try:
        handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_COUNT, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the log {path}: {error.strerror}; check the permissions there") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
