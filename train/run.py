"""A whole training, from a recipe and manifests to a calibrated, scored bundle. Started again, it goes on where it stopped."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from accelerate import Accelerator

from model.errors import TrainingError
from model.manifest import find_bundle, sha256
from train.calibration import Calibration, judged_by_corpus, training_prior
from train.corpora.splits import Corpora
from train.folds import cross_fitted
from train.learning.encoders import feature_store
from train.learning.statistics import statistics_store
from train.learning.trainer import make_accelerator
from train.left_out import LeftOut
from train.recipe import EncoderTraining, Recipe, WhisperRecipe
from train.release import add_scores, draft, refuse_existing, write_bundle
from train.scoring.evaluate import Asked, Enrolment, Surroundings, evaluate_bundle
from train.scoring.evaluation import About, Evaluation
from train.scoring.judging import require_transcripts
from train.scoring.results import Judged, evaluate
from train.simulated_days import Table, confusion_of
from train.training import run_record, trained

logger = logging.getLogger(__name__)

# What a run writes beside features and states, which announce their own needs: two checkpoints and the bundle of a 3 B model's adapter.
_ROOM = 2 * 2**30


def train(recipe: Recipe, manifests: Sequence[Path], out: Path, work: Path, seed: int, last_phase: str | None) -> list[Evaluation]:
    """Train all phases and release a bundle to `out`, scored on the recipe's test part; with `last_phase`, stop after that phase.

    Raises TrainingError, BundleError, FormatError; whatever was saved in `work` is used by the next call.
    """
    _require_phase(recipe, last_phase)
    if last_phase is None:
        refuse_existing(out)
    corpora = Corpora.load(recipe, manifests)
    _require_transcripts(recipe, corpora)
    _require_room(work)
    accelerator = make_accelerator(recipe)
    if last_phase is not None:
        trained(recipe, corpora, corpora.train, work, seed, accelerator, last_phase)
        return []
    judged = _judged_by_folds(recipe, corpora, manifests, work, seed, accelerator) if recipe.folds else {}
    materials = trained(recipe, corpora, corpora.train, work, seed, accelerator)
    if not accelerator.is_main_process:
        return []
    judged |= judged_by_corpus(draft(recipe, materials), materials.llm, corpora.validation)
    heard = training_prior(materials.parts, recipe.letters, recipe.loop.sampling == "balanced")
    left_out = LeftOut.of(judged, recipe.letters)
    calibration = Calibration.fit(left_out, heard, recipe.release.trusted_accuracy)
    confusion = confusion_of(Table.of(left_out, calibration.temperature, heard))
    calibrated = {corpus: calibration.applied(answers) for corpus, answers in judged.items()}
    validation = _validation(recipe, manifests, calibrated)
    record = run_record(recipe, corpora.train, seed)
    write_bundle(recipe, materials, calibration, confusion, validation, record, out)
    del materials  # scoring loads what was written, and a device may not hold both
    evaluations = score(recipe, corpora, manifests, str(out))
    add_scores(out, evaluations, validation)
    return evaluations


def score(recipe: Recipe, corpora: Corpora, manifests: Sequence[Path], bundle: str) -> list[Evaluation]:
    """A bundle on the recipe's test speakers or splits, in its own style."""
    asked = Asked.of_bundle(find_bundle(bundle))
    hashes = _digest(manifests)
    surroundings = Surroundings.of(corpora, conditions=bool(recipe.noises))
    enrolment = Enrolment() if asked.bundle.reference_settings else None
    found = []
    for corpus, part in zip(recipe.corpora, corpora.test, strict=True):
        labelled = [u for u in part.utterances if u.emotion is not None]
        if labelled:
            split = f"{part.corpus}, {corpus.by} {', '.join(corpus.test)}, never trained or tuned on"
            found.append(evaluate_bundle(asked, labelled, split, hashes, surroundings=surroundings, enrolment=enrolment))
            surroundings = replace(surroundings, outliers=())  # those are told once
    return found


def _judged_by_folds(
    recipe: Recipe, corpora: Corpora, manifests: Sequence[Path], work: Path, seed: int, accelerator: Accelerator
) -> dict[str, list[Judged]]:
    """Answers of trainings that each left some speakers out."""
    with accelerator.main_process_first():
        if isinstance(recipe.encoder, EncoderTraining) and recipe.encoder.kind == "nano":
            feature_store(recipe.encoder, corpora, work)  # once for all folds, before they start side by side
        if isinstance(recipe.encoder, WhisperRecipe) and recipe.encoder.statistics:
            statistics_store(recipe.encoder, corpora, work)
        return cross_fitted(recipe, corpora, manifests, work, seed)


def _validation(recipe: Recipe, manifests: Sequence[Path], judged: Mapping[str, Sequence[Judged]]) -> list[Evaluation]:
    """The figures of the voices that the calibration was fitted on, which flatters their calibration error but not their accuracy."""
    found = []
    for corpus, answers in judged.items():
        speakers = len({one.utterance.speaker for one in answers})
        about = About(
            system=recipe.name,
            parameters=None,
            strategy=recipe.release.strategy,
            features=recipe.release.features,
            shots=recipe.release.shots,
            manifest_sha256=_digest(manifests),
            split=f"{corpus}, {speakers} speakers, each judged by a training that never heard them",
            has_probabilities=True,
            date=datetime.now(UTC).date(),
        )
        found.append(evaluate(answers, recipe.letters, about))
    return found


def _digest(manifests: Sequence[Path]) -> str:
    return " ".join(sha256(manifest) for manifest in manifests)


def _require_phase(recipe: Recipe, name: str | None) -> None:
    names = [phase.name for phase in recipe.phases]
    if name is not None and name not in names:
        raise TrainingError(f"the recipe {recipe.name} has no phase {name!r}; it has {', '.join(names)}, or all")


def _require_transcripts(recipe: Recipe, corpora: Corpora) -> None:
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
