"""The whole training: from a recipe and manifests, over cross-fitting, to a calibrated and scored bundle. It can be resumed.

Cross-fitting: every training speaker is predicted by a training that left that speaker out, so that all of them can
calibrate the bundle. Each fold is a whole training, kept in the work folder; folds may run side by side.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from accelerate import Accelerator

from model.bundle_format import file_sha256, find_bundle
from model.emotions import Emotion
from model.errors import TrainingError
from train.calibration import Calibration, LeftOutPredictions, labelled_by_corpus, predict_by_corpus, training_prior
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusSplits
from train.evaluation.evaluate import Enrolment, EvaluatedBundle, RobustnessSets, evaluate_bundle
from train.evaluation.figures import KNOWN, Evaluation, EvaluationSubject
from train.evaluation.inference import require_transcripts
from train.evaluation.results import UtterancePrediction, compute_evaluation
from train.learning.encoder_states import statistic_store
from train.learning.small_models import feature_store
from train.learning.trainer import make_accelerator
from train.recipe import EncoderTraining, Recipe, WhisperRecipe
from train.release import add_scores, draft_bundle, refuse_existing, write_bundle
from train.simulated_days import PosteriorTable, posterior_confusion
from train.training import run_key, run_record, train_or_load
from train.workers import log_to_stderr, worker_pool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingFold:
    """One training that leaves some speakers out: everything that a process of its own needs."""

    number: int
    recipe: Recipe
    manifests: tuple[Path, ...]
    work: Path
    seed: int


def cross_fit(
    recipe: Recipe, corpora: CorpusSplits, manifests: Sequence[Path], work: Path, seed: int
) -> dict[str, list[UtterancePrediction]]:
    """Answers, at temperature 1, to all labelled utterances of all folds, by corpus; what an earlier call left in `work` is used."""
    folds = [TrainingFold(number, recipe, tuple(manifests), work, seed) for number in range(recipe.folds)]
    kept = [work / f"fold-{_fold_key(fold, corpora)}.jsonl" for fold in folds]
    missing = [(fold, path) for fold, path in zip(folds, kept, strict=True) if not path.exists()]
    if missing:
        logger.info("%d trainings, each without some speakers, to calibrate on them", len(missing))
        _run_folds(missing)
    judged: dict[str, list[UtterancePrediction]] = {}
    for fold, path in zip(folds, kept, strict=True):
        for corpus, clips in labelled_by_corpus(corpora.folds[fold.number], recipe.letters).items():
            for name in (corpus, corpus + KNOWN):
                if answers := _read_predictions(path, name, clips):
                    judged.setdefault(name, []).extend(answers)
    return judged


def _fold_key(fold: TrainingFold, corpora: CorpusSplits) -> str:
    """Changes with what is trained on and with what is judged."""
    return run_key(fold.recipe, [*corpora.without(fold.number), *corpora.folds[fold.number]], fold.seed)


def _run_folds(missing: Sequence[tuple[TrainingFold, Path]]) -> None:
    cores = os.cpu_count() or 1
    workers = 1 if torch.cuda.is_available() else min(cores, len(missing))
    with worker_pool(workers, torch.set_num_threads, (max(1, cores // workers),)) as pool:
        list(pool.map(_predict_fold, *zip(*missing, strict=True)))


def _predict_fold(fold: TrainingFold, kept: Path) -> None:
    """Train without the fold's speakers, judge them, and keep the answers, whole or not at all."""
    log_to_stderr(f"fold {fold.number + 1}: ")
    corpora = CorpusSplits.load(fold.recipe, fold.manifests)
    materials = train_or_load(fold.recipe, corpora, corpora.without(fold.number), fold.work, fold.seed, make_accelerator(fold.recipe))
    judged = predict_by_corpus(draft_bundle(fold.recipe, materials), materials.llm, corpora.folds[fold.number])
    rows = [
        {"corpus": corpus, "posterior": one.posterior, "transcript": one.transcript}
        for corpus, answers in judged.items()
        for one in answers
    ]
    unfinished = kept.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unfinished.rename(kept)


def _read_predictions(path: Path, corpus: str, clips: Sequence[Utterance]) -> list[UtterancePrediction]:
    """The kept answers to a corpus's clips of a fold, in their order; the file's name tells which clips, not where they lie.

    None are kept of known voices where the bundle does not normalise, or nobody knows who speaks.
    """
    rows = [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if row["corpus"] == corpus]
    heard = [clip for clip in clips if clip.speaker] if corpus.endswith(KNOWN) else clips
    found = zip(heard if rows else [], rows, strict=True)
    return [UtterancePrediction(clip, _posterior(row["posterior"]), row["transcript"], unsure=False) for clip, row in found]


def _posterior(found: dict[str, float] | None) -> dict[Emotion, float] | None:
    return None if found is None else {Emotion(letter): probability for letter, probability in found.items()}


# What a run writes beside features and states, which announce their own needs: two checkpoints and the bundle of a 3 B model's adapter.
_ROOM = 2 * 2**30


def train_and_release(
    recipe: Recipe, manifests: Sequence[Path], out: Path, work: Path, seed: int, last_phase: str | None
) -> list[Evaluation]:
    """Train all phases and release a bundle to `out`, scored on the recipe's test part; with `last_phase`, stop after that phase.

    Raises TrainingError, BundleError, FormatError; whatever was saved in `work` is used by the next call.
    """
    _require_phase(recipe, last_phase)
    if last_phase is None:
        refuse_existing(out)
    corpora = CorpusSplits.load(recipe, manifests)
    _require_transcripts(recipe, corpora)
    _require_room(work)
    accelerator = make_accelerator(recipe)
    if last_phase is not None:
        train_or_load(recipe, corpora, corpora.train, work, seed, accelerator, last_phase)
        return []
    judged = _predict_by_folds(recipe, corpora, manifests, work, seed, accelerator) if recipe.folds else {}
    materials = train_or_load(recipe, corpora, corpora.train, work, seed, accelerator)
    if not accelerator.is_main_process:
        return []
    judged |= predict_by_corpus(draft_bundle(recipe, materials), materials.llm, corpora.validation)
    heard = training_prior(materials.parts, recipe.letters, recipe.loop.sampling == "balanced")
    left_out = LeftOutPredictions.of(judged, recipe.letters)
    calibration = Calibration.fit(left_out, heard, recipe.release.trusted_accuracy)
    confusion = posterior_confusion(PosteriorTable.of(left_out, calibration.temperature, heard))
    calibrated = {corpus: calibration.applied(answers) for corpus, answers in judged.items()}
    validation = _validation(recipe, manifests, calibrated)
    record = run_record(recipe, corpora.train, seed)
    write_bundle(recipe, materials, calibration, confusion, validation, record, out)
    del materials  # scoring loads what was written, and a device may not hold both
    evaluations = score_bundle(recipe, corpora, manifests, str(out))
    add_scores(out, evaluations, validation)
    return evaluations


def score_bundle(recipe: Recipe, corpora: CorpusSplits, manifests: Sequence[Path], bundle: str) -> list[Evaluation]:
    """A bundle on the recipe's test speakers or splits, in its own style."""
    asked = EvaluatedBundle.of_bundle(find_bundle(bundle))
    hashes = _manifests_sha256(manifests)
    surroundings = RobustnessSets.of(corpora, conditions=bool(recipe.noises))
    enrolment = Enrolment() if asked.bundle.reference_settings else None
    found = []
    for corpus, part in zip(recipe.corpora, corpora.test, strict=True):
        labelled = [u for u in part.utterances if u.emotion is not None]
        if labelled:
            split = f"{part.corpus}, {corpus.by} {', '.join(corpus.test)}, never trained or tuned on"
            found.append(evaluate_bundle(asked, labelled, split, hashes, surroundings=surroundings, enrolment=enrolment))
            surroundings = replace(surroundings, outliers=())  # those are told once
    return found


def _predict_by_folds(
    recipe: Recipe, corpora: CorpusSplits, manifests: Sequence[Path], work: Path, seed: int, accelerator: Accelerator
) -> dict[str, list[UtterancePrediction]]:
    """Answers of trainings that each left some speakers out."""
    with accelerator.main_process_first():
        if isinstance(recipe.encoder, EncoderTraining) and recipe.encoder.kind == "nano":
            feature_store(recipe.encoder, corpora, work)  # once for all folds, before they start side by side
        if isinstance(recipe.encoder, WhisperRecipe) and recipe.encoder.statistics:
            statistic_store(recipe.encoder, corpora, work)
        return cross_fit(recipe, corpora, manifests, work, seed)


def _validation(recipe: Recipe, manifests: Sequence[Path], judged: Mapping[str, Sequence[UtterancePrediction]]) -> list[Evaluation]:
    """The figures of the voices that the calibration was fitted on, which flatters their calibration error but not their accuracy."""
    found = []
    for corpus, answers in judged.items():
        speakers = len({one.utterance.speaker for one in answers})
        about = EvaluationSubject(
            system=recipe.name,
            parameters=None,
            strategy=recipe.release.strategy,
            features=recipe.release.features,
            shots=recipe.release.shots,
            manifest_sha256=_manifests_sha256(manifests),
            split=f"{corpus}, {speakers} speakers, each judged by a training that never heard them",
            has_probabilities=True,
            date=datetime.now(UTC).date(),
        )
        found.append(compute_evaluation(answers, recipe.letters, about))
    return found


def _manifests_sha256(manifests: Sequence[Path]) -> str:
    return " ".join(file_sha256(manifest) for manifest in manifests)


def _require_phase(recipe: Recipe, name: str | None) -> None:
    names = [phase.name for phase in recipe.phases]
    if name is not None and name not in names:
        raise TrainingError(f"the recipe {recipe.name} has no phase {name!r}; it has {', '.join(names)}, or all")


def _require_transcripts(recipe: Recipe, corpora: CorpusSplits) -> None:
    """Of all that the finished model will be asked about, before it takes hours to get there."""
    parts = [*corpora.validation, *corpora.test, *(part for fold in corpora.folds for part in fold)]
    require_transcripts([u for part in parts for u in part.utterances if u.emotion is not None], recipe.release.strategy)


def _require_room(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free
    if free < _ROOM:
        raise TrainingError(
            f"{free / 2**30:.1f} GiB are free where {work} is, and a run needs {_ROOM / 2**30:.0f}; free some, or use --work"
        )
