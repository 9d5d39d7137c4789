"""libpulse and pactl against a real sound server: the default source is followed, and no memory is shared."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from model.errors import DeviceError, DeviceFault
from monitor.audio.clock import ClockReading, read_clocks
from monitor.audio.microphone import MicrophoneSource
from monitor.audio.sound_server import DefaultSourceWatcher, query_default_source
from tests.support.paths import ROOT
from tests.support.virtual_microphone import VirtualMicrophone

needs_pulseaudio = pytest.mark.skipif(bool(VirtualMicrophone.missing()), reason=VirtualMicrophone.missing())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMicrophone]:
    with VirtualMicrophone() as microphone:
        for name, value in microphone.env.items():
            monkeypatch.setenv(name, value)
        yield microphone


@pytest.fixture
def followed(server: VirtualMicrophone) -> Iterator[DefaultSourceWatcher]:
    source = DefaultSourceWatcher()
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
def test_another_default_is_told_and_the_first_one_again_is_no_change(server: VirtualMicrophone, followed: DefaultSourceWatcher) -> None:
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
def test_a_listener_that_is_killed_is_replaced_and_what_it_missed_is_seen(
    server: VirtualMicrophone, followed: DefaultSourceWatcher
) -> None:
    server.plug_in("headset")
    children()[0].kill()
    server.make_default("headset")
    eventually(lambda: followed.changed_to == "headset")


@needs_pulseaudio
def test_a_server_that_hangs_delays_by_seconds_and_no_more(server: VirtualMicrophone) -> None:
    server.freeze()
    source, started_at = DefaultSourceWatcher(), time.monotonic()
    source.start()
    source.close()
    assert source.name == ""
    assert 2 <= time.monotonic() - started_at < 10


@needs_pulseaudio
def test_the_listener_ends_with_the_process_that_was_killed(server: VirtualMicrophone) -> None:
    code = "import time; from monitor.audio.sound_server import DefaultSourceWatcher; DefaultSourceWatcher().start(); time.sleep(60)"
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
    source = DefaultSourceWatcher()
    source.start()
    assert (source.name, source.changed_to, source.is_monitor) == ("", "", False)
    source.close()


@needs_pulseaudio
def test_without_a_server_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(os.environ, "PULSE_SERVER", f"unix:{tmp_path}/nobody")
    assert query_default_source() == ""


_SHOW = """
import os, subprocess
from monitor.audio.sound_server import disable_pulse_shared_memory
disable_pulse_shared_memory()
print(open(os.environ["PULSE_CLIENTCONFIG"]).read())
print(subprocess.run(["pactl", "info"], capture_output=True, text=True).stdout)
"""


@pytest.fixture
def sound_server() -> Iterator[VirtualMicrophone]:
    with VirtualMicrophone() as microphone:
        yield microphone


def shown(sound_server: VirtualMicrophone, **env: str) -> str:
    """What a process reads and reaches that is told by its settings alone where the sound server is."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}
    home = {"HOME": sound_server.env["HOME"], "XDG_RUNTIME_DIR": "/nowhere"}
    root = ROOT
    run = subprocess.run([sys.executable, "-c", _SHOW], cwd=root, env=own | home | env, check=True, capture_output=True, text=True)
    return run.stdout


@pytest.mark.skipif(bool(VirtualMicrophone.missing()), reason=VirtualMicrophone.missing())
def test_a_server_that_dies_while_sound_waits_to_be_read_is_let_go_and_another_one_heard(
    sound_server: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sound_server.env.items():
        monkeypatch.setenv(name, value)
    late, slow = threading.Event(), False

    def clocks() -> ClockReading:
        if slow and threading.current_thread().name.startswith("Dummy"):  # PortAudio's own thread
            late.set()
            time.sleep(0.5)
        return read_clocks()

    with MicrophoneSource(clocks=clocks) as source:
        chunks = iter(source)
        next(chunks)
        slow = True
        assert late.wait(5)
        sound_server.kill_server()
        with pytest.raises(DeviceError, match="went away") as caught:
            list(chunks)
        assert caught.value.fault is DeviceFault.LOST
    sound_server.start_server()
    with MicrophoneSource() as source:
        assert len(next(iter(source)).pcm) == 960


@pytest.mark.skipif(bool(VirtualMicrophone.missing()), reason=VirtualMicrophone.missing())
@pytest.mark.parametrize(
    ("place", "env"),
    [
        (".pulse/client.conf", {}),
        (".config/pulse/client.conf", {}),
        ("elsewhere/client.conf", {"PULSE_CONFIG_PATH": "{home}/elsewhere"}),
        ("given", {"PULSE_CLIENTCONFIG": "{home}/given"}),
        (".config/pulse/client.conf", {"PULSE_CLIENTCONFIG": "{home}/not there"}),
    ],
)
@pytest.mark.parametrize("beside", [False, True], ids=["itself", "in its folder"])
def test_a_persons_settings_hold(sound_server: VirtualMicrophone, place: str, env: dict[str, str], beside: bool) -> None:
    home = Path(sound_server.env["HOME"])
    main = home / place
    main.parent.mkdir(parents=True, exist_ok=True)
    main.write_text("enable-shm = yes\ndefault-server = unix:/tmp/nobody\n")
    chosen = main.with_name(f"{main.name}.d") / "10-mine.conf" if beside else main
    chosen.parent.mkdir(exist_ok=True)
    chosen.write_text(f"enable-shm = yes\ndefault-server = {sound_server.env['PULSE_SERVER']}\n")
    text = shown(sound_server, **{name: value.format(home=home) for name, value in env.items()})
    assert "Default Source: mic" in text
    settings = text[: text.index("\n\n")].splitlines()
    assert settings[-1] == "enable-shm = no", "the last one holds"
