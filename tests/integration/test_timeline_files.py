"""The timeline's file: who may use it, what is refused, and that threads, kills and failures leave nothing half done."""

import logging
import os
import queue
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel import SQLModel, create_engine, inspect

from model.emotions import Emotion, Prediction
from model.errors import TimelineError
from monitor.fileio import make_private_file
from monitor.storage.cipher import DRIVER
from monitor.storage.reader import SCHEMA_VERSION, TimelineReader
from monitor.storage.records import Coverage, InferenceResult, SegmentState
from monitor.storage.writer import TimelineWriter
from tests.support.paths import ROOT
from tests.support.storage import keys, of_version, raw

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)
EVENING = NOON + timedelta(hours=10)
SAD = Prediction({Emotion.SAD: 0.7, Emotion.NEUTRAL: 0.3}, unsure=False, bundle_version="compact-1")
WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo
from monitor.storage.records import Coverage
from monitor.storage.writer import TimelineWriter
from tests.support.storage import keys
timeline = TimelineWriter.open(Path(sys.argv[1]), ZoneInfo("UTC"), keys())
for second in range(20_000):
    start, end = (datetime(2026, 7, 14, 12, tzinfo=UTC) + timedelta(seconds=second + more) for more in (0, 1))
    timeline.cover(Coverage.HEARD, start, end)
    print(timeline.add_segment(start_sample=second, end_sample=second + 1, start_at=start, end_at=end, sound=b'12'), flush=True)
"""


def add(timeline: TimelineWriter, second: int) -> int:
    start, end = NOON + timedelta(seconds=second), NOON + timedelta(seconds=second + 1)
    return timeline.add_segment(start_sample=second, end_sample=second + 1, start_at=start, end_at=end, sound=b"12")


def states(path: Path) -> list[SegmentState]:
    with closing(TimelineReader.open(path, keys())) as reader:
        return [entry.state for entry in reader.segments_between(NOON, EVENING)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "timeline.db"


# files and refusals ----------------------------------------------------------------------------------------------


def test_only_the_owner_can_read_any_of_the_files(path: Path) -> None:
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        add(timeline, 0)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(("timeline.db", "timeline.db-wal", "timeline.db-shm"), 0o600)
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["a day?.db", "50% #1.db", "données.db", "a&b=c:d.db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    with closing(TimelineWriter.open(tmp_path / name, PARIS, keys())) as timeline:
        add(timeline, 0)
    assert states(tmp_path / name) == [SegmentState.WAITING]
    assert {file.name.removeprefix(name) for file in tmp_path.iterdir()} <= {"", "-wal", "-shm"}


def open_writing(path: Path) -> None:
    TimelineWriter.open(path, PARIS, keys(), busy_timeout_s=0.1).close()


def open_reading(path: Path) -> None:
    TimelineReader.open(path, keys()).close()


both_ways = pytest.mark.parametrize("opening", [open_writing, open_reading])


@both_ways
def test_a_folder_is_refused(tmp_path: Path, opening: Callable[[Path], None]) -> None:
    with pytest.raises(TimelineError, match=r"folder|directory"):
        opening(tmp_path)


@both_ways
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, opening: Callable[[Path], None]) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear diary, this is long enough to be taken for the head of a file. " * 30)
    before = path.read_bytes()
    with pytest.raises(TimelineError, match=r"letter\.txt: it is no timeline database"):
        opening(path)
    assert path.read_bytes() == before


@both_ways
def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, opening: Callable[[Path], None]) -> None:
    path = tmp_path / "other.db"
    with closing(raw(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version(version_num TEXT)")
        connection.execute("CREATE TABLE photos(name)")
    before = path.read_bytes()
    with pytest.raises(TimelineError, match="another program"):
        opening(path)
    assert path.read_bytes() == before


@both_ways
def test_a_newer_database_is_refused(path: Path, opening: Callable[[Path], None]) -> None:
    set_version(path, "0999")
    with pytest.raises(TimelineError, match=f"newer program.*0999.*{SCHEMA_VERSION}.*update"):
        opening(path)


def test_an_older_database_is_not_read_but_the_way_out_is_named(path: Path) -> None:
    set_version(path, "0000")
    with pytest.raises(TimelineError, match=r"older version.*emosllm-monitor start"):
        open_reading(path)


@pytest.mark.parametrize("version", ["0001", "0002", "0003", "0004"])
def test_tables_of_every_version_before_are_brought_up_to_date(path: Path, version: str) -> None:
    make_private_file(path)
    of_version(path, version)
    with pytest.raises(TimelineError, match=r"older version"):
        open_reading(path)
    open_writing(path)
    open_reading(path)


def set_version(path: Path, version: str) -> None:
    open_writing(path)
    with closing(raw(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))


@both_ways
def test_missing_permission_is_refused(path: Path, opening: Callable[[Path], None]) -> None:
    open_writing(path)
    path.chmod(0)
    with without_root(), pytest.raises(TimelineError, match="permission"):
        opening(path)


@contextmanager
def without_root() -> Iterator[None]:
    """Root may read anything; tests often run as root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_damaged_database_is_an_error_not_an_empty_day(path: Path) -> None:
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        for second in range(300):
            add(timeline, second)
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = b"\x55" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    with pytest.raises(TimelineError, match=r"timeline\.db: it is damaged; .*emosllm-monitor restore"):
        states(path)


def test_a_locked_database_is_waited_for_then_named(path: Path) -> None:
    with closing(TimelineWriter.open(path, PARIS, keys(), busy_timeout_s=0.1)) as timeline, closing(raw(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimelineError, match="another program holds it"):
            add(timeline, 0)
        other.rollback()
        add(timeline, 0)
    assert len(states(path)) == 1


def test_when_writing_fails_what_is_there_stays_and_writing_goes_on_later(path: Path) -> None:
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        add(timeline, 0)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        try:
            with pytest.raises(TimelineError, match=r"check the disk|free some space"):
                add(timeline, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(states(path)) == 1
        add(timeline, 1)
    assert len(states(path)) == 2


# migrations ------------------------------------------------------------------------------------------------------


def test_models_and_migrations_agree(path: Path) -> None:
    open_writing(path)
    migrated = create_engine("sqlite://", module=DRIVER, creator=lambda: raw(path))
    modelled = create_engine("sqlite://")
    SQLModel.metadata.create_all(modelled)
    with migrated.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    for table in SQLModel.metadata.tables:
        checks, columns = [], []
        for engine in (migrated, modelled):
            checks.append({check["name"]: check["sqltext"] for check in inspect(engine).get_check_constraints(table)})
            columns.append({c["name"]: (str(c["type"]), c["nullable"]) for c in inspect(engine).get_columns(table)})
        assert checks[0] == checks[1]
        assert checks[0] or table in ("prompt", "voice_reference")
        assert columns[0] == columns[1]
    migrated.dispose()
    modelled.dispose()


def test_the_reader_knows_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "monitor.storage:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_VERSION]


def test_a_failing_migration_leaves_nothing_behind(path: Path) -> None:
    path.parent.mkdir()
    with closing(raw(path)) as connection, connection:
        connection.execute("CREATE VIEW coverage AS SELECT 1")  # makes the second CREATE TABLE fail
    with pytest.raises(TimelineError, match="coverage already exists"):
        open_writing(path)
    with closing(raw(path)) as connection, connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("coverage",)]
        connection.execute("DROP VIEW coverage")
    open_writing(path)
    assert states(path) == []


def test_an_up_to_date_database_opens_without_alembic(path: Path) -> None:
    open_writing(path)
    script = (
        "import sys; from pathlib import Path; from zoneinfo import ZoneInfo; from monitor.config import TimelineConfig; "
        "from monitor.storage.writer import TimelineWriter; "
        "TimelineWriter.open(Path(sys.argv[1]), ZoneInfo('UTC'), TimelineConfig().keys()).close(); print('alembic' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", script, str(path)], cwd=ROOT, text=True) == "False\n"


# threads and processes -------------------------------------------------------------------------------------------


def test_one_thread_stores_while_another_judges(path: Path) -> None:
    waiting: queue.Queue[int | None] = queue.Queue()
    failures: list[BaseException] = []

    def guarded(work: Callable[[Path], None]) -> threading.Thread:
        def run() -> None:
            try:
                work(path)
            except BaseException as error:
                failures.append(error)
            finally:
                waiting.put(None)

        return threading.Thread(target=run)

    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:

        def capture(_: Path) -> None:
            for second in range(100):
                waiting.put(add(timeline, second))
                timeline.cover(Coverage.HEARD, NOON + timedelta(seconds=second), NOON + timedelta(seconds=second + 1))

        def judge(_: Path) -> None:
            while (segment_id := waiting.get(timeout=10)) is not None:
                timeline.judge({segment_id: InferenceResult(SAD)})

        threads = [guarded(capture), guarded(judge)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert failures == []
    assert states(path) == [SegmentState.JUDGED] * 100


@contextmanager
def writer(path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_report_reads_while_the_daemon_writes(path: Path) -> None:
    with writer(path) as process:
        assert process.stdout is not None
        for _ in range(10):
            written = [int(process.stdout.readline()) for _ in range(5)][-1]
            with closing(TimelineReader.open(path, keys())) as reader:
                entries = reader.segments_between(NOON, EVENING)
                [heard] = reader.coverage_between(NOON, EVENING)
            assert [entry.id for entry in entries] == list(range(1, len(entries) + 1))
            assert written <= len(entries)
            assert heard.end_at >= entries[-1].end_at


@pytest.mark.parametrize("lines", [1, 60])
def test_a_killed_daemon_loses_nothing_it_stored(path: Path, lines: int) -> None:
    with writer(path) as process:
        assert process.stdout is not None
        stored = [int(process.stdout.readline()) for _ in range(lines)]
        process.kill()
        process.wait(10)
    found = states(path)
    assert len(found) >= stored[-1]
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        left = [segment_id for segment_id, _, _ in timeline.recover()]
        assert left == list(range(1, len(found) + 1))
        assert {timeline.sound(segment_id) for segment_id in left} == {b"12"}
    with closing(raw(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_change_that_was_killed_half_way_is_taken_back_by_who_only_reads(path: Path) -> None:
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        add(timeline, 0)
    half_way = (
        "import os, signal, sys; from pathlib import Path; from tests.support.storage import raw; connection = raw(Path(sys.argv[1])); "
        "connection.execute('PRAGMA journal_mode = DELETE'); connection.execute('PRAGMA cache_size = 1'); "
        "connection.execute('DELETE FROM segment'); connection.execute('CREATE TABLE filler(text)'); "
        "connection.executemany('INSERT INTO filler VALUES (?)', [('x' * 5000,)] * 50); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", half_way, str(path)], cwd=ROOT, check=False).returncode == -9
    assert path.with_name("timeline.db-journal").exists()
    assert states(path) == [SegmentState.WAITING]


def test_logs_hold_no_labels(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with closing(TimelineWriter.open(path, PARIS, keys())) as timeline:
        timeline.judge({add(timeline, 0): InferenceResult(SAD)})
        add(timeline, 1)
        with closing(TimelineWriter.open(path, PARIS, keys())) as restarted:
            assert len(restarted.recover()) == 1
            restarted.give_up([2], "a reason to search for")
    assert "still to be judged" in caplog.text
    for secret in ("sad", "'S'", '"S"', "0.7", "a reason to search for"):
        assert secret not in caplog.text
