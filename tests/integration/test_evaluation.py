"""From predictions to figures, pages and comparisons; every figure is worked out by hand or counted in the files."""

import datetime
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from pydantic import ValidationError

from model.emotions import Emotion
from model.errors import TrainingError
from tests.support.commands import run
from train.corpora.manifest import Utterance
from train.evaluation import plots
from train.evaluation.figures import Evaluation, EvaluationSubject
from train.evaluation.page import page_markdown, write_evaluation
from train.evaluation.results import UtterancePrediction, compute_evaluation

A, S, H, N, O = Emotion.ANGRY, Emotion.SAD, Emotion.HAPPY, Emotion.NEUTRAL, Emotion.OTHER  # noqa: E741
LETTERS = [A, S, N, H]


def about(*, has_probabilities: bool = True) -> EvaluationSubject:
    return EvaluationSubject(
        system="compact-1",
        parameters=2_800_000,
        strategy="joint",
        features=True,
        shots=1,
        manifest_sha256="ab" * 32,
        split="made up | test",
        has_probabilities=has_probabilities,
        date=datetime.date(2026, 1, 5),
    )


def judged(
    speaker: str,
    emotion: Emotion | None,
    answer: Emotion | None,
    confidence: float = 1.0,
    *,
    corpus: str = "c",
    said: str | None = None,
    wrote: str | None = None,
    unsure: bool = False,
) -> UtterancePrediction:
    """Speakers f... are female, m... male, others not known; an answer's rest of probability goes to the other letters."""
    gender = {"f": "female", "m": "male"}.get(speaker[0])
    utterance = Utterance(Path("private-name.wav"), corpus, speaker, gender, emotion, said, "test", "en", "CC0-1.0")
    rest = (1 - confidence) / (len(LETTERS) - 1)
    posterior = None if answer is None else {letter: confidence if letter == answer else rest for letter in LETTERS}
    return UtterancePrediction(utterance, posterior, wrote, unsure)


CLIPS = [
    judged("f1", A, A, 0.95, said="Secret words, here", wrote="secret words here"),
    judged("f1", S, A, 0.65, said="secret", wrote="other", unsure=True),
    judged("f1", N, N, 0.85, said="one", wrote="one"),
    judged("f2", A, A, 0.85, said="one", wrote="one"),
    judged("m1", A, None, said="two words"),
    judged("m1", S, S, 0.95),
    judged("m1", N, N, 0.75),
    judged("x1", O, N, 0.55, unsure=True),
    judged("x1", None, N, 0.9),
]


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return compute_evaluation(CLIPS, LETTERS, about())


def test_headline_figures_are_those_worked_out_by_hand(found: Evaluation) -> None:
    assert (found.clips, found.speakers) == (8, 4)  # the unlabelled clip is left out
    assert found.uar.value == pytest.approx((2 / 3 + 1 / 2 + 1 + 0) / 4, abs=1e-4)
    assert found.weighted_accuracy.value == 5 / 8
    assert found.macro_f1.value == pytest.approx((4 / 6 + 2 / 3 + 4 / 5 + 0) / 4, abs=1e-4)
    assert found.chance == 0.25
    for estimate in (found.uar, found.weighted_accuracy, found.macro_f1):
        assert 0 <= estimate.interval_95[0] < estimate.value < estimate.interval_95[1] <= 1


def test_what_cannot_be_answered_counts_and_what_does_not_occur_does_not(found: Evaluation) -> None:
    assert (found.cannot_answer, found.absent) == ([O], [H])
    assert found.classes[O].model_dump() == {"clips": 1, "recall": 0.0, "precision": None, "f1": 0.0}
    assert found.classes[H].model_dump() == {"clips": 0, "recall": None, "precision": None, "f1": None}
    assert found.classes[A].model_dump() == {"clips": 3, "recall": 0.6667, "precision": 0.6667, "f1": 0.6667}
    assert found.confusion.labels == [*LETTERS, O]
    assert found.confusion.counts == [[2, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0], [0] * 6, [0, 0, 1, 0, 0, 0]]
    assert found.unparsable_share == 1 / 8


def test_genders_are_compared_only_over_the_same_emotions(found: Evaluation) -> None:
    female, male = (one for one in found.groups if one.by == "gender")
    assert (female.name, male.name) == ("female", "male")
    assert (female.clips, female.speakers, female.uar.value) == (4, 2, 0.6667)
    assert (male.clips, male.speakers, male.uar.value) == (3, 1, 0.6667)
    assert found.gender_difference is not None
    assert found.gender_difference.value == 0
    assert found.gender_difference.interval_95[0] < 0 < found.gender_difference.interval_95[1]
    without = compute_evaluation(
        [clip for clip in CLIPS if clip.utterance.speaker != "m1" or clip.utterance.emotion != S], LETTERS, about()
    )
    assert without.gender_difference is None
    assert [one.name for one in without.groups if one.by == "gender"] == ["female", "male"]


def test_groups_have_their_own_chance_and_confidence() -> None:
    clips = [
        judged("f1", A, A, 0.9),
        judged("f1", S, A, 0.7),
        judged("f1", N, N, 0.8, unsure=True),
        judged("m1", A, S, 0.6, corpus="d", unsure=True),
        judged("m1", S, S, 0.9, corpus="d"),
    ]
    clips[3] = replace(clips[3], utterance=replace(clips[3].utterance, language="it", age=70))
    clips[4] = replace(clips[4], utterance=replace(clips[4].utterance, language="it", age=9))
    found = {(one.by, one.name): one for one in compute_evaluation(clips, LETTERS, about()).groups}
    assert list(found) == [
        ("all", ""),
        ("corpus", "c"),
        ("corpus", "d"),
        ("language", "en"),
        ("language", "it"),
        ("gender", "female"),
        ("gender", "male"),
        ("age", "0 to 12"),
        ("age", "60 and over"),
    ]
    first, second = found["corpus", "c"], found["corpus", "d"]
    assert (first.clips, first.speakers, first.chance, second.chance) == (3, 1, 0.3333, 0.5)
    assert (first.uar.value, second.uar.value, found["all", ""].uar.value) == (0.6667, 0.5, 0.6667)
    assert (first.sure_share, first.sure_uar, second.sure_uar) == (0.6667, 0.5, 1.0)
    assert first.ece == pytest.approx((0.1 + 0.7 + 0.2) / 3, abs=1e-4)
    assert found["age", "60 and over"].sure_uar is None
    plain = compute_evaluation(clips, LETTERS, about(has_probabilities=False)).groups
    assert {(one.sure_share, one.sure_uar, one.ece) for one in plain} == {(None, None, None)}
    page = page_markdown(compute_evaluation(clips, LETTERS, about()))
    assert "| corpus c | 3 | 1 | 0.333 | 0.667 |" in page
    assert "| age 60 and over | 1 | 1 | 1.000 | 0.000 | 0.000 to 0.000 | 0% | – | 0.600 |" in page


def test_the_worst_and_the_median_person_of_a_corpus_are_told_of_those_with_enough_clips() -> None:
    def person(name: str, right: int, clips: int = 12, corpus: str = "c") -> list[UtterancePrediction]:
        """`right` of the clips of each of two emotions are recognised."""
        return [judged(name, e, e if i < right else H, corpus=corpus) for e in (A, S) for i in range(clips // 2)]

    clips = [*person("p1", 1), *person("p2", 3), *person("p3", 6), *person("few", 0, clips=8), *person("q", 3, corpus="d")]
    clips += [judged("one emotion", N, A) for _ in range(20)]
    people = compute_evaluation(clips, LETTERS, about()).people
    assert [(one.corpus, one.people, one.clips, one.worst, one.median) for one in people] == [
        ("c", 3, 12, 0.1667, 0.5),
        ("d", 1, 12, 0.5, 0.5),
    ]
    assert "| c | 3 | 12 | 0.167 | 0.500 |" in page_markdown(compute_evaluation(clips, LETTERS, about()))


def test_confidence_is_told_only_of_answers_with_probabilities(found: Evaluation) -> None:
    assert found.confidence is not None
    gaps = abs(2 - 1.9) + 0.65 + abs(2 - 1.7) + abs(1 - 0.75) + 0.55  # bins: 0.95 twice, 0.65, 0.85 twice, 0.75, 0.55
    assert found.confidence.ece == pytest.approx(gaps / 7, abs=1e-4)
    assert sum(part.clips for part in found.confidence.reliability) == 7
    risks = [0, 0, 0, 0, 0, 1 / 6, 2 / 7, 3 / 8]  # the unanswered clip comes last
    assert found.confidence.aurc == pytest.approx(np.mean(risks), abs=1e-4)
    assert [point.risk for point in found.confidence.risk_coverage] == pytest.approx(risks, abs=1e-4)
    assert found.sure_share == 5 / 8
    assert found.sure_uar == 1.0
    assert compute_evaluation(CLIPS, LETTERS, about(has_probabilities=False)).confidence is None


def test_a_long_curve_is_thinned_but_keeps_its_ends() -> None:
    rng = np.random.default_rng(0)
    clips = [judged(f"s{i % 20}", A, A if rng.random() < 0.7 else S, float(rng.uniform(0.4, 1))) for i in range(500)]
    confidence = compute_evaluation(clips, LETTERS, about()).confidence
    assert confidence is not None
    assert len(confidence.risk_coverage) == 50
    assert (confidence.risk_coverage[0].coverage, confidence.risk_coverage[-1].coverage) == (0.002, 1.0)
    right = sum(clip.emotion == A for clip in clips)
    assert confidence.risk_coverage[-1].risk == pytest.approx(1 - right / 500, abs=1e-4)


def test_an_answer_without_a_transcript_misses_every_word(found: Evaluation) -> None:
    assert (found.word_error_rate, found.words) == (pytest.approx(3 / 8), 8)
    silent = compute_evaluation([judged("f1", A, A, said="one")], LETTERS, about())
    assert (silent.word_error_rate, silent.words) == (None, 0)


def test_the_same_name_in_two_corpora_is_two_speakers() -> None:
    assert compute_evaluation([judged("1", A, A), judged("1", A, A, corpus="d")], LETTERS, about()).speakers == 2


def test_nothing_labelled_or_a_foreign_answer_is_refused() -> None:
    with pytest.raises(TrainingError, match="none of 1 clips of made up"):
        compute_evaluation([judged("f1", None, A)], LETTERS, about())
    with pytest.raises(TrainingError, match="A was answered, which is none of the letters S, N"):
        compute_evaluation([judged("f1", S, A)], [S, N], about())


def test_nothing_answered_at_all_is_all_wrong_and_still_told(tmp_path: Path) -> None:
    found = compute_evaluation([judged("f1", A, None), judged("f1", S, None)], LETTERS, about())
    assert (found.uar.value, found.unparsable_share, found.sure_share, found.sure_uar) == (0, 1, 0, None)
    assert found.confidence is not None
    assert (found.confidence.ece, found.confidence.aurc) == (None, 1)
    write_evaluation(tmp_path, found)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "evaluation.md", "confusion.png", "risk-coverage.png"}
    with pytest.raises(TrainingError, match="no clip was answered"):
        plots.plot_reliability(found, tmp_path / "reliability.png")


def test_the_page_begins_with_the_headline_and_holds_the_figures(found: Evaluation) -> None:
    page = page_markdown(found)
    low, high = found.uar.interval_95
    assert page.startswith(f"# compact-1: UAR 0.542 (95 % interval {low:.3f} to {high:.3f})\n")
    for text in (
        "made up \\| test: 8 clips, 4 speakers. Chance is 0.250.",
        "**Wide interval**: only 4 speakers; fewer than 5 clips of angry (3), sad (2), neutral (2), other (1).",
        "It cannot answer other;",
        "not counted: happy.",
        "| weighted accuracy | 0.625 |",
        "| macro F1 | 0.533 |",
        "| answers that name no emotion | 12.5% |",
        "| expected calibration error (ECE) | 0.264 |",
        "| word error rate, 8 words | 0.375 |",
        "| angry | 3 | 0.667 | 0.667 | 0.667 |",
        "| happy | 0 | – | – | – |",
        "| gender female | 4 | 2 | 0.333 | 0.667 |",
        "| parameters | 2,800,000 |",
        "ab" * 32,
    ):
        assert text in page


def test_nobody_is_warned_where_there_is_enough() -> None:
    enough = compute_evaluation([judged(f"s{i}", e, e) for i in range(10) for e in LETTERS], LETTERS, about(has_probabilities=False))
    page = page_markdown(enough)
    assert enough.warnings == []
    for text in ("Wide interval", "cannot answer", "not counted", "ECE", "word error", "gender"):
        assert text not in page


def test_written_files_say_the_same_and_nothing_private(found: Evaluation, tmp_path: Path) -> None:
    write_evaluation(tmp_path / "new" / "folder", found)
    folder = tmp_path / "new" / "folder"
    text = (folder / "evaluation.json").read_text(encoding="utf-8")
    assert Evaluation.model_validate_json(text) == found
    assert json.loads(text)["uar"]["value"] == 0.5417
    page = (folder / "evaluation.md").read_text(encoding="utf-8")
    assert page.startswith(page_markdown(found))
    assert all(f"({path.name})" in page for path in folder.glob("*.png"))
    assert len(list(folder.glob("*.png"))) == 3
    for private in ("secret", "private-name", "f2", "m1"):
        assert private not in (text + page).lower()


def test_pictures_that_no_longer_apply_are_removed(found: Evaluation, tmp_path: Path) -> None:
    write_evaluation(tmp_path, found)
    write_evaluation(tmp_path, compute_evaluation(CLIPS, LETTERS, about(has_probabilities=False)))
    assert {path.name for path in tmp_path.glob("*.png")} == {"confusion.png"}
    assert "reliability.png" not in (tmp_path / "evaluation.md").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_made_is_named(found: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write the evaluation to"):
        write_evaluation(tmp_path / "file", found)


def test_an_evaluation_cannot_be_changed_and_has_no_other_keys(found: Evaluation) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        found.clips = 9  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        Evaluation.model_validate({**found.model_dump(), "more": 1})


def _picture(path: Path) -> np.ndarray:
    """Pixels (height, width, 3), 0 to 1, of a picture of a size a page can show."""
    pixels = imread(path)[..., :3]
    assert 600 <= pixels.shape[1] <= 2400
    assert 400 <= pixels.shape[0] <= 2000
    return pixels


def _share(pixels: np.ndarray, colour: tuple[float, float, float]) -> float:
    return float((np.abs(pixels - colour).max(axis=-1) < 0.05).mean())


BLUE = (0, 0x72 / 255, 0xB2 / 255)
DARKEST = (8 / 255, 48 / 255, 107 / 255)  # of "Blues"


def test_the_confusion_of_a_perfect_system_is_dark_on_the_diagonal_only(tmp_path: Path) -> None:
    clips = [judged(f"s{i}", e, e) for i in range(10) for e in LETTERS]
    plots.plot_confusion(compute_evaluation(clips, LETTERS, about()), tmp_path / "right.png")
    plots.plot_confusion(
        compute_evaluation([judged("s1", e, f) for e in LETTERS for f in LETTERS], LETTERS, about()), tmp_path / "even.png"
    )
    right, even = _share(_picture(tmp_path / "right.png"), DARKEST), _share(_picture(tmp_path / "even.png"), DARKEST)
    assert right > 0.1  # four of sixteen cells
    assert even < 0.02  # the end of the colour bar


def test_the_curve_of_a_worse_system_is_another_picture(found: Evaluation, tmp_path: Path) -> None:
    worse = compute_evaluation([judged(c.utterance.speaker, c.utterance.emotion, H, 0.9) for c in CLIPS], LETTERS, about())
    for draw in (plots.plot_reliability, plots.plot_risk_coverage):
        draw(found, tmp_path / "a.png")
        draw(worse, tmp_path / "b.png")
        first, second = _picture(tmp_path / "a.png"), _picture(tmp_path / "b.png")
        assert first.shape == second.shape
        assert (np.abs(first - second).max(axis=-1) > 0.1).mean() > 0.02


def test_pictures_of_confidence_need_probabilities(tmp_path: Path) -> None:
    for draw in (plots.plot_reliability, plots.plot_risk_coverage):
        with pytest.raises(TrainingError, match="compact-1 gave no probabilities"):
            draw(compute_evaluation(CLIPS, LETTERS, about(has_probabilities=False)), tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


def test_systems_are_compared_by_size(tmp_path: Path) -> None:
    points = [("small", 0.003, 0.4, (0.35, 0.45)), ("large", 7.0, 0.5, None), ("larger", 8.0, 0.505, None)]
    plots.plot_comparison(points, tmp_path / "three.png")
    plots.plot_comparison(points[:1], tmp_path / "one.png")
    three, one = _share(_picture(tmp_path / "three.png"), BLUE), _share(_picture(tmp_path / "one.png"), BLUE)
    assert three == pytest.approx(3 * one, rel=0.2)  # as many dots


def test_nothing_to_compare_or_a_size_of_0_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no system"):
        plots.plot_comparison([], tmp_path / "none.png")
    with pytest.raises(TrainingError, match="small must have more than 0 parameters"):
        plots.plot_comparison([("small", 0.0, 0.4, None)], tmp_path / "none.png")


def _stored(folder: Path, **changes: object) -> str:
    write_evaluation(folder, compute_evaluation(CLIPS, LETTERS, EvaluationSubject.model_validate({**about().model_dump(), **changes})))
    return str(folder)


def test_systems_are_listed_with_their_size_and_drawn(tmp_path: Path) -> None:
    folders = [
        _stored(tmp_path / "ours", system="small one", parameters=3_335_852_912),
        _stored(tmp_path / "theirs", system="large one", parameters=8_397_094_912, strategy="zero-shot"),
        _stored(tmp_path / "unknown", system="nobody knows", parameters=None),
    ]
    done = run("compare", *folders, "--out", str(tmp_path / "figure.png"))
    assert done.returncode == 0, done.stderr
    assert "| large one | 8,397.1 M | zero-shot |" in done.stdout
    assert "| nobody knows | not known |" in done.stdout
    assert imread(tmp_path / "figure.png").shape[0] > 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"split": "another"}, "may not be compared"), ({"manifest_sha256": "cd" * 32}, "may not be compared")],
)
def test_what_was_measured_on_other_clips_is_not_compared(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    done = run("compare", _stored(tmp_path / "one"), _stored(tmp_path / "two", **changes))
    assert done.returncode == 1
    assert reason in done.stderr


def test_a_folder_without_an_evaluation_and_one_without_sizes_are_told(tmp_path: Path) -> None:
    missing = run("compare", str(tmp_path / "nothing"))
    assert "make one with evaluate --out" in missing.stderr
    sizeless = run("compare", _stored(tmp_path / "x", parameters=None), "--out", str(tmp_path / "figure.png"))
    assert "give --parameters" in sizeless.stderr
