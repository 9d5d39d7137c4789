"""An evaluation as files for people: a page in Markdown and pictures, beside the JSON for programs. No transcript and no file's name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import TrainingError
from model.types import Emotion
from train.scoring import plots
from train.scoring.evaluation import About, Evaluation


def to_markdown(evaluation: Evaluation) -> str:
    """A page for people: UAR, its interval, the split and chance first, then what limits them, then everything else in tables."""
    about, uar = evaluation.about, evaluation.uar
    low, high = uar.interval_95
    parts = [
        f"# {_plain(about.system)}: UAR {uar.value:.3f} (95 % interval {low:.3f} to {high:.3f})",
        f"{_plain(about.split)}: {evaluation.clips} clips, {evaluation.speakers} speakers. Chance is {evaluation.chance:.3f}.",
        "UAR, unweighted average recall, is the mean over emotions of the share of their clips that was recognised, so that a rare "
        "emotion counts as much as a frequent one.",
    ]
    if evaluation.warnings:
        parts.append(f"**Wide interval**: {'; '.join(evaluation.warnings)}.")
    if evaluation.cannot_answer:
        parts.append(f"It cannot answer {_words(evaluation.cannot_answer)}; the recall of those is 0 and counts.")
    if evaluation.absent:
        parts.append(f"Without a clip, so without a recall and not counted: {_words(evaluation.absent)}.")
    tables = [_figures_table(evaluation), _classes_table(evaluation), _genders_table(evaluation), conditions_table(evaluation)]
    tables += [outliers_table(evaluation), _about_table(about)]
    return "\n\n".join([*parts, *(table for table in tables if table)]) + "\n"


def write(folder: Path, evaluation: Evaluation) -> None:
    """evaluation.json, evaluation.md and confusion.png; with probabilities also reliability.png and risk-coverage.png.

    Figures of an earlier evaluation in `folder` are replaced or removed. Raises TrainingError where it cannot be written to.
    """
    pictures = {"confusion.png": plots.confusion}
    if evaluation.confidence:
        pictures["risk-coverage.png"] = plots.risk_coverage
        if evaluation.confidence.reliability:
            pictures["reliability.png"] = plots.reliability
    links = "\n".join(f"![{Path(name).stem}]({name})" for name in sorted(pictures))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "evaluation.md").write_text(f"{to_markdown(evaluation)}\n{links}\n", encoding="utf-8")
        for name in {"reliability.png", "risk-coverage.png"} - pictures.keys():
            (folder / name).unlink(missing_ok=True)
        for name, draw in pictures.items():
            draw(evaluation, folder / name)
    except OSError as error:
        raise TrainingError(f"cannot write the evaluation to {folder}: {error}; name a folder that can be written to") from error


def _figures_table(evaluation: Evaluation) -> str:
    estimates = {"UAR": evaluation.uar, "weighted accuracy": evaluation.weighted_accuracy, "macro F1": evaluation.macro_f1}
    rows = [[name, f"{e.value:.3f}", f"{e.interval_95[0]:.3f} to {e.interval_95[1]:.3f}"] for name, e in estimates.items()]
    rows.append(["answers that name no emotion", f"{evaluation.unparsable_share:.1%}", ""])
    if evaluation.confidence:
        rows.append(["sure answers", f"{evaluation.sure_share:.1%}", ""])
        rows.append(["UAR of sure answers", _figure(evaluation.sure_uar), ""])
        rows.append(["UAR of the more confident half", _figure(evaluation.confidence.certain_half_uar), ""])
        rows.append(["expected calibration error (ECE)", _figure(evaluation.confidence.ece), ""])
        rows.append(["ECE by chance alone, if perfectly calibrated", _figure(evaluation.confidence.ece_by_chance), ""])
        rows.append(["area under the risk-coverage curve (AURC)", f"{evaluation.confidence.aurc:.3f}", ""])
    if evaluation.word_error_rate is not None:
        rows.append([f"word error rate, {evaluation.words} words", f"{evaluation.word_error_rate:.3f}", ""])
    return _table(["figure", "value", "95 % interval"], rows)


def _classes_table(evaluation: Evaluation) -> str:
    rows = [
        [emotion.word, str(c.clips), _figure(c.recall), _figure(c.precision), _figure(c.f1)] for emotion, c in evaluation.classes.items()
    ]
    return _table(["emotion", "clips", "recall", "precision", "F1"], rows)


def _genders_table(evaluation: Evaluation) -> str:
    rows = [
        [gender, str(g.clips), str(g.speakers), f"{g.uar.value:.3f}", f"{g.uar.interval_95[0]:.3f} to {g.uar.interval_95[1]:.3f}"]
        for gender, g in evaluation.genders.items()
    ]
    difference = evaluation.gender_difference
    if difference:
        low, high = difference.interval_95
        rows.append(["female - male", "", "", f"{difference.value:+.3f}", f"{low:+.3f} to {high:+.3f}"])
    return _table(["gender", "clips", "speakers", "UAR", "95 % interval"], rows) if rows else ""


def conditions_table(evaluation: Evaluation) -> str:
    """The same clips as they are and in each condition; empty where they were not judged there."""
    rows = [
        [one.condition, f"{one.uar.value:.3f}", f"{one.change.value:+.3f}", "{:+.3f} to {:+.3f}".format(*one.change.interval_95)]
        for one in evaluation.conditions
    ]
    as_they_are = ["as recorded", f"{evaluation.uar.value:.3f}", "", ""]
    return _table(["the same clips", "UAR", "change", "95 % interval"], [as_they_are, *rows]) if rows else ""


def outliers_table(evaluation: Evaluation) -> str:
    """What the system made of recordings without an emotion; empty where there were none."""
    rows = [
        [one.corpus, str(one.clips), f"{one.sure_share:.1%}", f"{one.emotional_share:.1%}", _counts(one.sure)]
        for one in evaluation.outliers
    ]
    return _table(["without an emotion", "clips", "sure", "sure of other than neutral", "of what"], rows) if rows else ""


def _counts(sure: Mapping[Emotion, int]) -> str:
    return ", ".join(f"{letter.word} {count}" for letter, count in sorted(sure.items(), key=lambda item: -item[1])) or "–"


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
    return _table(["made with", ""], [[name, _plain(text)] for name, text in rows])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _words(emotions: Sequence[Emotion]) -> str:
    return ", ".join(emotion.word for emotion in emotions)


def _plain(text: str) -> str:
    """Text that stays in its line and in its table cell."""
    return " ".join(text.split()).replace("|", "\\|")
