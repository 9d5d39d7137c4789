"""Nothing leaves the machine unseen: real sockets of real processes, to this machine's own address and to loopback."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from monitor.config import EngineConfig
from monitor.doctor import network
from monitor.doctor.findings import Finding, Verdict
from monitor.doctor.network import NetworkWatch, expected_addresses, find_running_daemon, watched_roots
from monitor.fileio import DatabaseLock
from tests.support.commands import own_address
from tests.support.paths import ROOT

DURING = ["the test ran"]
# Connects as told, says so, and holds on until its input ends. `away` does it in a grandchild that nobody waits for.
TALK = """
import os, socket, sys
kind, host, port, away = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "away"
if away and os.fork():
    sys.stdin.read()
    os._exit(0)
family = socket.AF_INET6 if ":" in host else socket.AF_INET
line = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
if kind == "listen":
    line.bind((host, port)); line.listen()
elif kind != "none":
    line.connect((host, port))
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(host: str) -> Iterator[int]:
    """A port of this test's own that takes calls at an address."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        yield int(server.getsockname()[1])


@contextmanager
def talking(kind: str, host: str, port: int, away: str = "") -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", TALK, kind, host, str(port), away]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process


def _look_around(watch: NetworkWatch) -> Finding:
    """Let the watch look at what there is at least once more."""
    with watch:
        before = watch.looks
        deadline = time.monotonic() + 60
        while watch.looks < before + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return watch.finding(DURING)


def _watched(roots: list[int], engine: EngineConfig | None = None) -> Finding:
    return _look_around(NetworkWatch(roots, expected_addresses(engine or EngineConfig())))


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_child_that_is_connected_beyond_loopback_is_caught_by_name_and_address(kind: str) -> None:
    host = own_address()
    with listening(host) as port, talking(kind, host, port) as child:
        # The server is of this process too, and its listening at that address is another matter.
        found = _watched([child.pid])
    assert found.verdict is Verdict.FAIL
    assert f"(process {child.pid}) was connected to {host}:{port}" in found.detail
    assert "looks in" in found.detail


def test_a_grandchild_of_this_process_is_caught_too() -> None:
    host = own_address()
    with listening("127.0.0.1") as near, listening(host) as port, talking("tcp", "127.0.0.1", near), talking("tcp", host, port, "away"):
        found = _watched(watched_roots(None))
    assert found.verdict is Verdict.FAIL
    assert f"connected to {host}:{port}" in found.detail
    assert str(near) not in found.detail


def test_one_whose_parent_ended_stays_in_sight() -> None:
    host = own_address()
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {TALK!r}, *sys.argv[1:]]); sys.stdin.read()"
    with listening(host) as port:
        command = [sys.executable, "-c", code, "tcp", host, str(port), ""]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "done\n"
            (child,) = psutil.Process(parent.pid).children()
            watch = NetworkWatch([parent.pid], {})
            with watch:
                while watch.looks < 1:
                    time.sleep(0.01)
                child.suspend()  # it reads the same standard input, and would end with it
                parent.kill()
                parent.wait()
                before = watch.looks
                while watch.looks < before + 2:
                    time.sleep(0.01)
                assert child.pid in watch.watched
            child.kill()
    assert watch.finding(DURING).verdict is Verdict.FAIL


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_loopback_is_not_the_network(kind: str, host: str) -> None:
    with listening(host) as port, talking(kind, host, port):
        found = _watched(watched_roots(None))
    assert found.verdict is Verdict.OK, found.detail
    assert "no connection left this machine" in found.detail


def test_an_ipv4_address_written_as_ipv6_is_what_it_is() -> None:
    with listening("127.0.0.1") as port, talking("tcp", "::ffff:127.0.0.1", port) as child:
        assert _watched([child.pid]).verdict is Verdict.OK
    host = own_address()
    with listening(host) as port, talking("tcp", f"::ffff:{host}", port) as child:
        assert _watched([child.pid]).verdict is Verdict.FAIL


def test_a_process_that_takes_calls_from_the_network_is_a_remark() -> None:
    with talking("listen", "0.0.0.0", 0) as child:
        found = _watched([child.pid])
    assert found.verdict is Verdict.WARN
    assert "takes calls from the network at 0.0.0.0:" in found.detail


def test_the_server_in_the_settings_is_expected_and_said_but_nobody_else() -> None:
    host = own_address()
    with listening(host) as port, talking("tcp", host, port) as child:
        found = _watched([child.pid], EngineConfig(kind="server", url=f"https://{host}:{port}"))
        assert found.verdict is Verdict.WARN
        assert f"sends to {host}:{port}: https://{host}:{port}, as [engine] url says; vectors" in found.detail
        for other in (
            EngineConfig(kind="server", url=f"https://{host}:{port + 1}"),
            EngineConfig(kind="embedded", url=f"https://{host}:{port}"),
        ):
            assert _watched([child.pid], other).verdict is Verdict.FAIL


def test_a_server_with_a_name_is_looked_up_and_its_name_servers_are_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolvers = tmp_path / "resolv.conf"
    resolvers.write_text("# mine\nnameserver 192.0.2.53\nsearch example\n")
    monkeypatch.setattr(network, "_RESOLVERS", resolvers)
    expected = expected_addresses(EngineConfig(kind="server", url="https://localhost"))
    assert ("127.0.0.1", 443) in expected
    assert "localhost" in expected["192.0.2.53", 53]
    assert set(expected_addresses(EngineConfig(kind="server", url="https://192.0.2.7:8000"))) == {("192.0.2.7", 8000)}


def test_a_watch_that_could_not_look_never_says_that_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = NetworkWatch(watched_roots(None), {})
    monkeypatch.setattr(psutil.Process, "net_connections", lambda *_args, **_options: (_ for _ in ()).throw(OSError("no /proc")))
    with watch:
        deadline = time.monotonic() + 30
        while not watch.finding(DURING).detail.count("no /proc"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert watch.finding(DURING).verdict is Verdict.FAIL


def test_a_process_of_somebody_else_is_named_as_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(process: psutil.Process, **_options: object) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "net_connections", refused)
    found = _watched(watched_roots(None))
    assert found.verdict is Verdict.WARN
    assert "could not be looked at" in found.detail


def test_where_nothing_went_on_nothing_is_proved() -> None:
    watch = NetworkWatch(watched_roots(None), {})
    _look_around(watch)
    assert watch.finding([]).verdict is Verdict.WARN


def test_the_running_monitor_is_who_holds_the_lock_now_not_who_did_once(tmp_path: Path) -> None:
    database = tmp_path / "timeline.db"
    assert find_running_daemon(database) is None
    hold = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from monitor.fileio import DatabaseLock\n"
    hold += f"with DatabaseLock(Path({str(database)!r}), 'mic'): print('done', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "done\n"
        assert find_running_daemon(database) == holder.pid
        assert watched_roots(find_running_daemon(database))[1:] == [holder.pid]
        holder.kill()
        holder.wait()
    assert find_running_daemon(database) is None
    with DatabaseLock(database, "mic"):
        pass
    assert find_running_daemon(database) is None, "this process lives on, but let go of the lock"
