"""Files and standard input as sources: any format, nothing lost, ended at will, and refused with a reason."""

import itertools
import os
import pty
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile

from model.audio import SAMPLE_RATE, Int16, pcm16_to_float, s_to_samples
from model.errors import FormatError
from monitor.audio.sources import AudioSource, FileSource, StdinSource
from monitor.audio.stream import AudioChunk
from tests.support.virtual_microphone import synthetic_voice

VOICE = synthetic_voice(3)
RAW = VOICE.astype("<i2").tobytes()
# A call of `close` must end the iteration within this time, also on a busy machine.
PROMPT_S = 1.0


def joined(chunks: list[AudioChunk]) -> Int16:
    """The sound of chunks that follow each other without a hole."""
    assert chunks[0].start == 0
    assert all(one.end == other.start for one, other in itertools.pairwise(chunks))
    assert all(chunk.pcm.dtype == np.int16 for chunk in chunks)
    return np.concatenate([chunk.pcm for chunk in chunks])


def likeness(sound: Int16, reference: Int16) -> float:
    """The highest normalised correlation, 0 to 1, within 50 ms of shift either way, as codecs add some."""
    shift = s_to_samples(0.05)
    one, inner = pcm16_to_float(sound), pcm16_to_float(reference)[shift:-shift]
    return float(np.correlate(one, inner).max() / np.linalg.norm(one) / np.linalg.norm(inner))


def read(source: AudioSource) -> Int16:
    with source:
        return joined(list(source))


def write(path: Path, rate: int, channels: int, **how: str) -> None:
    """The voice at another rate, in every second channel only."""
    at = np.arange(len(VOICE) * rate // SAMPLE_RATE) * SAMPLE_RATE / rate
    mono = np.interp(at, np.arange(len(VOICE)), pcm16_to_float(VOICE))
    soundfile.write(path, np.stack([mono * (channel % 2 == 0) for channel in range(channels)], axis=1), rate, **how)


@pytest.mark.parametrize(
    ("name", "subtype", "rate", "channels"),
    [
        ("a.wav", "PCM_16", 16_000, 1),
        ("a.wav", "PCM_U8", 8_000, 1),
        ("a.wav", "FLOAT", 48_000, 2),
        ("a.wav", "PCM_24", 11_025, 3),
        ("a.flac", "PCM_24", 44_100, 2),
        ("a.ogg", "VORBIS", 22_050, 2),
        ("a.ogg", "OPUS", 48_000, 1),
        ("a.mp3", "MPEG_LAYER_III", 44_100, 2),
    ],
)
def test_files_of_any_format_rate_and_channel_count(tmp_path: Path, name: str, subtype: str, rate: int, channels: int) -> None:
    path = tmp_path / name
    write(path, rate, channels, subtype=subtype)
    sound = read(FileSource(path))
    assert abs(len(sound) - len(VOICE)) < s_to_samples(0.1)
    assert likeness(sound, VOICE) > 0.9
    loudness = np.std(sound.astype(float)) / np.std(VOICE.astype(float))
    assert loudness == pytest.approx((channels + 1) // 2 / channels, rel=0.15)


def test_speech_at_the_inner_rate_is_passed_on_bit_by_bit(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, SAMPLE_RATE)
    for speed in (None, 100.0):
        np.testing.assert_array_equal(read(FileSource(tmp_path / "a.wav", speed)), VOICE)


def test_a_truncated_file_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, VOICE, SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[: len(RAW) // 2])
    sound = read(FileSource(path))
    assert s_to_samples(1.4) < len(sound) < s_to_samples(1.6)
    np.testing.assert_array_equal(sound, VOICE[: len(sound)])


def nothing(path: Path) -> None:
    pass


def text(path: Path) -> None:
    path.write_text("Dear diary, today was fine.\n" * 100)


def no_samples(path: Path) -> None:
    soundfile.write(path, VOICE[:0], SAMPLE_RATE, format="WAV")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (nothing, "does not exist"),
        (Path.touch, "is empty"),
        (Path.mkdir, "is a folder"),
        (text, "is not audio that can be read"),
        (no_samples, "holds no sound"),
    ],
)
def test_what_is_no_sound_is_refused_on_entering(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "diary.wav"
    make(path)
    with pytest.raises(FormatError, match=reason) as caught, FileSource(path):
        pass
    assert "diary.wav" in str(caught.value)


def test_a_file_is_played_in_real_time_by_the_clock_it_is_given(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, SAMPLE_RATE)
    started_at = time.monotonic()
    with FileSource(tmp_path / "a.wav", speed=4) as source:
        for chunk in source:
            assert time.monotonic() - started_at >= chunk.end / SAMPLE_RATE / 4
    # A clock that runs ahead makes nothing wait.
    ticks = itertools.count(step=10)
    started_at = time.monotonic()
    np.testing.assert_array_equal(read(FileSource(tmp_path / "a.wav", 1, clock=lambda: float(next(ticks)))), VOICE)
    assert time.monotonic() - started_at < len(VOICE) / SAMPLE_RATE


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """What a process reads as its standard input, and the end that another writes to."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read_end, os.fdopen(writer, "wb", buffering=0) as write_end:
        yield read_end, write_end


def test_standard_input_in_pieces_of_any_size(pipe: tuple[BinaryIO, BinaryIO]) -> None:
    stdin, writer = pipe

    def write_in_pieces() -> None:
        rest, sizes = RAW, itertools.cycle([1, 3, 5_001, 960, 2, 40_001])
        while rest:
            size = next(sizes)
            writer.write(rest[:size])
            rest = rest[size:]
            time.sleep(0.005)
        writer.close()

    thread = threading.Thread(target=write_in_pieces)
    thread.start()
    np.testing.assert_array_equal(read(StdinSource(stdin)), VOICE)
    thread.join()


def test_a_redirected_file_and_a_half_sample_at_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "raw").write_bytes(RAW + b"\x07")
    with (tmp_path / "raw").open("rb") as stdin:
        np.testing.assert_array_equal(read(StdinSource(stdin)), VOICE)
    assert "last byte" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\x07"])
def test_standard_input_without_sound_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "raw").write_bytes(content)
    with (
        (tmp_path / "raw").open("rb") as stdin,
        StdinSource(stdin) as source,
        pytest.raises(FormatError, match="without any sound"),
    ):
        list(source)


def test_standard_input_that_is_closed_or_a_keyboard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is closed"), StdinSource(None):
        pass
    with (tmp_path / "raw").open("wb") as closed:
        pass
    with pytest.raises(FormatError, match="is closed"), StdinSource(closed):
        pass
    master, slave = pty.openpty()
    with os.fdopen(slave, "rb") as keyboard, pytest.raises(FormatError, match=r"terminal.*ffmpeg"), StdinSource(keyboard):
        pass
    os.close(master)


def test_a_sound_file_piped_in_is_not_taken_for_raw_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, SAMPLE_RATE)
    with (
        (tmp_path / "a.wav").open("rb") as stdin,
        StdinSource(stdin) as source,
        pytest.raises(FormatError, match="holds a sound file"),
    ):
        list(source)


def by_thread(close: Callable[[], None]) -> None:
    threading.Timer(0.2, close).start()


def by_signal(close: Callable[[], None]) -> None:
    signal.signal(signal.SIGALRM, lambda *_: close())
    signal.setitimer(signal.ITIMER_REAL, 0.2)


@pytest.mark.parametrize("end", [by_thread, by_signal])
def test_close_ends_a_file_that_waits_for_its_time(tmp_path: Path, end: Callable[[Callable[[], None]], None]) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, SAMPLE_RATE)
    with FileSource(tmp_path / "a.wav", speed=0.001) as source:
        end(source.close)
        started_at = time.monotonic()
        assert list(source) == []
        assert 0.1 < time.monotonic() - started_at < 0.2 + PROMPT_S
        source.close()


@pytest.mark.parametrize("end", [by_thread, by_signal])
def test_close_ends_a_standard_input_that_says_nothing(pipe: tuple[BinaryIO, BinaryIO], end: Callable[[Callable[[], None]], None]) -> None:
    stdin, writer = pipe
    writer.write(RAW[:2_000])
    with StdinSource(stdin) as source:
        end(source.close)
        started_at = time.monotonic()
        assert len(joined(list(source))) == 1_000
        assert 0.1 < time.monotonic() - started_at < 0.2 + PROMPT_S
