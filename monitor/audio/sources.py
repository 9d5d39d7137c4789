"""The interface of an audio source, and the two sources that need no sound card: a file and standard input.

The microphone is in `monitor/audio/microphone.py`.
"""

import itertools
import logging
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Protocol, Self

import numpy as np

from model.audio import SAMPLE_RATE, Float32, float_to_pcm16, samples_to_s, stream_audio
from model.errors import FormatError
from monitor.audio.clock import ClockReading
from monitor.audio.stream import AudioChunk

_logger = logging.getLogger(__name__)

# How long a call of `close` may go unnoticed; also the block in which a file is played in real time.
_POLL_S: Final = 0.1
_READ_BYTES: Final = 65_536
_RAW_FORMAT: Final = f"raw 16-bit little-endian mono sound at {SAMPLE_RATE} Hz"
_RAW_EXAMPLE: Final = f"ffmpeg -i FILE -f s16le -ac 1 -ar {SAMPLE_RATE} - | emosllm-monitor start --source -"
# How files begin that are piped in by mistake: WAV, FLAC, Ogg, MP3.
_FILE_MAGIC: Final = (b"RIFF", b"fLaC", b"OggS", b"ID3")


Delivery = tuple[int, ClockReading]


class AudioSource(Protocol):
    """A stream of sound: opened by `with`, read by `for`, once.

    live: sound comes in real time and is lost when it is not taken; it ends by `close` or with a DeviceError, never by
    itself. Of the others nothing is lost, and the end of the sound ends the iteration.
    """

    @property
    def description(self) -> str:
        """What it is, for people."""

    @property
    def live(self) -> bool:
        """See above."""

    @property
    def microphone(self) -> str | None:
        """Which microphone it is once it is open, by a name that stays the same; None for what is none."""

    @property
    def delivered(self) -> "Delivery | None":
        """Of a microphone: the position up to which sound has come, taken or not, and when the last of it came."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def __iter__(self) -> Iterator[AudioChunk]:
        """Wait for sound and yield it in order, starting at sample 0. Raises AudioError."""

    def close(self) -> None:
        """End the iteration soon. May be called from any thread or signal handler, and more than once."""


class FileSource:
    """A sound file of any format, rate and channel count that `model.audio.stream_audio` reads.

    speed: 1 plays in real time, 2 twice as fast, None as fast as the sound is taken.
    clock: seconds that never go back, by which the sound is paced.
    """

    live = False
    microphone = None
    delivered = None

    def __init__(self, path: Path, speed: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.description = f"the file {path.name}"
        self._path = path
        self._speed = speed
        self._clock = clock
        self._closed = False
        self._blocks: Iterator[Float32] = iter(())

    def __enter__(self) -> Self:
        """Open the file. Raises FormatError when it is missing or holds no sound that can be read."""
        blocks = stream_audio(self._path, block_s=1.0 if self._speed is None else _POLL_S)
        # Reading the first block here shows at once whether the file is any good.
        self._blocks = itertools.chain([next(blocks)], blocks)
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration; what was not read yet stays unread."""
        self._closed = True

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield the file's sound; a block is played when its last sample has been spoken. Raises FormatError."""
        started_at = self._clock()
        position = 0
        for block in self._blocks:
            chunk = AudioChunk(position, float_to_pcm16(block))
            position = chunk.end
            if self._speed is not None:
                self._wait_until(started_at + samples_to_s(position) / self._speed)
            if self._closed:
                return
            yield chunk

    def _wait_until(self, due_at: float) -> None:
        while not self._closed and (early_s := due_at - self._clock()) > 0:
            time.sleep(min(early_s, _POLL_S))


class StdinSource:
    """Raw sound from a pipe or a redirected file: int16 little endian, mono, at SAMPLE_RATE, until it ends.

    stream: the binary standard input; None, as Python has it when a process was started without one, is refused.
    """

    live = False
    microphone = None
    delivered = None
    description = "standard input"

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream = stream
        self._closed = False
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Raises FormatError when there is no standard input, or a keyboard at its other end."""
        if self._stream is None or self._stream.closed:
            raise FormatError(f"standard input is closed; pipe {_RAW_FORMAT} into it: {_RAW_EXAMPLE}")
        if self._stream.isatty():
            raise FormatError(f"standard input is a terminal; pipe {_RAW_FORMAT} into it: {_RAW_EXAMPLE}")
        self._descriptor = self._stream.fileno()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration; the stream itself stays open, as it is not ours."""
        self._closed = True

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield the sound as it comes in, and empty chunks while none comes, so that whoever reads can see to other things.

        Raises FormatError when there is none at all, or plainly none of this format. A last byte that makes no whole sample is left out.
        """
        position = 0
        rest = b""
        for data in self._reads():
            data = rest + data
            pcm = np.frombuffer(data, "<i2", count=len(data) // 2).astype(np.int16)
            rest = data[2 * len(pcm) :]
            if position == 0 and data.startswith(_FILE_MAGIC):
                raise FormatError(f"standard input holds a sound file, not {_RAW_FORMAT}; convert it: {_RAW_EXAMPLE}")
            yield AudioChunk(position, pcm)
            position += len(pcm)
        if rest:
            _logger.warning("standard input ended in the middle of a sample; its last byte is left out")
        if position == 0 and not self._closed:
            raise FormatError(f"standard input ended without any sound; pipe {_RAW_FORMAT} into it: {_RAW_EXAMPLE}")

    def _reads(self) -> Iterator[bytes]:
        """Yield bytes as they come, none now and then. It polls, because a blocked read could not be ended from another thread."""
        while not self._closed:
            try:
                ready, _, _ = select.select([self._descriptor], [], [], _POLL_S)
                data = os.read(self._descriptor, _READ_BYTES) if ready else b""
            except OSError as error:
                raise FormatError(f"standard input cannot be read: {error.strerror}") from error
            if ready and not data:
                return
            yield data
