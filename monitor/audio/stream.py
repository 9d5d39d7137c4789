"""What flows through the audio path: audio chunks, speech segments, the stream's clock, and the resampler that makes chunks.

A `Resampler` turns what a sound card delivers into chunks of one channel at SAMPLE_RATE; holes in the stream stay holes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import soxr

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, pcm16_to_float, samples_to_s


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Mono int16 sound (N,) at SAMPLE_RATE as a source delivered it, N of any size.

    start: position of the first sample in the stream. A jump against the end of the chunk before says that samples were lost.
    """

    start: int
    pcm: Int16

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.start + len(self.pcm)


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """One stretch of speech cut out of the stream: mono int16 (N,) at SAMPLE_RATE, from stream position `start`."""

    start: int
    pcm: Int16

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.start + len(self.pcm)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return samples_to_s(len(self.pcm))


@dataclass(frozen=True, slots=True)
class StreamClock:
    """Wall time of a stream: `sample` was heard at `anchor`, an aware UTC moment; others follow from that at SAMPLE_RATE.

    A stream is anchored anew where time and samples have parted: after a hole of unknown length, or when a clock was set.
    """

    anchor: datetime
    sample: int = 0

    def __post_init__(self) -> None:
        if self.anchor.tzinfo is not UTC:
            raise ValueError(f"a stream's anchor must be in UTC, this one is {self.anchor!r}")

    def at(self, sample: int) -> datetime:
        """The aware UTC moment of a stream position."""
        return self.anchor + timedelta(seconds=samples_to_s(sample - self.sample))

    def moved(self, seconds: float, sample: int) -> "StreamClock":
        """The clock from `sample` on, `seconds` later than this one."""
        return StreamClock(self.at(sample) + timedelta(seconds=seconds), sample)


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
