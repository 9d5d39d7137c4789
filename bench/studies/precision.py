"""What lower precision of nano's language model saves on this CPU, and what it costs in answers: vLLM embedded, one process for each.

    python -m bench.studies.precision MANIFEST

MANIFEST names RAVDESS. Answers are those to the test actors, whom nothing was tuned on, and are compared clip by clip with float32's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil

from bench.hot import hot
from bench.tables import table
from model.audio import read_audio
from model.predictor import Sound
from monitor.config import Precision
from monitor.judging.process import LIBRARY_SETTINGS
from train.corpora.manifest import Utterance, read_manifest
from train.scoring.metrics import average_recall, interval_95, resample_pairs, unweighted_accuracy

_TEST_SPEAKERS = {f"ravdess_{number}" for number in range(17, 21)}
_PRECISIONS = [precision for precision in get_args(Precision) if precision != "auto"]
_ROUNDS, _AT_ONCE = 12, 64


def main() -> None:
    """Print Markdown lines, or one precision's figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--only", choices=_PRECISIONS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(_measure(options.only, _clips(options.manifest))))
        return
    command = [sys.executable, "-m", "bench.studies.precision", str(options.manifest), "--only"]
    environment = LIBRARY_SETTINGS | {"VLLM_LOGGING_LEVEL": "ERROR", **os.environ}
    outputs = [subprocess.run([*command, one], check=True, capture_output=True, text=True, env=environment).stdout for one in _PRECISIONS]
    measured = [json.loads(output.splitlines()[-1]) for output in outputs]
    print("\n".join(_lines(_clips(options.manifest), measured)))


def _clips(manifest: Path) -> list[Utterance]:
    return [utterance for utterance in read_manifest(manifest) if utterance.speaker in _TEST_SPEAKERS]


def _measure(precision: Precision, clips: Sequence[Utterance]) -> dict[str, Any]:
    """Posteriors of the clips, CPU milliseconds of a segment, segments per second and megabytes."""
    with hot(precision) as ready:
        sounds = [Sound(read_audio(clip.path)) for clip in clips]
        answers = [answer for first in range(0, len(sounds), 16) for answer in ready.predictor.predict(sounds[first : first + 16])]
        took = {}
        for size in (1, _AT_ONCE):
            rounds = [_round(ready, size) for _ in range(_ROUNDS)]
            took[size] = [statistics.median(one) for one in zip(*rounds, strict=True)]
    posteriors = [list(answer.prediction.posterior.values()) for answer in answers if answer.prediction]
    letters = [letter.value for letter in ready.bundle.manifest.letters]
    return {"letters": letters, "posteriors": posteriors, "took": took, "mb": psutil.Process().memory_info().rss / 1e6}


def _round(ready: Any, size: int) -> tuple[float, float]:
    sounds = ready.sounds(size)
    cpu, wall = time.process_time(), time.perf_counter()
    ready.predictor.predict(sounds)
    return 1000 * (time.process_time() - cpu) / size, size / (time.perf_counter() - wall)


def _lines(clips: Sequence[Utterance], measured: Sequence[dict[str, Any]]) -> list[str]:
    letters = measured[0]["letters"]
    true = np.array([letters.index(clip.emotion) for clip in clips])
    tables = [np.array(one["posteriors"]) for one in measured]
    plain = tables[0].argmax(1)
    rows: list[list[object]] = []
    for precision, one, posteriors in zip(_PRECISIONS, measured, tables, strict=True):
        said = posteriors.argmax(1)
        pairs = resample_pairs(true, plain, said, [clip.speaker for clip in clips], len(letters))
        low, high = interval_95(average_recall(pairs[1]) - average_recall(pairs[0]))
        (alone, _), (together, a_second) = one["took"]["1"], one["took"][str(_AT_ONCE)]
        rows.append(
            [
                precision,
                *(f"{value:.1f}" for value in (alone, together)),
                f"{a_second:.0f}",
                f"{unweighted_accuracy(true, said, len(letters)):.3f}",
                f"{low:+.3f} to {high:+.3f}",
                int((said != plain).sum()),
                f"{np.abs(posteriors - tables[0]).max():.3f}",
                f"{one['mb']:.0f}",
            ]
        )
    head = ["numbers", "CPU ms alone", f"of {_AT_ONCE}", "segments a second", "unweighted accuracy", "difference, 95 %", "other letters"]
    return [f"{len(clips)} clips, {len(_TEST_SPEAKERS)} speakers.", "", *table([*head, "largest change of a posterior", "MB"], rows)]


if __name__ == "__main__":
    main()
