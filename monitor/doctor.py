"""What `doctor` looks at: everything `start` needs, each with what was found and what to do."""

import importlib.util
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from model.errors import EmosllmError
from model.manifest import find_bundle, read_manifest, verify
from monitor.backup import Backups
from monitor.capture import list_devices
from monitor.config import Config, config_path, load_config
from monitor.devices import choose_device
from monitor.reader import TimelineReader

_ENOUGH_DISK_MIB = 500


class Verdict(StrEnum):
    """ok: works. warn: works, with a remark. FAIL: `start` will not work like this."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    verdict: Verdict
    what: str
    detail: str


def examine(config_file: Path | None) -> list[Finding]:
    """Look at everything; later checks use the default settings when the settings cannot be read."""
    findings = [Finding(Verdict.OK, "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    config = Config()
    try:
        config = load_config(config_file)
        source = config_file or (config_path() if config_path().exists() else "the defaults")
        findings.append(Finding(Verdict.OK, "settings", str(source)))
    except EmosllmError as error:
        findings.append(Finding(Verdict.FAIL, "settings", str(error)))
    checks: dict[str, Callable[[Config], Finding]] = {
        "microphone": _microphone,
        "bundle": _bundle,
        "engine": _engine,
        "timeline": _timeline,
        "key": _key,
        "backups": _backups,
        "disk": _disk,
    }
    return findings + [_guarded(what, check, config) for what, check in checks.items()]


def _guarded(what: str, check: Callable[[Config], Finding], config: Config) -> Finding:
    try:
        return check(config)
    except EmosllmError as error:
        return Finding(Verdict.FAIL, what, str(error))


def _microphone(config: Config) -> Finding:
    return Finding(Verdict.OK, "microphone", str(choose_device(config.audio.device, list_devices())))


def _bundle(config: Config) -> Finding:
    folder = find_bundle(config.engine.bundle)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    return Finding(Verdict.OK, "bundle", f"{manifest.version}, all {len(manifest.files)} files as released, licence {manifest.license}")


def _engine(config: Config) -> Finding:
    kind = config.engine.kind
    package = {"embedded": "vllm", "server": "httpx", "transformers": "transformers"}[kind]
    if importlib.util.find_spec(package) is None:
        return Finding(Verdict.FAIL, "engine", f"{kind} needs {package}, which is not installed; run `make setup`")
    return Finding(Verdict.OK, "engine", f"{kind}{f' at {config.engine.url}' if kind == 'server' else ''}")


def _timeline(config: Config) -> Finding:
    path = config.timeline.database_path()
    with TimelineReader.open(path, config.timeline.keys()):
        state = "opens" if path.exists() else "will be created at the first start"
    return Finding(Verdict.OK, "timeline", f"{path} {state}, zone {config.timeline.zone_info()}")


def _key(config: Config) -> Finding:
    path = config.timeline.database_path()
    if not path.exists():
        return Finding(Verdict.OK, "key", f"will be made at the first start ({config.timeline.key})")
    place, _ = config.timeline.keys().place_of(path)
    if len(place.read()) > 1:
        return Finding(Verdict.WARN, "key", f"in {place}; changing it was interrupted, `emosllm-monitor key rotate` finishes that")
    return Finding(Verdict.OK, "key", f"in {place}")


def _backups(config: Config) -> Finding:
    backups = Backups.of(config.timeline)
    found = backups.found()
    newest = f", the newest of {found[-1].made_at.astimezone(config.timeline.zone_info()):%Y-%m-%d %H:%M}" if found else ""
    return Finding(Verdict.OK, "backups", f"{len(found)} of at most {backups.keep} in {backups.folder}{newest}")


def _disk(config: Config) -> Finding:
    folder = config.timeline.database_path().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free // 2**20
    verdict = Verdict.OK if free >= _ENOUGH_DISK_MIB else Verdict.WARN
    return Finding(verdict, "disk", f"{free} MiB free at {folder}")
