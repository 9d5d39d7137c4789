"""bundles.json: what is in use, what was before, and that nobody's change is lost."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model.errors import BundleError
from model.manifest import find_bundle, read_manifest
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.in_use import InUse
from monitor.judging.retirement import RETIRED

NOW = datetime(2026, 11, 25, 3, 10, tzinfo=UTC)
PACKAGED = find_bundle("compact")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bundles.json"


def _bundle(folder: Path) -> str:
    """A description as far as it is read here."""
    folder.mkdir(parents=True)
    text = (PACKAGED / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace(read_manifest(PACKAGED).version, folder.name))
    return str(folder)


def test_the_configured_bundle_is_in_use_until_something_else_is_said(tmp_path: Path, file: Path) -> None:
    in_use = InUse("compact", file)
    assert (in_use.current, in_use.previous(), in_use.uses()) == ("compact", None, [])
    mine = _bundle(tmp_path / "compact-00000001")
    in_use.use(mine, "learned from you", NOW)
    (use,) = InUse("compact", file).uses()
    assert (use.base, use.name, use.version, use.at, use.why) == ("compact", mine, "compact-00000001", NOW, "learned from you")
    assert (InUse("compact", file).current, InUse("compact", file).previous()) == (mine, "compact")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["bundles.json"]


def test_each_configured_bundle_has_its_own(tmp_path: Path, file: Path) -> None:
    mine, other = _bundle(tmp_path / "compact-00000001"), _bundle(tmp_path / "other-00000001")
    InUse("compact", file).use(mine, "", NOW)
    assert InUse(other, file).current == other
    InUse(other, file).use("compact", "", NOW)
    assert (InUse("compact", file).current, InUse(other, file).current) == (mine, "compact")


def test_going_back_goes_further_back_each_time_and_going_on_can_be_undone(tmp_path: Path, file: Path) -> None:
    first, second = _bundle(tmp_path / "compact-00000001"), _bundle(tmp_path / "compact-00000002")
    in_use = InUse("compact", file)
    for name in (first, second):
        in_use.use(name, "", NOW)
    for expected in (first, "compact"):
        assert in_use.previous() == expected
        in_use.use(expected, "", NOW, back=True)
    assert in_use.previous() is None
    in_use.use(second, "", NOW)
    in_use.use("compact", "by name", NOW)
    assert in_use.previous() == second


def test_what_is_gone_or_retired_is_not_gone_back_to(tmp_path: Path, file: Path) -> None:
    first, second, third = (_bundle(tmp_path / f"compact-0000000{number}") for number in (1, 2, 3))
    in_use = InUse("compact", file)
    for name in (first, second, third):
        in_use.use(name, "", NOW)
    shutil.rmtree(second)
    assert in_use.previous() == first
    (Path(first) / RETIRED).write_text("{}")
    assert in_use.previous() == "compact"


def test_what_is_no_bundle_is_not_in_use(tmp_path: Path, file: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        InUse("compact", file).use(str(tmp_path / "nothing"), "", NOW)
    assert not file.exists()


def test_a_folder_is_remembered_from_the_root_on(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = _bundle(tmp_path / "compact-00000001")
    monkeypatch.chdir(tmp_path)
    InUse("compact", file).use("compact-00000001", "", NOW)
    assert InUse("compact", file).current == mine


def test_fifty_uses_are_kept(tmp_path: Path, file: Path) -> None:
    mine = _bundle(tmp_path / "compact-00000001")
    for number in range(60):
        InUse("compact", file).use(mine, str(number), NOW)
    assert [use.why for use in InUse("compact", file).uses()] == [str(number) for number in range(10, 60)]


def test_writers_do_not_lose_each_others_changes(tmp_path: Path, file: Path) -> None:
    mine = _bundle(tmp_path / "compact-00000001")
    BundleChoice(mine, file).answered()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: InUse("compact", file).use(mine, str(number), NOW), range(40)))
    other = _bundle(tmp_path / "other-00000001")
    BundleChoice(other, file).answered()
    assert sorted(int(use.why) for use in InUse("compact", file).uses()) == list(range(40))
    assert json.loads(file.read_text())["proven"] == [mine, other]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", '{"proven": [], "aside": {}, "uses": 3}', '{"proven": [], "aside": {}, "uses": [{"name": "x"}]}'],
)
def test_a_damaged_file_says_nothing_and_is_replaced(tmp_path: Path, file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    mine, in_use = _bundle(tmp_path / "compact-00000001"), InUse("compact", file)
    assert in_use.current == "compact"
    in_use.use(mine, "", NOW)
    assert in_use.current == mine


def test_a_file_of_before_is_read(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"proven": ["compact"], "aside": {}}')
    assert (InUse("compact", file).current, BundleChoice("compact", file).names) == ("compact", ["compact", "compact"])


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path: Path, file: Path) -> None:
    mine = _bundle(tmp_path / "compact-00000001")
    file.parent.mkdir()
    file.with_suffix(".new").mkdir()
    with pytest.raises(BundleError, match="stays as it was"):
        InUse("compact", file).use(mine, "", NOW)
    assert InUse("compact", file).current == "compact"
