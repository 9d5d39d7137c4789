"""The library: bundles come in whole or not at all, those that matter stay, and going live is recorded where it happened."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from model.bundle_format import MANIFEST_FILE, file_checksums, read_bundle_manifest, verify_checksums
from model.errors import BundleError, EmosllmError
from monitor.bundles.library import BundleLibrary, activate_bundle
from monitor.bundles.registry import BundleRegistry, retire_bundle
from monitor.config import Config, EngineConfig, RetrainConfig
from monitor.control import ControlServer
from monitor.fileio import partial_path
from monitor.paths import DatabaseFiles, bundles_dir, bundles_file
from tests.support.bundles import PACKAGED, VERSION, Monitor, trained
from tests.support.paths import ROOT

CONFIG = Config()


@pytest.fixture
def library() -> BundleLibrary:
    return BundleLibrary.of(CONFIG)


@pytest.fixture
def several(library: BundleLibrary, tmp_path: Path) -> list[str]:
    """The versions of six bundles in the library, oldest first."""
    return [library.add(trained(tmp_path / "new", seed)).name for seed in range(1, 7)]


def serving(monitor: Monitor) -> ControlServer:
    database = CONFIG.timeline.database_path()
    database.parent.mkdir(parents=True, exist_ok=True)
    return ControlServer(DatabaseFiles(database).socket, {"use-bundle": monitor.use})


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# coming in -------------------------------------------------------------------------------------------------------


def test_a_finished_bundle_is_moved_in_whole_and_private(library: BundleLibrary, tmp_path: Path) -> None:
    new = trained(tmp_path / "new")
    before, version = file_checksums(new), read_bundle_manifest(new).version
    new.chmod(0o755)
    there = library.add(new)
    assert there == bundles_dir() / version
    assert not new.exists()
    assert file_checksums(there) == before
    verify_checksums(there, read_bundle_manifest(there))
    assert {path.stat().st_mode & 0o777 for path in there.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (there, library.folder, there / "adapter")} == {0o700}
    assert [kept.version for kept in library.all()] == [version]


def test_it_is_moved_in_from_another_disk_too(library: BundleLibrary) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == Path("/tmp").stat().st_dev:
        pytest.skip("there is no other disk here")
    folder = other / f"emosllm-test-{os.getpid()}"
    try:
        there = library.add(trained(folder / "new"))
        assert not (folder / "new").exists()
        verify_checksums(there, read_bundle_manifest(there))
        assert entries(library.folder) == [there.name]
        assert there.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_same_bundle_again_is_the_same_and_a_damaged_one_is_replaced(library: BundleLibrary, tmp_path: Path) -> None:
    there = library.add(trained(tmp_path / "new"))
    assert library.add(trained(tmp_path / "again")) == there
    assert not (tmp_path / "again").exists()
    (there / "mapper.safetensors").write_bytes(b"")
    library.add(trained(tmp_path / "third"))
    verify_checksums(there, read_bundle_manifest(there))
    retire_bundle(there)
    with pytest.raises(BundleError, match="not used any more"):
        library.add(trained(tmp_path / "fourth"))


def _flip(folder: Path) -> None:
    path = folder / "adapter/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")


def _link(folder: Path) -> None:
    (folder / "adapter").rename(folder.parent / "adapter")
    (folder / "adapter").symlink_to(folder.parent / "adapter")


def _pipe(folder: Path) -> None:
    (folder / "mapper.safetensors").unlink()
    os.mkfifo(folder / "mapper.safetensors")


def _name(version: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"version": version}))

    return rename


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip, "is not the file"),
        (_link, "a link or no file"),
        (_pipe, "a link or no file"),
        (_name("../outside"), "no version"),
        (_name(".hidden"), "no version"),
        (lambda folder: (folder / "more.py").write_text(""), "does not belong"),
        (lambda folder: (folder / MANIFEST_FILE).unlink(), "cannot read"),
    ],
)
def test_what_is_not_whole_stays_outside(library: BundleLibrary, tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    new = trained(tmp_path / "new")
    damage(new)
    with pytest.raises(BundleError, match=reason):
        library.add(new)
    assert new.is_dir()
    assert library.all() == []


def test_a_full_disk_loses_nothing(library: BundleLibrary, tmp_path: Path, small_disk: Path) -> None:
    """The library lies on a disk of 8 MiB; a bundle has 16."""
    new = trained(tmp_path / "new", large=True)
    library.folder = small_disk / bundles_dir().name
    with pytest.raises(BundleError, match=r"No space left|the disk is full") as raised:
        library.add(new)
    assert str(new) in str(raised.value)
    verify_checksums(new, read_bundle_manifest(new))
    assert entries(library.folder) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_is_half_written_goes_with_the_next_change_and_is_never_listed(
    library: BundleLibrary, tmp_path: Path, several: list[str]
) -> None:
    shutil.copytree(PACKAGED, library.folder / ".coming-compact-00000000")
    shutil.copytree(PACKAGED, library.folder / ".going-compact-00000001")
    (library.folder / "no-bundle").mkdir()
    assert [kept.version for kept in library.all()] == several
    library.add(trained(tmp_path / "new", 7))
    assert [name for name in entries(library.folder) if name.startswith(".")] == []


def test_no_link_is_followed(library: BundleLibrary, tmp_path: Path) -> None:
    outside = trained(tmp_path / "outside")
    library.folder.mkdir(parents=True)
    (library.folder / "linked").symlink_to(outside)
    (library.folder / ".coming-linked").symlink_to(outside)
    assert library.all() == []
    library.add(trained(tmp_path / "new", 2))
    assert (outside / MANIFEST_FILE).exists()
    shutil.rmtree(library.folder)
    library.folder.symlink_to(tmp_path)
    assert library.all() == []
    with pytest.raises(BundleError, match="is a link"):
        library.add(trained(tmp_path / "other", 3))


_CHANGING = """
import shutil
import sys
from pathlib import Path
from monitor.config import Config, RetrainConfig
from monitor.bundles.library import BundleLibrary, activate_bundle
from tests.support.bundles import trained
config = Config(retrain=RetrainConfig(keep=2))
made = [trained(Path(sys.argv[1]) / f"made-{seed}", seed) for seed in range(1, 4)]
print("ready", flush=True)
while True:
    for folder in made:
        shutil.copytree(folder, folder.with_suffix(".out"))
        activate_bundle(config, str(BundleLibrary.of(config).add(folder.with_suffix(".out"))), "a night")
"""


def test_whatever_is_killed_when_every_bundle_is_whole_and_one_is_in_use(library: BundleLibrary, tmp_path: Path) -> None:
    """Bundles come from another disk where there is one, so that they are copied."""
    shared = Path("/dev/shm") / f"emosllm-kills-{os.getpid()}" if Path("/dev/shm").is_dir() else tmp_path / "shared"
    random = Random(7)
    used = 0
    try:
        for number in range(4):
            process = subprocess.Popen([sys.executable, "-c", _CHANGING, str(shared / str(number))], stdout=subprocess.PIPE, cwd=ROOT)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + random.random())
            process.kill()
            process.wait()
            process.stdout.close()
            for kept in library.all():
                verify_checksums(kept.folder, read_bundle_manifest(kept.folder))
            current = library.registry.chosen()
            assert current == "compact" or library.find(current).own
            used += current != "compact"
            library.sweep()
            assert not [name for name in entries(library.folder) if name.startswith(".")]
    finally:
        shutil.rmtree(shared, ignore_errors=True)
    assert used


# being found -----------------------------------------------------------------------------------------------------


def test_a_bundle_is_found_by_all_of_its_names(library: BundleLibrary, tmp_path: Path, several: list[str]) -> None:
    version = several[0]
    for text in (version, version[:-1], version.removeprefix("compact-"), str(library.folder / version)):
        assert library.find(text).version == version
    assert library.find("compact").name == library.find("nano").name == "compact"
    assert library.find(VERSION).name == "compact"
    assert library.find(str(trained(tmp_path / "elsewhere", 9))).own is False
    with pytest.raises(BundleError, match=f"may mean .*{several[3]}"):
        library.find("compact-")
    with pytest.raises(BundleError, match="there is no bundle 'x': there are compact-"):
        library.find("x")


# staying ---------------------------------------------------------------------------------------------------------


def test_the_oldest_go_beyond_what_is_kept_and_those_that_matter_stay(several: list[str]) -> None:
    config = Config(retrain=RetrainConfig(keep=3))
    library = BundleLibrary.of(config)
    activate_bundle(config, several[0], "first")
    assert [kept.version for kept in library.all()] == [several[0], *several[4:]]
    activate_bundle(config, several[5], "second")
    assert [kept.version for kept in library.all()] == [several[0], *several[4:]]
    (folder,) = (kept.folder for kept in library.all() if kept.version == several[4])
    retire_bundle(folder)
    assert library.prune() == []


def test_the_base_stays_though_it_is_the_oldest(several: list[str]) -> None:
    base = str(bundles_dir() / several[0])
    for version in several[3:]:
        activate_bundle(Config(engine=EngineConfig(bundle=base)), version, "")
    assert BundleLibrary.of(Config(engine=EngineConfig(bundle=base), retrain=RetrainConfig(keep=2))).prune() == several[2:4]
    assert [kept.version for kept in BundleLibrary.of(CONFIG).all()] == [several[0], *several[4:]]


# going live ------------------------------------------------------------------------------------------------------


def test_without_a_monitor_the_next_start_uses_it(library: BundleLibrary, several: list[str]) -> None:
    assert activate_bundle(CONFIG, several[1], "learned from you") == several[1]
    (use,) = library.registry.uses()
    assert (use.base, use.version, use.why) == ("compact", several[1], "learned from you")
    assert BundleRegistry.of(CONFIG).active() == str(library.folder / several[1])
    activate_bundle(CONFIG, several[1], "again")
    assert len(library.registry.uses()) == 1


def test_a_running_monitor_switches_first_within_a_second(library: BundleLibrary, several: list[str]) -> None:
    monitor = Monitor()
    with serving(monitor):
        begun = time.monotonic()
        activate_bundle(CONFIG, several[0], "")
        activate_bundle(CONFIG, "compact", "", back=True)
        assert time.monotonic() - begun < 2
    assert monitor.asked == [str(library.folder / several[0]), "compact"]
    assert [use.name for use in library.registry.uses()] == monitor.asked
    assert library.registry.previous() is None


def test_one_that_takes_its_time_is_waited_for(library: BundleLibrary, several: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.bundles.library._POLL_S", 0.01)
    monitor = Monitor(slow=3)
    with serving(monitor):
        activate_bundle(CONFIG, several[0], "")
    assert (len(monitor.asked), library.registry.chosen()) == (4, str(library.folder / several[0]))


def test_one_that_is_never_done_is_given_up(library: BundleLibrary, several: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.bundles.library._POLL_S", 0.1)
    config = Config(engine=EngineConfig().model_copy(update={"start_timeout_s": 0.5}))
    with serving(Monitor(slow=1000)), pytest.raises(EmosllmError, match="still loads"):
        activate_bundle(config, several[0], "")
    assert library.registry.uses() == []


def test_what_a_monitor_refuses_is_not_in_use(library: BundleLibrary, several: list[str]) -> None:
    monitor = Monitor(refusing="the adapter's rank 64 is larger than 8")
    with serving(monitor), pytest.raises(EmosllmError, match="rank 64"):
        activate_bundle(CONFIG, several[0], "")
    assert (monitor.using, library.registry.uses(), BundleRegistry.of(CONFIG).active()) == ("compact", [], "compact")
    assert library.find(several[0]).own


def test_what_cannot_be_remembered_does_not_stay_in_use(library: BundleLibrary, several: list[str]) -> None:
    monitor = Monitor()
    partial_path(bundles_file()).mkdir()
    with serving(monitor), pytest.raises(BundleError, match="stays as it was"):
        activate_bundle(CONFIG, several[0], "")
    assert (monitor.asked, monitor.using) == ([str(library.folder / several[0]), "compact"], "compact")


def test_what_is_damaged_or_retired_reaches_no_monitor(library: BundleLibrary, several: list[str]) -> None:
    monitor = Monitor()
    _flip(library.folder / several[0])
    retire_bundle(library.folder / several[1])
    with serving(monitor):
        for version, reason in ((several[0], "damaged"), (several[1], "erased since")):
            with pytest.raises(BundleError, match=reason):
                activate_bundle(CONFIG, version, "")
    assert monitor.asked == []


def test_what_was_set_aside_is_tried_again_where_somebody_says_so_but_not_gone_back_to(library: BundleLibrary, several: list[str]) -> None:
    for version in several[:2]:
        activate_bundle(Config(retrain=RetrainConfig(keep=10)), version, "")
    library.registry.disable(str(library.folder / several[0]), "it died")
    assert library.registry.previous() == "compact"
    activate_bundle(CONFIG, several[0], "once more")
    assert (library.registry.disabled(), BundleRegistry.of(CONFIG).active()) == ({}, str(library.folder / several[0]))


def test_where_the_one_in_use_is_gone_something_else_is(library: BundleLibrary, several: list[str]) -> None:
    activate_bundle(CONFIG, several[0], "")
    shutil.rmtree(library.folder / several[0])
    assert BundleRegistry.of(CONFIG).active() == "compact"
    assert library.registry.chosen() == str(library.folder / several[0])
