"""The one place for sample arithmetic and for reading sound: everything inside is mono at SAMPLE_RATE.

N is a number of samples. Stream positions are integer samples since the stream began; seconds are derived from them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from model.errors import FormatError

SAMPLE_RATE = 16_000
_PCM16_SCALE = 32_768.0

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]


def ms_to_samples(ms: int) -> int:
    """Milliseconds to samples, exact for whole milliseconds."""
    return ms * SAMPLE_RATE // 1000


def s_to_samples(seconds: float) -> int:
    """Seconds to samples, rounded half up (never to even, so that neighbours do not drift)."""
    return int(seconds * SAMPLE_RATE + 0.5)


def samples_to_s(samples: int) -> float:
    """Samples to seconds."""
    return samples / SAMPLE_RATE


def pcm16_to_float(pcm: Int16) -> Float32:
    """int16 (N,) to float32 (N,) in [-1, 1). The scale is fixed: loudness is an emotion cue, so no gain is applied."""
    return pcm.astype(np.float32) / _PCM16_SCALE


def float_to_pcm16(audio: Float32) -> Int16:
    """float32 (N,) to int16 (N,); what lies outside [-1, 1) is clipped."""
    pcm: Int16 = np.clip(np.rint(audio * _PCM16_SCALE), -_PCM16_SCALE, _PCM16_SCALE - 1).astype(np.int16)
    return pcm


def stream_audio(path: Path, block_s: float = 1.0) -> Iterator[Float32]:
    """Yield a file's sound as mono float32 blocks at SAMPLE_RATE; channels are averaged, other rates resampled.

    The file is never in memory as a whole. Raises FormatError when it is missing, empty, or not audio that soundfile reads.
    A file that ends before its header says yields what is there.
    """
    try:
        with soundfile.SoundFile(path) as file:
            resampler = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32")
            heard = False
            while True:
                block = file.read(max(1, int(block_s * file.samplerate)), dtype="float32", always_2d=True)
                out = resampler.resample_chunk(block.mean(axis=1), last=len(block) == 0)
                heard = heard or len(block) > 0
                if len(out):
                    yield np.asarray(out, dtype=np.float32)
                if len(block) == 0:
                    break
    except soundfile.LibsndfileError as error:
        raise FormatError(_unreadable(path, error)) from error
    if not heard:
        raise FormatError(f"{path} holds no sound: its header is fine, but there are 0 samples in it")


def read_audio(path: Path) -> Float32:
    """A whole file as mono float32 (N,) at SAMPLE_RATE; errors as in `stream_audio`."""
    return np.concatenate(list(stream_audio(path, block_s=60.0)))


def _unreadable(path: Path, error: Exception) -> str:
    if not path.exists():
        return f"{path} does not exist"
    if path.is_dir():
        return f"{path} is a folder; name one audio file"
    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes)"
    return f"{path} is not audio that can be read ({error}); use WAV, FLAC, Ogg, Opus or MP3"


def audio_length_s(path: Path) -> float:
    """Length of a file in seconds as its header says it, at any rate. Raises FormatError as `stream_audio` does."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise FormatError(_unreadable(path, error)) from error
    return float(info.frames) / float(info.samplerate)
