"""Tables of an evaluation in Markdown, for its page and for a bundle's model card."""

from collections.abc import Mapping, Sequence

from model.types import Emotion
from train.scoring.evaluation import (
    KNOWN,
    Estimate,
    Evaluation,
    GroupFigures,
    OutlierFigures,
    PeopleFigures,
    PersonalFigures,
    ReferenceFigures,
)

_GROUP_HEAD = ["sure", "UAR of sure", "ECE"]
_PEOPLE_HEAD = ["people", "clips of each", "UAR of the worst", "median UAR"]
_OUTLIER_HEAD = ["clips", "sure", "sure of other than neutral", "of the sure", "of what"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; empty without rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if rows else ""


def figure(value: float | None) -> str:
    """A figure with three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def plain(text: str) -> str:
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
                plain(one.name) + (KNOWN if KNOWN in evaluation.about.split else ""),
                str(one.clips),
                str(one.speakers),
                f"{one.chance:.3f}",
                *_cells(one.uar),
                *worst_and_median,
                *_trust(one),
            ]
            rows.append([*row, figure(known[one.name].uar.value if one.name in known else None)])
    head = ["corpus", "clips", "people", "chance", "UAR", "95 % interval", *_PEOPLE_HEAD[2:], *_GROUP_HEAD, "UAR knowing the person"]
    return table(head, rows)


def groups_table(groups: Sequence[GroupFigures]) -> str:
    """All clips and those of each corpus, language, gender and age; empty where there are no two groups."""
    head = ["clips of", "clips", "people", "chance", "UAR", "95 % interval", *_GROUP_HEAD]
    rows = [[_name(one), str(one.clips), str(one.speakers), f"{one.chance:.3f}", *_cells(one.uar), *_trust(one)] for one in _shown(groups)]
    return table(head, rows) if len(rows) > 1 else ""


def people_table(people: Sequence[PeopleFigures]) -> str:
    """The worst and the median person of each corpus; empty where nobody has enough clips."""
    return table(["people of", *_PEOPLE_HEAD], [[plain(one.corpus), *_people_cells(one)] for one in people])


def conditions_table(evaluation: Evaluation) -> str:
    """The same clips as they are and in each condition; empty where they were not judged there."""
    rows = [[one.condition, f"{one.uar.value:.3f}", *_cells(one.change, "+.3f")] for one in evaluation.conditions]
    as_they_are = ["as recorded", f"{evaluation.uar.value:.3f}", "", ""]
    return table(["the same clips", "UAR", "change", "95 % interval"], [as_they_are, *rows]) if rows else ""


def outliers_table(outliers: Sequence[OutlierFigures]) -> str:
    """What the system made of recordings without an emotion; empty where there were none."""
    return table(["without an emotion", *_OUTLIER_HEAD], [[plain(one.corpus), *_outlier_cells(one)] for one in outliers])


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
        [plain(one.corpus), f"{point.minutes:g}", *_people_cells(one)]
        for row in zip(*(point.people for point in points), strict=True)
        for point, one in zip(points, row, strict=True)
    ]
    calm = [
        [*_asked(point, one.reference, plain(one.corpus)), *_outlier_cells(one)]
        for row in zip(*(point.outliers for point in points), strict=True)
        for point, one in zip(points, row, strict=True)
    ]
    given = ["minutes", "there", "neutral"]
    tables = [
        table(["clips of", *given, "clips", "UAR", "95 % interval", "change", "95 % interval", *_GROUP_HEAD], curve),
        table(["people of", "minutes", *_PEOPLE_HEAD], people),
        table(["without an emotion", *given, *_OUTLIER_HEAD], calm),
    ]
    return [about, *filter(None, tables)]


def _shown(groups: Sequence[GroupFigures]) -> list[GroupFigures]:
    """Without the only corpus, which has all clips."""
    several = sum(one.by == "corpus" for one in groups) > 1
    return [one for one in groups if several or one.by != "corpus"]


def _name(group: GroupFigures) -> str:
    return "all" if group.by == "all" else f"{group.by} {plain(group.name)}"


def _asked(point: PersonalFigures, reference: ReferenceFigures | None, name: str) -> list[str]:
    there = f"{reference.minutes:.1f}" if reference else "–"
    neutral = f"{reference.neutral_share:.0%}" if reference and reference.neutral_share is not None else "–"
    return [name, f"{point.minutes:g}", there, neutral]


def _trust(group: GroupFigures) -> list[str]:
    return ["–" if group.sure_share is None else f"{group.sure_share:.0%}", figure(group.sure_uar), figure(group.ece)]


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
