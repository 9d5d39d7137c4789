"""Which bundle is loaded when the configured one cannot be used."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model.errors import BundleError
from model.manifest import find_bundle, read_manifest
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.in_use import InUse
from monitor.judging.retirement import RETIRED, WHY

PACKAGED = find_bundle("compact")
NOW = datetime(2026, 11, 25, 3, tzinfo=UTC)


def _bundle(folder: Path, version: str) -> str:
    """A description as far as it is read here."""
    folder.mkdir(parents=True)
    shutil.copy(PACKAGED / "bundle.json", folder)
    description = folder / "bundle.json"
    description.write_text(description.read_text().replace(read_manifest(PACKAGED).version, version))
    return str(folder)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bundles.json"


def test_the_configured_bundle_is_loaded_while_it_works(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "compact-00000001")
    choice = BundleChoice(mine, memory)
    assert (choice.current, choice.aside) == (mine, "")
    choice.answered()
    assert json.loads(memory.read_text())["proven"] == [mine]
    assert memory.stat().st_mode & 0o777 == 0o600


def test_the_one_before_takes_over_and_that_is_remembered(tmp_path: Path, memory: Path) -> None:
    old, new = _bundle(tmp_path / "old", "compact-00000001"), _bundle(tmp_path / "new", "compact-00000002")
    BundleChoice(old, memory).answered()
    choice = BundleChoice(new, memory)
    assert choice.set_aside("it died")
    assert choice.current == old
    restarted = BundleChoice(new, memory)
    assert (restarted.current, restarted.aside) == (old, "it died")


def test_without_one_before_the_built_in_bundle_takes_over(tmp_path: Path, memory: Path) -> None:
    choice = BundleChoice(_bundle(tmp_path / "mine", "compact-00000001"), memory)
    assert choice.set_aside("it died")
    assert choice.current == "compact"


def test_a_bundle_that_was_made_anew_is_tried_again(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "compact-00000001")
    BundleChoice(mine, memory).set_aside("it died")
    shutil.rmtree(mine)
    _bundle(tmp_path / "mine", "compact-00000002")
    assert BundleChoice(mine, memory).current == mine


def test_where_none_works_the_fault_is_not_theirs(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "compact-00000001")
    choice = BundleChoice(mine, memory)
    assert choice.set_aside("it died")
    assert not choice.set_aside("it died too")
    assert (choice.current, choice.aside) == (mine, "")


def test_one_that_is_gone_is_not_gone_back_to(tmp_path: Path, memory: Path) -> None:
    old, new = _bundle(tmp_path / "old", "compact-00000001"), _bundle(tmp_path / "new", "compact-00000002")
    BundleChoice(old, memory).answered()
    shutil.rmtree(old)
    choice = BundleChoice(new, memory)
    choice.set_aside("it died")
    assert choice.current == "compact"


@pytest.mark.parametrize("content", ["", "[]", '{"proven": 3, "aside": 4}'])
def test_a_damaged_memory_is_no_memory(memory: Path, content: str) -> None:
    memory.parent.mkdir()
    memory.write_text(content)
    assert BundleChoice("compact", memory).current == "compact"


def test_what_is_remembered_as_in_use_is_loaded_unless_it_is_set_aside_or_retired(tmp_path: Path, memory: Path) -> None:
    first, second = _bundle(tmp_path / "first", "compact-00000001"), _bundle(tmp_path / "second", "compact-00000002")
    InUse("compact", memory).use(first, "learned from you", NOW)
    InUse("compact", memory).use(second, "learned from you", NOW)
    choice = BundleChoice("compact", memory)
    assert (choice.current, choice.aside) == (second, "")
    assert {first, second} <= set(choice.names)
    assert choice.set_aside("it died")
    assert (choice.current, choice.aside) == (first, "it died")
    (Path(first) / RETIRED).write_text("{}")
    assert BundleChoice("compact", memory).current == "compact"
    assert BundleChoice(first, memory).aside == WHY


def test_what_a_run_is_told_to_use_holds_for_that_run_and_is_tried_again_where_it_was_set_aside(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "compact-00000001")
    choice = BundleChoice("compact", memory)
    choice.use(mine)
    assert (choice.current, BundleChoice("compact", memory).current) == (mine, "compact")
    choice.answered()
    assert choice.set_aside("it died")
    assert choice.current == "compact"
    choice.use(mine)
    assert (choice.current, choice.aside) == (mine, "")
    assert json.loads(memory.read_text())["aside"] == {}


def test_nothing_else_that_is_remembered_is_lost(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "compact-00000001")
    choice = BundleChoice("compact", memory)
    InUse("compact", memory).use(mine, "learned from you", NOW)
    choice.answered()
    assert [use.name for use in InUse("compact", memory).uses()] == [mine]
    assert choice.current == mine


def test_what_is_none_or_must_not_be_used_is_refused(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "compact-00000001")
    choice = BundleChoice("compact", memory)
    choice.check(mine)
    (Path(mine) / RETIRED).write_text("{}")
    with pytest.raises(BundleError, match="erased since"):
        choice.check(mine)
    (Path(mine) / RETIRED).unlink()
    (Path(mine) / "bundle.json").write_text("{}")
    with pytest.raises(BundleError, match="is not a bundle"):
        choice.check(mine)
