"""What `doctor` finds: real files with wrong modes, a real damaged database, a real engine, a clock that is wrong."""

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from model.errors import EngineRejected, EngineUnavailable, TimelineError
from monitor.config import Config, EngineConfig, TimelineConfig
from monitor.doctor import checks
from monitor.doctor.checks import check_backups, check_clock, check_disk, check_engine, check_permissions, check_service, check_timeline
from monitor.doctor.findings import Finding, Verdict, findings_json, format_counts, worst_verdict
from monitor.storage.backup import Backups
from monitor.storage.reader import TimelineReader
from monitor.storage.records import Coverage
from monitor.storage.writer import TimelineWriter
from tests.support.commands import COMMAND, configure, own_address, run
from tests.support.storage import keys, raw

PARIS = Config(timeline=TimelineConfig(zone="Europe/Paris"))
TRANSFORMERS = Config(engine=EngineConfig(kind="transformers"))
HOUR = timedelta(hours=1)


@pytest.fixture
def folder(home: Path) -> Path:
    """The state directory of this test's person."""
    return home / "state" / "emosllm-monitor"


def heard(start: datetime, end: datetime) -> Path:
    """A timeline that heard something once; its file."""
    path = Config().timeline.database_path()
    with TimelineWriter.open(path, ZoneInfo("Europe/Paris"), keys()) as opened:
        opened.cover(Coverage.HEARD, start, end)
    return path


def tool(folder: Path, name: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that answers so, first on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_finding_is_wrapped_beside_its_name_and_what_must_be_copied_stays_whole() -> None:
    command = "chmod 600 /home/somebody/.local/state/emosllm-monitor/timeline.db-wal-and-a-very-long-name"
    text = Finding(Verdict.FAIL, "permissions", f"others can read what is stored, which must not be so; run\n{command}").text(60)
    first, *others = text.splitlines()
    assert first.startswith("FAIL  permissions others can read")
    assert len(first) <= 60
    assert all(line.startswith(" " * 18) and line[18] != " " for line in others)
    assert any(command.split()[-1] in line for line in others)


def test_the_worst_finding_decides() -> None:
    ok, warn, fail = (Finding(verdict, "a", "b") for verdict in Verdict)
    assert [worst_verdict([ok]), worst_verdict([ok, warn]), worst_verdict([warn, fail, ok])] == [Verdict.OK, Verdict.WARN, Verdict.FAIL]
    assert format_counts([ok, fail, ok]) == "2 ok, 1 FAIL"
    assert json.loads(findings_json([warn])) == [{"verdict": "warn", "what": "a", "detail": "b"}]


def test_for_programs_it_is_json_with_every_check_and_the_status_says_the_worst(home: Path) -> None:
    configure(home, segmenter={"frame_ms": 25})
    done = run("doctor", "--quick", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert all(set(finding) == {"verdict", "what", "detail"} for finding in found)
    verdicts = {finding["what"]: finding["verdict"] for finding in found}
    assert (
        " ".join(verdicts) == "python settings bundle key timeline voice permissions disk backups clinic clock service"
        " microphone transcriber engine network"
    )
    assert verdicts["settings"] == "fail"
    assert verdicts["bundle"] == "ok"
    assert not (home / "state").exists(), "looking must not create anything"


def test_an_intact_timeline_is_looked_through(folder: Path) -> None:
    assert "will be created" in check_timeline(PARIS).detail
    path = heard(datetime.now(UTC) - HOUR, datetime.now(UTC))
    assert check_timeline(PARIS) == Finding(Verdict.OK, "timeline", f"{path} opens and is undamaged, zone Europe/Paris")


def test_damage_deep_in_the_timeline_is_found_though_it_still_opens() -> None:
    path = heard(datetime.now(UTC) - HOUR, datetime.now(UTC))
    with closing(raw(path)) as connection, connection:  # so that the last page is not one that describes the tables
        connection.executemany("INSERT INTO prompt (at, zone) VALUES (?, 'UTC')", [(f"2026-01-01 00:00:{i:09.6f}",) for i in range(500)])
    data = bytearray(path.read_bytes())
    data[-4096:] = os.urandom(4096)
    path.write_bytes(data)
    with TimelineReader.open(path, keys()):
        pass
    with pytest.raises(TimelineError, match="damaged"):
        check_timeline(PARIS)


@pytest.mark.parametrize("name", ["timeline.db", "timeline.db-wal", "timeline.db.lock", "monitor.log", "engine.log.1", "backups/old.db"])
def test_a_file_that_others_can_read_is_named_with_the_command_that_closes_it(name: str, folder: Path) -> None:
    heard(datetime.now(UTC) - HOUR, datetime.now(UTC))
    path = folder / name
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.touch()
    path.chmod(0o640)
    found = check_permissions(Config())
    assert found.verdict is Verdict.FAIL
    assert found.detail.splitlines()[1:] == [f"chmod 600 {path}"]
    subprocess.run(found.detail.splitlines()[1], shell=True, check=True)
    assert check_permissions(Config()).verdict is Verdict.OK


def test_folders_and_sockets_are_looked_at_and_names_are_quoted(folder: Path) -> None:
    inner = folder / "two words"
    inner.mkdir(parents=True)
    inner.chmod(0o755)
    folder.chmod(0o711)
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(os.path.relpath(folder / "control.sock"))
        (folder / "control.sock").chmod(0o666)
        lines = check_permissions(Config()).detail.splitlines()[1:]
        assert lines == [f"chmod 700 {folder}", f"chmod 600 {folder}/control.sock", f"chmod 700 '{inner}'"]
        for line in lines:
            subprocess.run(line, shell=True, check=True)
        assert check_permissions(Config()).verdict is Verdict.OK


def test_a_database_elsewhere_and_the_key_file_are_looked_at_but_not_their_folders(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    config = Config(
        timeline=TimelineConfig(database=str(tmp_path / "my.db")), engine=EngineConfig(key_file=str(tmp_path / "key"), kind="server")
    )
    for name in ("my.db", "my.db-shm", "key", "other"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).chmod(0o604)
    assert check_permissions(config).detail.splitlines()[1:] == [f"chmod 600 {tmp_path}/{name}" for name in ("key", "my.db", "my.db-shm")]


def test_many_wrong_files_do_not_flood_the_page(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    for number in range(40):
        (folder / f"{number:02}").touch()
        (folder / f"{number:02}").chmod(0o644)
    assert check_permissions(Config()).detail.splitlines()[-1] == "and 30 more"


def test_little_room_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_disk(Config()).verdict is Verdict.OK
    monkeypatch.setattr(checks, "_MIN_FREE_MIB", 10**9)
    assert check_disk(Config()).verdict is Verdict.WARN


def test_a_backup_of_the_last_two_days_is_asked_for_once_there_is_something_to_lose(folder: Path) -> None:
    assert check_backups(PARIS).verdict is Verdict.OK
    heard(datetime.now(UTC) - HOUR, datetime.now(UTC))
    assert check_backups(PARIS).verdict is Verdict.OK, "the first is not due yet"
    heard(datetime.now(UTC) - 60 * HOUR, datetime.now(UTC) - 59 * HOUR)
    assert check_backups(PARIS).verdict is Verdict.WARN
    kept = Backups.of(Config().timeline)
    for age_h, verdict in ((49, Verdict.WARN), (47, Verdict.OK), (1, Verdict.OK)):
        kept.make(datetime.now(UTC) - age_h * HOUR)
        assert check_backups(PARIS).verdict is verdict, age_h


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [("echo yes", Verdict.OK, "synchronised"), ("echo no", Verdict.WARN, "set-ntp true"), ("exit 1", Verdict.WARN, "cannot be found out")],
)
def test_the_clock_is_asked_whether_it_is_synchronised(
    answer: str, verdict: Verdict, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path / "bin", "timedatectl", answer, monkeypatch)
    found = check_clock(PARIS)
    assert found.verdict is verdict
    assert words in found.detail


def test_without_timedatectl_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_clock(PARIS).verdict is Verdict.WARN


def test_a_clock_that_lies_before_the_newest_row_or_before_this_program_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    heard(now - HOUR, now + timedelta(seconds=20))
    assert check_clock(PARIS).verdict is not Verdict.FAIL, "a sound card may be a little ahead"
    heard(now + HOUR, now + 2 * HOUR)
    found = check_clock(PARIS)
    assert found.verdict is Verdict.FAIL
    assert f"goes on until {(now + 2 * HOUR).astimezone(ZoneInfo('Europe/Paris')):%Y-%m-%d %H:%M:%S}" in found.detail
    monkeypatch.setattr(checks, "_NOT_BEFORE", now + HOUR)
    assert "set it" in check_clock(PARIS).detail


def test_the_service_should_run_this_installation_where_it_is_installed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_service(Config()).verdict is Verdict.OK
    shown = tmp_path / "shown"
    tool(tmp_path / "bin", "systemctl", f'[ "$3" = show ] && cat {shown}; exit 0', monkeypatch)
    shown.write_text("ActiveState=active\nUnitFileState=enabled\n")
    assert run("service", "install").returncode == 0
    assert check_service(Config()) == Finding(Verdict.OK, "service", "installed and active")
    shown.write_text("ActiveState=failed\nUnitFileState=enabled\n")
    assert check_service(Config()).verdict is Verdict.WARN
    assert "journalctl" in check_service(Config()).detail
    unit = home / "config/systemd/user/emosllm-monitor.service"
    unit.write_text(unit.read_text().replace(COMMAND, "/opt/old/bin/emosllm-monitor"))
    assert "another program" in check_service(Config()).detail


def test_the_engine_really_judges_and_says_how_long_it_took() -> None:
    found = check_engine(TRANSFORMERS)
    assert found.verdict is Verdict.OK
    assert "compact-" in found.detail
    assert "1 s of sound judged in" in found.detail


def test_an_engine_that_dies_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import sys, os\nprint('illegal instruction', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(EngineUnavailable, match=r"SIGABRT(?s:.*)illegal instruction"):
        check_engine(TRANSFORMERS)


@pytest.mark.slow
def test_an_engine_that_cannot_be_used_or_takes_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineRejected, match="no bundle at"):
        check_engine(Config(engine=EngineConfig(kind="transformers", bundle=str(tmp_path))))
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(EngineUnavailable, match="did not answer within 5 s"):
        check_engine(Config(engine=EngineConfig(kind="transformers", start_timeout_s=5)))
    left = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True, check=False).stdout
    assert "monitor.inference.worker" not in left, "a judging process was left behind"


def test_a_connection_of_the_engine_is_found_by_the_whole_examination(home: Path, tmp_path: Path) -> None:
    """A bundle's library that calls home while the engine loads."""
    configure(home, engine={"kind": "transformers"})
    host = own_address()
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        home_call = f"import socket, time; line = socket.create_connection(({host!r}, {port})); time.sleep(3)"
        (tmp_path / "torch.py").write_text(f"{home_call}\nraise ImportError('after all')\n")
        path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
        done = run("doctor", "--json", environment={"PYTHONPATH": path})
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert found["engine"]["verdict"] == "fail"
    assert found["network"]["verdict"] == "fail"
    assert f"was connected to {host}:{port}" in found["network"]["detail"]
    assert Path(sys.executable).name[:6] in found["network"]["detail"]
