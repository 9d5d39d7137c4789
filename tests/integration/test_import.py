"""Imports: everything comes back exactly, once, or not at all; wrong files are refused whole."""

import json
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.errors import ExchangeError
from monitor.analysis.days import ALL_TIME, TimeRange
from monitor.fileio import DatabaseLock
from monitor.storage.reader import TimelineReader
from monitor.storage.writer import TimelineWriter
from monitor.transfer.import_ import import_data
from monitor.transfer.schema import TABLES, ExportFormat
from tests.support.commands import run
from tests.support.exports import FORMS, at, exported, write
from tests.support.storage import NOON, begin, content, histories, keys, raw, small_timeline, store, text_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store(tmp_path / "timeline.db", small_timeline())
    return tmp_path / "timeline.db"


@pytest.fixture
def line(path: Path, tmp_path: Path) -> dict[str, Any]:
    """The one segment as it is exported, to be changed."""
    out = tmp_path / "lines.jsonl"
    exported(path, ExportFormat.JSONL, out)
    return json.loads(out.read_text().splitlines()[1])


# there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_any_history_comes_back_exactly_and_twice_changes_nothing(
    history: dict[str, list[dict[str, Any]]], form: ExportFormat, home: Path
) -> None:
    folder = home
    store(folder / "old.db", history)
    begin(folder / "new.db")
    files = exported(folder / "old.db", form, folder / "out")
    taken = import_data(at(folder / "new.db"), str(folder / "out"))
    assert content(folder / "new.db") == content(folder / "old.db")
    assert {name: one.new for name, one in taken.items()} == {table.name: len(history[table.one]) for table in TABLES}
    assert exported(folder / "new.db", form, folder / "again") == files
    again = import_data(at(folder / "new.db"), str(folder / "out"))
    assert not any(one.new or one.different for one in again.values())
    assert content(folder / "new.db") == content(folder / "old.db")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), cut=st.integers(0, 400_000))
def test_two_halves_make_a_whole(history: dict[str, list[dict[str, Any]]], cut: int, home: Path) -> None:
    folder = home
    store(folder / "old.db", history)
    begin(folder / "new.db")
    moment = NOON + timedelta(seconds=cut)
    exported(folder / "old.db", ExportFormat.JSONL, folder / "a", TimeRange(ALL_TIME.start, moment))
    exported(folder / "old.db", ExportFormat.JSONL, folder / "b", TimeRange(moment, ALL_TIME.end))
    for half in ("b", "a"):
        import_data(at(folder / "new.db"), str(folder / half))
    old, new = content(folder / "old.db"), content(folder / "new.db")
    assert {table: new[table] for table in new if table != "coverage"} == {table: old[table] for table in old if table != "coverage"}
    with closing(raw(folder / "new.db")) as connection:
        assert not connection.execute("SELECT 1 FROM coverage WHERE start_at < :cut AND end_at > :cut", {"cut": text_of(moment)}).fetchall()


# ranges ----------------------------------------------------------------------------------------------------------


def test_a_range_tells_whole_segments_cut_coverage_and_the_answer_to_its_question(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(path, ExportFormat.JSONL, out, TimeRange(NOON + timedelta(seconds=1), NOON + timedelta(hours=1, seconds=1)))
    header, *lines, end = [json.loads(line) for line in out.read_text().splitlines()]
    assert header["from"] == "2026-07-14T12:00:01.123457Z"
    assert [one["type"] for one in lines] == ["segment", "correction", "coverage", "checkin", "prompt"]
    assert lines[0]["start_at"] == "2026-07-14T12:00:00.123457Z"
    assert lines[2]["start_at"] == "2026-07-14T12:00:01.123457Z"
    assert end["rows"]["prompts"] == 1
    import_data(at(tmp_path / "new.db"), str(out))
    assert (
        exported(
            tmp_path / "new.db",
            ExportFormat.JSONL,
            tmp_path / "b",
            TimeRange(NOON + timedelta(seconds=1), NOON + timedelta(hours=1, seconds=1)),
        )[""]
        == out.read_bytes()
    )


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_range_and_no_timeline_are_empty_exports_that_can_be_imported(path: Path, tmp_path: Path, form: ExportFormat) -> None:
    past = TimeRange(NOON - timedelta(days=9), NOON - timedelta(days=8))
    assert not any(write(path, form, tmp_path / "a", past, force=False).values())
    assert not any(write(tmp_path / "nothing.db", form, tmp_path / "b", ALL_TIME, force=False).values())
    before = content(path)
    import_data(at(path), str(tmp_path / "a"))
    assert content(path) == before


# meeting what is there -------------------------------------------------------------------------------------------


def test_what_is_there_stays_and_what_differs_is_counted(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(path, ExportFormat.JSONL, out)
    with closing(raw(path)) as connection:
        connection.execute("UPDATE segment SET transcript = NULL")
        connection.commit()
    taken = import_data(at(path), str(out))
    assert (taken["segments"].known, taken["segments"].different) == (1, 1)
    assert content(path)["segment"][0][14] is None


def test_two_histories_of_corrections_meet_in_the_order_of_time(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(path, ExportFormat.JSONL, out)  # has the correction to H, an hour later
    with closing(raw(path)) as connection:
        connection.execute("DELETE FROM correction")
        for emotion, minutes in (("A", 30), ("N", 90)):
            moment = text_of(NOON + timedelta(minutes=minutes))
            connection.execute("INSERT INTO correction (segment_id, emotion, confirmed, at) VALUES (1, ?, 0, ?)", (emotion, moment))
        connection.commit()
    assert import_data(at(path), str(out))["corrections"].new == 1
    assert [row[2] for row in content(path)["correction"]] == ["A", "H", "N"]
    with TimelineReader.open(path, keys()) as reader:
        [entry] = reader.segments_between(NOON, NOON + timedelta(hours=1))
    assert entry.correction is not None
    assert entry.correction.emotion == "N"
    assert import_data(at(path), str(out))["corrections"].new == 0


def test_a_correction_that_was_taken_back_elsewhere_is_taken_back_here(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = exported(path, ExportFormat.JSONL, out)[""].decode()
    out.write_text(text.replace('"undone_at": null', '"undone_at": "2026-07-14T16:00:00+02:00"'))
    import_data(at(path), str(out))
    assert content(path)["correction"][0][5] == "2026-07-14 14:00:00.000000"


def test_a_segment_that_waits_comes_in_waiting_and_is_given_up_at_the_next_start(tmp_path: Path) -> None:
    history = small_timeline()
    row = history["segment"][0]
    row |= {"state": "waiting"} | dict.fromkeys(("emotion", "confidence", "unsure", "posterior", "bundle_version", "judged_at"))
    store(tmp_path / "old.db", history)
    exported(tmp_path / "old.db", ExportFormat.JSONL, tmp_path / "out")
    import_data(at(tmp_path / "new.db"), str(tmp_path / "out"))
    assert content(tmp_path / "new.db")["segment"][0][6] == "waiting"
    with closing(TimelineWriter.open(tmp_path / "new.db", ZoneInfo("UTC"), keys())) as timeline:
        assert timeline.recover() == []
    assert content(tmp_path / "new.db")["segment"][0][6] == "unjudged"


def test_summaries_of_days_that_get_something_are_made_anew(path: Path, tmp_path: Path) -> None:
    exported(path, ExportFormat.JSONL, tmp_path / "out")
    begin(tmp_path / "new.db")
    with closing(raw(tmp_path / "new.db")) as connection:
        day = ("2026-07-14", "UTC", "2026-07-14 00:00:00.000000", "2026-07-15 00:00:00.000000", 1, "{}")
        connection.execute("INSERT INTO day_summary VALUES (?, ?, ?, ?, ?, ?)", day)
        connection.commit()
    import_data(at(tmp_path / "new.db"), str(tmp_path / "out"))
    with closing(raw(tmp_path / "new.db")) as connection:
        assert connection.execute("SELECT count(*) FROM day_summary").fetchall() == [(0,)]


def test_both_work_while_a_monitor_runs(path: Path, tmp_path: Path) -> None:
    with DatabaseLock(path, "mic"), closing(TimelineWriter.open(path, at(path).zone_info(), keys())) as timeline:
        exported(path, ExportFormat.JSONL, tmp_path / "out")
        end = NOON + timedelta(days=1)
        timeline.add_segment(start_sample=0, end_sample=1, start_at=end, end_at=end + timedelta(seconds=1), sound=b"12")
        assert import_data(at(path), str(tmp_path / "out"))["segments"].known == 1
        timeline.add_segment(start_sample=1, end_sample=2, start_at=end, end_at=end + timedelta(seconds=1), sound=b"12")
    assert len(content(path)["segment"]) == 3


# what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotion": "X"}, "emotion 'X' and confidence"),
        ({"posterior": {"S": 0.5, "X": 0.5}}, "posterior is .* which is not a valid posterior"),
        ({"posterior": {"S": 0.5, "H": 0.2}}, "must sum to 1"),
        ({"posterior": {"S": 1.5, "H": -0.5}}, "which is not a valid posterior"),
        ({"confidence": 0.7}, "do not match the posterior"),
        ({"start_at": "2026-07-14T12:00:00"}, "has no UTC offset"),
        ({"start_at": 5}, "start_at is 5, which is not a valid moment"),
        ({"end_at": "2026-07-14T11:00:00Z"}, "must end after it starts"),
        ({"end_at": "2026-07-14T13:00:00Z"}, "lasts at most 60 s"),
        ({"end_sample": 7}, "from sample 7 to 7"),
        ({"start_sample": True}, "start_sample is True"),
        ({"start_sample": 1e3}, "start_sample is 1000.0, which is not a valid integer"),
        ({"zone": "Mars/Olympus"}, "not an IANA time zone"),
        ({"zone": "../../etc/passwd"}, "not an IANA time zone"),
        ({"state": "guessed"}, "state is 'guessed'"),
        ({"state": "waiting"}, "must all be set"),
        ({"state": "unjudged"}, "must all be set"),
        ({"reason": "because"}, "a reason must be set"),
        ({"loudness_db": "loud"}, "loudness_db is 'loud'"),
        ({"stream": None}, "stream is missing"),
        ({"transcript": "\ud800"}, "transcript is"),
        ({"mood": "fine"}, "a segment has no mood"),
        ({"type": "mood"}, "the type is 'mood'"),
        ({"type": ["segment"]}, "the type is"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_nothing_comes_in(
    line: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    first, _, *rest = (tmp_path / "lines.jsonl").read_text().splitlines()
    second = json.dumps(line | {"stream": "another"})
    bad = json.dumps(line | {"start_sample": 7} | change)
    (tmp_path / "bad.jsonl").write_text("\n".join([first, second, bad, *rest]))
    begin(tmp_path / "new.db")
    with pytest.raises(ExchangeError, match=f"bad.jsonl, line 3: .*{message}.*; nothing was imported"):
        import_data(at(tmp_path / "new.db"), str(tmp_path / "bad.jsonl"))
    assert not any(content(tmp_path / "new.db").values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 2', "line 1: format version 2"),
        ("emosllm-monitor export", "shopping list", "line 1: not an emosllm-monitor export"),
        ('"segments": 1', '"segments": 2', "line 7: expected"),
        ('"valence": -0.25', '"valence": -1.5', "line 5: valence is -1.5"),
        ('"valence": -0.25', '"valence": NaN', "line 5: NaN is not a number"),
        ('"valence": -0.25', '"valence": 1e999', "line 5: valence is inf"),
        ('"type": "coverage", "stream": "one", "kind": "heard"', '"type": "coverage", "stream": "one", "kind": "bored"', "line 4"),
        ('"answered_at": "2026', '"answered_at": "2027', "line 6: there is no check-in at 2027"),
        ('"stream": "one", "start_sample": 0, "emotion"', '"stream": "two", "start_sample": 0, "emotion"', "line 3: there is no segment"),
        ('"undone_at": null', '"undone": null', "line 3: a correction has no undone"),
        ('"note": "@tired"}', "", "line 5: invalid JSON"),
    ],
)
def test_a_wrong_file_is_refused_whole(path: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    out = tmp_path / "out.jsonl"
    text = exported(path, ExportFormat.JSONL, out)[""].decode()
    assert old in text
    out.write_text(text.replace(old, new, 1))
    with pytest.raises(ExchangeError, match=message):
        import_data(at(tmp_path / "new.db"), str(out))
    if (tmp_path / "new.db").exists():
        assert not any(content(tmp_path / "new.db").values())


def test_a_file_that_was_cut_off_anywhere_is_refused(path: Path, tmp_path: Path) -> None:
    whole = exported(path, ExportFormat.JSONL, tmp_path / "out")[""]
    begin(tmp_path / "new.db")
    for length in range(0, len(whole) - 2, 97):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ExchangeError, match="nothing was imported"):
            import_data(at(tmp_path / "new.db"), str(tmp_path / "cut"))
    assert not any(content(tmp_path / "new.db").values())


@pytest.mark.parametrize("form", [ExportFormat.CSV, ExportFormat.PARQUET])
def test_a_folder_that_lacks_something_is_refused(path: Path, tmp_path: Path, form: ExportFormat) -> None:
    out = tmp_path / "out"
    for name in (f"checkins.{form}", "about.json"):
        exported(path, form, out)
        (out / name).unlink()
        with pytest.raises(ExchangeError, match=name):
            import_data(at(tmp_path / "new.db"), str(out))
    exported(path, form, out)
    (out / f"checkins.{form}").write_bytes(b"\x00\xff nonsense")
    with pytest.raises(ExchangeError, match=rf"checkins\.{form}"):
        import_data(at(tmp_path / "new.db"), str(out))
    assert not any(content(tmp_path / "new.db").values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.5,0.5", "0.5,0.4", "segments.csv, line 2: emotion|must sum|segments.csv, line 2"),
        ("start_sample", "begins", r"segments\.csv, line 1: expected columns"),
        ("false", "perhaps", r"segments\.csv, line 2: unsure: 'perhaps' is neither true nor false"),
        (",32000,", ",many,", r"segments\.csv, line 2: end_sample: "),
        ("\n", "\na,b\n", r"segments\.csv, line 2: 2 cells"),
    ],
)
def test_a_wrong_cell_is_named_with_its_file_and_line(path: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    exported(path, ExportFormat.CSV, tmp_path / "out")
    file = tmp_path / "out" / "segments.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ExchangeError, match=message):
        import_data(at(tmp_path / "new.db"), str(tmp_path / "out"))


def test_what_is_no_export_at_all_makes_no_timeline(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear diary\n")
    (tmp_path / "bundle.json").write_text('{"resourceType": "Bundle"}')
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "folder").mkdir()
    for name in ("letter.txt", "bundle.json", "photo.jpg", "folder", "missing"):
        with pytest.raises(ExchangeError, match=name):
            import_data(at(tmp_path / "new.db"), str(tmp_path / name))
    assert not (tmp_path / "new.db").exists()


# files -----------------------------------------------------------------------------------------------------------


# size ------------------------------------------------------------------------------------------------------------


# commands --------------------------------------------------------------------------------------------------------


def test_the_commands_take_away_and_bring_back(home: Path, tmp_path: Path) -> None:
    folder = home / "state" / "emosllm-monitor"
    folder.mkdir(parents=True)
    store(folder / "timeline.db", small_timeline())
    out = str(tmp_path / "out.jsonl")
    done = run("export", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "1 segment, 1 correction, 1 coverage, 1 checkin, 1 prompt" in done.stderr
    assert "not encrypted" in done.stderr
    assert "--force" in run("export", "--out", out).stderr
    assert run("export", "--out", "-").stdout == Path(out).read_text()
    assert "use --format jsonl" in run("export", "--out", "-", "--format", "csv").stderr
    assert "exclude each other" in run("export", "--out", "-", "--day", "today", "--from", "10:00").stderr
    assert "nothing" in run("export", "--out", "-", "--day", "2020-01-01").stderr
    (folder / "timeline.db").unlink()
    done = run("import", "-", stdin=Path(out).read_bytes())
    assert "imported 1 segment, 1 correction" in done.stdout, done.stderr
    assert "5 rows already existed" in run("import", out).stdout
    assert content(folder / "timeline.db")["checkin"][0][4] == "@tired"
