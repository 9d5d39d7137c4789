"""The model card of a bundle (Mitchell et al., 2019): what it was made of, what it can and cannot do, and every figure with its interval.

It says what was measured and computes nothing.
"""

from collections.abc import Sequence

from model.manifest import BundleManifest
from train.scoring.evaluation import Confidence, Estimate, Evaluation, GenderFigures
from train.scoring.page import conditions_table, outliers_table

_NOT_COMMERCIAL = "-NC-"


def to_card(manifest: BundleManifest, evaluations: Sequence[Evaluation], validation: Sequence[Evaluation]) -> str:
    """The card in Markdown. evaluations: of the finished bundle; validation: of the voices it was calibrated on."""
    parts = [
        f"# {manifest.name}, version {manifest.version}",
        "It estimates from the sound of a short stretch of speech which emotion its speaker may express. It is an estimate, not a"
        " diagnosis; do not use it to watch or judge others.",
        f"Licence of the weights: {manifest.license}{_use(manifest.license)}.",
        "## Trained on",
        "\n".join(f"- {corpus}" for corpus in manifest.trained_on),
        "## What it can and cannot do",
        "\n".join([_answers(manifest), *(f"- {limit}" for limit in manifest.limits)]),
        "## Figures on speakers that nothing was trained, chosen or calibrated on",
        *(_measured(one) for one in evaluations),
    ]
    if validation:
        parts += [
            "## Figures of the voices it was calibrated on",
            "Each was judged by a training that never heard it; settings were chosen by such figures, so they flatter a little.",
            *(_measured(one) for one in validation),
        ]
    return "\n\n".join(parts) + "\n"


def _use(license_name: str) -> str:
    return ", **not for commercial use**" if _NOT_COMMERCIAL in license_name else ""


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


def _measured(evaluation: Evaluation) -> str:
    recalls = ", ".join(f"{emotion.word} {c.recall:.2f}" for emotion, c in evaluation.classes.items() if c.recall is not None)
    lines = [
        f"- Unweighted accuracy {_estimate(evaluation.uar)}; chance {evaluation.chance:.3f}",
        f"- Recalls: {recalls}",
        "- By gender: " + ("; ".join(_gender(name, figures) for name, figures in evaluation.genders.items()) or "not known"),
    ]
    if evaluation.gender_difference:
        lines.append(f"- Female minus male {_estimate(evaluation.gender_difference, '+.3f')}")
    if evaluation.confidence:
        lines += _trust(evaluation, evaluation.confidence)
    head = f"**{evaluation.about.split}** ({evaluation.clips} clips, {evaluation.speakers} speakers)"
    tables = [table for table in (conditions_table(evaluation), outliers_table(evaluation)) if table]
    return "\n\n".join([head, "\n".join(lines), *tables])


def _trust(evaluation: Evaluation, confidence: Confidence) -> list[str]:
    sure = "" if evaluation.sure_uar is None else f", unweighted accuracy {evaluation.sure_uar:.3f}"
    return [
        f"- Sure in {evaluation.sure_share:.0%} of clips{sure}; among the more confident half {confidence.certain_half_uar or 0:.3f}",
        f"- Expected calibration error {confidence.ece or 0:.3f}; a perfectly calibrated model would show"
        f" {confidence.ece_by_chance or 0:.3f} on so many clips",
    ]


def _gender(name: str, figures: GenderFigures) -> str:
    return f"{name} {_estimate(figures.uar)}, speakers: {figures.speakers}"


def _estimate(estimate: Estimate, form: str = ".3f") -> str:
    low, high = estimate.interval_95
    return f"{estimate.value:{form}} (95 % interval {low:{form}} to {high:{form}})"
