"""One training of a recipe on some speakers: where in the work folder it is kept, and the record of how it came about."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from train.building import build
from train.corpora.splits import Corpora, Part, content_hash
from train.learning.trainer import Materials, Trainer, require_whole_micro_batches
from train.recipe import Recipe


def trained(
    recipe: Recipe,
    corpora: Corpora,
    parts: Sequence[Part],
    work: Path,
    seed: int,
    accelerator: Accelerator,
    last_phase: str | None = None,
) -> Materials:
    """The recipe's phases on `parts` of the corpora, or what an earlier run made of the same."""
    require_whole_micro_batches(recipe, accelerator.num_processes)
    folder = run_folder(recipe, parts, work, seed)
    # One process makes what is kept in `work`; the others find it there.
    with accelerator.main_process_first():
        materials = build(recipe, corpora, parts, work, seed, accelerator.device)
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
