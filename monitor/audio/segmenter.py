"""Cuts a stream of sound into segments of speech, with a voice detector deciding about each frame.

It knows samples and frames, not devices, wall time, emotions, or how a voice is told from a noise (voice.py). The
result depends on the sound alone, never on how it was chunked: chunks are re-cut to exact frames, counted from where
the stream (re)started. A segment is [pre-roll | onset ... last voiced frame | tail]. The pre-roll never reaches into
the segment before; of the silence that closed the segment only the tail is kept, or what the shortest segment needs.
"""

import logging
import math
from enum import Enum

import numpy as np

from model.audio import ms_to_samples
from monitor.audio.stream import AudioChunk, SpeechSegment
from monitor.audio.vad import create_vad, frame_power
from monitor.config import SegmenterConfig

_logger = logging.getLogger(__name__)

# Silence kept after the last voiced frame: word endings fade below what is called speech; more is only the room.
_TAIL_MS = 150
_FULL_SCALE = 32_768.0


class _State(Enum):
    QUIET = "nobody speaks"
    STARTING = "voiced frames, too few yet to be believed"
    SPEAKING = "a segment is open"
    STOPPING = "a segment is open, and silent since a few frames"


class Segmenter:
    """Speech segments from a stream of AudioChunks.

    Every segment is at least min_segment_ms and at most max_segment_ms long; only one that `flush` had to close may be
    shorter. Speech shorter than the minimum stays open, silence and all, until the minimum is reached, so it is padded
    with what really followed. Speech longer than the maximum is cut after the quietest frame in its last third, and
    goes on as the next segment from that very sample.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        def frames(ms: int) -> int:
            return math.ceil(ms / config.frame_ms)

        self._config = config
        self._frame_samples = ms_to_samples(config.frame_ms)
        self._frame_bytes = self._frame_samples * np.dtype(np.int16).itemsize
        self._onset_frames = frames(config.onset_ms)
        self._hangover_frames = frames(config.hangover_ms)
        self._tail_frames = min(frames(_TAIL_MS), self._hangover_frames)
        self._min_frames = frames(config.min_segment_ms)
        self._max_frames = config.max_segment_ms // config.frame_ms
        self._pre_roll_frames = frames(config.pre_roll_ms)
        self.reset()

    def reset(self) -> None:
        """Forget everything, the stream position included: the next chunk may start anywhere."""
        self._end = 0
        self._energy = 0.0
        self._start_over()

    def _start_over(self) -> None:
        self._detector = create_vad(self._config.detector, self._config.aggressiveness, self._config.frame_ms)
        self._state = _State.QUIET
        self._fragment = b""
        # What is kept: the pre-roll while nobody speaks, else everything from the first sample of the segment on.
        self._kept: list[bytes] = []
        self._energies: list[float] = []
        self._kept_from = self._end
        # Frames from the start of what is kept to the end of the last voiced one.
        self._voiced_until = 0
        # Frames in a row that speak for a change of state.
        self._count = 0

    def _jump_to(self, position: int) -> list[SpeechSegment]:
        if position < self._end:
            raise ValueError(f"a chunk starts at sample {position}, but the stream was already heard up to {self._end}")
        segments = self.flush()
        self._kept_from = position
        return segments

    @property
    def speaking(self) -> bool:
        """True while a segment is open, short pauses inside it included."""
        return self._state in (_State.SPEAKING, _State.STOPPING)

    @property
    def level_dbfs(self) -> float:
        """Root mean square of the last whole frame, from -90.3 (digital silence) to 0 (full-scale square wave)."""
        return 10 * math.log10(max(self._energy, 1.0) / _FULL_SCALE**2)

    def push(self, chunk: AudioChunk) -> list[SpeechSegment]:
        """Take the next sound, of any length; return the segments that ended in it, oldest first.

        A chunk that starts later than the one before ended says that samples were lost: what is open is flushed, and
        segmentation starts over behind the hole. One that starts earlier raises ValueError: segments could overlap.
        """
        segments = self._jump_to(chunk.start) if chunk.start != self._end else []
        self._end = chunk.end
        # Sound is kept as bytes, cut by the frame: what detectors take, and nothing a caller could change afterwards.
        sound = self._fragment + chunk.pcm.tobytes()
        whole = len(sound) - len(sound) % self._frame_bytes
        for start in range(0, whole, self._frame_bytes):
            segments += self._step(sound[start : start + self._frame_bytes])
        self._fragment = sound[whole:]
        return segments

    def flush(self) -> list[SpeechSegment]:
        """End the stream here, or at a hole in it: return the open segment, if there is one, whatever its length.

        An incomplete last frame belongs to it. Voiced frames too few to open a segment are dropped.
        """
        segments = []
        if self.speaking and self._voiced_until > 0:
            self._keep(self._fragment, 0.0)
            segments.append(self._take(self._closing_frame()))
        self._start_over()
        return segments

    def _step(self, frame: bytes) -> list[SpeechSegment]:
        """Decide about one frame."""
        self._energy = frame_power(frame)
        self._keep(frame, self._energy)
        voiced = self._detector.is_speech(frame)
        self._count += 1
        match self._state:
            case _State.QUIET | _State.STARTING:
                self._detect_onset(voiced)
            case _State.SPEAKING | _State.STOPPING if voiced:
                self._state = _State.SPEAKING
                self._voiced_until = len(self._kept)
                self._count = 0
            case _State.SPEAKING | _State.STOPPING:
                self._state = _State.STOPPING
        return self._cut()

    def _detect_onset(self, voiced: bool) -> None:
        if not voiced:
            self._end_segment()
        elif self._count < self._onset_frames:
            self._state = _State.STARTING
        else:
            self._state = _State.SPEAKING
            self._voiced_until = len(self._kept)
            self._count = 0

    def _end_segment(self) -> None:
        self._state = _State.QUIET
        self._count = 0
        self._drop(max(0, len(self._kept) - self._pre_roll_frames))

    def _cut(self) -> list[SpeechSegment]:
        """Close or split the open segment where it has to be."""
        length = len(self._kept)
        over = self._state is _State.STOPPING and self._count >= self._hangover_frames
        full = self.speaking and length >= self._max_frames
        if (over or full) and self._voiced_until <= 0:
            # The speech had ended before the last cut, and what was kept open behind that cut stayed silent.
            self._end_segment()
        elif over and length >= self._min_frames:
            segment = self._take(self._closing_frame())
            self._end_segment()
            return [segment]
        elif full:
            return [self._take(min(self._quietest_frame() + 1, self._closing_frame()))]
        return []

    def _quietest_frame(self) -> int:
        # Never the last one, so that something is left to go on with.
        earliest = self._max_frames * 2 // 3
        return earliest + int(np.argmin(self._energies[earliest:-1]))

    def _closing_frame(self) -> int:
        return min(max(self._voiced_until + self._tail_frames, self._min_frames), len(self._kept))

    def _keep(self, frame: bytes, energy: float) -> None:
        self._kept.append(frame)
        self._energies.append(energy)

    def _drop(self, frames: int) -> None:
        self._kept_from += frames * self._frame_samples
        self._voiced_until -= frames
        del self._kept[:frames], self._energies[:frames]

    def _take(self, frames: int) -> SpeechSegment:
        pcm = np.frombuffer(b"".join(self._kept[:frames]), np.int16).copy()
        segment = SpeechSegment(self._kept_from, pcm)
        self._drop(frames)
        _logger.debug("segment of %.2f s from sample %d", segment.duration_s, segment.start)
        return segment
