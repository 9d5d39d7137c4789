"""Writes a bundle: every file beside its SHA-256, complete or not at all."""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from model.bundle import Bundle
from model.errors import TrainingError
from model.manifest import MANIFEST, BundleManifest, Score, digests, read_manifest, version_of
from train.calibration import Calibration
from train.corpora.splits import Part
from train.learning.trainer import Materials
from train.recipe import Pretrained, Recipe
from train.scoring.evaluation import Evaluation

_PROMPT = 0
_LICENSES = {
    "CC-BY-NC-SA-4.0": "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0),\n"
    "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode",
}
_CREDITS = {
    "RAVDESS": "Livingstone SR, Russo FA (2018) The Ryerson Audio-Visual Database of Emotional Speech and Song. PLoS ONE 13(5): e0196391.\n"
    "https://doi.org/10.5281/zenodo.1188976",
    "nEMO": "Christop I (2024) nEMO: Dataset of Emotional Speech in Polish. LREC-COLING 2024",
    "MSP-Podcast": "Lotfian R, Busso C (2019) Building Naturalistic Emotionally Balanced Speech Corpus by Retrieving Emotional Speech From"
    " Existing Podcast Recordings. IEEE Transactions on Affective Computing 10(4)",
    "LibriSpeech": "Panayotov V et al. (2015) LibriSpeech: an ASR corpus based on public domain audio books. ICASSP 2015",
}


def refuse_existing(folder: Path) -> None:
    """Raises TrainingError where something stands already: a bundle is never overwritten."""
    if folder.exists():
        raise TrainingError(f"{folder} exists already; move it away or choose another --out")


def draft(recipe: Recipe, materials: Materials) -> Bundle:
    """The trained model as a bundle in memory, uncalibrated: to be asked before there is a folder."""
    manifest = BundleManifest(
        name=recipe.name,
        version=f"{recipe.name}-draft",
        created=datetime.now(UTC).date().isoformat(),
        strategy=recipe.release.strategy,
        shots=recipe.release.shots,
        features=materials.voices.terciles if recipe.release.features and materials.voices else None,
        letters=recipe.letters,
        temperature=1.0,
        unsure_below=0.0,
        encoder=recipe.encoder.source if isinstance(recipe.encoder, Pretrained) else "encoder",
        llm=recipe.llm.source if isinstance(recipe.llm, Pretrained) else "llm",
        mapper=recipe.mapper,
        prompt=_PROMPT,
        license=recipe.license,
        trained_on=[_described(part) for part in materials.parts],
        limits=recipe.limits,
        scores=[],
        files={},
    )
    return Bundle(Path(), manifest, materials.hearing.encoder, materials.mapper.eval())


def write_bundle(recipe: Recipe, materials: Materials, calibration: Calibration, record: dict[str, Any], folder: Path) -> None:
    """Write a bundle without scores to `folder`, which must not exist yet. record: how it came about, for training.json."""
    refuse_existing(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if not isinstance(recipe.encoder, Pretrained):
        materials.hearing.encoder.save(partial / "encoder")
    save_file(materials.mapper.state_dict(), partial / "mapper.safetensors")
    materials.llm.save(None if isinstance(recipe.llm, Pretrained) else partial / "llm", partial / "adapter")
    (partial / "LICENSE").write_text(_license_text(recipe, materials.parts), encoding="utf-8")
    (partial / "training.json").write_text(json.dumps({**record, "validation": calibration.scores}, indent=2) + "\n", encoding="utf-8")
    files = digests(partial)
    manifest = draft(recipe, materials).manifest.model_copy(
        update={
            "version": version_of(recipe.name, files),
            "temperature": round(calibration.temperature, 4),
            "unsure_below": round(calibration.unsure_below, 4),
            "files": files,
        }
    )
    _write_manifest(partial, manifest)
    partial.rename(folder)


def add_scores(folder: Path, evaluations: Sequence[Evaluation]) -> None:
    """Put the scores measured on the finished bundle into its bundle.json; the weights and so the version stay."""
    manifest = read_manifest(folder)
    _write_manifest(folder, manifest.model_copy(update={"scores": [_score(evaluation) for evaluation in evaluations]}))


def _score(evaluation: Evaluation) -> Score:
    recalls = {letter: figures.recall for letter, figures in evaluation.classes.items() if figures.recall is not None}
    return Score(
        split=evaluation.about.split,
        clips=evaluation.clips,
        speakers=evaluation.speakers,
        unweighted_accuracy=evaluation.uar.value,
        interval_95=evaluation.uar.interval_95,
        interval_method="bootstrap over speakers, then over their clips, 2000 draws",
        chance=round(evaluation.chance, 4),
        recalls=recalls,
    )


def _described(part: Part) -> str:
    speakers = len({u.speaker for u in part.utterances})
    return f"{part.corpus}, {speakers} speakers, {len(part.utterances)} clips, {part.utterances[0].license}"


def _license_text(recipe: Recipe, parts: Sequence[Part]) -> str:
    sources = [f"{part.corpus}, {part.utterances[0].license}: {_CREDITS.get(part.corpus, 'see its own documentation')}" for part in parts]
    terms = _LICENSES.get(recipe.license, recipe.license)
    return "\n".join(
        [
            "The weights in this folder were trained on the speech corpora named below. Their licence:",
            terms,
            "",
            *sources,
            "",
            "The code of this project is under the Apache License 2.0.",
            "",
        ]
    )


def _write_manifest(folder: Path, manifest: BundleManifest) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
