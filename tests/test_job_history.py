"""The history of what the monitor did: written across kills, read back, and neither exported nor forgotten with a stretch of days."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.errors import TimelineError
from monitor.config import Config
from monitor.day.stretches import Stretch
from monitor.forgetting import forget, forget_all
from monitor.jobs.places import plans_path, switches_path
from monitor.jobs.switches import Switches
from monitor.store.backup import Backups
from monitor.store.history import INTERRUPTED, History
from monitor.store.lock import make_private
from monitor.store.reader import TimelineReader
from monitor.store.records import JobRun
from monitor.store.timeline import Timeline
from tests.commands import run as command
from tests.stores import keys, of_version, raw

ROOT = Path(__file__).parents[1]
NIGHT = datetime(2026, 7, 14, 1, tzinfo=UTC)
DAY = date(2026, 7, 14)
DOER = """
import sys, time
from datetime import UTC, date, datetime
from pathlib import Path
from monitor.store.history import History
from tests.stores import keys
history = History.open(Path(sys.argv[1]), keys())
print(history.begin("retrain", date(2026, 7, 14), datetime(2026, 7, 14, 1, tzinfo=UTC)), flush=True)
time.sleep(600)
"""


@pytest.fixture
def database(home: Path) -> Path:
    path = Config().timeline.database_path()
    Timeline.open(path, ZoneInfo("Europe/Paris"), keys()).close()
    return path


@pytest.fixture
def history(database: Path) -> Iterator[History]:
    with History.open(database, keys()) as opened:
        yield opened


def runs(database: Path, job: str | None = None, limit: int = 100) -> list[JobRun]:
    with closing(TimelineReader.open(database, keys())) as reader:
        return reader.job_runs(limit, job)


def begun(history: History, job: str = "backup", on: date = DAY, at: datetime = NIGHT) -> int:
    number = history.begin(job, on, at)
    assert number is not None
    return number


def test_what_is_written_is_read_newest_first_and_by_job(history: History, database: Path) -> None:
    first = begun(history)
    history.end(first, NIGHT + timedelta(seconds=90), "done", "a backup was made", {"bytes": 3})
    second = begun(history, "retrain")
    expected = JobRun(first, "backup", DAY, NIGHT, NIGHT + timedelta(seconds=90), "done", "a backup was made", {"bytes": 3})
    assert [run.id for run in runs(database)] == [second, first]
    assert runs(database, "backup") == [expected]
    assert expected.seconds == 90
    assert [run.id for run in runs(database, limit=1)] == [second]
    assert (runs(database, "retrain")[0].outcome, runs(database, "retrain")[0].seconds) == (None, None)
    with closing(TimelineReader.open(database, keys())) as reader:
        assert [run.id for run in reader.job_runs_between(NIGHT, NIGHT + timedelta(seconds=1))] == [first, second]
        assert reader.job_runs_between(NIGHT + timedelta(seconds=1), NIGHT + timedelta(days=9)) == []


def test_a_job_whose_conditions_do_not_hold_was_not_begun(history: History, database: Path) -> None:
    history.take_back(begun(history))
    history.take_back(999)
    assert runs(database) == []


def test_what_is_not_utc_is_refused(history: History) -> None:
    paris = NIGHT.astimezone(ZoneInfo("Europe/Paris"))
    with pytest.raises(ValueError, match="UTC"):
        history.begin("backup", DAY, paris)
    with pytest.raises(ValueError, match="UTC"):
        history.end(1, paris, "done", "", {})


def test_a_job_that_another_process_does_is_not_begun_until_that_is_killed(history: History, database: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DOER, str(database)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        there = int(other.stdout.readline())
        assert history.begin("retrain", DAY, NIGHT) is None
        assert history.end_interrupted() == 0
        assert begun(history, "backup")
        other.send_signal(signal.SIGSTOP)
        assert history.begin("retrain", DAY, NIGHT) is None, "it is stopped, not dead"
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        here = begun(history, "retrain", at=NIGHT + timedelta(hours=1))
    found = {run.id: run for run in runs(database, "retrain")}
    dead = found[there]
    assert (dead.outcome, dead.reason, dead.seconds, dead.ended_at) == ("failed", INTERRUPTED, None, NIGHT)
    assert found[here].outcome is None


def test_what_this_process_left_open_is_open_for_as_long_as_it_lives(history: History, database: Path) -> None:
    begun(history)
    made_by_another_process(database)
    assert history.end_interrupted() == 1, "the number is given to another process now"
    begun(history)
    assert history.end_interrupted() == 0


def test_without_a_timeline_there_is_no_history_and_none_is_begun(home: Path) -> None:
    path = Config().timeline.database_path()
    with pytest.raises(TimelineError, match="no timeline"):
        History.open(path, keys())
    assert not path.exists()
    assert runs(path) == []


def test_a_timeline_of_the_tables_before_gets_the_history_and_keeps_what_it_has(home: Path) -> None:
    database = Config().timeline.database_path()
    make_private(database)
    of_version(database, "0003")
    with closing(raw(database)) as connection, connection:
        connection.execute("INSERT INTO checkin VALUES (1, '2026-07-14 01:00:00.000000', 'UTC', 0.5, 'H', NULL)")
    with pytest.raises(TimelineError, match="older version"):
        History.open(database, keys())
    Timeline.open(database, ZoneInfo("UTC"), keys()).close()
    with History.open(database, keys()) as history:
        begun(history)
    with closing(TimelineReader.open(database, keys())) as reader:
        last = reader.last_checkin()
        assert last is not None
        assert last.emotion == "H"


def test_the_table_itself_refuses_a_run_that_ended_with_nothing(database: Path) -> None:
    from monitor.store.cipher import DRIVER

    row = "INSERT INTO job_run (job, day, started_at, reason, outcome) VALUES ('a', '2026-07-14', '2026-07-14 01:00:00.000000', '', 'done')"
    with closing(raw(database)) as connection, pytest.raises(DRIVER.IntegrityError):
        connection.execute(row)


# the person's data and the monitor's ------------------------------------------------------------------------------


def test_a_forgotten_stretch_leaves_the_history_which_holds_counts_only(history: History, database: Path) -> None:
    history.end(begun(history), NIGHT, "done", "fine", {"bytes": 3})
    before = runs(database)
    Backups.of(Config().timeline).make(NIGHT)
    receipt = forget(Config(), Stretch(NIGHT - timedelta(days=1), NIGHT + timedelta(days=1)))
    assert runs(database) == before
    assert not receipt.found


def test_forgetting_everything_takes_the_files_of_the_jobs_along(history: History, database: Path) -> None:
    begun(history)
    Switches(database).switch("retrain", False)
    plans_path(database).write_bytes(b"plans")
    history.close()
    receipt = forget_all(Config())
    assert {plans_path(database).name, switches_path(database).name} <= set(receipt.removed)
    assert [path.name for path in database.parent.glob("timeline.db*")] == ["timeline.db.lock"]


def test_the_history_is_not_exported(history: History, tmp_path: Path) -> None:
    history.end(begun(history), NIGHT, "done", "a-reason-of-the-monitor", {})
    assert command("export", "--out", str(tmp_path / "all.jsonl")).returncode == 0
    assert "a-reason-of-the-monitor" not in (tmp_path / "all.jsonl").read_text()


def test_a_restored_backup_brings_its_history_and_what_it_held_open_has_ended(history: History, database: Path) -> None:
    history.end(begun(history, "summaries"), NIGHT, "done", "", {})
    number = begun(history, "backup")
    kept = Backups.of(Config().timeline)
    made = kept.make(NIGHT)
    history.end(number, NIGHT, "done", "", {})
    history.end(begun(history, "retrain"), NIGHT, "done", "", {})
    history.close()
    kept.restore(made, NIGHT)
    assert [(run.job, run.outcome) for run in runs(database)] == [("backup", None), ("summaries", "done")]
    made_by_another_process(database)
    with History.open(database, keys()) as restored:
        assert restored.end_interrupted() == 1
    assert [(run.job, run.outcome) for run in runs(database)] == [("backup", "failed"), ("summaries", "done")]


def made_by_another_process(database: Path) -> None:
    """As if what is open had been begun by a process that has the same number and began at another time."""
    with closing(raw(database)) as connection, connection:
        connection.execute("UPDATE job_run SET details = replace(details, ?, ?)", (f'"{os.getpid()} ', f'"{os.getpid()} 9'))
