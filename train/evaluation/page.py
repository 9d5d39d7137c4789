"""An evaluation as files for people: Markdown pages and tables beside the JSON, and several evaluations side by side.

No transcript and no file name appears in them. The tables are used by the model card too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from model.emotions import Emotion
from model.errors import TrainingError
from train.evaluation import plots
from train.evaluation.figures import (
    KNOWN,
    Estimate,
    Evaluation,
    EvaluationSubject,
    GroupFigures,
    OutlierEvaluation,
    OutlierFigures,
    PeopleFigures,
    PersonalFigures,
    ReferenceFigures,
)

_GROUP_HEAD = ["sure", "UAR of sure", "ECE"]
_PEOPLE_HEAD = ["people", "clips of each", "UAR of the worst", "median UAR"]
_OUTLIER_HEAD = ["clips", "sure", "sure of other than neutral", "of the sure", "of what"]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; empty without rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if rows else ""


def figure_text(value: float | None) -> str:
    """A figure with three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def plain_cell(text: str) -> str:
    """Text that stays in its line and in its table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def corpora_table(evaluations: Sequence[Evaluation]) -> str:
    """Each corpus of several evaluations in a row: strangers, their worst and median person, and people who are known."""
    rows = []
    for evaluation in evaluations:
        people = {one.corpus: one for one in evaluation.people}
        known = {one.name: one for one in evaluation.personal[-1].groups if one.by == "corpus"} if evaluation.personal else {}
        for one in (group for group in evaluation.groups if group.by == "corpus"):
            worst_and_median = _people_cells(people[one.name])[2:] if one.name in people else ["–", "–"]
            row = [
                plain_cell(one.name) + (KNOWN if KNOWN in evaluation.about.split else ""),
                str(one.clips),
                str(one.speakers),
                f"{one.chance:.3f}",
                *_cells(one.uar),
                *worst_and_median,
                *_trust(one),
            ]
            rows.append([*row, figure_text(known[one.name].uar.value if one.name in known else None)])
    head = ["corpus", "clips", "people", "chance", "UAR", "95 % interval", *_PEOPLE_HEAD[2:], *_GROUP_HEAD, "UAR knowing the person"]
    return markdown_table(head, rows)


def groups_table(groups: Sequence[GroupFigures]) -> str:
    """All clips and those of each corpus, language, gender and age; empty where there are no two groups."""
    head = ["clips of", "clips", "people", "chance", "UAR", "95 % interval", *_GROUP_HEAD]
    rows = [[_name(one), str(one.clips), str(one.speakers), f"{one.chance:.3f}", *_cells(one.uar), *_trust(one)] for one in _shown(groups)]
    return markdown_table(head, rows) if len(rows) > 1 else ""


def people_table(people: Sequence[PeopleFigures]) -> str:
    """The worst and the median person of each corpus; empty where nobody has enough clips."""
    return markdown_table(["people of", *_PEOPLE_HEAD], [[plain_cell(one.corpus), *_people_cells(one)] for one in people])


def conditions_table(evaluation: Evaluation) -> str:
    """The same clips as they are and in each condition; empty where they were not judged there."""
    rows = [[one.condition, f"{one.uar.value:.3f}", *_cells(one.change, "+.3f")] for one in evaluation.conditions]
    as_they_are = ["as recorded", f"{evaluation.uar.value:.3f}", "", ""]
    return markdown_table(["the same clips", "UAR", "change", "95 % interval"], [as_they_are, *rows]) if rows else ""


def outliers_table(outliers: Sequence[OutlierFigures]) -> str:
    """What the system made of recordings without an emotion; empty where there were none."""
    return markdown_table(["without an emotion", *_OUTLIER_HEAD], [[plain_cell(one.corpus), *_outlier_cells(one)] for one in outliers])


def gender_text(evaluation: Evaluation) -> str:
    """How much better women's voices are recognised than men's; empty where that cannot be compared."""
    difference = evaluation.gender_difference
    return "Female minus male {} (95 % interval {}).".format(*_cells(difference, "+.3f")) if difference else ""


def personal_parts(points: Sequence[PersonalFigures]) -> list[str]:
    """What knowing the person is worth: a sentence and tables; empty where it was not measured."""
    if not points:
        return []
    about = (
        "After so many minutes of the person's own speech, without labels; the clips are not part of it. Everything is of"
        f' {points[0].draws} draws. "There" is how much speech the corpus really gave, "neutral" how much of that is neutral.'
    )
    curve = [
        [*_asked(point, one.reference, _name(one)), str(one.clips), *_cells(one.uar), *_cells(one.change, "+.3f"), *_trust(one)]
        for row in zip(*(_shown(point.groups) for point in points), strict=True)
        for point, one in zip(points, row, strict=True)
    ]
    people = [
        [plain_cell(one.corpus), f"{point.minutes:g}", *_people_cells(one)]
        for row in zip(*(point.people for point in points), strict=True)
        for point, one in zip(points, row, strict=True)
    ]
    calm = [
        [*_asked(point, one.reference, plain_cell(one.corpus)), *_outlier_cells(one)]
        for row in zip(*(point.outliers for point in points), strict=True)
        for point, one in zip(points, row, strict=True)
    ]
    given = ["minutes", "there", "neutral"]
    tables = [
        markdown_table(["clips of", *given, "clips", "UAR", "95 % interval", "change", "95 % interval", *_GROUP_HEAD], curve),
        markdown_table(["people of", "minutes", *_PEOPLE_HEAD], people),
        markdown_table(["without an emotion", *given, *_OUTLIER_HEAD], calm),
    ]
    return [about, *filter(None, tables)]


def _shown(groups: Sequence[GroupFigures]) -> list[GroupFigures]:
    """Without the only corpus, which has all clips."""
    several = sum(one.by == "corpus" for one in groups) > 1
    return [one for one in groups if several or one.by != "corpus"]


def _name(group: GroupFigures) -> str:
    return "all" if group.by == "all" else f"{group.by} {plain_cell(group.name)}"


def _asked(point: PersonalFigures, reference: ReferenceFigures | None, name: str) -> list[str]:
    there = f"{reference.minutes:.1f}" if reference else "–"
    neutral = f"{reference.neutral_share:.0%}" if reference and reference.neutral_share is not None else "–"
    return [name, f"{point.minutes:g}", there, neutral]


def _trust(group: GroupFigures) -> list[str]:
    return ["–" if group.sure_share is None else f"{group.sure_share:.0%}", figure_text(group.sure_uar), figure_text(group.ece)]


def _people_cells(people: PeopleFigures) -> list[str]:
    return [str(people.people), str(people.clips), f"{people.worst:.3f}", f"{people.median:.3f}"]


def _outlier_cells(one: OutlierFigures) -> list[str]:
    of_sure = one.emotional_share_of_sure
    share = "–" if of_sure is None else f"{of_sure:.1%}"
    return [str(one.clips), f"{one.sure_share:.1%}", f"{one.emotional_share:.1%}", share, _counts(one.sure)]


def _counts(sure: Mapping[Emotion, int]) -> str:
    return ", ".join(f"{letter.word} {count}" for letter, count in sorted(sure.items(), key=lambda item: -item[1])) or "–"


def _cells(estimate: Estimate | None, form: str = ".3f") -> list[str]:
    if estimate is None:
        return ["–", "–"]
    low, high = estimate.interval_95
    return [f"{estimate.value:{form}}", f"{low:{form}} to {high:{form}}"]


def page_markdown(evaluation: Evaluation | OutlierEvaluation) -> str:
    """A page for people: UAR, its interval, the split and chance first, then what limits them, then everything else in tables."""
    if isinstance(evaluation, OutlierEvaluation):
        return _outlier_page(evaluation)
    about, uar = evaluation.about, evaluation.uar
    low, high = uar.interval_95
    parts = [
        f"# {plain_cell(about.system)}: UAR {uar.value:.3f} (95 % interval {low:.3f} to {high:.3f})",
        f"{plain_cell(about.split)}: {evaluation.clips} clips, {evaluation.speakers} speakers. Chance is {evaluation.chance:.3f}.",
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


def _outlier_page(evaluation: OutlierEvaluation) -> str:
    about = evaluation.about
    parts = [
        f"# {plain_cell(about.system)}: recordings without an emotion",
        f"{plain_cell(about.split)}. A sure answer should be neutral where somebody speaks; to anything else there should be none.",
        outliers_table(evaluation.outliers),
        *personal_parts(evaluation.personal),
        _about_table(about),
    ]
    return "\n\n".join(parts) + "\n"


def write_evaluation(folder: Path, evaluation: Evaluation | OutlierEvaluation) -> None:
    """evaluation.json, evaluation.md and confusion.png; with probabilities also reliability.png and risk-coverage.png.

    Without labelled clips there are no pictures. Figures of an earlier evaluation in `folder` are replaced or removed. Raises TrainingError
    where it cannot be written to.
    """
    pictures: dict[str, Callable[[Path], None]] = {}
    if isinstance(evaluation, Evaluation):
        pictures["confusion.png"] = partial(plots.plot_confusion, evaluation)
        if evaluation.confidence:
            pictures["risk-coverage.png"] = partial(plots.plot_risk_coverage, evaluation)
            if evaluation.confidence.reliability:
                pictures["reliability.png"] = partial(plots.plot_reliability, evaluation)
    links = "\n".join(f"![{Path(name).stem}]({name})" for name in sorted(pictures))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "evaluation.md").write_text(f"{page_markdown(evaluation)}\n{links}\n", encoding="utf-8")
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
        rows.append(["UAR of sure answers", figure_text(evaluation.sure_uar), ""])
        rows.append(["UAR of the more confident half", figure_text(evaluation.confidence.certain_half_uar), ""])
        rows.append(["expected calibration error (ECE)", figure_text(evaluation.confidence.ece), ""])
        rows.append(["ECE by chance alone, if perfectly calibrated", figure_text(evaluation.confidence.ece_by_chance), ""])
        rows.append(["area under the risk-coverage curve (AURC)", f"{evaluation.confidence.aurc:.3f}", ""])
    if evaluation.word_error_rate is not None:
        rows.append([f"word error rate, {evaluation.words} words", f"{evaluation.word_error_rate:.3f}", ""])
    return markdown_table(["figure", "value", "95 % interval"], rows)


def _classes_table(evaluation: Evaluation) -> str:
    rows = [
        [emotion.word, str(c.clips), figure_text(c.recall), figure_text(c.precision), figure_text(c.f1)]
        for emotion, c in evaluation.classes.items()
    ]
    return markdown_table(["emotion", "clips", "recall", "precision", "F1"], rows)


def _about_table(about: EvaluationSubject) -> str:
    size = "not known" if about.parameters is None else f"{about.parameters:,}"
    features = "given" if about.features else "not given"
    rows = [
        ["strategy", f"{about.strategy}, shots: {about.shots}, paralinguistic features {features}"],
        ["parameters", size],
        ["manifest, SHA-256", f"`{about.manifest_sha256}`"],
        ["date", about.date.isoformat()],
        ["intervals", "bootstrap over speakers, then over their clips, 2000 draws"],
    ]
    return markdown_table(["made with", ""], [[name, plain_cell(text)] for name, text in rows])


def _words(emotions: Sequence[Emotion]) -> str:
    return ", ".join(emotion.word for emotion in emotions)


def read_evaluations(folders: Sequence[Path]) -> list[Evaluation]:
    """What `evaluate --out FOLDER` wrote. Raises TrainingError for a folder without it, and for evaluations on different clips."""
    found = [_read_evaluation(folder) for folder in folders]
    measured_on = {(one.about.manifest_sha256, one.about.split) for one in found}
    if len(measured_on) > 1:
        splits = "; ".join(sorted(split for _, split in measured_on))
        raise TrainingError(f"these evaluations are not of the same clips and may not be compared: {splits}")
    return found


def comparison_markdown(evaluations: Sequence[Evaluation]) -> str:
    """One row a system, the best first."""
    rows = [
        f"| {one.about.system} | {_size(one)} | {one.about.strategy} | {one.uar.value:.3f} |"
        f" {one.uar.interval_95[0]:.3f} to {one.uar.interval_95[1]:.3f} | {one.unparsable_share:.1%} |"
        for one in sorted(evaluations, key=lambda one: -one.uar.value)
    ]
    first = evaluations[0]
    head = ["| system | parameters | strategy | UAR | 95 % interval | unparsable |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([f"{first.about.split}: {first.clips} clips, chance {first.chance:.3f}", "", *head, *rows]) + "\n"


def draw_comparison(evaluations: Sequence[Evaluation], path: Path) -> None:
    """The figure; systems of unknown size cannot stand in it. Raises TrainingError when none is left, or it cannot be written."""
    points = [
        (one.about.system, one.about.parameters / 1e9, one.uar.value, one.uar.interval_95)
        for one in evaluations
        if one.about.parameters is not None
    ]
    if not points:
        raise TrainingError("none of these evaluations knows its number of parameters; give --parameters to evaluate")
    try:
        plots.plot_comparison(points, path)
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot write {path}: {error}") from error


def _read_evaluation(folder: Path) -> Evaluation:
    path = folder / "evaluation.json"
    try:
        return Evaluation.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise TrainingError(f"{path} is no evaluation ({error}); make one with evaluate --out {folder}") from error


def _size(evaluation: Evaluation) -> str:
    return "not known" if evaluation.about.parameters is None else f"{evaluation.about.parameters / 1e6:,.1f} M"
