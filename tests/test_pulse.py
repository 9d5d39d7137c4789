"""libpulse shares no memory with a real sound server, and reads every setting of a person's all the same."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.errors import DeviceError, DeviceFault
from monitor.sound.capture import MicrophoneSource
from monitor.sound.clocks import Reading, read_clocks
from tests.virtual_microphone import VirtualMicrophone

pytestmark = pytest.mark.skipif(bool(VirtualMicrophone.missing()), reason=VirtualMicrophone.missing())

_SHOW = """
import os, subprocess
from monitor.sound.pulse import share_no_memory
share_no_memory()
print(open(os.environ["PULSE_CLIENTCONFIG"]).read())
print(subprocess.run(["pactl", "info"], capture_output=True, text=True).stdout)
"""


@pytest.fixture
def server() -> Iterator[VirtualMicrophone]:
    with VirtualMicrophone() as microphone:
        yield microphone


def shown(server: VirtualMicrophone, **env: str) -> str:
    """What a process reads and reaches that is told by its settings alone where the sound server is."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}
    home = {"HOME": server.env["HOME"], "XDG_RUNTIME_DIR": "/nowhere"}
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", _SHOW], cwd=root, env=own | home | env, check=True, capture_output=True, text=True)
    return run.stdout


def test_a_server_that_dies_while_sound_waits_to_be_read_is_let_go_and_another_one_heard(
    server: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    late, slow = threading.Event(), False

    def clocks() -> Reading:
        if slow and threading.current_thread().name.startswith("Dummy"):  # PortAudio's own thread
            late.set()
            time.sleep(0.5)
        return read_clocks()

    with MicrophoneSource(clocks=clocks) as source:
        chunks = iter(source)
        next(chunks)
        slow = True
        assert late.wait(5)
        server.kill_server()
        with pytest.raises(DeviceError, match="went away") as caught:
            list(chunks)
        assert caught.value.fault is DeviceFault.LOST
    server.start_server()
    with MicrophoneSource() as source:
        assert len(next(iter(source)).pcm) == 960


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
def test_a_persons_settings_hold(server: VirtualMicrophone, place: str, env: dict[str, str], beside: bool) -> None:
    home = Path(server.env["HOME"])
    main = home / place
    main.parent.mkdir(parents=True, exist_ok=True)
    main.write_text("enable-shm = yes\ndefault-server = unix:/tmp/nobody\n")
    chosen = main.with_name(f"{main.name}.d") / "10-mine.conf" if beside else main
    chosen.parent.mkdir(exist_ok=True)
    chosen.write_text(f"enable-shm = yes\ndefault-server = {server.env['PULSE_SERVER']}\n")
    text = shown(server, **{name: value.format(home=home) for name, value in env.items()})
    assert "Default Source: mic" in text
    settings = text[: text.index("\n\n")].splitlines()
    assert settings[-1] == "enable-shm = no", "the last one holds"
