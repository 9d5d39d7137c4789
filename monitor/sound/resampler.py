"""Turns what a sound card delivers into AudioChunks: one channel at SAMPLE_RATE, with holes kept as holes.

It counts positions on both sides, in the device's frames and in samples of the stream, and knows no devices.
"""

from collections.abc import Iterator

import numpy as np
import soxr

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, pcm16_to_float
from monitor.sound.types import AudioChunk


class Resampler:
    """What a device delivers, as AudioChunks: its channels averaged, its rate resampled, holes kept as holes."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self.lost_samples = 0
        self.rate_hz = rate_hz
        self._channels = channels
        self._end = 0
        self._resume(0)

    def convert(self, position: int, sound: bytes) -> Iterator[AudioChunk]:
        """Interleaved int16 from `position`, in frames of the device since it began. Yields what is ready of it."""
        if position != self._heard:
            yield from self.finish()
            self._resume(position)
        frames = np.frombuffer(sound, np.int16).reshape(-1, self._channels)
        self._heard += len(frames)
        if (self.rate_hz, self._channels) == (SAMPLE_RATE, 1):
            yield from self._chunk(frames[:, 0])
        else:
            yield from self._resample(frames, last=False)

    def finish(self) -> Iterator[AudioChunk]:
        """Yield what the resampler still holds of the sound before the end or a hole."""
        yield from self._resample(np.empty((0, self._channels), np.int16), last=True)

    def _resume(self, position: int) -> None:
        start = max(self._end, position * SAMPLE_RATE // self.rate_hz)
        self.lost_samples += start - self._end
        self._heard, self._end = position, start
        self._soxr = soxr.ResampleStream(self.rate_hz, SAMPLE_RATE, 1, dtype="float32")

    def _resample(self, frames: Int16, last: bool) -> Iterator[AudioChunk]:
        mono = pcm16_to_float(frames).mean(axis=1)
        yield from self._chunk(float_to_pcm16(self._soxr.resample_chunk(mono, last=last)))

    def _chunk(self, pcm: Int16) -> Iterator[AudioChunk]:
        if len(pcm):
            chunk = AudioChunk(self._end, pcm)
            self._end = chunk.end
            yield chunk
