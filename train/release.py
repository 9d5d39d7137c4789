"""Writes a bundle: every file with its SHA-256, complete or not at all, and its model card (Mitchell et al., 2019).

The card says what the bundle was made of, what it can and cannot do, and every figure with its interval. It computes nothing.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from model.bundle import Bundle
from model.bundle_format import (
    MANIFEST_FILE,
    MODEL_CARD_FILE,
    NORMALISER_FILE,
    BundleManifest,
    GroupScore,
    Normalisation,
    PeopleScore,
    PersonalScore,
    PosteriorConfusion,
    Score,
    compute_version,
    file_checksums,
    read_bundle_manifest,
    write_confusion,
)
from model.errors import TrainingError
from train.calibration import Calibration, training_prior
from train.corpora.splits import CorpusPart, NoiseSet
from train.evaluation.figures import Confidence, Estimate, Evaluation, GroupFigures, PeopleFigures, PersonalFigures
from train.evaluation.page import conditions_table, corpora_table, gender_text, groups_table, outliers_table, people_table, personal_parts
from train.learning.trainer import TrainingMaterials
from train.recipe import Pretrained, Recipe
from train.rehearsal_set import write_rehearsal_set

_NOT_COMMERCIAL = "-NC-"
_MISUSE = (
    "To diagnose, to screen for an illness, or to judge how ill or well somebody is. No clinician watches what it says.",
    "To find out whether somebody is in danger. It raises no alarm, and silence means nothing.",
    "To decide about a person: at work, at school, in insurance, credit, law or care.",
    "On people who do not know of it or did not agree, and on anybody but the person whose microphone it is.",
    "To tell how somebody feels. It tells how a voice sounds to a model that learned from speech as described above.",
)
_READING = (
    "UAR, the unweighted accuracy, is the mean over the emotions that occur of the share of their clips that was recognised; chance is one"
    " over their number. An answer is sure where its confidence reaches the threshold; ECE, the expected calibration error, says how far"
    " confidence and accuracy lie apart. Intervals are bootstrapped over speakers, then over their clips."
)


def model_card(manifest: BundleManifest, evaluations: Sequence[Evaluation], validation: Sequence[Evaluation]) -> str:
    """The card in Markdown. evaluations: of the finished bundle; validation: of the voices it was calibrated on."""
    parts = [
        f"# {manifest.name}, version {manifest.version}",
        "It estimates from the sound of a short stretch of speech which emotion its speaker may express. It is an estimate, not a"
        " diagnosis; do not use it to watch or judge others.",
        f"Licence of the weights: {manifest.license}{_intended_use(manifest.license)}.",
        *_built_on(manifest),
        "## Trained on",
        "\n".join(f"- {corpus}" for corpus in manifest.trained_on),
        "## What it can and cannot do",
        "\n".join([_answers(manifest), _normalisation(manifest), *(f"- {limit}" for limit in manifest.limits)]),
        "## What it must not be used for",
        "\n".join(f"- {misuse}" for misuse in _MISUSE),
        "## How to read the figures",
        _READING,
        "## Figures on speakers that nothing was trained, chosen or calibrated on",
        corpora_table(evaluations),
        *(_evaluation(one) for one in evaluations),
    ]
    if validation:
        parts += [
            "## Figures of the voices it was calibrated on",
            "Each was judged by a training that never heard it; settings were chosen by such figures, so they flatter a little.",
            corpora_table(validation),
            *(_evaluation(one) for one in validation),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _intended_use(license_name: str) -> str:
    return ", **not for commercial use**" if _NOT_COMMERCIAL in license_name else ""


def _built_on(manifest: BundleManifest) -> list[str]:
    return ["## Built on", "\n".join(f"- {origin}" for origin in manifest.pretrained)] if manifest.pretrained else []


def _answers(manifest: BundleManifest) -> str:
    words = ", ".join(letter.word for letter in manifest.letters)
    confidence = f"{manifest.unsure_below:.2f} (temperature {manifest.temperature:.2f})"
    answers = f"- It answers {words}; below a confidence of {confidence} it is unsure."
    if manifest.training_prior is None:
        return answers
    heard = ", ".join(f"{letter.word} {share:.0%}" for letter, share in manifest.training_prior.items())
    return (
        f"{answers}\n- Its training heard {heard}. The monitor corrects posteriors from that to everyday speech (`[engine] prior`), for"
        " which temperature and confidence were fitted; the figures below are without that, because their corpora are about balanced."
    )


def _normalisation(manifest: BundleManifest) -> str:
    if manifest.normalisation is None:
        return "- It hears every voice alike; it does not get to know the person."
    return "- It gets to know the person's voice from their own speech, without labels; until then it hears a stranger."


def _evaluation(evaluation: Evaluation) -> str:
    recalls = ", ".join(f"{emotion.word} {c.recall:.2f}" for emotion, c in evaluation.classes.items() if c.recall is not None)
    lines = [
        f"- Unweighted accuracy {_estimate(evaluation.uar)}; chance {evaluation.chance:.3f}",
        f"- Recalls: {recalls}",
    ]
    if evaluation.gender_difference:
        lines.append(f"- {gender_text(evaluation)}")
    if evaluation.confidence:
        lines += _confidence(evaluation, evaluation.confidence)
    head = f"**{evaluation.about.split}** ({evaluation.clips} clips, {evaluation.speakers} speakers)"
    tables = [groups_table(evaluation.groups), people_table(evaluation.people), conditions_table(evaluation)]
    tables += [outliers_table(evaluation.outliers), *personal_parts(evaluation.personal)]
    return "\n\n".join([head, "\n".join(lines), *filter(None, tables)])


def _confidence(evaluation: Evaluation, confidence: Confidence) -> list[str]:
    sure = "" if evaluation.sure_uar is None else f", unweighted accuracy {evaluation.sure_uar:.3f}"
    return [
        f"- Sure in {evaluation.sure_share:.0%} of clips{sure}; among the more confident half {confidence.certain_half_uar or 0:.3f}",
        f"- Expected calibration error {confidence.ece or 0:.3f}; a perfectly calibrated model would show"
        f" {confidence.ece_by_chance or 0:.3f} on so many clips",
    ]


def _estimate(estimate: Estimate) -> str:
    low, high = estimate.interval_95
    return f"{estimate.value:.3f} (95 % interval {low:.3f} to {high:.3f})"


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
    "ESC-10": "Piczak KJ (2015) ESC: Dataset for Environmental Sound Classification. ACM Multimedia. Sounds from freesound.org, each"
    " credited at https://github.com/karolpiczak/ESC-10",
    "LJSpeech-sample": "Ito K, Johnson L (2017) The LJ Speech Dataset. https://keithito.com/LJ-Speech-Dataset",
    "FSDD": "Jackson Z et al. Free Spoken Digit Dataset. https://github.com/Jakobovski/free-spoken-digit-dataset",
    "Picovoice-S2I": "Picovoice, speech-to-intent benchmark. https://github.com/Picovoice/speech-to-intent-benchmark",
    "speechocean762": "Zhang J et al. (2021) speechocean762: An Open-Source Non-native English Speech Corpus For Pronunciation Assessment."
    " Interspeech. https://www.openslr.org/101",
    "DonateACry": "Veres G. Donate a Cry corpus. https://github.com/gveres/donateacry-corpus",
    "LibriSpeech": "Panayotov V et al. (2015) LibriSpeech: an ASR corpus based on public domain audio books. ICASSP 2015",
}


# Of pre-trained weights, by how their name begins; what a licence wants to be handed on with them.
_NOTICES = {
    "openai/whisper-": """\
Radford A, Kim JW, Xu T, Brockman G, McLeavey C, Sutskever I (2023) Robust Speech Recognition via Large-Scale Weak Supervision. ICML.

MIT License

Copyright (c) 2022 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY
CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
}


def refuse_existing(folder: Path) -> None:
    """Raises TrainingError where something stands already: a bundle is never overwritten."""
    if folder.exists():
        raise TrainingError(f"{folder} exists already; move it away or choose another --out")


def draft_bundle(recipe: Recipe, materials: TrainingMaterials) -> Bundle:
    """The trained model as a bundle in memory, uncalibrated: to be asked before there is a folder."""
    manifest = BundleManifest(
        name=recipe.name,
        version=f"{recipe.name}-draft",
        created=datetime.now(UTC).date().isoformat(),
        strategy=recipe.release.strategy,
        shots=recipe.release.shots,
        normalisation=Normalisation(**recipe.normalisation.model_dump()) if recipe.normalisation else None,
        features=materials.voices.terciles if recipe.release.features and materials.voices else None,
        letters=recipe.letters,
        temperature=1.0,
        unsure_below=0.0,
        training_prior=training_prior(materials.parts, recipe.letters, recipe.loop.sampling == "balanced"),
        encoder=recipe.encoder.source if isinstance(recipe.encoder, Pretrained) else "encoder",
        llm=recipe.llm.source if isinstance(recipe.llm, Pretrained) else "llm",
        pretrained=[] if isinstance(recipe.encoder, Pretrained) else list(materials.hearing.encoder.origins),
        mapper=recipe.mapper,
        prompt=_PROMPT,
        license=recipe.license,
        trained_on=[*map(_described, materials.parts), *map(_described_noise, materials.noises)],
        limits=recipe.limits,
        scores=[],
        files={},
    )
    mapper = materials.mapper.eval()
    return Bundle(Path(), manifest, materials.hearing.encoder, mapper, materials.reference, materials.familiarity)


def write_bundle(
    recipe: Recipe,
    materials: TrainingMaterials,
    calibration: Calibration,
    confusion: PosteriorConfusion,
    validation: Sequence[Evaluation],
    record: dict[str, Any],
    folder: Path,
) -> None:
    """Write a bundle without scores to `folder`, which must not exist yet.

    confusion: its answers to voices that were left out. validation: figures of those, and record: how it came about, both for
    training.json.
    """
    refuse_existing(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    released = draft_bundle(recipe, materials)
    released = replace(released, manifest=released.manifest.model_copy(update=_calibrated(calibration)))
    if recipe.release.public_clips:
        # Before the language model is written, which takes its adapter off.
        write_rehearsal_set(released, materials.llm, materials.parts, recipe.release.public_clips, partial)
    if not isinstance(recipe.encoder, Pretrained):
        materials.hearing.encoder.save(partial / "encoder")
    save_file(materials.mapper.state_dict(), partial / "mapper.safetensors")
    if materials.familiarity is not None:
        materials.familiarity.save(partial)
    if (settings := materials.reference) is not None:
        numbers = {name: torch.from_numpy(getattr(settings, name)).contiguous() for name in ("population_mean", "emotion_offsets", "ratio")}
        save_file(numbers, partial / NORMALISER_FILE)
    materials.llm.save(None if isinstance(recipe.llm, Pretrained) else partial / "llm", partial / "adapter")
    write_confusion(confusion, partial)
    (partial / "LICENSE").write_text(_license_text(recipe, materials, released.manifest.pretrained), encoding="utf-8")
    seen = [evaluation.model_dump(mode="json") for evaluation in validation]
    (partial / "training.json").write_text(json.dumps({**record, "validation": seen}, indent=2) + "\n", encoding="utf-8")
    files = file_checksums(partial)
    manifest = released.manifest.model_copy(update={"version": compute_version(recipe.name, files), "files": files})
    write_bundle_manifest(partial, manifest)
    partial.rename(folder)


def _calibrated(calibration: Calibration) -> dict[str, float]:
    return {"temperature": round(calibration.temperature, 4), "unsure_below": round(calibration.unsure_below, 4)}


def add_scores(folder: Path, evaluations: Sequence[Evaluation], validation: Sequence[Evaluation]) -> None:
    """Put what was measured on the finished bundle into its bundle.json and its model card; the weights and so the version stay."""
    manifest = read_bundle_manifest(folder).model_copy(update={"scores": [_score(evaluation) for evaluation in evaluations]})
    (folder / MODEL_CARD_FILE).write_text(model_card(manifest, evaluations, validation), encoding="utf-8")
    write_bundle_manifest(folder, manifest.model_copy(update={"files": file_checksums(folder)}))


def _score(evaluation: Evaluation) -> Score:
    recalls = {letter: figures.recall for letter, figures in evaluation.classes.items() if figures.recall is not None}
    confidence = evaluation.confidence
    return Score(
        split=evaluation.about.split,
        clips=evaluation.clips,
        speakers=evaluation.speakers,
        unweighted_accuracy=evaluation.uar.value,
        interval_95=evaluation.uar.interval_95,
        interval_method="bootstrap over speakers, then over their clips, 2000 draws",
        chance=round(evaluation.chance, 4),
        recalls=recalls,
        genders={one.name: one.uar.value for one in evaluation.groups if one.by == "gender"},
        conditions={one.condition: one.uar.value for one in evaluation.conditions},
        calibration_error=confidence.ece if confidence else None,
        sure_share=evaluation.sure_share if confidence else None,
        sure_unweighted_accuracy=evaluation.sure_uar,
        outliers={one.corpus: one.sure_share for one in evaluation.outliers},
        emotional={one.corpus: one.emotional_share for one in evaluation.outliers},
        groups=[_group_score(one) for one in evaluation.groups],
        people=[_people_score(one) for one in evaluation.people],
        personal=[_personal_score(one) for one in evaluation.personal],
    )


def _group_score(one: GroupFigures) -> GroupScore:
    return GroupScore(
        by=one.by,
        name=one.name,
        clips=one.clips,
        speakers=one.speakers,
        unweighted_accuracy=one.uar.value,
        interval_95=one.uar.interval_95,
        chance=one.chance,
        sure_share=one.sure_share,
        sure_unweighted_accuracy=one.sure_uar,
        calibration_error=one.ece,
    )


def _people_score(one: PeopleFigures) -> PeopleScore:
    return PeopleScore(corpus=one.corpus, people=one.people, worst=one.worst, median=one.median)


def _personal_score(one: PersonalFigures) -> PersonalScore:
    reference = one.groups[0].reference if one.groups else None
    return PersonalScore(
        minutes=one.minutes,
        minutes_found=reference.minutes if reference else 0.0,
        groups=[_group_score(group) for group in one.groups],
        people=[_people_score(people) for people in one.people],
        emotional={outlier.corpus: outlier.emotional_share for outlier in one.outliers},
    )


def _described(part: CorpusPart) -> str:
    speakers = {u.speaker for u in part.utterances if u.speaker}
    known = f"{len(speakers)} speakers, " if speakers else ""
    return f"{part.corpus}, {known}{len(part.utterances)} clips, {part.utterances[0].license}"


def _described_noise(noise: NoiseSet) -> str:
    return f"{noise.corpus}, as background: {len(noise.paths)} recordings ({noise.name}), {noise.license}"


def _license_text(recipe: Recipe, materials: TrainingMaterials, pretrained: Sequence[str]) -> str:
    licenses = {part.corpus: part.utterances[0].license for part in materials.parts}
    licenses |= {noise.corpus: noise.license for noise in materials.noises}
    sources = [f"{corpus}, {name}: {_CREDITS.get(corpus, 'see its own documentation')}" for corpus, name in licenses.items()]
    terms = _LICENSES.get(recipe.license, recipe.license)
    return "\n".join(
        [
            "The weights in this folder were trained on the corpora named below. Their licence:",
            terms,
            "",
            *sources,
            "",
            *(part for origin in pretrained for part in (f"Pre-trained weights of others, unchanged: {origin}", _notice(origin), "")),
            "The code of this project is under the Apache License 2.0.",
            "",
        ]
    )


def _notice(origin: str) -> str:
    return next((text for name, text in _NOTICES.items() if origin.startswith(name)), "See their own documentation.")


def write_bundle_manifest(folder: Path, manifest: BundleManifest) -> None:
    """Write bundle.json."""
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
