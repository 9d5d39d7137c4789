"""Writes a bundle: every file beside its SHA-256, complete or not at all."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import save_file

from model.errors import TrainingError
from model.manifest import MANIFEST, BundleManifest, Score, digests, read_manifest, version_of
from train.nano import Calibration, Corpora, Trained
from train.recipe import Recipe

_PROMPT = 0
_LICENSE_TEXT = """The weights in this folder were trained on the speech corpora named below and carry their licence:
Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0),
https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode

RAVDESS: Livingstone SR, Russo FA (2018) The Ryerson Audio-Visual Database of Emotional Speech and Song. PLoS ONE 13(5): e0196391.
https://doi.org/10.5281/zenodo.1188976. CC BY-NC-SA 4.0.
nEMO: Christop I (2024) nEMO: Dataset of Emotional Speech in Polish. LREC-COLING 2024. CC BY-NC-SA 4.0.

The code of this project is under the Apache License 2.0.
"""


def refuse_existing(folder: Path) -> None:
    """Raises TrainingError where something stands already: a bundle is never overwritten."""
    if folder.exists():
        raise TrainingError(f"{folder} exists already; move it away or choose another --out")


def write_bundle(recipe: Recipe, model: Trained, calibration: Calibration, corpora: Corpora, folder: Path, seed: int) -> None:
    """Write a bundle without scores to `folder`, which must not exist yet."""
    refuse_existing(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "encoder").mkdir(parents=True)
    encoder = model.teacher.encoder
    save_file(encoder.state_dict(), partial / "encoder/model.safetensors")
    (partial / "encoder/config.json").write_text(json.dumps(encoder.config(), indent=2) + "\n", encoding="utf-8")
    save_file(model.mapper.state_dict(), partial / "mapper.safetensors")
    model.llm.save(partial / "llm", partial / "adapter")
    (partial / "LICENSE").write_text(_LICENSE_TEXT, encoding="utf-8")
    record = {"seed": seed, "recipe": recipe.model_dump(mode="json"), "validation": calibration.scores}
    (partial / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    _write_manifest(partial, _manifest(recipe, calibration, corpora, digests(partial)))
    partial.rename(folder)


def add_scores(folder: Path, scores: list[Score]) -> None:
    """Put the scores measured on the finished bundle into its bundle.json; the weights and so the version stay."""
    manifest = read_manifest(folder)
    _write_manifest(folder, manifest.model_copy(update={"scores": scores}))


def _manifest(recipe: Recipe, calibration: Calibration, corpora: Corpora, files: dict[str, str]) -> BundleManifest:
    trained_on = [
        f"{corpus.name}, {len({u.speaker for u in clips})} speakers, {len(clips)} clips, {clips[0].license}"
        for corpus, (_, clips) in zip(recipe.corpora, corpora.everything_but_test(), strict=True)
    ]
    return BundleManifest(
        name=recipe.name,
        version=version_of(recipe.name, files),
        created=datetime.now(UTC).date().isoformat(),
        strategy="ser",
        letters=recipe.letters,
        temperature=round(calibration.temperature, 4),
        unsure_below=round(calibration.unsure_below, 4),
        encoder="encoder",
        llm="llm",
        mapper=recipe.mapper,
        prompt=_PROMPT,
        license=recipe.license,
        trained_on=trained_on,
        limits=recipe.limits,
        scores=[],
        files=files,
    )


def _write_manifest(folder: Path, manifest: BundleManifest) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
