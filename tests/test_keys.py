"""The store is closed to whoever lacks its key, and a key is found, made or missed where the settings say; on real files."""

import logging
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.errors import StoreKeyError, TimelineError
from model.types import Emotion, Prediction
from monitor.store.cipher import StoreKey
from monitor.store.keys import Keys, PlaceName
from monitor.store.reader import TimelineReader
from monitor.store.records import Judgement
from monitor.store.timeline import Timeline
from tests.keyrings import Broken, Locked, Memory, Plain, use
from tests.stores import keys

UTC_ZONE = ZoneInfo("UTC")
NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)
MARKER = "planted-marker-5b1f"


@pytest.fixture
def folder(home: Path) -> Path:
    return home / "state" / "emosllm-monitor"


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "timeline.db"


def fill(path: Path, place: PlaceName = "auto") -> None:
    with closing(Timeline.open(path, UTC_ZONE, Keys(place, keys().folder))) as timeline:
        start, end = NOON, NOON + timedelta(seconds=2)
        first = timeline.add_segment(start_sample=0, end_sample=32_000, start_at=start, end_at=end, sound=MARKER.encode())
        timeline.judge({first: Judgement(Prediction({Emotion.SAD: 1.0}, unsure=False, bundle_version=MARKER), MARKER)})


def bundles(path: Path, place: PlaceName = "auto") -> list[str | None]:
    with closing(TimelineReader.open(path, Keys(place, keys().folder))) as reader:
        found = reader.segments_between(NOON, NOON + timedelta(hours=1))
    return [entry.prediction and entry.prediction.bundle_version for entry in found]


def everything(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# what is on the disk ---------------------------------------------------------------------------------------------


def test_no_byte_of_what_is_stored_can_be_read_without_the_key(path: Path) -> None:
    fill(path)
    with closing(Timeline.open(path, UTC_ZONE, keys())) as timeline:
        end = NOON + timedelta(seconds=1)
        second = timeline.add_segment(start_sample=0, end_sample=9, start_at=NOON, end_at=end, sound=MARKER.encode())
        timeline.give_up([second], MARKER)
        timeline.add_segment(start_sample=10, end_sample=19, start_at=NOON, end_at=end, sound=MARKER.encode())
        files = everything(path.parent)
        assert {file.name for file in files} == {"timeline.db", "timeline.db-wal", "timeline.db-shm", "timeline.key"}
    for content in (*files.values(), *everything(path.parent).values()):
        for planted in (MARKER, "SQLite format 3", "segment", "2026-07-14"):
            assert planted.encode() not in content
    assert bundles(path) == [MARKER, None, None]


def test_key_and_folder_are_for_their_owner_only(path: Path) -> None:
    fill(path)
    assert (path.parent / "timeline.key").stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_key_is_never_shown() -> None:
    key = StoreKey.new()
    assert key.digits not in repr(key) + str(key) + f"{Keys('auto', Path())}"
    with pytest.raises(ValueError, match="64") as raised:
        StoreKey.parse("abc123")
    assert "abc123" not in str(raised.value)


# wrong and missing keys ------------------------------------------------------------------------------------------


def test_a_wrong_key_changes_nothing_and_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    fill(path)
    before = everything(path.parent)
    monkeypatch.setenv("EMOSLLM_STORE_KEY", "ab" * 32)
    for opening in (fill, bundles):
        with pytest.raises(StoreKeyError, match=r"EMOSLLM_STORE_KEY does not open .*timeline\.db.*another key"):
            opening(path)
    assert everything(path.parent) == before
    assert capfd.readouterr().err == ""


def test_a_missing_key_is_missed_where_it_was_looked_for_and_none_is_made(path: Path) -> None:
    fill(path)
    (path.parent / "timeline.key").unlink()
    before = everything(path.parent)
    for opening in (fill, bundles):
        with pytest.raises(StoreKeyError, match=r"key is missing.*timeline\.key and in the system keyring.*key import"):
            opening(path)
    assert everything(path.parent) == before


@pytest.mark.parametrize("text", ["abc", "xy" * 32, "ab" * 33])
def test_what_is_no_key_is_refused_without_showing_it(path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("EMOSLLM_STORE_KEY", text)
    with pytest.raises(StoreKeyError, match=r"EMOSLLM_STORE_KEY is no key: .*64 hex") as raised:
        fill(path)
    assert text not in str(raised.value)
    assert not path.exists()


def test_plain_sqlite_is_refused_and_left_alone(path: Path) -> None:
    import sqlite3

    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE segment(id)")
    before = everything(path.parent)
    for opening in (fill, bundles):
        with pytest.raises(TimelineError, match="not encrypted"):
            opening(path)
    assert everything(path.parent) == before


def test_damage_is_told_from_a_wrong_key(path: Path) -> None:
    fill(path)
    content = bytearray(path.read_bytes())
    content[100:120] = b"\x55" * 20
    path.write_bytes(content)
    for opening in (fill, bundles):
        with pytest.raises(TimelineError, match="it is damaged") as raised:
            opening(path)
        assert not isinstance(raised.value, StoreKeyError)


# places ----------------------------------------------------------------------------------------------------------


def test_the_environment_comes_first_and_leaves_no_key_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOSLLM_STORE_KEY", "AB" * 32)
    fill(path)
    assert bundles(path) == [MARKER]
    assert not (path.parent / "timeline.key").exists()


def test_a_new_key_goes_to_the_keyring_where_there_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    use(monkeypatch, memory)
    fill(path)
    assert [entry[:2] for entry in memory.kept] == [("emosllm-monitor", str(path))]
    assert not (path.parent / "timeline.key").exists()
    assert bundles(path) == bundles(path, "keyring") == [MARKER]
    memory.kept.clear()
    with pytest.raises(StoreKeyError, match="missing"):
        bundles(path)


@pytest.mark.parametrize("backend", [Plain, Locked, Broken])
def test_without_a_keyring_that_counts_the_key_goes_to_a_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, backend: type[Memory], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    use(monkeypatch, backend())
    fill(path)
    assert bundles(path) == bundles(path, "file") == [MARKER]
    assert f"a key was put in {path.parent / 'timeline.key'}" in caplog.text
    assert (path.parent / "timeline.key").read_text().strip() not in caplog.text


@pytest.mark.parametrize(("backend", "why"), [(Locked, "no answer within"), (Broken, "RuntimeError: the bus is gone")])
def test_a_keyring_that_does_not_answer_is_not_a_missing_key(
    path: Path, monkeypatch: pytest.MonkeyPatch, backend: type[Memory], why: str
) -> None:
    use(monkeypatch, Memory())
    fill(path)
    use(monkeypatch, backend())
    with pytest.raises(StoreKeyError, match=f"cannot be asked: .*{why}.*unlock"):
        bundles(path)


@pytest.mark.parametrize(("place", "match"), [("keyring", "no system keyring"), ("environment", "EMOSLLM_STORE_KEY cannot be set")])
def test_a_place_that_was_asked_for_is_not_replaced_by_another(path: Path, place: PlaceName, match: str) -> None:
    with pytest.raises(StoreKeyError, match=match):
        fill(path, place)
    assert not path.exists()


def test_each_database_has_a_key_of_its_own(path: Path, tmp_path: Path) -> None:
    for database in (path, tmp_path / "timeline.db", tmp_path / "other.db"):
        fill(database)
        assert bundles(database) == [MARKER]
    files = {file.name: file.read_text() for file in path.parent.glob("*.key")}
    assert len(files) == len(set(files.values())) == 3
    assert "timeline.key" in files
    assert list(tmp_path.glob("*.key")) == []


def test_a_key_file_that_others_can_read_is_taken_from_them(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(path)
    file = path.parent / "timeline.key"
    file.chmod(0o644)
    assert bundles(path) == [MARKER]
    assert file.stat().st_mode & 0o777 == 0o600
    assert "key rotate" in caplog.text
