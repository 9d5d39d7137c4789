"""The default source of a real sound server, followed until it changes, and never in the way."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from monitor.sound.default_source import DefaultSource, default_source
from tests.virtual_microphone import VirtualMicrophone

ROOT = Path(__file__).parent.parent
needs_pulseaudio = pytest.mark.skipif(bool(VirtualMicrophone.missing()), reason=VirtualMicrophone.missing())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMicrophone]:
    with VirtualMicrophone() as microphone:
        for name, value in microphone.env.items():
            monkeypatch.setenv(name, value)
        yield microphone


@pytest.fixture
def followed(server: VirtualMicrophone) -> Iterator[DefaultSource]:
    source = DefaultSource()
    source.start()
    eventually(lambda: len(children()) == 1)
    yield source
    source.close()
    assert children() == []


def eventually(happened: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


def children(of: int | None = None) -> list[psutil.Process]:
    """The processes that listen to a sound server's events for a process, this one by default."""
    found = []
    for child in psutil.Process(of).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.cmdline() == ["pactl", "subscribe"]:
                found.append(child)
    return found


@needs_pulseaudio
def test_another_default_is_told_and_the_first_one_again_is_no_change(server: VirtualMicrophone, followed: DefaultSource) -> None:
    assert (followed.name, followed.changed_to) == ("mic", "")
    server.plug_in("headset")
    server.make_default("headset")
    eventually(lambda: followed.changed_to == "headset")
    assert not followed.is_monitor
    server.make_default("mic")
    eventually(lambda: followed.changed_to == "")
    server.unplug_only_microphone()
    eventually(lambda: followed.is_monitor)
    server.plug_in()
    eventually(lambda: followed.changed_to == "")


@needs_pulseaudio
def test_a_listener_that_is_killed_is_replaced_and_what_it_missed_is_seen(server: VirtualMicrophone, followed: DefaultSource) -> None:
    server.plug_in("headset")
    children()[0].kill()
    server.make_default("headset")
    eventually(lambda: followed.changed_to == "headset")


@needs_pulseaudio
def test_a_server_that_hangs_delays_by_seconds_and_no_more(server: VirtualMicrophone) -> None:
    server.freeze()
    source, started_at = DefaultSource(), time.monotonic()
    source.start()
    source.close()
    assert source.name == ""
    assert 2 <= time.monotonic() - started_at < 10


@needs_pulseaudio
def test_the_listener_ends_with_the_process_that_was_killed(server: VirtualMicrophone) -> None:
    code = "import time; from monitor.sound.default_source import DefaultSource; DefaultSource().start(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        eventually(lambda: len(children(process.pid)) == 1, 20)
        listener = children(process.pid)[0]
        # Frozen, no event can end it by itself.
        server.freeze()
        process.send_signal(signal.SIGKILL)
        process.wait()
    eventually(lambda: not listener.is_running() or listener.status() == psutil.STATUS_ZOMBIE)


def test_without_pactl_nothing_is_known_and_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = DefaultSource()
    source.start()
    assert (source.name, source.changed_to, source.is_monitor) == ("", "", False)
    source.close()


@needs_pulseaudio
def test_without_a_server_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(os.environ, "PULSE_SERVER", f"unix:{tmp_path}/nobody")
    assert default_source() == ""
