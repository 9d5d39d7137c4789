"""Cross-fitting: every training speaker is judged by a training that left that speaker out, so that all of them can calibrate.

Each fold is a whole training. On a CPU they run side by side, a core each, because two on one core each are quicker than one on two.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from model.types import Emotion
from train.calibration import judged_by_corpus
from train.corpora.manifest import Utterance
from train.corpora.splits import Corpora, everyone
from train.learning.trainer import make_accelerator
from train.recipe import Recipe
from train.release import draft
from train.scoring.results import Judged
from train.training import run_key, trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fold:
    """One training that leaves some speakers out: everything that a process of its own needs."""

    number: int
    recipe: Recipe
    manifests: tuple[Path, ...]
    work: Path
    seed: int


def judged_by_strangers(recipe: Recipe, corpora: Corpora, manifests: Sequence[Path], work: Path, seed: int) -> dict[str, list[Judged]]:
    """Answers, at temperature 1, to all labelled utterances of all folds, by corpus; what an earlier call left in `work` is used."""
    folds = [Fold(number, recipe, tuple(manifests), work, seed) for number in range(recipe.folds)]
    kept = [work / f"fold-{run_key(recipe, corpora.without(fold.number), seed)}.jsonl" for fold in folds]
    missing = [(fold, path) for fold, path in zip(folds, kept, strict=True) if not path.exists()]
    if missing:
        logger.info("%d trainings, each without some speakers, to calibrate on them", len(missing))
        _run(missing)
    known = {str(u.path): u for part in corpora.folds for u in everyone(part)}
    judged: dict[str, list[Judged]] = {}
    for path in kept:
        for one in _read(path, known):
            judged.setdefault(one.utterance.corpus, []).append(one)
    return judged


def _run(missing: Sequence[tuple[Fold, Path]]) -> None:
    cores = os.cpu_count() or 1
    workers = 1 if torch.cuda.is_available() else min(cores, len(missing))
    # Spawned, because a process that has used torch's threads must not be forked.
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (max(1, cores // workers),)) as pool:
        list(pool.map(_judge, *zip(*missing, strict=True)))


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s fold: %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)


def _judge(fold: Fold, kept: Path) -> None:
    """Train without the fold's speakers, judge them, and keep the answers, whole or not at all."""
    corpora = Corpora.load(fold.recipe, fold.manifests)
    materials = trained(fold.recipe, corpora, corpora.without(fold.number), fold.work, fold.seed, make_accelerator(fold.recipe))
    judged = judged_by_corpus(draft(fold.recipe, materials), materials.llm, corpora.folds[fold.number])
    rows = [
        {"path": str(one.utterance.path), "posterior": one.posterior, "transcript": one.transcript}
        for answers in judged.values()
        for one in answers
    ]
    unfinished = kept.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unfinished.rename(kept)


def _read(path: Path, known: dict[str, Utterance]) -> list[Judged]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Judged(known[row["path"]], _posterior(row["posterior"]), row["transcript"], unsure=False) for row in rows]


def _posterior(found: dict[str, float] | None) -> dict[Emotion, float] | None:
    return None if found is None else {Emotion(letter): probability for letter, probability in found.items()}
