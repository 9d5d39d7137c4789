"""Sound without a sound card: a private PulseAudio server whose microphone hears what is played, and a voice to play.

Nothing of the machine's own sound set-up is touched: server, socket and settings live in a folder of their own. PyAudio
reaches the microphone through the variables in `VirtualMicrophone.env`, as it would reach any other. PulseAudio is all
it needs; it knows nothing of the daemon.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, s_to_samples

_PROGRAMS = ("pulseaudio", "pactl", "paplay")
_START_TIMEOUT_S = 10.0
_PACKAGES = "pulseaudio pulseaudio-utils libasound2-plugins"
_ASOUNDRC = """\
pcm.pulse { type pulse }
pcm.!default { type pulse hint { show on description "virtual microphone" } }
ctl.!default { type pulse }
"""


def synthetic_voice(seconds: float, seed: int = 1) -> Int16:
    """int16 (N,) at SAMPLE_RATE that webrtcvad takes for speech: syllables of voiced pulses through three formants.

    Pitch, vowel and loudness differ from syllable to syllable. The same seed gives the same sound.
    """
    rng = np.random.default_rng(seed)
    samples, length = s_to_samples(seconds), s_to_samples(0.15)
    syllables = [_syllable(length, rng) for _ in range(samples // length + 1)]
    voice = np.concatenate(syllables)[:samples]
    voice = voice / np.abs(voice).max(initial=1e-9) + rng.normal(0, 0.002, samples)
    return float_to_pcm16(np.float32(0.4) * voice.astype(np.float32))


def _syllable(samples: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    pitch_hz = rng.uniform(180, 300) * np.linspace(1, rng.uniform(0.85, 1.15), samples)
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / SAMPLE_RATE), prepend=0.0)
    at_s = np.arange(s_to_samples(0.03)) / SAMPLE_RATE
    ring = np.zeros(len(at_s))
    for low_hz, high_hz, width_hz in ((300, 800, 60), (900, 2300, 90), (2400, 3400, 150)):
        formant_hz = rng.uniform(low_hz, high_hz)
        ring += np.exp(-2 * np.pi * width_hz * at_s) * np.sin(2 * np.pi * formant_hz * at_s)
    envelope = 0.1 + 0.9 * np.sin(np.pi * np.arange(samples) / samples)
    syllable: npt.NDArray[np.float64] = np.convolve(pulses, ring)[:samples] * envelope * rng.uniform(0.6, 1.0)
    return syllable


class VirtualMicrophone:
    """A context manager: a PulseAudio server with one microphone, 16 kHz mono, bit-exact, in real time.

    env: what a process needs in its environment to hear it as its default microphone.
    hum: a faint hum as every real microphone has; without it, what is heard while nothing is played is zeros, as if it were muted.
    """

    @staticmethod
    def missing() -> str:
        """Why it cannot run on this machine, with what to install; empty when it can."""
        absent = [program for program in _PROGRAMS if shutil.which(program) is None]
        return f"{', '.join(absent)} not installed: apt-get install {_PACKAGES}" if absent else ""

    def __init__(self, hum: bool = False) -> None:
        # A short path: a socket's may not be longer than 108 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="vmic"))
        self._hum = hum
        socket = self._folder / "native"
        asoundrc = self._folder / "asoundrc"
        asoundrc.write_text(_ASOUNDRC)
        self.env = {
            "PULSE_SERVER": f"unix:{socket}",
            "ALSA_CONFIG_PATH": str(asoundrc),
            "HOME": str(self._folder),
            "XDG_RUNTIME_DIR": str(self._folder),
            "PULSE_RUNTIME_PATH": str(self._folder),
        }
        script = self._folder / "server.pa"
        script.write_text(f"load-module module-native-protocol-unix auth-anonymous=1 socket={socket}\n")
        self._command = ["pulseaudio", "-n", "-F", str(script), "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        self._log = (self._folder / "server.log").open("wb")
        self.start_server()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start_server(self) -> None:
        """Start the sound server with its microphone; it already runs at the start."""
        self._server = subprocess.Popen(
            self._command, env=os.environ | self.env, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        self._wait_for_server()
        self.plug_in()
        self.make_default()

    def kill_server(self) -> None:
        """End the sound server as a crash does."""
        self._server.kill()
        self._server.wait()

    def plug_in(self, name: str = "mic") -> None:
        """Make a microphone appear; the one called mic already has at the start, and is the default again when it comes back."""
        sink = f"played_to_{name}"
        if sink not in self._pactl("list", "short", "sinks"):
            self._pactl("load-module", "module-null-sink", f"sink_name={sink}", "rate=16000", "channels=1", "format=s16le", "norewinds=1")
            if self._hum:
                self._pactl("load-module", "module-sine", f"sink={sink}", "frequency=50")
                hums = self._pactl("list", "short", "sink-inputs").splitlines()
                # 5 % is -78 dB, an amplitude of four steps.
                self._pactl("set-sink-input-volume", hums[-1].split("\t")[0], "5%")
        # The microphone comes last, so that nobody hears the hum before it is faint.
        self._pactl("load-module", "module-remap-source", f"source_name={name}", f"master={sink}.monitor")

    def make_default(self, name: str = "mic") -> None:
        """Choose the system's default microphone, as a person does in the sound settings."""
        self._pactl("set-default-sink", f"played_to_{name}")
        self._pactl("set-default-source", name)

    def unplug(self) -> None:
        """Make the whole sound card vanish while the sound server goes on."""
        self.unplug_only_microphone()
        self._pactl("unload-module", "module-null-sink")

    def unplug_only_microphone(self) -> None:
        """The loudspeaker stays: the server falls back to recording what is played to it."""
        self._pactl("unload-module", "module-remap-source")

    def mute(self, muted: bool) -> None:
        """Press the mute key."""
        self._pactl("set-source-mute", "mic", "1" if muted else "0")

    def suspend(self, suspended: bool) -> None:
        """Stop the microphone or let it go on: nothing is delivered meanwhile, and nothing fails."""
        self._pactl("suspend-source", "mic", "1" if suspended else "0")

    def freeze(self) -> None:
        """Stop the sound server without ending it, as a hung driver does: nothing is delivered and nothing fails."""
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen sound server go on."""
        self._server.send_signal(signal.SIGCONT)

    def play(self, path: Path) -> None:
        """Speak a sound file into the microphone; returns when it is over."""
        subprocess.run(["paplay", "--device=played_to_mic", str(path)], env=os.environ | self.env, check=True)

    def close(self) -> None:
        """Stop the server and remove its folder; more than once is fine."""
        self.thaw()
        self.kill_server()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _pactl(self, *arguments: str) -> str:
        command = ["pactl", *arguments]
        return subprocess.run(
            command, env=os.environ | self.env, check=True, capture_output=True, timeout=_START_TIMEOUT_S, text=True
        ).stdout

    def _wait_for_server(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if subprocess.run(["pactl", "info"], env=os.environ | self.env, capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        self.close()
        raise RuntimeError(f"the private sound server did not answer within {_START_TIMEOUT_S:.0f} s")
