"""Where files are: a database is one by whatever name it is reached, and the variables of the environment say where folders are."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from model.errors import TimelineInUse
from monitor.analysis.days import TimeRange
from monitor.clinic.pending_erasures import PendingErasures
from monitor.config import Config, TimelineConfig
from monitor.control import ControlServer, send_command
from monitor.daemon.pause import PauseFile
from monitor.fileio import DatabaseLock, lock_holder
from monitor.paths import DatabaseFiles, config_path, state_dir, systemd_units_dir
from monitor.scheduler.jobs import DisabledJobs
from monitor.storage.backup import Backups

NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)


@pytest.fixture
def names(tmp_path: Path) -> tuple[Path, Path]:
    """A database's own name, and a link to it from another folder, with another name."""
    real, link = tmp_path / "disk" / "timeline.db", tmp_path / "home" / "mine.db"
    for folder in (real.parent, link.parent):
        folder.mkdir()
    link.symlink_to(real)
    return real, link


def test_the_files_beside_a_database_have_the_names_they_always_had(tmp_path: Path) -> None:
    files = DatabaseFiles(tmp_path / "timeline.db")
    beside = (files.database, files.lock, files.socket, files.pause, files.jobs, files.disabled_jobs, files.deletion_note)
    assert [path.name.removeprefix("timeline.db") for path in beside] == [
        "",
        ".lock",
        ".sock",
        ".paused",
        ".jobs",
        ".schedule",
        ".forgetting",
    ]
    assert files.erasure_note(7).name == "timeline.db.clinic-7"
    assert files.aside("20260714T120000Z").name == "timeline.db.aside-20260714T120000Z"
    assert {path.parent for path in beside} == {tmp_path}


def test_a_database_with_two_names_is_one(names: tuple[Path, Path]) -> None:
    real, link = names
    settings = [TimelineConfig(database=str(path)) for path in names]
    assert settings[0].files() == settings[1].files() == DatabaseFiles(real) == DatabaseFiles(link)
    assert Backups.of(settings[0]).database == Backups.of(settings[1]).database == real
    assert lock_holder(link) == lock_holder(real)


def test_what_is_said_by_one_name_holds_by_the_other(names: tuple[Path, Path]) -> None:
    real, link = names
    with DatabaseLock(real, "mic"), ControlServer(DatabaseFiles(real).socket, {"status": lambda _: {"pid": 1}}):
        assert send_command(link, "status") == {"pid": 1}
        with pytest.raises(TimelineInUse), DatabaseLock(link, "mic"):
            pytest.fail("locked twice")
    PauseFile(DatabaseFiles(link).pause).begin(None)
    assert PauseFile(DatabaseFiles(real).pause).holds(NOON)
    DisabledJobs(link).switch("backup", on=False)
    assert DisabledJobs(real).disabled() == {"backup"}
    PendingErasures(link).add(TimeRange(NOON, NOON.replace(hour=13)))
    assert len(PendingErasures(real).read()) == 1
    assert [path.name for path in link.parent.iterdir()] == ["mine.db"], "nothing lies beside the link"


def test_a_chain_of_links_that_ends_nowhere_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.db").symlink_to(tmp_path / "b.db")
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    assert DatabaseFiles(tmp_path / "a.db").lock.parent == tmp_path


def test_the_variables_of_the_environment_say_where_folders_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_dir() == tmp_path / ".local/state/emosllm-monitor"
    assert config_path() == tmp_path / ".config/emosllm-monitor/config.toml"
    assert systemd_units_dir() == tmp_path / ".config/systemd/user"
    assert Config().timeline.database_path() == state_dir() / "timeline.db"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    assert (state_dir(), config_path()) == (Path("/var/state/emosllm-monitor"), Path("here/emosllm-monitor/config.toml"))
