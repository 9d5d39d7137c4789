"""The examination: which checks there are and in which order, and that one that fails does not end the others."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from model.errors import EmosllmError
from monitor.config import Config, config_path, load_config
from monitor.doctor.clinic import clinic
from monitor.doctor.findings import Finding, Verdict
from monitor.doctor.judging import bundle, engine, engine_installed, transcriber, transcriber_there, voice
from monitor.doctor.machine import clock, service
from monitor.doctor.network import Watch, clinic_addresses, expected_addresses, own_roots, running_monitor
from monitor.doctor.sound import microphone
from monitor.doctor.storage import backups, disk, key, permissions, timeline

Check = Callable[[Config], Finding]
_AT_REST: dict[str, Check] = {
    "bundle": bundle,
    "key": key,
    "timeline": timeline,
    "voice": voice,
    "permissions": permissions,
    "disk": disk,
    "backups": backups,
    "clinic": clinic,
    "clock": clock,
    "service": service,
}


def examine(config_file: Path | None, quick: bool) -> Iterator[Finding]:
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
    for what, check in _AT_REST.items():
        yield _guarded(what, check, config)
    monitor = running_monitor(config.timeline.database_path())
    expected = {**expected_addresses(config.engine), **clinic_addresses(config.store)}
    with Watch(own_roots(monitor), expected) as watch:
        yield (heard := _guarded("microphone", lambda config: microphone(config, monitor), config))
        yield _guarded("transcriber", transcriber_there if quick else transcriber, config)
        yield (judged := _guarded("engine", engine_installed if quick else engine, config))
    during = {
        "the microphone was open": heard.verdict is not Verdict.FAIL,
        "the engine judged": judged.verdict is not Verdict.FAIL and not quick,
        f"the running monitor (process {monitor}) went on": monitor is not None,
    }
    yield watch.finding([words for words, true in during.items() if true])


def _guarded(what: str, check: Check, config: Config) -> Finding:
    try:
        return check(config)
    except EmosllmError as error:
        return Finding(Verdict.FAIL, what, str(error))
    except OSError as error:
        return Finding(Verdict.FAIL, what, f"{error.strerror}: {error.filename}; check the permissions there")
