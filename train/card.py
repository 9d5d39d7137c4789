"""The model card of a bundle (Mitchell et al., 2019): what it was made of, what it can and cannot do, and every figure with its interval.

It says what was measured and computes nothing.
"""

from collections.abc import Sequence

from model.manifest import BundleManifest
from train.scoring.evaluation import Confidence, Estimate, Evaluation
from train.scoring.figure_tables import (
    conditions_table,
    corpora_table,
    gender_text,
    groups_table,
    outliers_table,
    people_table,
    personal_parts,
)

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


def to_card(manifest: BundleManifest, evaluations: Sequence[Evaluation], validation: Sequence[Evaluation]) -> str:
    """The card in Markdown. evaluations: of the finished bundle; validation: of the voices it was calibrated on."""
    parts = [
        f"# {manifest.name}, version {manifest.version}",
        "It estimates from the sound of a short stretch of speech which emotion its speaker may express. It is an estimate, not a"
        " diagnosis; do not use it to watch or judge others.",
        f"Licence of the weights: {manifest.license}{_use(manifest.license)}.",
        *_built_on(manifest),
        "## Trained on",
        "\n".join(f"- {corpus}" for corpus in manifest.trained_on),
        "## What it can and cannot do",
        "\n".join([_answers(manifest), _knows(manifest), *(f"- {limit}" for limit in manifest.limits)]),
        "## What it must not be used for",
        "\n".join(f"- {misuse}" for misuse in _MISUSE),
        "## How to read the figures",
        _READING,
        "## Figures on speakers that nothing was trained, chosen or calibrated on",
        corpora_table(evaluations),
        *(_measured(one) for one in evaluations),
    ]
    if validation:
        parts += [
            "## Figures of the voices it was calibrated on",
            "Each was judged by a training that never heard it; settings were chosen by such figures, so they flatter a little.",
            corpora_table(validation),
            *(_measured(one) for one in validation),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _use(license_name: str) -> str:
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


def _knows(manifest: BundleManifest) -> str:
    if manifest.normalisation is None:
        return "- It hears every voice alike; it does not get to know the person."
    return "- It gets to know the person's voice from their own speech, without labels; until then it hears a stranger."


def _measured(evaluation: Evaluation) -> str:
    recalls = ", ".join(f"{emotion.word} {c.recall:.2f}" for emotion, c in evaluation.classes.items() if c.recall is not None)
    lines = [
        f"- Unweighted accuracy {_estimate(evaluation.uar)}; chance {evaluation.chance:.3f}",
        f"- Recalls: {recalls}",
    ]
    if evaluation.gender_difference:
        lines.append(f"- {gender_text(evaluation)}")
    if evaluation.confidence:
        lines += _trust(evaluation, evaluation.confidence)
    head = f"**{evaluation.about.split}** ({evaluation.clips} clips, {evaluation.speakers} speakers)"
    tables = [groups_table(evaluation.groups), people_table(evaluation.people), conditions_table(evaluation)]
    tables += [outliers_table(evaluation.outliers), *personal_parts(evaluation.personal)]
    return "\n\n".join([head, "\n".join(lines), *filter(None, tables)])


def _trust(evaluation: Evaluation, confidence: Confidence) -> list[str]:
    sure = "" if evaluation.sure_uar is None else f", unweighted accuracy {evaluation.sure_uar:.3f}"
    return [
        f"- Sure in {evaluation.sure_share:.0%} of clips{sure}; among the more confident half {confidence.certain_half_uar or 0:.3f}",
        f"- Expected calibration error {confidence.ece or 0:.3f}; a perfectly calibrated model would show"
        f" {confidence.ece_by_chance or 0:.3f} on so many clips",
    ]


def _estimate(estimate: Estimate) -> str:
    low, high = estimate.interval_95
    return f"{estimate.value:.3f} (95 % interval {low:.3f} to {high:.3f})"
