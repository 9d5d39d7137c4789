"""Which bundle is used: bundles.json, what replaces a bundle that fails, and whether a bundle or a segment caused a crash."""

import errno
import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model.bundle_format import find_bundle, read_bundle_manifest
from model.errors import BundleError
from monitor.bundles.registry import RETIRED_FILE, RETIRED_REASON, BundleRegistry
from monitor.fileio import partial_path
from monitor.inference.crash_attribution import MAX_BUNDLE_CRASHES, CrashAttribution

CHANGED_AT = datetime(2026, 11, 25, 3, 10, tzinfo=UTC)
PACKAGED = find_bundle("compact")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bundles.json"


def _bundle_of_folder(folder: Path) -> str:
    """A description as far as it is read here."""
    folder.mkdir(parents=True)
    text = (PACKAGED / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace(read_bundle_manifest(PACKAGED).version, folder.name))
    return str(folder)


def test_the_configured_bundle_is_in_use_until_something_else_is_said(tmp_path: Path, file: Path) -> None:
    registry = BundleRegistry("compact", file)
    assert (registry.chosen(), registry.previous(), registry.uses()) == ("compact", None, [])
    mine = _bundle_of_folder(tmp_path / "compact-00000001")
    registry.activate(mine, "learned from you", CHANGED_AT)
    (use,) = BundleRegistry("compact", file).uses()
    assert (use.base, use.name, use.version, use.at, use.why) == ("compact", mine, "compact-00000001", CHANGED_AT, "learned from you")
    assert (BundleRegistry("compact", file).chosen(), BundleRegistry("compact", file).previous()) == (mine, "compact")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["bundles.json"]


def test_each_configured_bundle_has_its_own(tmp_path: Path, file: Path) -> None:
    mine, other = _bundle_of_folder(tmp_path / "compact-00000001"), _bundle_of_folder(tmp_path / "other-00000001")
    BundleRegistry("compact", file).activate(mine, "", CHANGED_AT)
    assert BundleRegistry(other, file).chosen() == other
    BundleRegistry(other, file).activate("compact", "", CHANGED_AT)
    assert (BundleRegistry("compact", file).chosen(), BundleRegistry(other, file).chosen()) == (mine, "compact")


def test_going_back_goes_further_back_each_time_and_going_on_can_be_undone(tmp_path: Path, file: Path) -> None:
    first, second = _bundle_of_folder(tmp_path / "compact-00000001"), _bundle_of_folder(tmp_path / "compact-00000002")
    registry = BundleRegistry("compact", file)
    for name in (first, second):
        registry.activate(name, "", CHANGED_AT)
    for expected in (first, "compact"):
        assert registry.previous() == expected
        registry.activate(expected, "", CHANGED_AT, back=True)
    assert registry.previous() is None
    registry.activate(second, "", CHANGED_AT)
    registry.activate("compact", "by name", CHANGED_AT)
    assert registry.previous() == second


def test_what_is_gone_or_retired_is_not_gone_back_to(tmp_path: Path, file: Path) -> None:
    first, second, third = (_bundle_of_folder(tmp_path / f"compact-0000000{number}") for number in (1, 2, 3))
    registry = BundleRegistry("compact", file)
    for name in (first, second, third):
        registry.activate(name, "", CHANGED_AT)
    shutil.rmtree(second)
    assert registry.previous() == first
    (Path(first) / RETIRED_FILE).write_text("{}")
    assert registry.previous() == "compact"


def test_what_is_no_bundle_is_not_in_use(tmp_path: Path, file: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        BundleRegistry("compact", file).activate(str(tmp_path / "nothing"), "", CHANGED_AT)
    assert not file.exists()


def test_a_folder_is_remembered_from_the_root_on(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = _bundle_of_folder(tmp_path / "compact-00000001")
    monkeypatch.chdir(tmp_path)
    BundleRegistry("compact", file).activate("compact-00000001", "", CHANGED_AT)
    assert BundleRegistry("compact", file).chosen() == mine


def test_fifty_uses_are_kept(tmp_path: Path, file: Path) -> None:
    mine = _bundle_of_folder(tmp_path / "compact-00000001")
    for number in range(60):
        BundleRegistry("compact", file).activate(mine, str(number), CHANGED_AT)
    assert [use.why for use in BundleRegistry("compact", file).uses()] == [str(number) for number in range(10, 60)]


def test_writers_do_not_lose_each_others_changes(tmp_path: Path, file: Path) -> None:
    mine = _bundle_of_folder(tmp_path / "compact-00000001")
    BundleRegistry(mine, file).mark_answered(mine)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: BundleRegistry("compact", file).activate(mine, str(number), CHANGED_AT), range(40)))
    other = _bundle_of_folder(tmp_path / "other-00000001")
    BundleRegistry(other, file).mark_answered(other)
    assert sorted(int(use.why) for use in BundleRegistry("compact", file).uses()) == list(range(40))
    assert json.loads(file.read_text())["proven"] == [mine, other]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", '{"proven": [], "aside": {}, "uses": 3}', '{"proven": [], "aside": {}, "uses": [{"name": "x"}]}'],
)
def test_a_damaged_file_says_nothing_and_is_replaced(tmp_path: Path, file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    mine, registry = _bundle_of_folder(tmp_path / "compact-00000001"), BundleRegistry("compact", file)
    assert registry.chosen() == "compact"
    registry.activate(mine, "", CHANGED_AT)
    assert registry.chosen() == mine


def test_a_file_of_before_is_read(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"proven": ["compact"], "aside": {}}')
    assert (BundleRegistry("compact", file).chosen(), BundleRegistry("compact", file).names()) == ("compact", ["compact", "compact"])


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path: Path, file: Path) -> None:
    mine = _bundle_of_folder(tmp_path / "compact-00000001")
    file.parent.mkdir()
    partial_path(file).mkdir()
    with pytest.raises(BundleError, match="stays as it was"):
        BundleRegistry("compact", file).activate(mine, "", CHANGED_AT)
    assert BundleRegistry("compact", file).chosen() == "compact"


NOW = datetime(2026, 11, 25, 3, tzinfo=UTC)


def _bundle_of_version(folder: Path, version: str) -> str:
    """A description as far as it is read here."""
    folder.mkdir(parents=True)
    shutil.copy(PACKAGED / "bundle.json", folder)
    description = folder / "bundle.json"
    description.write_text(description.read_text().replace(read_bundle_manifest(PACKAGED).version, version))
    return str(folder)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bundles.json"


def test_the_configured_bundle_is_loaded_while_it_works(tmp_path: Path, memory: Path) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    registry = BundleRegistry(mine, memory)
    assert (registry.to_load(), registry.fallback_reason()) == (mine, "")
    registry.mark_answered(mine)
    assert json.loads(memory.read_text())["proven"] == [mine]
    assert memory.stat().st_mode & 0o777 == 0o600


def test_the_one_before_takes_over_and_that_is_remembered(tmp_path: Path, memory: Path) -> None:
    old, new = _bundle_of_version(tmp_path / "old", "compact-00000001"), _bundle_of_version(tmp_path / "new", "compact-00000002")
    BundleRegistry(old, memory).mark_answered(old)
    registry = BundleRegistry(new, memory)
    assert registry.disable(new, "it died")
    assert registry.to_load() == old
    restarted = BundleRegistry(new, memory)
    assert (restarted.to_load(), restarted.fallback_reason()) == (old, "it died")


def test_without_one_before_the_built_in_bundle_takes_over(tmp_path: Path, memory: Path) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    registry = BundleRegistry(mine, memory)
    assert registry.disable(mine, "it died")
    assert registry.to_load() == "compact"


def test_a_bundle_that_was_made_anew_is_tried_again(tmp_path: Path, memory: Path) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    BundleRegistry(mine, memory).disable(mine, "it died")
    shutil.rmtree(mine)
    _bundle_of_version(tmp_path / "mine", "compact-00000002")
    assert BundleRegistry(mine, memory).to_load() == mine


def test_where_none_works_the_fault_is_not_theirs(tmp_path: Path, memory: Path) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    registry = BundleRegistry(mine, memory)
    assert registry.disable(mine, "it died")
    assert not registry.disable("compact", "it died too")
    assert (registry.to_load(), registry.fallback_reason()) == (mine, "")


def test_one_that_is_gone_is_not_gone_back_to(tmp_path: Path, memory: Path) -> None:
    old, new = _bundle_of_version(tmp_path / "old", "compact-00000001"), _bundle_of_version(tmp_path / "new", "compact-00000002")
    BundleRegistry(old, memory).mark_answered(old)
    shutil.rmtree(old)
    registry = BundleRegistry(new, memory)
    registry.disable(new, "it died")
    assert registry.to_load() == "compact"


@pytest.mark.parametrize("content", ["", "[]", '{"proven": 3, "aside": 4}'])
def test_a_damaged_memory_is_no_memory(memory: Path, content: str) -> None:
    memory.parent.mkdir()
    memory.write_text(content)
    assert BundleRegistry("compact", memory).to_load() == "compact"


def test_what_is_remembered_as_in_use_is_loaded_unless_it_is_set_aside_or_retired(tmp_path: Path, memory: Path) -> None:
    first, second = _bundle_of_version(tmp_path / "first", "compact-00000001"), _bundle_of_version(tmp_path / "second", "compact-00000002")
    BundleRegistry("compact", memory).activate(first, "learned from you", NOW)
    BundleRegistry("compact", memory).activate(second, "learned from you", NOW)
    registry = BundleRegistry("compact", memory)
    assert (registry.to_load(), registry.fallback_reason()) == (second, "")
    assert {first, second} <= set(registry.names())
    assert registry.disable(second, "it died")
    assert (registry.to_load(), registry.fallback_reason()) == (first, "it died")
    (Path(first) / RETIRED_FILE).write_text("{}")
    assert BundleRegistry("compact", memory).to_load() == "compact"
    assert BundleRegistry(first, memory).fallback_reason() == RETIRED_REASON


def test_what_a_run_is_told_to_use_holds_for_that_run_and_is_tried_again_where_it_was_set_aside(tmp_path: Path, memory: Path) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    registry = BundleRegistry("compact", memory)
    registry.request(mine)
    assert (registry.to_load(), BundleRegistry("compact", memory).to_load()) == (mine, "compact")
    registry.mark_answered(mine)
    assert registry.disable(mine, "it died")
    assert registry.to_load() == "compact"
    registry.request(mine)
    assert (registry.to_load(), registry.fallback_reason()) == (mine, "")
    assert json.loads(memory.read_text())["aside"] == {}


def test_nothing_else_that_is_remembered_is_lost(tmp_path: Path, memory: Path) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    registry = BundleRegistry("compact", memory)
    BundleRegistry("compact", memory).activate(mine, "learned from you", NOW)
    registry.mark_answered(mine)
    assert [use.name for use in BundleRegistry("compact", memory).uses()] == [mine]
    assert registry.to_load() == mine


def test_what_others_change_meanwhile_is_not_undone(tmp_path: Path, memory: Path) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    BundleRegistry(mine, memory).disable(mine, "it died")
    daemon = BundleRegistry("compact", memory)
    BundleRegistry("compact", memory).activate(mine, "once more", NOW)
    daemon.mark_answered("compact")
    assert (daemon.disabled(), daemon.active(), daemon.to_load()) == ({}, mine, mine)
    other = BundleRegistry("compact", memory)
    other.mark_answered(mine)
    daemon.disable("compact", "it died too")
    told = json.loads(memory.read_text())
    assert (told["proven"], list(told["aside"].values())) == (["compact", mine], ["it died too"])


def test_where_the_disk_takes_nothing_this_run_still_knows_what_failed(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    registry = BundleRegistry(mine, memory)
    with monkeypatch.context() as full:
        full.setattr("monitor.bundles.registry.BundleRegistry._write", _disk_full)
        assert registry.disable(mine, "it died")
        assert (registry.to_load(), registry.fallback_reason(), BundleRegistry(mine, memory).to_load()) == ("compact", "it died", mine)
        with pytest.raises(BundleError, match="No space"):
            registry.activate(mine, "once more", NOW)
    registry.mark_answered("compact")
    told = json.loads(memory.read_text())
    assert (told["proven"], list(told["aside"].values())) == (["compact"], ["it died"])


def _disk_full(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_none_or_must_not_be_used_is_refused(tmp_path: Path, memory: Path) -> None:
    mine = _bundle_of_version(tmp_path / "mine", "compact-00000001")
    registry = BundleRegistry("compact", memory)
    registry.check(mine)
    (Path(mine) / RETIRED_FILE).write_text("{}")
    with pytest.raises(BundleError, match="erased since"):
        registry.check(mine)
    (Path(mine) / RETIRED_FILE).unlink()
    (Path(mine) / "bundle.json").write_text("{}")
    with pytest.raises(BundleError, match="is not a bundle"):
        registry.check(mine)


class Engine:
    """Plays processes that answer one batch a turn and die as told."""

    def __init__(self, segments: int, dies: Callable[[list[int]], bool], room: int = 8) -> None:
        self.crash_attribution = CrashAttribution()
        self.waiting = list(range(segments))
        self.answers: list[int] = []
        self.given_up: list[int] = []
        self.deaths = 0
        self._dies, self._room = dies, room

    def run(self, turns: int = 500) -> None:
        """Until nothing waits, the bundle has failed, or the turns are over."""
        for _ in range(turns):
            if not self.waiting or self.crash_attribution.bundle_failed:
                return
            asked = self.crash_attribution.next_to_send(self.waiting, [], self._room)
            if self._dies(asked):
                self.deaths += 1
                guilty = self.crash_attribution.died(asked)
                if guilty is not None:
                    self.given_up.append(guilty)
                    self.waiting.remove(guilty)
            else:
                self.answers += asked
                self.waiting = [entry for entry in self.waiting if entry not in asked]
                self.crash_attribution.answered(asked)


def test_without_deaths_everything_is_asked_in_order_in_whole_batches() -> None:
    engine = Engine(20, lambda asked: False)
    engine.run()
    assert engine.answers == list(range(20))


@pytest.mark.parametrize("deadly", [{0}, {7}, {18}, {3, 5}, {0, 10, 18}])
def test_segments_that_kill_are_given_up_and_all_others_answered(deadly: set[int]) -> None:
    engine = Engine(20, lambda asked: bool(deadly.intersection(asked)))
    engine.run()
    assert sorted(engine.given_up) == sorted(deadly)
    assert sorted(engine.answers) == sorted(set(range(20)) - deadly)
    assert not engine.crash_attribution.bundle_failed


def test_a_bundle_that_always_dies_is_blamed_after_three_deaths_and_no_segment_is_given_up() -> None:
    engine = Engine(20, lambda asked: True)
    engine.run()
    assert engine.crash_attribution.bundle_failed
    assert engine.deaths == MAX_BUNDLE_CRASHES
    assert engine.given_up == []
    engine.crash_attribution.reset_for_bundle()
    assert not engine.crash_attribution.bundle_failed


def test_a_bundle_that_dies_while_it_loads_is_blamed_too() -> None:
    crash_attribution = CrashAttribution()
    for _ in range(MAX_BUNDLE_CRASHES):
        assert not crash_attribution.bundle_failed
        assert crash_attribution.died([]) is None
    assert crash_attribution.bundle_failed


def test_kills_from_outside_cost_hardly_ever_a_segment() -> None:
    lost = 0
    for seed in range(200):
        rng = random.Random(seed)
        left = 20

        def killed(_asked: list[int], rng: random.Random = rng) -> bool:
            nonlocal left
            left -= (now := left > 0 and rng.random() < 0.2)
            return now

        engine = Engine(60, killed, room=4)
        engine.run()
        if not engine.crash_attribution.bundle_failed:
            lost += len(engine.given_up)
            assert sorted(engine.answers + engine.given_up) == list(range(60))
    assert lost < 20, f"{lost} of 12,000 good segments were given up, with every fifth process killed"


def test_an_accused_segment_is_asked_alone() -> None:
    crash_attribution = CrashAttribution()
    crash_attribution.died([3])
    assert crash_attribution.next_to_send([3, 4, 5], [], 8) == [4], "careful after a death"
    crash_attribution.answered([4])
    assert crash_attribution.next_to_send([3, 5, 6], [], 8) == [5, 6]
    assert crash_attribution.next_to_send([3, 5, 6], [5, 6], 8) == []
    crash_attribution.answered([5, 6])
    assert crash_attribution.next_to_send([3], [], 8) == [3]
    assert crash_attribution.next_to_send([3, 9], [3], 8) == []
    crash_attribution.answered([3])
    assert crash_attribution.next_to_send([9], [], 8) == [9]


def test_a_bad_bundle_costs_no_segment_where_only_one_waits() -> None:
    crash_attribution = CrashAttribution()
    for _ in range(10):
        assert crash_attribution.next_to_send([3], [], 8) == [3]
        assert crash_attribution.died([3]) is None
    assert crash_attribution.next_to_send([3, 4], [], 8) == [4]
    crash_attribution.answered([4])
    assert crash_attribution.died([3]) == 3, "others are answered, this one kills"
