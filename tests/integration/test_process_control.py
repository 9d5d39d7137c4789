"""One daemon for a database: its lock, its control socket, its pause file, and systemd's notification socket."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model.errors import ConfigError, EmosllmError, NotRunning, TimelineError
from monitor.control import ControlServer, send_command
from monitor.daemon.pause import PauseFile, parse_duration
from monitor.daemon.systemd import SystemdNotifier
from monitor.fileio import DatabaseLock, make_private_file, make_private_tree
from monitor.paths import DatabaseFiles
from tests.support.paths import ROOT

HOLD = """
import sys
from pathlib import Path
from monitor.fileio import DatabaseLock
with DatabaseLock(Path(sys.argv[1]), "the other microphone"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLD, str(path)]
    root = ROOT
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_daemon_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    path = tmp_path / "timeline.db"
    with held_by_another_process(path) as process:
        with pytest.raises(TimelineError) as raised, DatabaseLock(path, "mic"):
            pytest.fail("two processes hold the lock")
        message = str(raised.value)
        assert str(path) in message
        assert f"process {process.pid}, listening to the other microphone since 20" in message
        process.communicate("", timeout=10)
    with DatabaseLock(path, "mic"):
        pass


def test_a_killed_daemon_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "timeline.db"
    with held_by_another_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with DatabaseLock(path, "mic"):
            assert (tmp_path / "timeline.db.lock").exists()


def test_the_lock_is_one_whatever_the_path_is_called(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "timeline.db")
    with (
        DatabaseLock(tmp_path / "timeline.db", "mic"),
        pytest.raises(TimelineError, match="already in use"),
        DatabaseLock(tmp_path / "link.db", "mic"),
    ):
        pytest.fail("the same database is locked twice")


@pytest.mark.parametrize("left", ["", "{", "[]", '{"pid": 1}'])
def test_a_strange_note_does_not_hide_that_the_lock_is_held(tmp_path: Path, left: str) -> None:
    path = tmp_path / "timeline.db"
    with DatabaseLock(path, "mic"):
        (tmp_path / "timeline.db.lock").write_text(left)
        with pytest.raises(TimelineError, match="another process"), DatabaseLock(path, "mic"):
            pytest.fail("locked twice")


def test_files_and_new_folders_are_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "timeline.db"
    with DatabaseLock(path, "mic"):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.with_name("timeline.db.lock").stat().st_mode & 0o777 == 0o600


def test_a_folder_of_ours_and_all_in_it_is_taken_from_others_but_not_what_a_link_leads_to(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "state", tmp_path / "theirs"
    (ours / "backups").mkdir(parents=True)
    for file in (theirs, ours / "timeline.db", ours / "timeline.db-wal", ours / "backups" / "one.db"):
        file.touch()
        file.chmod(0o644)
    (ours / "link").symlink_to(theirs)
    (ours / "backups").chmod(0o755)
    ours.chmod(0o755)
    assert make_private_tree(ours) == 5
    assert {path.stat().st_mode & 0o777 for path in (ours, ours / "backups")} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in ours.rglob("*.db*")} == {0o600}
    assert theirs.stat().st_mode & 0o777 == 0o644
    assert make_private_tree(ours) == make_private_tree(tmp_path / "missing") == 0


def test_what_others_could_read_is_taken_from_them_but_folders_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "timeline.db"
    path.touch(0o644)
    make_private_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode & 0o777 == 0o755


NOW = datetime(2026, 7, 14, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "timeline.db"


def _echo(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"got": dict(arguments)}


def _refuse(_arguments: Mapping[str, Any]) -> dict[str, Any]:
    raise EmosllmError("a recording cannot be paused")


def _break(_arguments: Mapping[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("something nobody may read")


@pytest.fixture
def server(database: Path) -> Iterator[ControlServer]:
    with ControlServer(DatabaseFiles(database).socket, {"echo": _echo, "refuse": _refuse, "break": _break}) as running:
        yield running


def test_a_command_reaches_its_function_and_its_answer_comes_back(server: ControlServer, database: Path) -> None:
    assert send_command(database, "echo", word="hello", number=3) == {"got": {"word": "hello", "number": 3}}
    assert send_command(database, "echo") == {"got": {}}


def test_nobody_else_may_connect(server: ControlServer, database: Path) -> None:
    assert DatabaseFiles(database).socket.stat().st_mode & 0o777 == 0o600


def test_refusals_are_told_and_bugs_are_not_shown(server: ControlServer, database: Path) -> None:
    with pytest.raises(EmosllmError, match="a recording cannot be paused"):
        send_command(database, "refuse")
    with pytest.raises(EmosllmError, match="its log says why") as caught:
        send_command(database, "break")
    assert "nobody may read" not in str(caught.value)


@pytest.mark.parametrize(
    "line", [b"\n", b"hello\n", b"[1, 2]\n", b'{"command": "erase"}\n', b'{"command": ["echo"]}\n', b"x" * 70_000 + b"\n"]
)
def test_nonsense_is_answered_and_does_no_harm(server: ControlServer, database: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(DatabaseFiles(database).socket))
        connection.sendall(line)
        assert "commands are echo" in json.loads(connection.makefile().readline())["error"]
    assert send_command(database, "echo", still="there") == {"got": {"still": "there"}}


def test_who_connects_and_leaves_does_no_harm(server: ControlServer, database: Path) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(DatabaseFiles(database).socket))
    assert send_command(database, "echo") == {"got": {}}


def test_without_a_monitor_it_says_so_and_what_a_killed_one_left_is_no_monitor(database: Path) -> None:
    with pytest.raises(NotRunning, match="not running"):
        send_command(database, "status")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(DatabaseFiles(database).socket))
    with pytest.raises(NotRunning):
        send_command(database, "status")
    with ControlServer(DatabaseFiles(database).socket, {"echo": _echo}):
        assert send_command(database, "echo") == {"got": {}}
    assert not DatabaseFiles(database).socket.exists()


def test_a_path_that_no_socket_can_have_is_refused_with_the_setting(tmp_path: Path) -> None:
    with (
        pytest.raises(EmosllmError, match=r"too long for a socket.*\[timeline\] database"),
        ControlServer(DatabaseFiles(tmp_path / ("x" * 120)).socket, {}),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("30 min", 1800), ("2h", 7200), ("1d", 86_400), ("31D", 31 * 86_400)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0m", "1.5h", "32d", "99999s", "1h30m", "tomorrow"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ConfigError, match="30m"):
        parse_duration(text)


def test_a_pause_outlives_the_process_and_ends_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "state" / "timeline.db.paused"
    assert not PauseFile(path).holds(NOW)
    PauseFile(path).begin(NOW + timedelta(minutes=30))
    assert path.stat().st_mode & 0o777 == 0o600
    restarted = PauseFile(path)
    assert restarted.holds(NOW + timedelta(minutes=29))
    assert restarted.until == NOW + timedelta(minutes=30)
    assert not restarted.holds(NOW + timedelta(minutes=30))
    assert not PauseFile(path).holds(NOW), "it is over for good"


def test_a_pause_without_an_end_lasts_until_resume(tmp_path: Path) -> None:
    path = tmp_path / "timeline.db.paused"
    PauseFile(path).begin(None)
    assert PauseFile(path).holds(NOW + timedelta(days=3650))
    PauseFile(path).end()
    assert not PauseFile(path).holds(NOW)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"until": "noon"}', '{"until": 3}'])
def test_a_damaged_note_keeps_the_microphone_closed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "timeline.db.paused"
    path.write_text(content)
    assert PauseFile(path).holds(NOW)


@contextmanager
def systemd_at(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(10)
        heard.bind(address)
        yield heard


def heard_by(line: socket.socket) -> list[bytes]:
    """Everything that waits to be heard."""
    messages = []
    line.setblocking(False)
    try:
        while True:
            messages.append(line.recv(4096))
    except BlockingIOError:
        return messages


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_hears_each_message_once(kind: str, tmp_path: Path) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@emosllm-test-{os.getpid()}"
    with systemd_at(name.replace("@", "\0", 1) if kind == "abstract" else name) as line:
        notifier = SystemdNotifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000"})
        notifier.ready()
        notifier.status("listening\nMAINPID=1")
        notifier.alive()
        notifier.stopping()
        assert heard_by(line) == [b"READY=1", b"STATUS=listening MAINPID=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_daemon_process_reaches_the_socket_of_its_environment(tmp_path: Path) -> None:
    with systemd_at(str(tmp_path / "notify")) as line:
        code = "from monitor.daemon.systemd import SystemdNotifier; n = SystemdNotifier(); n.ready(); n.alive()"
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, check=True)
        assert heard_by(line) == [b"READY=1"], "the watchdog was meant for another process"


def test_signs_of_life_are_sent_three_times_within_the_timeout_however_often_they_are_given(tmp_path: Path) -> None:
    now = 100.0
    with systemd_at(str(tmp_path / "notify")) as line:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        notifier = SystemdNotifier(environment, lambda: now)
        assert notifier.watchdog_s == 30
        for _ in range(300):
            notifier.alive()
            now += 0.1
        assert heard_by(line) == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize("usec", ["0", "", "soon", "-1"])
def test_without_a_watchdog_no_sign_is_sent(usec: str, tmp_path: Path) -> None:
    with systemd_at(str(tmp_path / "notify")) as line:
        notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": usec})
        notifier.alive()
        assert notifier.watchdog_s == 0
        assert heard_by(line) == []


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/gone/notify"}])
def test_without_systemd_nothing_happens(environment: dict[str, str]) -> None:
    notifier = SystemdNotifier({**environment, "WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.status("listening")
    notifier.alive()
    notifier.stopping()


def test_a_systemd_that_does_not_listen_blocks_nobody(tmp_path: Path) -> None:
    with systemd_at(str(tmp_path / "notify")) as line:
        notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(5000):
            notifier.ready()
        assert 0 < len(heard_by(line)) < 5000, "the queue was not full, so this test shows nothing"
