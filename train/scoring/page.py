"""An evaluation as files for people: a page in Markdown and pictures, beside the JSON for programs. No transcript and no file's name."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from model.errors import TrainingError
from model.types import Emotion
from train.scoring import plots
from train.scoring.evaluation import About, CalmEvaluation, Evaluation
from train.scoring.figure_tables import (
    conditions_table,
    figure,
    gender_text,
    groups_table,
    outliers_table,
    people_table,
    personal_parts,
    plain,
    table,
)


def to_markdown(evaluation: Evaluation | CalmEvaluation) -> str:
    """A page for people: UAR, its interval, the split and chance first, then what limits them, then everything else in tables."""
    if isinstance(evaluation, CalmEvaluation):
        return _calm_page(evaluation)
    about, uar = evaluation.about, evaluation.uar
    low, high = uar.interval_95
    parts = [
        f"# {plain(about.system)}: UAR {uar.value:.3f} (95 % interval {low:.3f} to {high:.3f})",
        f"{plain(about.split)}: {evaluation.clips} clips, {evaluation.speakers} speakers. Chance is {evaluation.chance:.3f}.",
        "UAR, unweighted average recall, is the mean over emotions of the share of their clips that was recognised, so that a rare "
        "emotion counts as much as a frequent one.",
    ]
    if evaluation.warnings:
        parts.append(f"**Wide interval**: {'; '.join(evaluation.warnings)}.")
    if evaluation.cannot_answer:
        parts.append(f"It cannot answer {_words(evaluation.cannot_answer)}; the recall of those is 0 and counts.")
    if evaluation.absent:
        parts.append(f"Without a clip, so without a recall and not counted: {_words(evaluation.absent)}.")
    tables = [_figures_table(evaluation), _classes_table(evaluation), groups_table(evaluation.groups), gender_text(evaluation)]
    tables += [people_table(evaluation.people), conditions_table(evaluation), outliers_table(evaluation.outliers)]
    tables += [*personal_parts(evaluation.personal), _about_table(about)]
    return "\n\n".join([*parts, *filter(None, tables)]) + "\n"


def _calm_page(evaluation: CalmEvaluation) -> str:
    about = evaluation.about
    parts = [
        f"# {plain(about.system)}: recordings without an emotion",
        f"{plain(about.split)}. A sure answer should be neutral where somebody speaks; to anything else there should be none.",
        outliers_table(evaluation.outliers),
        *personal_parts(evaluation.personal),
        _about_table(about),
    ]
    return "\n\n".join(parts) + "\n"


def write(folder: Path, evaluation: Evaluation | CalmEvaluation) -> None:
    """evaluation.json, evaluation.md and confusion.png; with probabilities also reliability.png and risk-coverage.png.

    Without labelled clips there are no pictures. Figures of an earlier evaluation in `folder` are replaced or removed. Raises TrainingError
    where it cannot be written to.
    """
    pictures: dict[str, Callable[[Path], None]] = {}
    if isinstance(evaluation, Evaluation):
        pictures["confusion.png"] = partial(plots.confusion, evaluation)
        if evaluation.confidence:
            pictures["risk-coverage.png"] = partial(plots.risk_coverage, evaluation)
            if evaluation.confidence.reliability:
                pictures["reliability.png"] = partial(plots.reliability, evaluation)
    links = "\n".join(f"![{Path(name).stem}]({name})" for name in sorted(pictures))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "evaluation.md").write_text(f"{to_markdown(evaluation)}\n{links}\n", encoding="utf-8")
        for name in {"confusion.png", "reliability.png", "risk-coverage.png"} - pictures.keys():
            (folder / name).unlink(missing_ok=True)
        for name, draw in pictures.items():
            draw(folder / name)
    except OSError as error:
        raise TrainingError(f"cannot write the evaluation to {folder}: {error}; name a folder that can be written to") from error


def _figures_table(evaluation: Evaluation) -> str:
    estimates = {"UAR": evaluation.uar, "weighted accuracy": evaluation.weighted_accuracy, "macro F1": evaluation.macro_f1}
    rows = [[name, f"{e.value:.3f}", f"{e.interval_95[0]:.3f} to {e.interval_95[1]:.3f}"] for name, e in estimates.items()]
    rows.append(["answers that name no emotion", f"{evaluation.unparsable_share:.1%}", ""])
    if evaluation.confidence:
        rows.append(["sure answers", f"{evaluation.sure_share:.1%}", ""])
        rows.append(["UAR of sure answers", figure(evaluation.sure_uar), ""])
        rows.append(["UAR of the more confident half", figure(evaluation.confidence.certain_half_uar), ""])
        rows.append(["expected calibration error (ECE)", figure(evaluation.confidence.ece), ""])
        rows.append(["ECE by chance alone, if perfectly calibrated", figure(evaluation.confidence.ece_by_chance), ""])
        rows.append(["area under the risk-coverage curve (AURC)", f"{evaluation.confidence.aurc:.3f}", ""])
    if evaluation.word_error_rate is not None:
        rows.append([f"word error rate, {evaluation.words} words", f"{evaluation.word_error_rate:.3f}", ""])
    return table(["figure", "value", "95 % interval"], rows)


def _classes_table(evaluation: Evaluation) -> str:
    rows = [[emotion.word, str(c.clips), figure(c.recall), figure(c.precision), figure(c.f1)] for emotion, c in evaluation.classes.items()]
    return table(["emotion", "clips", "recall", "precision", "F1"], rows)


def _about_table(about: About) -> str:
    size = "not known" if about.parameters is None else f"{about.parameters:,}"
    features = "given" if about.features else "not given"
    rows = [
        ["strategy", f"{about.strategy}, shots: {about.shots}, paralinguistic features {features}"],
        ["parameters", size],
        ["manifest, SHA-256", f"`{about.manifest_sha256}`"],
        ["date", about.date.isoformat()],
        ["intervals", "bootstrap over speakers, then over their clips, 2000 draws"],
    ]
    return table(["made with", ""], [[name, plain(text)] for name, text in rows])


def _words(emotions: Sequence[Emotion]) -> str:
    return ", ".join(emotion.word for emotion in emotions)
