"""Whether recordings can be trained on: every file is decoded to its end. It knows no corpus and no manifest."""

import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from model.errors import FormatError
from train.corpora.finder import Problem

SHORTEST_S = 0.1
_FILES_A_TASK = 32
_UNKNOWN_SIZE = 0x7FFF_0000
_TOLERATED_MISSING = 0.01


@dataclass(frozen=True, slots=True)
class Sound:
    """What hearing one file tells. seconds: its length; problem: why it cannot be used, if it cannot."""

    seconds: float
    problem: Problem | None = None


def hear(path: Path, check_audio: bool) -> Sound:
    """Decode a file to its end, or read its header only, and say whether it can be trained on."""
    # Here, because --help must not wait for the audio libraries.
    from model.audio import audio_length_s

    try:
        promised_s = audio_length_s(path)
        seconds, peak = _decode(path) if check_audio else (promised_s, None)
    except FormatError as error:
        return Sound(0.0, Problem(path, "audio cannot be decoded", kept=False, detail=str(error)))
    flaw = _flaw(seconds, promised_s, _missing_share(path), peak)
    return Sound(0.0, Problem(path, flaw[0], kept=False, detail=flaw[1])) if flaw else Sound(seconds)


def hear_all(paths: Sequence[Path], check_audio: bool) -> dict[Path, Sound]:
    """`hear` for many files, on all cores; a progress bar on stderr where that is a terminal."""
    tasks = [paths[start : start + _FILES_A_TASK] for start in range(0, len(paths), _FILES_A_TASK)]
    console = Console(file=sys.stderr)
    sounds: dict[Path, Sound] = {}
    # Threads, not processes: decoding and resampling happen outside Python's lock.
    with ThreadPoolExecutor() as pool, Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("hearing the corpus", total=len(paths))
        for task, heard in zip(tasks, pool.map(lambda task: [hear(path, check_audio) for path in task], tasks), strict=True):
            sounds.update(zip(task, heard, strict=True))
            progress.advance(bar, len(task))
    return sounds


def _missing_share(path: Path) -> float:
    """How much of a WAV file is cut off, 0 to 1, by the size in its RIFF header; libsndfile reads what is there and says nothing."""
    with path.open("rb") as file:
        header = file.read(8)
    promised = int.from_bytes(header[4:8], "little") + 8
    # Programs that write to a pipe do not know the size yet and put a number near the largest possible.
    if header[:4] != b"RIFF" or promised > _UNKNOWN_SIZE:
        return 0.0
    return 1 - min(path.stat().st_size / promised, 1.0)


def _decode(path: Path) -> tuple[float, float]:
    """Length in seconds and greatest absolute sample, NaN if any sample is; in blocks, so that a file of any length fits in memory."""
    import numpy as np

    from model.audio import samples_to_s, stream_audio

    samples, peak = 0, 0.0
    for block in stream_audio(path):
        samples += len(block)
        # np.maximum, because max() loses a NaN.
        peak = float(np.maximum(peak, np.abs(block).max(initial=0.0)))
    return samples_to_s(samples), peak


def _flaw(seconds: float, promised_s: float, missing: float, peak: float | None) -> tuple[str, str] | None:
    """What makes a recording unusable and the figure that shows it; peak: None where nothing was decoded."""
    if seconds < SHORTEST_S:
        return f"audio is shorter than {SHORTEST_S} s", f"{seconds:.3f} s"
    if missing > _TOLERATED_MISSING:
        return "audio ends before its header says", f"{missing:.0%} of the file is missing"
    if seconds < promised_s - SHORTEST_S:
        return "audio ends before its header says", f"{seconds:.2f} of {promised_s:.2f} s"
    if peak is not None and not math.isfinite(peak):
        return "audio has samples that are no numbers", ""
    if peak == 0.0:
        return "audio is silent", "every sample is zero"
    return None
