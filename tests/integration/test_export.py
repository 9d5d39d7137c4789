"""Exported timelines: every format, private files, and memory that does not grow."""

import csv
import json
import tracemalloc
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ExchangeError, TimelineError
from monitor.analysis.days import ALL_TIME, TimeRange
from monitor.storage.transfer import _QUERIES, TimelineExport
from monitor.transfer.import_ import import_data
from monitor.transfer.schema import TABLES, ExportFormat, from_cell, to_cell
from tests.support.exports import FORMS, at, exported, write
from tests.support.storage import NOON, begin, content, keys, raw, small_timeline, store, text_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store(tmp_path / "timeline.db", small_timeline())
    return tmp_path / "timeline.db"


@given(text=st.text(st.characters(exclude_categories=("Cs",))) | st.text("=+-@'\t\r\n＝ a"))
def test_no_cell_is_a_formula_and_every_text_comes_back(text: str) -> None:
    column = next(column for column in TABLES[0].columns if column.name == "transcript")
    cell = to_cell(column, text)
    assert cell[0] not in "=+-@\t\r\n＝＋－＠"
    assert from_cell(column, cell) == text


def test_formulas_are_defused_in_the_files_themselves(path: Path, tmp_path: Path) -> None:
    exported(path, ExportFormat.CSV, tmp_path / "out")
    with (tmp_path / "out" / "segments.csv").open(encoding="utf-8-sig", newline="") as file:
        [segment] = csv.DictReader(file)
    assert segment["transcript"] == "'=hello"
    assert (segment["p_sad"], segment["p_angry"], segment["unsure"]) == ("0.5", "", "false")
    assert segment["start_at"] == "2026-07-14T12:00:00.123457Z"


def test_parquet_has_the_types_that_other_programs_expect(path: Path, tmp_path: Path) -> None:
    exported(path, ExportFormat.PARQUET, tmp_path / "out")
    [segment] = pq.read_table(tmp_path / "out" / "segments.parquet").to_pylist()
    assert segment["start_at"] == NOON
    assert (segment["p_sad"], segment["p_angry"], segment["unsure"]) == (0.5, None, False)


def test_the_store_and_the_files_have_the_same_columns(path: Path) -> None:
    assert list(_QUERIES) == [table.name for table in TABLES]
    with TimelineExport.open(path, keys()) as outflow:
        for table in TABLES:
            assert [list(row) for row in outflow.rows(table.name, ALL_TIME.start, ALL_TIME.end)] == [
                [column.name for column in table.columns]
            ]


def test_days_go_to_fhir_and_do_not_come_back(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle.json"
    assert write(path, ExportFormat.FHIR, out, TimeRange(NOON, NOON + timedelta(days=1))) == {"days": 2, "checkins": 1}
    bundle = json.loads(out.read_text())
    assert bundle["resourceType"] == "Bundle"
    assert "=hello" not in out.read_text()
    assert "@tired" not in out.read_text()
    assert write(path, ExportFormat.FHIR, tmp_path / "all.json")["days"] == 31
    with pytest.raises(ExchangeError, match="fhir holds too little"):
        import_data(at(path), str(out))


@pytest.mark.parametrize("form", FORMS)
def test_files_are_private_whole_and_not_replaced_unasked(path: Path, tmp_path: Path, form: ExportFormat) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    out = folder / "mine"
    write(path, form, out, ALL_TIME, force=False)
    made = [out, *(out.iterdir() if out.is_dir() else ())]
    assert all(file.stat().st_mode & 0o077 == 0 for file in made)
    with pytest.raises(ExchangeError, match="--force"):
        write(path, form, out, ALL_TIME, force=False)
    write(path, form, out, ALL_TIME, force=True)
    assert [file.name for file in folder.iterdir()] == ["mine"]


def test_an_export_that_fails_leaves_what_was_there(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    exported(path, ExportFormat.JSONL, tmp_path / "old")
    folder.mkdir()
    (tmp_path / "old").rename(folder / "mine")
    before = (folder / "mine").read_bytes()
    with closing(raw(path)) as connection:
        connection.execute("UPDATE segment SET posterior = '{\"S\": '")
        connection.commit()
    with pytest.raises(TimelineError, match="a row that makes no sense"):
        write(path, ExportFormat.JSONL, folder / "mine", ALL_TIME, force=True)
    assert (folder / "mine").read_bytes() == before
    assert [file.name for file in folder.iterdir()] == ["mine"]
    with pytest.raises(ExchangeError, match="cannot write the export to"):
        write(path, ExportFormat.CSV, tmp_path / "no" / "such" / "folder", ALL_TIME, force=False)


def many(path: Path, count: int) -> None:
    """So many segments in a row."""
    begin(path)
    with closing(raw(path)) as connection:
        row = small_timeline()["segment"][0] | {"loudness_db": -20.0, "pitch_hz": 150.0}
        names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
        rows = (
            row
            | {
                "start_sample": number,
                "end_sample": number + 1,
                "start_at": text_of(NOON + timedelta(seconds=3 * number)),
                "end_at": text_of(NOON + timedelta(seconds=3 * number + 2)),
            }
            for number in range(count)
        )
        connection.executemany(f"INSERT INTO segment ({names}) VALUES ({values})", rows)
        connection.commit()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_memory_does_not_grow_with_the_timeline(tmp_path: Path, form: ExportFormat) -> None:
    many(tmp_path / "timeline.db", 30_000)
    peaks = []
    for seconds in (3 * 15_000, 3 * 30_000):
        tracemalloc.start()
        write(tmp_path / "timeline.db", form, tmp_path / "out", TimeRange(NOON, NOON + timedelta(seconds=seconds)), force=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert form is ExportFormat.PARQUET or peaks[1] < 2**21
    tracemalloc.start()
    import_data(at(tmp_path / "new.db"), str(tmp_path / "out"))
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert len(content(tmp_path / "new.db")["segment"]) == 30_000
