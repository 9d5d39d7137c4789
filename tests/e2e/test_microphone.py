"""From a microphone to the timeline: real PyAudio on a virtual PulseAudio source, real vLLM, real rows."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import soundfile

from model.audio import SAMPLE_RATE, read_audio
from monitor.storage.records import Coverage, SegmentState
from tests.support.commands import Running, configure, run, stored
from tests.support.paths import DEMO
from tests.support.virtual_microphone import VirtualMicrophone, synthetic_voice


@pytest.fixture(scope="module")
def microphone() -> Iterator[VirtualMicrophone]:
    """One that hums like a real one: exact zeros would count as muted."""
    with VirtualMicrophone(hum=True) as running:
        yield running


def test_what_is_spoken_into_the_microphone_ends_on_the_timeline(home: Path, microphone: VirtualMicrophone, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "spoken.wav", read_audio(DEMO)[: 20 * SAMPLE_RATE], SAMPLE_RATE)
    running = Running(home, environment=microphone.env)
    running.until(lambda: "listening" in running.output)
    time.sleep(1)
    started_at = datetime.now(UTC)
    microphone.play(tmp_path / "spoken.wav")
    running.until(lambda: running.output.count("%") >= 3)
    assert running.end(signal.SIGINT) == 0, running.output
    entries, coverage = stored(home)
    assert {entry.state for entry in entries} == {SegmentState.JUDGED}
    # The demo's first three clips begin 3.09, 8.85 and 15.38 s into it; segments begin up to 0.3 s before speech is heard.
    begins = [(entry.start_at - started_at).total_seconds() for entry in entries]
    for spoken in (3.09, 8.85, 15.38):
        assert any(spoken - 0.8 < begin < spoken + 2.0 for begin in begins), begins
    assert sum((c.end_at - c.start_at).total_seconds() for c in coverage if c.kind is Coverage.HEARD) > 20


@pytest.mark.slow
def test_devices_and_doctor_know_the_microphone_and_a_wrong_name_is_answered_with_the_right_ones(
    home: Path, microphone: VirtualMicrophone, tmp_path: Path
) -> None:
    listed = run("devices", environment=microphone.env)
    assert listed.returncode == 0
    assert "*" in listed.stdout
    microphone.mute(True)
    silent = run("doctor", "--quick", environment=microphone.env)
    microphone.mute(False)
    assert silent.returncode == 0, silent.stdout
    assert "warn  microphone" in silent.stdout
    assert "pactl set-source-mute" in silent.stdout
    soundfile.write(tmp_path / "voice.wav", synthetic_voice(30), SAMPLE_RATE)
    with subprocess.Popen(["paplay", "--device=virt", tmp_path / "voice.wav"], env=os.environ | microphone.env) as speaker:
        examined = run("doctor", environment=microphone.env)
        speaker.kill()
    assert examined.returncode == 0, examined.stdout
    (line,) = [line for line in examined.stdout.splitlines() if "microphone " in line and line.startswith("ok")]
    assert "2 s at -" in " ".join(examined.stdout.split()), line
    assert "judged in" in " ".join(examined.stdout.split())
    assert "no connection left this machine" in " ".join(examined.stdout.split())
    configure(home, audio={"device": "Neumann U 87"}, engine={"kind": "transformers"})
    wrong = run("start", environment=microphone.env)
    assert wrong.returncode == 1
    assert "Neumann U 87" in wrong.stderr
    assert "choose one of these" in wrong.stderr
    assert run("doctor", "--quick", environment=microphone.env).returncode == 1


def vanish(there: VirtualMicrophone) -> None:
    there.unplug_only_microphone()


def come_back(there: VirtualMicrophone) -> None:
    there.plug_in()


def choose_another(there: VirtualMicrophone) -> None:
    there.plug_in("headset")
    there.make_default("headset")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lose", "told", "regain"),
    [(vanish, "it records what this machine plays", come_back), (choose_another, "is 'headset' now", lambda there: None)],
)
def test_a_microphone_that_goes_is_heard_again_and_its_absence_is_stored(
    home: Path, lose: Callable[[VirtualMicrophone], None], told: str, regain: Callable[[VirtualMicrophone], None]
) -> None:
    configure(home, engine={"kind": "transformers"})
    with VirtualMicrophone(hum=True) as alone:
        running = Running(home, environment=alone.env)
        running.until(lambda: "listening" in running.output)
        time.sleep(1)
        lose(alone)
        running.until(lambda: told in running.output, 30)
        regain(alone)
        running.until(lambda: "the microphone is back" in running.output, 60)
        time.sleep(2)
        assert running.end(signal.SIGTERM) == 0, running.output
    kinds = [interval.kind for interval in sorted(stored(home)[1], key=lambda c: c.start_at)]
    assert kinds == [Coverage.HEARD, Coverage.DEVICE_LOST, Coverage.HEARD]
