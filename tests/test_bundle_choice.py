"""Which bundle is loaded when the configured one cannot be used."""

import json
import shutil
from pathlib import Path

import pytest

from model.manifest import find_bundle, read_manifest
from monitor.judging.bundle_choice import BundleChoice

NANO = find_bundle("nano")


def _bundle(folder: Path, version: str) -> str:
    """A description as far as it is read here."""
    folder.mkdir(parents=True)
    shutil.copy(NANO / "bundle.json", folder)
    description = folder / "bundle.json"
    description.write_text(description.read_text().replace(read_manifest(NANO).version, version))
    return str(folder)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bundles.json"


def test_the_configured_bundle_is_loaded_while_it_works(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "nano-00000001")
    choice = BundleChoice(mine, memory)
    assert (choice.current, choice.aside) == (mine, "")
    choice.answered()
    assert json.loads(memory.read_text())["proven"] == [mine]
    assert memory.stat().st_mode & 0o777 == 0o600


def test_the_one_before_takes_over_and_that_is_remembered(tmp_path: Path, memory: Path) -> None:
    old, new = _bundle(tmp_path / "old", "nano-00000001"), _bundle(tmp_path / "new", "nano-00000002")
    BundleChoice(old, memory).answered()
    choice = BundleChoice(new, memory)
    assert choice.set_aside("it died")
    assert choice.current == old
    restarted = BundleChoice(new, memory)
    assert (restarted.current, restarted.aside) == (old, "it died")


def test_without_one_before_the_built_in_bundle_takes_over(tmp_path: Path, memory: Path) -> None:
    choice = BundleChoice(_bundle(tmp_path / "mine", "nano-00000001"), memory)
    assert choice.set_aside("it died")
    assert choice.current == "nano"


def test_a_bundle_that_was_made_anew_is_tried_again(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "nano-00000001")
    BundleChoice(mine, memory).set_aside("it died")
    shutil.rmtree(mine)
    _bundle(tmp_path / "mine", "nano-00000002")
    assert BundleChoice(mine, memory).current == mine


def test_where_none_works_the_fault_is_not_theirs(tmp_path: Path, memory: Path) -> None:
    mine = _bundle(tmp_path / "mine", "nano-00000001")
    choice = BundleChoice(mine, memory)
    assert choice.set_aside("it died")
    assert not choice.set_aside("it died too")
    assert (choice.current, choice.aside) == (mine, "")


def test_one_that_is_gone_is_not_gone_back_to(tmp_path: Path, memory: Path) -> None:
    old, new = _bundle(tmp_path / "old", "nano-00000001"), _bundle(tmp_path / "new", "nano-00000002")
    BundleChoice(old, memory).answered()
    shutil.rmtree(old)
    choice = BundleChoice(new, memory)
    choice.set_aside("it died")
    assert choice.current == "nano"


@pytest.mark.parametrize("content", ["", "[]", '{"proven": 3, "aside": 4}'])
def test_a_damaged_memory_is_no_memory(memory: Path, content: str) -> None:
    memory.parent.mkdir()
    memory.write_text(content)
    assert BundleChoice("nano", memory).current == "nano"
