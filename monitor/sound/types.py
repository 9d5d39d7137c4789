"""What flows through the daemon. Plain frozen records: no torch, no database, no sound card."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from model.audio import Int16, samples_to_s


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
class Segment:
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
