"""Erasure beside running monitors, readers and bundles that learned from the data, and after kills at every step."""

import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from model.bundle_format import file_checksums, find_bundle, read_bundle_manifest
from model.errors import TimelineError, TimelineInUse
from monitor.bundles.library import BundleLibrary, activate_bundle
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config
from monitor.control import ControlServer
from monitor.deletion import delete_range, deletion_interrupted, finish_deletion, receipt_lines
from monitor.fileio import DatabaseLock
from monitor.paths import DatabaseFiles
from monitor.storage.reader import TimelineReader
from monitor.storage.records import Coverage
from monitor.storage.writer import TimelineWriter
from tests.support.bundles import Monitor, trained
from tests.support.erasure import ERASED, HOUR, NOON, PARIS, SeededTimeline, bundle_that_learned, sound, traces
from tests.support.paths import ROOT
from tests.support.storage import keys, raw


@pytest.fixture
def life(home: Path) -> SeededTimeline:
    life = SeededTimeline(home)
    life.live()
    life.summarize()
    return life


def test_bundles_that_learned_from_it_are_retired_and_others_are_not(life: SeededTimeline, tmp_path: Path) -> None:
    own = life.folder / "bundles"
    span = {"from": "2026-07-01T00:00:00Z", "to": "2026-07-02T00:00:00Z"}
    later = {"from": "2026-07-14T00:00:00+02:00", "to": "2026-07-15T00:00:00+02:00"}
    guilty = [
        bundle_that_learned(own / "by-number", json.dumps(span | {"segments": [life.ids["within"]]})),
        bundle_that_learned(own / "by-time", json.dumps(later | {"segments": []})),
        bundle_that_learned(own / "illegible", "{"),
        bundle_that_learned(tmp_path / "configured", json.dumps(later | {"segments": []})),
    ]
    innocent = [
        bundle_that_learned(own / "earlier", json.dumps(span | {"segments": [life.ids["before"]]})),
        bundle_that_learned(own / "given", None),
    ]
    config = life.config.model_copy(update={"engine": life.config.engine.model_copy(update={"bundle": str(tmp_path / "configured")})})
    assert BundleRegistry(config.engine.bundle, life.folder / "bundles.json").to_load() == str(tmp_path / "configured")
    receipt = delete_range(config, ERASED)
    assert sorted(receipt.retired) == sorted(folder.name for folder in guilty)
    assert all(sorted(file.name for file in folder.iterdir()) == ["bundle.json", "retired.json"] for folder in guilty)
    assert all((folder / "mapper.safetensors").exists() for folder in innocent)
    registry = BundleRegistry(config.engine.bundle, life.folder / "bundles.json")
    assert registry.to_load() == "compact"
    assert registry.fallback_reason() == "", "what is in use instead is what should be"
    assert receipt.instead == read_bundle_manifest(find_bundle("compact")).version


def test_where_the_one_in_use_learned_from_it_the_one_before_is_used_instead(life: SeededTimeline, tmp_path: Path) -> None:
    innocent, guilty = used(life, tmp_path)
    receipt = delete_range(life.config, ERASED)
    assert (receipt.retired, receipt.instead) == ([guilty], innocent)
    registry = BundleLibrary.of(life.config).registry
    assert registry.chosen() == str(life.folder / "bundles" / innocent)
    assert "erased" in registry.uses()[-1].why
    assert registry.previous() == "compact"
    assert "in use instead: " + innocent in "\n".join(receipt_lines(receipt, "", remote=False))


def test_a_running_monitor_leaves_it_at_once_and_after_it_is_deleted(life: SeededTimeline, tmp_path: Path) -> None:
    innocent, guilty = used(life, tmp_path)
    monitor, told = Monitor(), []

    def use(arguments: Any) -> dict[str, Any]:
        told.append(sorted(path.name for path in (life.folder / "bundles" / guilty).rglob("*") if path.is_file()))
        return monitor.use(arguments)

    commands = {"forget": lambda _arguments: {}, "voice-changed": lambda _arguments: {}, "use-bundle": use}
    with DatabaseLock(life.database, "mic"), ControlServer(DatabaseFiles(life.database).socket, commands):
        assert delete_range(life.config, ERASED).left == []
    assert (monitor.using, told) == (str(life.folder / "bundles" / innocent), [["bundle.json", "retired.json"]])


def test_a_monitor_that_does_not_leave_it_is_named_and_a_later_forget_tries_again(life: SeededTimeline, tmp_path: Path) -> None:
    innocent, _guilty = used(life, tmp_path)
    monitor = Monitor(refusing="the engine is ill")
    commands = {"forget": lambda _arguments: {}, "voice-changed": lambda _arguments: {}, "use-bundle": monitor.use}
    with DatabaseLock(life.database, "mic"), ControlServer(DatabaseFiles(life.database).socket, commands):
        receipt = delete_range(life.config, ERASED)
    assert len(monitor.asked) == 2
    assert "stop it and start it again (the engine is ill)" in receipt.left[0]
    assert BundleRegistry.of(life.config).active() == str(life.folder / "bundles" / innocent), "the next start uses the one before"
    assert delete_range(life.config, ERASED).instead


def test_a_monitor_that_went_back_to_a_retired_one_is_told_too(life: SeededTimeline, tmp_path: Path) -> None:
    used(life, tmp_path)
    BundleLibrary.of(life.config).registry.activate("compact", "by hand", NOON)
    monitor = Monitor()
    commands = {"forget": lambda _arguments: {}, "voice-changed": lambda _arguments: {}, "use-bundle": monitor.use}
    with DatabaseLock(life.database, "mic"), ControlServer(DatabaseFiles(life.database).socket, commands):
        receipt = delete_range(life.config, ERASED)
    assert (monitor.asked, receipt.instead) == (["compact"], "")


def test_a_bundle_that_was_half_moved_goes_too(life: SeededTimeline) -> None:
    half = life.folder / "bundles" / ".coming-night"
    half.mkdir(parents=True)
    (half / "mapper.safetensors").write_bytes(b"within-words, learned")
    delete_range(life.config, ERASED)
    assert not half.exists()


def used(life: SeededTimeline, tmp_path: Path) -> tuple[str, str]:
    """Versions of two bundles that went live: one that did not learn from the hour, and one in use that did."""
    library = BundleLibrary.of(life.config)
    innocent = library.add(trained(tmp_path / "innocent", told=False)).name
    folder = trained(tmp_path / "guilty", 2, told=False)
    span = {"from": "2026-07-01T00:00:00Z", "to": "2026-07-02T00:00:00Z"}
    (folder / "learned_from.json").write_text(json.dumps(span | {"segments": [life.ids["within"]]}))
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | {"files": file_checksums(folder)}))
    guilty = library.add(folder).name
    for version in (innocent, guilty):
        activate_bundle(life.config, version, "learned from you")
    return innocent, guilty


def test_a_running_monitor_is_told_before_anything_is_erased(life: SeededTimeline) -> None:
    told = []

    def answer(arguments: Any) -> dict[str, Any]:
        told.append((dict(arguments), b"within-words" in life.all_bytes()))
        return {}

    with DatabaseLock(life.database, "mic"), ControlServer(DatabaseFiles(life.database).socket, {"forget": answer}):
        delete_range(life.config, ERASED)
    assert told == [({"start": ERASED.start.isoformat(), "end": ERASED.end.isoformat()}, True)]
    assert b"within-words" not in life.all_bytes()


def test_what_holds_the_timeline_and_does_not_answer_stops_it_and_the_next_start_goes_on(
    life: SeededTimeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.deletion._WAIT_S", 0.1)
    with DatabaseLock(life.database, "mic"), pytest.raises(TimelineInUse, match="already in use"):
        delete_range(life.config, ERASED)
    assert deletion_interrupted(life.config.timeline)
    with DatabaseLock(life.database, "mic"):
        assert finish_deletion(life.config, holds_lock=True) is not None
    assert b"within-words" not in life.all_bytes()


def test_one_that_writes_and_reads_meanwhile_is_not_disturbed(life: SeededTimeline) -> None:
    with closing(TimelineWriter.open(life.database, PARIS, keys())) as timeline, TimelineReader.open(life.database, keys()) as reader:
        reader.segments_between(ERASED.start, ERASED.end)
        delete_range(life.config, ERASED)
        assert reader.segments_between(ERASED.start, ERASED.end) == []
        assert timeline.sound(life.ids["within waiting"]) is None
        assert timeline.sound(life.ids["after waiting"]) == sound(102)
        timeline.give_up([life.ids["within waiting"]], "too late")
        timeline.cover(Coverage.HEARD, NOON + 2 * HOUR, NOON + 3 * HOUR)
        after = life.all_bytes()
    assert not [trace for trace in traces("within") if trace in after]


@pytest.mark.slow
def test_a_reader_that_holds_on_is_waited_for_then_named(life: SeededTimeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.storage.erasure._CHECKPOINT_TIMEOUT_S", 0.3)
    with closing(raw(life.database)) as holding:
        holding.execute("PRAGMA journal_mode = WAL")
        holding.execute("BEGIN")
        holding.execute("SELECT * FROM segment").fetchone()
        with pytest.raises(TimelineError, match="still reading"):
            delete_range(life.config, ERASED)
        assert deletion_interrupted(life.config.timeline)
    assert finish_deletion(life.config) is not None
    assert not [trace for trace in traces("within") if trace in life.all_bytes()]


KILLED = """
import os, shutil, signal, sys, time
from pathlib import Path

work, whole = Path(sys.argv[1]), sys.argv[2] == "all"
os.environ["XDG_STATE_HOME"] = str(work / "warm" / "state")
from monitor.config import Config
from monitor.deletion import delete_range, delete_everything
from tests.support.erasure import ERASED

def act():
    delete_everything(Config()) if whole else delete_range(Config(), ERASED)

def forgetting(folder, step):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.wait()[1])
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    seen = 0
    def step_taken():
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
    def count(event, arguments):
        if event in ("os.rename", "os.remove", "os.chmod") or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            step_taken()
    def statement(_frame, event, called):
        if event == "c_call" and getattr(called, "__name__", "") in ("execute", "fsync"):
            step_taken()
    sys.addaudithook(count)
    sys.setprofile(statement)
    act()
    os._exit(0)

shutil.copytree(work / "begin", work / "warm")
act()  # imports everything
step = 1
while True:
    folder = work / f"step-{step}"
    shutil.copytree(work / "begin", folder)
    if forgetting(folder, step) == 0:
        break
    step += 1
print(step)
"""


@pytest.fixture
def begin(home: Path, tmp_path: Path) -> Path:
    """A life with a backup and an older timeline put aside, to be copied."""
    life = SeededTimeline(home)
    life.live()
    life.summarize()
    life.backups.make(ERASED.start)
    shutil.copytree(home / "state", tmp_path / "begin" / "state")
    return tmp_path


def killed_at_each_step(work: Path, what: str) -> list[Path]:
    told = subprocess.check_output([sys.executable, "-c", KILLED, str(work), what], cwd=ROOT, text=True)
    steps = int(told)
    assert steps > 20
    return [work / f"step-{step}" for step in range(1, steps)]


def life_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SeededTimeline:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    return SeededTimeline(folder)


@pytest.mark.slow
def test_a_stretch_is_gone_after_a_kill_at_any_step_and_a_second_go(begin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = None
    for folder in killed_at_each_step(begin, "stretch"):
        life = life_in(folder, monkeypatch)
        if deletion_interrupted(life.config.timeline):
            assert finish_deletion(life.config) is not None
        else:
            delete_range(life.config, ERASED)
        assert not deletion_interrupted(life.config.timeline)
        everywhere = life.all_bytes()
        assert not [trace for trace in traces("within") if trace in everywhere], folder
        assert all(trace in everywhere for name in ("before", "after") for trace in traces(name)), folder
        kept = kept or life.rows()
        assert life.rows() == kept, folder
        assert len(life.backups.found()) == 1
        assert not [path for path in life.folder.rglob("*") if path.name.endswith((".part", "-journal", ".new", ".forgetting"))], folder


def test_everything_is_gone_after_a_kill_at_any_step_and_the_next_start(begin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in killed_at_each_step(begin, "all"):
        life = life_in(folder, monkeypatch)
        if not deletion_interrupted(life.config.timeline):
            continue  # killed before the first step, or after the last
        finish_deletion(life.config, holds_lock=True)
        left = [path.name for path in life.folder.rglob("*") if path.is_file()]
        assert left == ["timeline.db.lock"], folder


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_timeline_that_can_be_used(begin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
from monitor.config import Config
from monitor.deletion import delete_range
from tests.support.erasure import ERASED

print('go', flush=True)
delete_range(Config(), ERASED)
"""
    for number in range(5):
        folder = begin / f"moment-{number}"
        shutil.copytree(begin / "begin", folder)
        life = life_in(folder, monkeypatch)
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, env=dict(os.environ))
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(random.Random(number).uniform(0, 0.2))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        assert "before-note" in str(life.rows()["checkin"])
        finish_deletion(Config())
        delete_range(Config(), ERASED)
        assert not [trace for trace in traces("within") if trace in life.all_bytes()]
