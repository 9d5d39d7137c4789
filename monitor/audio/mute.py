"""Tells a muted microphone from a quiet one: exact zeros for a while, which no open microphone ever delivers.

A muted PulseAudio or PipeWire source goes on delivering, and what it delivers is zeros. That they mean silence on purpose
is only known after some time; the stretch then counts as muted from the first of them. Positions only: no wall time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.audio import s_to_samples
from monitor.audio.stream import AudioChunk

MUTED_AFTER_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class SampleRange:
    """Samples [start, end) of the stream, all muted or none."""

    start: int
    end: int
    muted: bool


class MuteDetector:
    """Splits a stream into heard and muted stretches, the same whatever the chunks.

    Joined, the stretches it gives out hold every sample that was pushed, in order and once; neighbours differ in kind
    unless `settled` or a hole in the stream lies between them. A hole belongs to no stretch, and a run of zeros does not
    count on across it.
    """

    def __init__(self) -> None:
        self._long = s_to_samples(MUTED_AFTER_S)
        self._from = 0  # what lies before was given out
        self._zeros_from = 0  # after the last sample that is not zero
        self._end = 0
        self._muted = False

    @property
    def muted(self) -> bool:
        """Whether it is muted now, as far as is known."""
        return self._muted

    def push(self, chunk: AudioChunk) -> list[SampleRange]:
        """Take the next sound; returns the stretches that are known to have ended."""
        return list(self._split(chunk))

    def settled(self) -> list[SampleRange]:
        """What is certain of the stretch that still goes on, at most one; to be called now and then, so that it can be stored.

        The last zeros stay undecided until they are many enough, or something follows them.
        """
        return list(self._give(self._end if self._muted else self._zeros_from))

    def flush(self) -> list[SampleRange]:
        """The sound ends here; what is left of it, at most one stretch. The next chunk may start anywhere from here on."""
        left = list(self._give(self._end))
        self._begin(self._end)
        return left

    def _split(self, chunk: AudioChunk) -> Iterator[SampleRange]:
        if chunk.start != self._end:
            yield from self.flush()
            self._begin(chunk.start)
        heard = chunk.pcm != 0
        if heard.any():
            first, last = int(heard.argmax()), len(heard) - 1 - int(heard[::-1].argmax())
            # Runs of zeros that end in this chunk: the one before its first sound, and long ones within.
            yield from self._zeros(self._zeros_from, chunk.start + first)
            if last - first > self._long:
                yield from self._zeros_within(chunk.start + np.flatnonzero(heard))
            self._zeros_from = chunk.start + last + 1
        self._end = chunk.end
        if not self._muted and self._end - self._zeros_from >= self._long:
            yield from self._give(self._zeros_from)
            self._muted = True

    def _zeros_within(self, loud: NDArray[np.intp]) -> Iterator[SampleRange]:
        for at in np.flatnonzero(np.diff(loud) > self._long):
            yield from self._zeros(int(loud[at]) + 1, int(loud[at + 1]))

    def _zeros(self, start: int, end: int) -> Iterator[SampleRange]:
        """Zeros that ended, given out as muted when they were many."""
        if end - start < self._long:
            return
        if not self._muted:
            yield from self._give(start)
            self._muted = True
        yield from self._give(end)
        self._muted = False

    def _give(self, end: int) -> Iterator[SampleRange]:
        if end > self._from:
            yield SampleRange(self._from, end, self._muted)
        self._from = max(self._from, end)

    def _begin(self, at: int) -> None:
        self._from = self._zeros_from = self._end = at
        self._muted = False
