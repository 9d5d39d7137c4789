"""What lower precision of nano's language model saves on this CPU, and what it costs in answers: vLLM embedded, processes in turn.

    python -m bench.studies.precision MANIFEST

MANIFEST names RAVDESS. Answers are those to the test speakers of nano's recipe, on whom nothing was tuned, clip by clip beside float32's.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil

from bench.harness import Timing, markdown_table, median_time
from bench.hot_path import HotPath, load_hot_path
from model.predictor import PromptStyle
from monitor.config import Precision
from monitor.inference.worker_process import LIBRARY_ENVIRONMENT
from train.corpora.manifest import Utterance, read_corpus_manifest
from train.evaluation.inference import predict_utterances
from train.evaluation.metrics import average_recall, interval_95, resample_pairs, unweighted_accuracy
from train.recipe import load_recipe

_CORPUS = "RAVDESS"
_PRECISIONS = [precision for precision in get_args(Precision) if precision != "auto"]
_TURNS, _ROUNDS, _AT_ONCE = 4, 12, 64
_HEAD = ["numbers", "CPU ms alone", f"of {_AT_ONCE}", "segments a second", "unweighted accuracy", "difference, 95 %", "other letters"]


def main() -> None:
    """Print Markdown lines, or one precision's figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--only", choices=_PRECISIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    clips = _clips(options.manifest)
    if options.only:
        print(json.dumps(_measure(options.only, clips)))
        return
    command = [sys.executable, "-m", "bench.studies.precision", str(options.manifest), "--only"]
    environment = LIBRARY_ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "ERROR", **os.environ}

    def measured(precision: str) -> dict[str, Any]:
        done = subprocess.run([*command, precision], check=True, capture_output=True, text=True, env=environment)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    turns = [[measured(precision) for precision in _PRECISIONS] for _ in range(_TURNS)]
    rows = _rows(clips, [_quickest(several) for several in zip(*turns, strict=True)])
    print(f"{len(clips)} clips, {len({clip.speaker for clip in clips})} speakers.\n")
    print("\n".join(markdown_table([*_HEAD, "largest change of a posterior", "MB resident"], rows)))


def _clips(manifest: Path) -> list[Utterance]:
    (corpus,) = (corpus for corpus in load_recipe("nano").corpora if corpus.name == _CORPUS)
    return [utterance for utterance in read_corpus_manifest(manifest) if utterance.corpus == _CORPUS and utterance.speaker in corpus.test]


def _measure(precision: Precision, clips: Sequence[Utterance]) -> dict[str, Any]:
    """posteriors: of the clips, (clips, letters). cpu_s: of one segment and of many; wall_s: of many. mb: resident."""
    with load_hot_path(precision) as ready:
        judged = predict_utterances(ready.bundle, ready.engine, clips, PromptStyle.of(ready.bundle))
        took = [_took(ready, size) for size in (1, _AT_ONCE)]
    letters = ready.bundle.manifest.letters
    return {
        "letters": letters,
        "posteriors": [[one.posterior[letter] for letter in letters] for one in judged if one.posterior],
        "cpu_s": [one.cpu_s for one in took],
        "wall_s": took[-1].wall_s,
        "mb": psutil.Process().memory_info().rss / 1e6,
    }


def _took(ready: HotPath, size: int) -> Timing:
    sounds = iter([ready.sounds(size) for _ in range(_ROUNDS)])
    return median_time(lambda: ready.predictor.predict(next(sounds)), _ROUNDS)


def _quickest(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One precision's figures, its times from the turn that the rest of the machine disturbed least; answers are the same in all."""
    if any(one["posteriors"] != several[0]["posteriors"] for one in several):
        raise RuntimeError("the same precision gave other answers in another turn")
    return min(several, key=lambda one: one["cpu_s"][-1])


def _rows(clips: Sequence[Utterance], measured: Sequence[dict[str, Any]]) -> list[list[object]]:
    letters = measured[0]["letters"]
    true = np.array([letters.index(clip.emotion) for clip in clips])
    tables = [np.array(one["posteriors"]) for one in measured]
    plain = tables[0].argmax(1)
    rows: list[list[object]] = []
    for precision, one, posteriors in zip(_PRECISIONS, measured, tables, strict=True):
        said = posteriors.argmax(1)
        before, now = resample_pairs(true, plain, said, [clip.speaker for clip in clips], len(letters))
        low, high = interval_95(average_recall(now) - average_recall(before))
        speed = [1000 * one["cpu_s"][0], 1000 * one["cpu_s"][1] / _AT_ONCE, _AT_ONCE / one["wall_s"]]
        accuracy = [f"{unweighted_accuracy(true, said, len(letters)):.3f}", f"{low:+.3f} to {high:+.3f}"]
        rows.append([precision, *speed, *accuracy, int((said != plain).sum()), f"{np.abs(posteriors - tables[0]).max():.3f}", one["mb"]])
    return rows


if __name__ == "__main__":
    main()
