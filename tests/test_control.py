"""Commands from another terminal: the socket, what it refuses, and a pause that nothing ends but its end."""

import json
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model.errors import ConfigError, EmosllmError, NotRunning
from monitor.control import ControlServer, ask, socket_path
from monitor.pausing import Pause, parse_span

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
    with ControlServer(socket_path(database), {"echo": _echo, "refuse": _refuse, "break": _break}) as running:
        yield running


def test_a_command_reaches_its_function_and_its_answer_comes_back(server: ControlServer, database: Path) -> None:
    assert ask(database, "echo", word="hello", number=3) == {"got": {"word": "hello", "number": 3}}
    assert ask(database, "echo") == {"got": {}}


def test_nobody_else_may_connect(server: ControlServer, database: Path) -> None:
    assert socket_path(database).stat().st_mode & 0o777 == 0o600


def test_refusals_are_told_and_bugs_are_not_shown(server: ControlServer, database: Path) -> None:
    with pytest.raises(EmosllmError, match="a recording cannot be paused"):
        ask(database, "refuse")
    with pytest.raises(EmosllmError, match="its log says why") as caught:
        ask(database, "break")
    assert "nobody may read" not in str(caught.value)


@pytest.mark.parametrize(
    "line", [b"\n", b"hello\n", b"[1, 2]\n", b'{"command": "erase"}\n', b'{"command": ["echo"]}\n', b"x" * 70_000 + b"\n"]
)
def test_nonsense_is_answered_and_does_no_harm(server: ControlServer, database: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(socket_path(database)))
        connection.sendall(line)
        assert "commands are echo" in json.loads(connection.makefile().readline())["error"]
    assert ask(database, "echo", still="there") == {"got": {"still": "there"}}


def test_who_connects_and_leaves_does_no_harm(server: ControlServer, database: Path) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(socket_path(database)))
    assert ask(database, "echo") == {"got": {}}


def test_without_a_monitor_it_says_so_and_what_a_killed_one_left_is_no_monitor(database: Path) -> None:
    with pytest.raises(NotRunning, match="not running"):
        ask(database, "status")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(socket_path(database)))
    with pytest.raises(NotRunning):
        ask(database, "status")
    with ControlServer(socket_path(database), {"echo": _echo}):
        assert ask(database, "echo") == {"got": {}}
    assert not socket_path(database).exists()


def test_a_path_that_no_socket_can_have_is_refused_with_the_setting(tmp_path: Path) -> None:
    with (
        pytest.raises(EmosllmError, match=r"too long for a socket.*\[timeline\] database"),
        ControlServer(socket_path(tmp_path / ("x" * 120)), {}),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("30 min", 1800), ("2h", 7200), ("1d", 86_400), ("31D", 31 * 86_400)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert parse_span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0m", "1.5h", "32d", "99999s", "1h30m", "tomorrow"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ConfigError, match="30m"):
        parse_span(text)


def test_a_pause_outlives_the_process_and_ends_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "state" / "timeline.db.paused"
    assert not Pause(path).holds(NOW)
    Pause(path).begin(NOW + timedelta(minutes=30))
    assert path.stat().st_mode & 0o777 == 0o600
    restarted = Pause(path)
    assert restarted.holds(NOW + timedelta(minutes=29))
    assert restarted.until == NOW + timedelta(minutes=30)
    assert not restarted.holds(NOW + timedelta(minutes=30))
    assert not Pause(path).holds(NOW), "it is over for good"


def test_a_pause_without_an_end_lasts_until_resume(tmp_path: Path) -> None:
    path = tmp_path / "timeline.db.paused"
    Pause(path).begin(None)
    assert Pause(path).holds(NOW + timedelta(days=3650))
    Pause(path).end()
    assert not Pause(path).holds(NOW)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"until": "noon"}', '{"until": 3}'])
def test_a_damaged_note_keeps_the_microphone_closed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "timeline.db.paused"
    path.write_text(content)
    assert Pause(path).holds(NOW)
