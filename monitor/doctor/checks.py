"""The checks of `doctor`, and the order in which they run. A check that fails does not end the others."""

import importlib.util
import math
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from model.audio import Int16, s_to_samples
from model.bundle_format import find_bundle, read_bundle_manifest, verify_checksums
from model.errors import DeviceError, EmosllmError
from monitor.audio.microphone import MicrophoneSource
from monitor.bundles.registry import BundleRegistry, require_transcriber
from monitor.clinic.address import ClinicAddress
from monitor.clinic.pending_erasures import PendingErasures
from monitor.config import Config, EngineConfig, load_config
from monitor.daemon.systemd import program_path, service_state, unit_starts
from monitor.deletion import deletion_interrupted
from monitor.doctor.findings import Finding, Verdict
from monitor.doctor.network import NetworkWatch, clinic_addresses, expected_addresses, find_running_daemon, watched_roots
from monitor.fileio import SQLITE_SIDE_FILES
from monitor.inference.worker_process import try_engine
from monitor.paths import config_path, state_dir
from monitor.personalization.voice import voice_lines, voice_states
from monitor.storage.backup import Backups
from monitor.storage.outbox import EPOCH, Outbox
from monitor.storage.reader import TimelineReader

_HEARD_S = 2.0
_FULL_SCALE = 32768
_UNMUTE = (
    "it delivers digital silence: it is muted. Unmute it in the sound settings, at its own switch, or with "
    "`pactl set-source-mute @DEFAULT_SOURCE@ 0`"
)


def check_microphone(config: Config, daemon: int | None) -> Finding:
    """daemon: the process that listens already, which may keep a sound card to itself. Raises DeviceError."""
    source = MicrophoneSource(config.audio.device, config.audio.buffer_ms, config.audio.queue_s)
    try:
        pcm = _record(source)
    except DeviceError as error:
        if daemon is None:
            raise
        return Finding(Verdict.WARN, "microphone", f"{error}\nThe running monitor, process {daemon}, may keep it to itself.")
    if not pcm.any():
        return Finding(Verdict.WARN, "microphone", f"{source.description}: {_UNMUTE}")
    samples = pcm.astype(np.float64)
    level, peak = (_dbfs(float(value)) for value in (np.sqrt(np.mean(samples**2)), np.abs(samples).max()))
    return Finding(Verdict.OK, "microphone", f"{source.description}: {_HEARD_S:.0f} s at {level:.0f} dBFS, its loudest at {peak:.0f} dBFS")


def _record(source: MicrophoneSource) -> Int16:
    chunks: list[Int16] = []
    with source:
        for chunk in source:
            chunks.append(chunk.pcm)
            if chunk.end >= s_to_samples(_HEARD_S):
                break
    return np.concatenate(chunks)


def _dbfs(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1.0) / _FULL_SCALE)


_TRIAL_S = 1.0


def check_bundle(config: Config) -> Finding:
    """Raises BundleError."""
    folder = find_bundle(BundleRegistry.of(config).active())
    manifest = read_bundle_manifest(folder)
    verify_checksums(folder, manifest)
    return Finding(Verdict.OK, "bundle", f"{manifest.version}, all {len(manifest.files)} files as released, licence {manifest.license}")


def check_voice(config: Config) -> Finding:
    """How well the person's voice is known. Raises BundleError, TimelineError, StoreKeyError."""
    known = voice_states(config)
    short = any(one["state"] == "known" and not one["enough"] for one in known or ())
    advice = ["`emosllm-monitor voice renew` learns it anew"] if short else []
    return Finding(Verdict.WARN if short else Verdict.OK, "voice", "\n".join([*voice_lines(known, config.timeline.zone_info()), *advice]))


def check_transcriber_installed(config: Config) -> Finding:
    """Only whether its package and model are on this machine. Raises TranscriberUnavailable, BundleError."""
    used = _engine_config(config)
    manifest = read_bundle_manifest(find_bundle(used.bundle))
    require_transcriber(used, manifest)
    if not used.transcriber:
        return Finding(Verdict.OK, "transcriber", f"none is set, and {manifest.version} needs no words")
    from model.transcriber import find_whisper_model

    return Finding(Verdict.OK, "transcriber", f"{used.transcriber} is in {find_whisper_model(used.transcriber)}; not loaded (--quick)")


def check_transcriber(config: Config) -> Finding:
    """Load what is set and try it on silence, whether the bundle needs it or not. Raises TranscriberUnavailable, BundleError."""
    found, used = check_transcriber_installed(config), _engine_config(config)
    if not used.transcriber:
        return found
    from model.transcriber import Transcriber

    began = time.monotonic()
    loaded = Transcriber(used.transcriber, used.transcriber_language)
    took = f"loaded and tried on silence in {time.monotonic() - began:.1f} s"
    manifest = read_bundle_manifest(find_bundle(used.bundle))
    idle = "" if manifest.strategy.needs_transcript else f"; {manifest.version} needs no words, so the monitor does not load it"
    return Finding(Verdict.OK, "transcriber", f"{loaded.description}: {took}{idle}")


def check_engine_installed(config: Config) -> Finding:
    """Only whether its package is there: that takes no time."""
    kind = config.engine.kind
    package = {"embedded": "vllm", "server": "httpx", "transformers": "transformers"}[kind]
    if importlib.util.find_spec(package) is None:
        return Finding(Verdict.FAIL, "engine", f"{kind} needs {package}, which is not installed; run `make setup`")
    return Finding(Verdict.OK, "engine", f"{_engine_name(config)} is installed; not started (--quick)")


def check_engine(config: Config) -> Finding:
    """Start a judging process and let it judge a second of silence. Raises EngineUnavailable, EngineRejected."""
    with tempfile.TemporaryDirectory() as folder:
        trial = try_engine(_engine_config(config), Path(folder) / "engine.log", np.zeros(s_to_samples(_TRIAL_S), np.int16))
    answered = f"ready after {trial.ready_s:.0f} s, {_TRIAL_S:.0f} s of sound judged in {trial.answer_s:.2f} s"
    words = f", words by {trial.transcriber}" if trial.transcriber else ""
    return Finding(Verdict.OK, "engine", f"{_engine_name(config)}, {trial.prediction.bundle_version}{words}: {answered}")


def _engine_config(config: Config) -> EngineConfig:
    """The engine with the bundle that is in use."""
    return config.engine.model_copy(update={"bundle": BundleRegistry.of(config).active()})


def _engine_name(config: Config) -> str:
    return f"{config.engine.kind} at {config.engine.url}" if config.engine.kind == "server" else config.engine.kind


_MIN_FREE_MIB = 500
_BACKUP_DUE = timedelta(days=2)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_LISTED = 10


def check_timeline(config: Config) -> Finding:
    """Raises TimelineError when it cannot be opened or is damaged."""
    path = config.timeline.database_path()
    with TimelineReader.open(path, config.timeline.keys()) as reader:
        reader.check()
    if deletion_interrupted(config.timeline):
        return Finding(
            Verdict.FAIL, "timeline", "something was to be forgotten and is not altogether; `emosllm-monitor forget` finishes it"
        )
    state = "opens and is undamaged" if path.exists() else "will be created at the first start"
    return Finding(Verdict.OK, "timeline", f"{path} {state}, zone {config.timeline.zone_info()}")


def check_permissions(config: Config) -> Finding:
    """Everything of the monitor's own must be closed to other users. The database's folder is not looked at: it may be a home."""
    paths = list(_private_paths(config))
    wrong = [line for path in paths for line in _repair_commands(path)]
    if not wrong:
        return Finding(Verdict.OK, "permissions", f"only you can read what is stored ({len(paths)} files and folders)")
    more = [f"and {len(wrong) - _MAX_LISTED} more"] if len(wrong) > _MAX_LISTED else []
    return Finding(Verdict.FAIL, "permissions", "\n".join(["others can read what is stored; run", *wrong[:_MAX_LISTED], *more]))


def check_disk(config: Config) -> Finding:
    """Room for the timeline to grow."""
    folder = config.timeline.database_path().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free // 2**20
    if free < _MIN_FREE_MIB:
        return Finding(Verdict.WARN, "disk", f"{free} MiB free at {folder}; have at least {_MIN_FREE_MIB}")
    return Finding(Verdict.OK, "disk", f"{free} MiB free at {folder}")


def check_key(config: Config) -> Finding:
    """Without its key the timeline is lost. Raises StoreKeyError."""
    path = config.timeline.database_path()
    if not path.exists():
        return Finding(Verdict.OK, "key", f"will be made at the first start ({config.timeline.key})")
    place, _ = config.timeline.keys().place_of(path)
    if len(place.read()) > 1:
        return Finding(Verdict.WARN, "key", f"in {place}; changing it was interrupted, `emosllm-monitor key rotate` finishes that")
    return Finding(Verdict.OK, "key", f"in {place}")


def check_backups(config: Config) -> Finding:
    """The daemon makes one a day. Raises TimelineError."""
    now, kept = datetime.now(UTC), Backups.of(config.timeline)
    with TimelineReader.open(config.timeline.database_path(), config.timeline.keys()) as reader:
        known = reader.overlapping(_EVER, now)
    if known is None:
        return Finding(Verdict.OK, "backups", "nothing is stored yet that could be lost")
    found = kept.found()
    if not found:
        begun = now - known[0]
        if begun < _BACKUP_DUE:
            return Finding(Verdict.OK, "backups", "none yet; the timeline is younger than two days")
        return Finding(Verdict.WARN, "backups", f"there is none in {kept.folder}; the running monitor makes one a day")
    made_at = found[-1].made_at
    last = f"the last of {len(found)} in {kept.folder} is of {made_at.astimezone(config.timeline.zone_info()):%Y-%m-%d %H:%M}"
    if now - made_at > _BACKUP_DUE:
        return Finding(Verdict.WARN, "backups", f"{last}, more than two days ago; the running monitor makes one a day")
    return Finding(Verdict.OK, "backups", last)


def _private_paths(config: Config) -> Iterator[Path]:
    """What must be there for its owner only, as far as it is there."""
    files, folder = config.timeline.files(), state_dir()
    own = {folder, *folder.rglob("*")} if folder.is_dir() else set()
    own |= {files.database.with_name(files.database.name + ending) for ending in ("", *SQLITE_SIDE_FILES)}
    own |= {files.lock, files.socket, files.pause, files.deletion_note, files.jobs, files.disabled_jobs, *files.erasure_notes()}
    if config.engine.key_file:
        own.add(Path(config.engine.key_file).expanduser())
    return (path for path in sorted(own) if path.exists() and not path.is_symlink())


def _repair_commands(path: Path) -> Iterator[str]:
    """The commands that close a path to others; none where it is closed."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return  # what a running monitor does not need any more
    if found.st_uid != os.geteuid():
        yield f"sudo chown {os.geteuid()} {shlex.quote(str(path))}"
    if found.st_mode & 0o077:
        yield f"chmod {'700' if stat.S_ISDIR(found.st_mode) else '600'} {shlex.quote(str(path))}"


# When this was written. A clock that shows less was reset, as happens where a battery is empty.
_NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
_FAR = datetime(9000, 1, 1, tzinfo=UTC)
# A moment is stored by the sound card's clock, which may be a little ahead.
_AHEAD = timedelta(minutes=1)
_TIMEOUT_S = 10


def check_clock(config: Config) -> Finding:
    """Every row carries a moment: one that is wrong stays wrong. Raises TimelineError."""
    now = datetime.now(UTC)
    shown = f"{now.astimezone(config.timeline.zone_info()):%Y-%m-%d %H:%M:%S %Z}"
    if now < _NOT_BEFORE:
        return Finding(Verdict.FAIL, "clock", f"it shows {shown}, which is past; set it")
    with TimelineReader.open(config.timeline.database_path(), config.timeline.keys()) as reader:
        ahead = reader.overlapping(now + _AHEAD, _FAR)
    if ahead:
        last = f"{ahead[1].astimezone(config.timeline.zone_info()):%Y-%m-%d %H:%M:%S}"
        return Finding(Verdict.FAIL, "clock", f"it shows {shown}, but the timeline goes on until {last}; set it, or it was wrong then")
    match _is_synchronised():
        case "yes":
            return Finding(Verdict.OK, "clock", f"{shown}, synchronised")
        case "no":
            return Finding(Verdict.WARN, "clock", f"{shown}, not synchronised with a time server; `timedatectl set-ntp true` does it")
        case _:
            return Finding(Verdict.WARN, "clock", f"{shown}; whether it is synchronised cannot be found out: timedatectl does not answer")


def check_service(_config: Config) -> Finding:
    """It need not be installed; when it is, it should run, and run this installation. Raises ServiceError."""
    found = service_state()
    if not found.installed:
        return Finding(Verdict.OK, "service", "not installed: the monitor runs only when you start it")
    if not unit_starts(found.path, program_path()):
        return Finding(
            Verdict.WARN, "service", f"{found.path} starts another program than this; `emosllm-monitor service install` renews it"
        )
    if not found.active:
        return Finding(Verdict.WARN, "service", f"installed, but not active\n{found.lines()[-1]}")
    return Finding(Verdict.OK, "service", f"installed and active{'' if found.enabled else ', but it does not start by itself'}")


def _is_synchronised() -> str:
    """yes, no, or nothing where nobody knows."""
    if shutil.which("timedatectl") is None:
        return ""
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False).stdout.strip()
    except subprocess.TimeoutExpired:
        return ""


_WHAT_IS_SHARED = (
    "There go: when you spoke and what was estimated, what was heard and not, what you corrected, check-ins without their notes;"
    " never sound, words or notes. Whoever is entrusted with it there reads it, which is written down: `emosllm-monitor clinic audit`"
)


def check_clinic(config: Config) -> Finding:
    """Log in where things are shared. Raises ConfigError, ClinicError, TimelineError."""
    address = ClinicAddress.of(config.store)
    if address is None:
        return Finding(Verdict.OK, "clinic", "nothing is shared with a clinic")
    from monitor.clinic.connection import clinic_connection

    with clinic_connection(address) as connection:
        row = connection.execute("SELECT subject FROM emosllm.begin_sending()").fetchone()
    lines = [f"{address} answers; you are {row and row['subject']} there.", _format_outbox(config), _WHAT_IS_SHARED]
    return Finding(Verdict.OK, "clinic", "\n".join(lines))


def _format_outbox(config: Config) -> str:
    database = config.timeline.database_path()
    outbox = Outbox.open(database, config.timeline.keys())
    if outbox is None:
        return "Sharing begins with the next start."
    with outbox:
        sharing, (waiting, _) = outbox.sharing(), outbox.waiting()
    if sharing is None or not sharing.active:
        return "Sharing begins with the next start."
    zone = config.timeline.zone_info()
    begun = "all there is" if sharing.since == EPOCH else f"what began since {sharing.since.astimezone(zone):%Y-%m-%d %H:%M}"
    left = len(PendingErasures(database).read())
    forgotten = f", and {left} stretches are still to be forgotten there" if left else ""
    return f"Shared is {begun}; {waiting} changes wait to be sent{forgotten}."


Check = Callable[[Config], Finding]
_CHECKS: dict[str, Check] = {
    "bundle": check_bundle,
    "key": check_key,
    "timeline": check_timeline,
    "voice": check_voice,
    "permissions": check_permissions,
    "disk": check_disk,
    "backups": check_backups,
    "clinic": check_clinic,
    "clock": check_clock,
    "service": check_service,
}


def run_checks(config_file: Path | None, quick: bool) -> Iterator[Finding]:
    """Look at everything, and say each thing once it is known; the network last, as it is watched while sound is heard and judged.

    quick: start neither transcriber nor engine. Checks use the default settings when the settings cannot be read.
    """
    yield Finding(Verdict.OK, "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    config = Config()
    try:
        config = load_config(config_file)
        source = config_file or (config_path() if config_path().exists() else "the defaults")
        yield Finding(Verdict.OK, "settings", str(source))
    except EmosllmError as error:
        yield Finding(Verdict.FAIL, "settings", str(error))
    for what, check in _CHECKS.items():
        yield _run_check(what, check, config)
    monitor = find_running_daemon(config.timeline.database_path())
    expected = {**expected_addresses(config.engine), **clinic_addresses(config.store)}
    with NetworkWatch(watched_roots(monitor), expected) as watch:
        yield (heard := _run_check("microphone", lambda config: check_microphone(config, monitor), config))
        yield _run_check("transcriber", check_transcriber_installed if quick else check_transcriber, config)
        yield (judged := _run_check("engine", check_engine_installed if quick else check_engine, config))
    during = {
        "the microphone was open": heard.verdict is not Verdict.FAIL,
        "the engine judged": judged.verdict is not Verdict.FAIL and not quick,
        f"the running monitor (process {monitor}) went on": monitor is not None,
    }
    yield watch.finding([words for words, true in during.items() if true])


def _run_check(what: str, check: Check, config: Config) -> Finding:
    try:
        return check(config)
    except EmosllmError as error:
        return Finding(Verdict.FAIL, what, str(error))
    except OSError as error:
        return Finding(Verdict.FAIL, what, f"{error.strerror}: {error.filename}; check the permissions there")
