"""Puts the daemon of `start` together: source, lock, timeline, view and daemon, its signals and its control commands."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from rich.console import Console

from model.audio import audio_length_s
from model.bundle_format import find_bundle, read_bundle_manifest
from model.errors import ConfigError, EmosllmError, TimelineError
from monitor.analysis.days import TimeRange, parse_moment
from monitor.audio.microphone import MicrophoneSource
from monitor.audio.sources import AudioSource, FileSource, StdinSource
from monitor.bundles.registry import BundleRegistry, require_transcriber
from monitor.clinic.address import ClinicAddress
from monitor.clinic.sharing import start_sharing
from monitor.config import Config
from monitor.control import CommandHandler, ControlServer, Reply
from monitor.daemon.checkin_prompts import CheckInPrompter
from monitor.daemon.daemon import Daemon
from monitor.daemon.jobs import create_job_scheduler
from monitor.daemon.live_view import LiveView, PlainView
from monitor.daemon.pause import PauseFile, parse_duration
from monitor.daemon.recorder import Recorder
from monitor.daemon.status import DaemonStatus
from monitor.daemon.systemd import SystemdNotifier
from monitor.deletion import finish_deletion
from monitor.fileio import DatabaseLock, make_private_file, make_private_tree
from monitor.paths import daemon_log, engine_log, state_dir
from monitor.storage.feedback import FeedbackStore
from monitor.storage.keys import KeyStore
from monitor.storage.reader import TimelineReader
from monitor.storage.writer import TimelineWriter

if TYPE_CHECKING:
    from monitor.scheduler.scheduler import JobScheduler


def job_commands(jobs: "JobScheduler") -> dict[str, CommandHandler]:
    """Commands by their names, for a ControlServer."""

    def listed(_arguments: Mapping[str, Any]) -> Reply:
        return {"jobs": [state.as_json() for state in jobs.states()]}

    def run(arguments: Mapping[str, Any]) -> Reply:
        jobs.run(_job_name(arguments))
        return {}

    def switch(arguments: Mapping[str, Any]) -> Reply:
        jobs.switch(_job_name(arguments), bool(arguments.get("on")))
        return {}

    return {"jobs": listed, "run-job": run, "switch-job": switch}


def _job_name(arguments: Mapping[str, Any]) -> str:
    if not isinstance(name := arguments.get("name"), str):
        raise EmosllmError("say which job, by its name")
    return name


logger = logging.getLogger(__name__)

_LOG_BYTES, _LOG_COUNT = 1_000_000, 3
# Listening waits for the timeline no longer than this; what cannot be written then waits in memory.
_BUSY_TIMEOUT_S = 1.0
# Whoever asks from another terminal gives up after five.
_SWITCH_TIMEOUT_S = 4.0


def run_daemon(config: Config, source: str, speed: float | None, at: str | None, unattended: bool = False) -> None:
    """Run the daemon until its source ends or a signal or command ends it. Raises EmosllmError.

    unattended: nobody sees what it prints, so no emotion is printed, and a missing microphone is waited for.
    """
    zone, files, keys = config.timeline.zone_info(), config.timeline.files(), config.timeline.keys()
    open_source = audio_source_factory(config, source, speed)
    anchor = recording_start(source, speed, at, zone)
    read_bundle_manifest(find_bundle(config.engine.bundle))  # a wrong bundle is said before anything is opened
    registry = BundleRegistry.of(config)
    require_transcriber(config.engine, read_bundle_manifest(find_bundle(registry.to_load())))
    ClinicAddress.of(config.store)  # and so is a wrong clinic
    mended = make_private_tree(state_dir())
    _log_to_file(config.log.level)
    if mended:
        logger.warning("others could read %d files or folders of the monitor; no longer", mended)
    with DatabaseLock(files.database, source), _open_timeline(config) as timeline:
        if anchor is not None:
            _refuse_overlap(files.database, keys, anchor, source, zone)
        first = open_source()
        status, view = DaemonStatus(first.description, first.live), _create_view(zone, unattended)
        recorder = Recorder(config, timeline, registry, engine_log(), status, view)
        pause = PauseFile(files.pause)
        daemon = Daemon(config, open_source, anchor, recorder, pause, status, view, SystemdNotifier(), unattended)
        jobs = create_job_scheduler(timeline, config, status.report_jobs)
        checkin_prompter = CheckInPrompter(
            config.checkin, zone, lambda: status.paused or status.muted, _record_prompt(config), status.report_prompts
        )
        sharing = start_sharing(config, datetime.now(UTC), status.report_sharing)
        control = ControlServer(files.socket, {**daemon_commands(daemon, status), **job_commands(jobs)})
        with _stop_signals(daemon.stop), control, sharing, jobs, checkin_prompter, view.showing(status):
            daemon.run()


def _open_timeline(config: Config) -> TimelineWriter:
    """The timeline, without what was to be forgotten when something interrupted that. For the holder of its lock."""
    if finish_deletion(config, holds_lock=True):
        logger.warning("what was to be forgotten is: it had been interrupted")
    return TimelineWriter.open(config.timeline.database_path(), config.timeline.zone_info(), config.timeline.keys(), _BUSY_TIMEOUT_S)


def _record_prompt(config: Config) -> Callable[[datetime], object]:
    """Stores that the person was asked to check in; a connection of its own each time, as it is needed a few times a day."""
    timeline = config.timeline

    def record(at: datetime) -> None:
        with FeedbackStore.open(timeline.database_path(), timeline.zone_info(), timeline.keys()) as words:
            words.asked(at)

    return record


def daemon_commands(daemon: Daemon, status: DaemonStatus) -> dict[str, CommandHandler]:
    """What can be asked of a running monitor from another terminal."""

    def pause(arguments: Mapping[str, Any]) -> Reply:
        span = arguments.get("for")
        until = None if span is None else datetime.now(UTC) + parse_duration(str(span))
        daemon.pause(until)
        return {"until": until and until.isoformat(timespec="seconds")}

    def resume(_arguments: Mapping[str, Any]) -> Reply:
        daemon.resume()
        return {}

    def stop(_arguments: Mapping[str, Any]) -> Reply:
        daemon.stop()
        return {}

    def forget(arguments: Mapping[str, Any]) -> Reply:
        try:
            start_at, end_at = (datetime.fromisoformat(arguments[name]).astimezone(UTC) for name in ("start", "end"))
        except (KeyError, TypeError, ValueError) as error:
            raise EmosllmError("forget needs start and end, as moments in ISO 8601") from error
        daemon.forget(TimeRange(start_at, end_at))
        return {}

    def voice_changed(_arguments: Mapping[str, Any]) -> Reply:
        daemon.voice_changed()
        return {}

    def use_bundle(arguments: Mapping[str, Any]) -> Reply:
        name = arguments.get("name")
        if not isinstance(name, str) or not name:
            raise EmosllmError("use-bundle needs name: that of a built-in bundle, or a folder from the root on")
        version = daemon.use_bundle(name, _SWITCH_TIMEOUT_S)
        return {"version": version or read_bundle_manifest(find_bundle(name)).version, "state": "in use" if version else "switching"}

    return {
        "use-bundle": use_bundle,
        "forget": forget,
        "voice-changed": voice_changed,
        "status": lambda _arguments: {"pid": os.getpid(), **status.as_json()},
        "pause": pause,
        "resume": resume,
        "stop": stop,
    }


def audio_source_factory(config: Config, source: str, speed: float | None) -> Callable[[], AudioSource]:
    """What makes a source from its name on the command line: mic, - or a file."""
    audio = config.audio
    if source == "mic":
        return lambda: MicrophoneSource(audio.device, audio.buffer_ms, audio.queue_s)
    if source == "-":
        return lambda: StdinSource(sys.stdin.buffer if sys.stdin else None)
    return lambda: FileSource(Path(source).expanduser(), speed)


def recording_start(source: str, speed: float | None, at: str | None, zone: ZoneInfo) -> datetime | None:
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


def _refuse_overlap(database: Path, keys: KeyStore, anchor: datetime, source: str, zone: ZoneInfo) -> None:
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


def _create_view(zone: ZoneInfo, unattended: bool) -> LiveView | PlainView:
    console = Console()
    return LiveView(console, zone) if console.is_terminal and not unattended else PlainView(console, zone, answers=not unattended)


@contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the daemon in good order while the block runs."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_to_file(level: str) -> None:
    path = daemon_log()
    make_private_file(path)
    try:
        handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_COUNT, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the log {path}: {error.strerror}; check the permissions there") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
