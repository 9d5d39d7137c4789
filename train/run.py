"""A whole training, from a recipe and manifests to a calibrated, scored bundle. Started again, it goes on where it stopped."""

import hashlib
import json
import logging
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from model.errors import TrainingError
from model.manifest import find_bundle, sha256
from train.building import build
from train.calibration import Calibration
from train.corpora.splits import Corpora, Part, content_hash
from train.learning.trainer import Materials, Trainer, make_accelerator, require_whole_micro_batches
from train.recipe import Recipe
from train.release import add_scores, draft, refuse_existing, write_bundle
from train.scoring.evaluate import Asked, evaluate_bundle
from train.scoring.evaluation import Evaluation

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
    _require_room(work)
    accelerator = make_accelerator(recipe)
    if last_phase is not None:
        trained(recipe, corpora.train, work, seed, accelerator, last_phase)
        return []
    calibration = _calibration(recipe, corpora, work, seed, accelerator) if recipe.release.refit else None
    parts = corpora.with_validation() if recipe.release.refit else corpora.train
    materials = trained(recipe, parts, work, seed, accelerator, None)
    if not accelerator.is_main_process:
        return []
    if calibration is None:
        calibration = Calibration.fit(draft(recipe, materials), materials.llm, corpora.validation, recipe.release.trusted_accuracy)
    write_bundle(recipe, materials, calibration, run_record(recipe, parts, seed), out)
    del materials  # scoring loads what was written, and a device may not hold both
    evaluations = score(recipe, corpora, manifests, str(out))
    add_scores(out, evaluations)
    return evaluations


def score(recipe: Recipe, corpora: Corpora, manifests: Sequence[Path], bundle: str) -> list[Evaluation]:
    """A bundle on the recipe's test speakers or splits, in its own style."""
    asked = Asked.of_bundle(find_bundle(bundle))
    hashes = " ".join(sha256(manifest) for manifest in manifests)
    found = []
    for corpus, part in zip(recipe.corpora, corpora.test, strict=True):
        labelled = [u for u in part.utterances if u.emotion is not None]
        if labelled:
            split = f"{part.corpus}, {corpus.by} {', '.join(corpus.test)}, never trained or tuned on"
            found.append(evaluate_bundle(asked, labelled, split, hashes))
    return found


def trained(
    recipe: Recipe, parts: Sequence[Part], work: Path, seed: int, accelerator: Accelerator, last_phase: str | None = None
) -> Materials:
    """The recipe's phases on `parts`, or what an earlier run made of the same."""
    require_whole_micro_batches(recipe, accelerator.num_processes)
    folder = run_folder(recipe, parts, work, seed)
    # One process makes what is kept in `work`; the others find it there.
    with accelerator.main_process_first():
        materials = build(recipe, parts, work, seed, accelerator.device)
    folder.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        (folder / "run.json").write_text(json.dumps(run_record(recipe, parts, seed), indent=2) + "\n", encoding="utf-8")
    Trainer(recipe, materials, folder, seed, accelerator).run(last_phase)
    return materials


def run_folder(recipe: Recipe, parts: Sequence[Part], work: Path, seed: int) -> Path:
    """Where a run keeps its checkpoints, log and TensorBoard files."""
    return work / f"{recipe.name}-{run_key(recipe, parts, seed)}"


def run_key(recipe: Recipe, parts: Sequence[Part], seed: int) -> str:
    """Twelve digits that change with the recipe, the data or the seed, but not with how the loop is cut or where checkpoints fall."""
    learned = recipe.model_dump(
        mode="json", exclude={"loop": {"micro_batch", "checkpoint_steps", "gradient_checkpointing", "cache_states"}}
    )
    learned.pop("release")
    return hashlib.sha256(repr((sorted(learned.items()), seed, content_hash(parts))).encode()).hexdigest()[:12]


def run_record(recipe: Recipe, parts: Sequence[Part], seed: int) -> dict[str, Any]:
    """What made a run what it is: effective recipe, seed, code, data and libraries."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "git_revision": _git_revision(),
        "data": {part.corpus: content_hash([part]) for part in parts},
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
        | {"python": platform.python_version()},
    }


def _calibration(recipe: Recipe, corpora: Corpora, work: Path, seed: int, accelerator: Accelerator) -> Calibration:
    """From a first training that leaves the validation speakers out."""
    kept = work / f"calibration-{run_key(recipe, [*corpora.train, *corpora.validation], seed)}.json"
    found = Calibration.stored(kept)
    if found is None:
        logger.info("first training, without the validation speakers, for the calibration")
        materials = trained(recipe, corpora.train, work, seed, accelerator)
        found = Calibration.fit(draft(recipe, materials), materials.llm, corpora.validation, recipe.release.trusted_accuracy)
        if accelerator.is_main_process:
            found.store(kept)
    logger.info("second training, with them, for the weights")
    return found


def _require_phase(recipe: Recipe, name: str | None) -> None:
    names = [phase.name for phase in recipe.phases]
    if name is not None and name not in names:
        raise TrainingError(f"the recipe {recipe.name} has no phase {name!r}; it has {', '.join(names)}, or all")


def _require_room(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free
    if free < _ROOM:
        raise TrainingError(
            f"{free / 2**30:.1f} GiB are free where {work} is, and a run needs {_ROOM / 2**30:.0f}; free some, or use --work"
        )


def _git_revision() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # an installed copy has no history
    return done.stdout.strip()
