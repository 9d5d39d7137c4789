"""Cross-fitting: every training speaker is judged by a training that left that speaker out, so that all of them can calibrate.

Each fold is a whole training. On a CPU they run side by side, a core each, because two on one core each are quicker than one on two.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.types import Emotion
from train.calibration import judged_by_corpus, labelled
from train.console import log_to_stderr
from train.corpora.manifest import Utterance
from train.corpora.splits import Corpora
from train.learning.trainer import make_accelerator
from train.recipe import Recipe
from train.release import draft
from train.scoring.evaluation import KNOWN
from train.scoring.results import Judged
from train.training import run_key, trained
from train.workers import worker_pool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fold:
    """One training that leaves some speakers out: everything that a process of its own needs."""

    number: int
    recipe: Recipe
    manifests: tuple[Path, ...]
    work: Path
    seed: int


def cross_fitted(recipe: Recipe, corpora: Corpora, manifests: Sequence[Path], work: Path, seed: int) -> dict[str, list[Judged]]:
    """Answers, at temperature 1, to all labelled utterances of all folds, by corpus; what an earlier call left in `work` is used."""
    folds = [Fold(number, recipe, tuple(manifests), work, seed) for number in range(recipe.folds)]
    kept = [work / f"fold-{_key(fold, corpora)}.jsonl" for fold in folds]
    missing = [(fold, path) for fold, path in zip(folds, kept, strict=True) if not path.exists()]
    if missing:
        logger.info("%d trainings, each without some speakers, to calibrate on them", len(missing))
        _run(missing)
    judged: dict[str, list[Judged]] = {}
    for fold, path in zip(folds, kept, strict=True):
        for corpus, clips in labelled(corpora.folds[fold.number], recipe.letters).items():
            for name in (corpus, corpus + KNOWN):
                if answers := _read(path, name, clips):
                    judged.setdefault(name, []).extend(answers)
    return judged


def _key(fold: Fold, corpora: Corpora) -> str:
    """Changes with what is trained on and with what is judged."""
    return run_key(fold.recipe, [*corpora.without(fold.number), *corpora.folds[fold.number]], fold.seed)


def _run(missing: Sequence[tuple[Fold, Path]]) -> None:
    cores = os.cpu_count() or 1
    workers = 1 if torch.cuda.is_available() else min(cores, len(missing))
    with worker_pool(workers, torch.set_num_threads, (max(1, cores // workers),)) as pool:
        list(pool.map(_judge, *zip(*missing, strict=True)))


def _judge(fold: Fold, kept: Path) -> None:
    """Train without the fold's speakers, judge them, and keep the answers, whole or not at all."""
    log_to_stderr(f"fold {fold.number + 1}: ")
    corpora = Corpora.load(fold.recipe, fold.manifests)
    materials = trained(fold.recipe, corpora, corpora.without(fold.number), fold.work, fold.seed, make_accelerator(fold.recipe))
    judged = judged_by_corpus(draft(fold.recipe, materials), materials.llm, corpora.folds[fold.number])
    rows = [
        {"corpus": corpus, "posterior": one.posterior, "transcript": one.transcript}
        for corpus, answers in judged.items()
        for one in answers
    ]
    unfinished = kept.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unfinished.rename(kept)


def _read(path: Path, corpus: str, clips: Sequence[Utterance]) -> list[Judged]:
    """The kept answers to a corpus's clips of a fold, in their order; the file's name tells which clips, not where they lie.

    None are kept of known voices where the bundle does not normalise, or nobody knows who speaks.
    """
    rows = [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if row["corpus"] == corpus]
    heard = [clip for clip in clips if clip.speaker] if corpus.endswith(KNOWN) else clips
    found = zip(heard if rows else [], rows, strict=True)
    return [Judged(clip, _posterior(row["posterior"]), row["transcript"], unsure=False) for clip, row in found]


def _posterior(found: dict[str, float] | None) -> dict[Emotion, float] | None:
    return None if found is None else {Emotion(letter): probability for letter, probability in found.items()}
