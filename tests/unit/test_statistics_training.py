"""Training on statistics of a Whisper's states: what is heard of every clip, and one small training from a recipe to its bundle."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.audio import read_audio
from model.bundle import FAMILIARITY_FILE, Bundle, load_merged_llm, open_bundle
from model.bundle_format import NORMALISER_FILE, read_bundle_manifest
from model.emotions import Emotion
from model.errors import BundleError, TrainingError
from model.predictor import Predictor, SpeechInput
from model.prompts import Task
from model.voice_reference import voice_shift
from tests.support import tiny
from tests.support.bundle_variants import sign
from tests.support.corpora import statistics_recipe, write_corpus, write_reader
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart, CorpusSplits, all_utterances
from train.learning import views
from train.learning.encoder_states import StatisticStates, statistic_store
from train.learning.examples import Example
from train.learning.views import ViewStore
from train.learning.voice_model import LinearTeacher
from train.pipeline import train_and_release
from train.recipe import NormalisationRecipe, Recipe, WhisperRecipe, load_recipe
from train.rehearsal_set import predict_states, read_rehearsal_set

WIDTH = 2 * 2 * 48  # mean and deviation of two layers, each 48 wide
VIEWS = 3
LETTERS = [Emotion.SAD, Emotion.NEUTRAL, Emotion.SURPRISE]


@dataclass(frozen=True)
class Trained:
    """One training in a folder of its own: its recipe, what it heard, and the bundle that it released."""

    recipe: Recipe
    manifests: Sequence[Path]
    work: Path
    bundle: Path

    @property
    def corpora(self) -> CorpusSplits:
        return CorpusSplits.load(self.recipe, self.manifests)

    @property
    def encoder(self) -> WhisperRecipe:
        assert isinstance(self.recipe.encoder, WhisperRecipe)
        return self.recipe.encoder

    def hearing(self, parts: Sequence[CorpusPart], normalisation: NormalisationRecipe | None) -> StatisticStates:
        return StatisticStates(self.encoder, self.store(), parts, LETTERS, 0, normalisation)

    def store(self) -> ViewStore:
        return statistic_store(self.encoder, self.corpora, self.work)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three voices' tones, hisses that are no emotion, and one voice that reads, learned for a moment over a tiny Whisper."""
    folder = tmp_path_factory.mktemp("statistics")
    manifests = [write_corpus(folder, hisses=True), write_reader(folder)]
    (folder / "recipe.toml").write_text(statistics_recipe(tiny.whisper(folder / "whisper")))
    recipe = load_recipe(str(folder / "recipe.toml"))
    (evaluation,) = train_and_release(recipe, manifests, folder / "bundle", folder / "work", 0, None)
    assert (evaluation.clips, [one.corpus for one in evaluation.outliers]) == (12, ["hisses"])
    return Trained(recipe, manifests, folder / "work", folder / "bundle")


@pytest.fixture(scope="module")
def hearing(trained: Trained) -> StatisticStates:
    return trained.hearing(trained.corpora.train, trained.recipe.normalisation)


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be computed; what is there can be read."""

    def refuse(*_arguments: object) -> None:
        raise AssertionError("views are made")

    monkeypatch.setattr(views, "worker_pool", refuse)


def example(utterance: Utterance, seed: int) -> Example:
    return Example(utterance, Task.SER, 0, seed)


def states_of(hearing: StatisticStates, utterance: Utterance, count: int) -> Tensor:
    """What is heard of an utterance with seeds 0 to `count` (count, D)."""
    return hearing.hear([example(utterance, seed) for seed in range(count)]).states[:, 0]


def tones(trained: Trained) -> list[Utterance]:
    return trained.corpora.train[0].utterances


def clean(trained: Trained, hearing: StatisticStates, utterances: Sequence[Utterance], view: int = 0) -> Tensor:
    """Standardised states of one view (n, D)."""
    store = trained.store()
    rows = torch.cat([store.rows(utterance, view) for utterance in utterances])
    return (rows - hearing.encoder.centre) / hearing.encoder.scale  # type: ignore[operator]


def test_every_view_of_every_clip_that_is_trained_on_is_one_state_that_is_kept_and_found_again(trained: Trained, no_workers: None) -> None:
    store, corpora = trained.store(), trained.corpora
    assert {u.corpus for u in store.utterances} == {"tones", "hisses", "reading"}
    for utterance in all_utterances(corpora.train):
        assert [store.rows(utterance, view).shape for view in range(VIEWS)] == [(1, WIDTH)] * VIEWS
    first = tones(trained)[0]
    assert not torch.allclose(store.rows(first, 0), store.rows(first, 1), atol=0.05), "another speed"
    assert not torch.allclose(store.rows(first, 0), store.rows(first, 2), atol=0.05), "another room"
    (kept,) = trained.work.glob("states-*[0-9a-f].npy")
    assert np.load(kept, mmap_mode="r").dtype == np.float16


def test_another_teacher_uses_the_views_that_are_kept_and_other_states_or_noises_do_not(trained: Trained, no_workers: None) -> None:
    corpora = trained.corpora
    statistic_store(trained.encoder.model_copy(update={"teacher_l2": 1.0}), corpora, trained.work)
    for changes in ({"layers": (2, 3)}, {"level_dbfs": -20.0}, {"speeds": (1.0, 0.9)}):
        with pytest.raises(AssertionError, match="views are made"):
            statistic_store(trained.encoder.model_copy(update=changes), corpora, trained.work)


def test_standardised_states_of_labelled_clips_have_mean_nothing_and_deviation_one(trained: Trained, hearing: StatisticStates) -> None:
    states = clean(trained, hearing, tones(trained))
    assert states.shape == (36, WIDTH)
    assert states.mean(dim=0).abs().max() < 1e-3
    assert states.std(dim=0).numpy() == pytest.approx(np.ones(WIDTH), abs=0.05)


def test_the_encoder_of_the_bundle_makes_the_states_that_are_trained_on(trained: Trained, hearing: StatisticStates) -> None:
    some = tones(trained)[:5]
    made, mask = hearing.encoder([torch.from_numpy(read_audio(utterance.path)) for utterance in some])
    assert mask.shape == (5, 1)
    assert torch.allclose(made[:, 0], clean(trained, hearing, some), atol=0.05)


def test_what_is_heard_of_an_example_depends_on_its_seed_and_nothing_else(trained: Trained, hearing: StatisticStates) -> None:
    one, other = tones(trained)[0], tones(trained)[20]
    alone = hearing.hear([example(one, 7)])
    assert alone.states.shape == (1, 1, WIDTH)
    assert alone.mask.all()
    again = hearing.hear([example(other, 3), example(one, 7)])
    assert torch.equal(again.states[1], alone.states[0])
    assert again.letters is not None
    assert alone.letters is not None
    assert torch.allclose(again.letters[1], alone.letters[0], atol=1e-6)
    assert len({tuple(state.tolist()) for state in states_of(hearing, one, 40)}) > 20


def test_a_voice_is_heard_as_a_stranger_s_as_known_and_between(trained: Trained, hearing: StatisticStates) -> None:
    utterance, count = tones(trained)[0], 600
    heard = states_of(hearing, utterance, count)
    assert hearing.voices is not None
    offset = hearing.voices.speakers["tones", utterance.speaker or ""]
    seen = torch.stack([clean(trained, hearing, [utterance], view)[0] for view in range(VIEWS)])
    as_stranger = (heard[:, None] == seen).all(dim=2)
    as_known = torch.isclose(heard[:, None], seen - offset, atol=1e-5).all(dim=2)
    assert as_stranger.any(dim=1).float().mean() == pytest.approx(0.35, abs=0.06)
    # Of 30 % that are fully known, a third is without an error.
    assert as_known.any(dim=1).float().mean() == pytest.approx(0.1, abs=0.04)
    assert as_stranger.sum(dim=0) / as_stranger.sum() == pytest.approx([0.375, 0.375, 0.25], abs=0.1)
    # Of the others, how much of the voice was taken off whichever view it was that explains them best; errors are drawn around it.
    apart = seen - heard[~as_stranger.any(dim=1), None]
    taken_off = apart @ offset / offset.square().sum()
    view = (apart - taken_off[:, :, None] * offset).square().sum(dim=2).argmin(dim=1)
    known = taken_off.gather(1, view[:, None])[:, 0]
    assert known.mean() == pytest.approx((0.3 + 0.35 / 2) / 0.65, abs=0.05)
    assert known.min() < 0.2
    assert known.max() == pytest.approx(1.0, abs=0.2)


def test_a_recording_without_a_voice_is_always_a_stranger(trained: Trained, hearing: StatisticStates) -> None:
    hiss = trained.corpora.train[1].utterances[0]
    seen = torch.stack([clean(trained, hearing, [hiss], view)[0] for view in range(VIEWS)])
    assert (states_of(hearing, hiss, 50)[:, None] == seen).all(dim=2).any(dim=1).all()


def test_neutral_reading_tells_where_its_reader_s_voice_lies(hearing: StatisticStates) -> None:
    assert hearing.voices is not None
    assert set(hearing.voices.speakers) == {("tones", "t0"), ("tones", "t1"), ("tones", "t2"), ("reading", "reader")}


def test_a_label_in_a_corpus_with_an_answer_does_not_count(trained: Trained, hearing: StatisticStates) -> None:
    """Neither for the reader's voice nor for the teacher: the answer goes before it."""
    parts = trained.corpora.train
    assert parts[2].corpus == "reading"
    labelled = [replace(utterance, emotion=Emotion.SURPRISE) for utterance in parts[2].utterances]
    found = trained.hearing([*parts[:2], CorpusPart("reading", 1, labelled, parts[2].answer)], trained.recipe.normalisation)
    assert found.voices is not None
    assert hearing.voices is not None
    assert torch.equal(found.voices.speakers["reading", "reader"], hearing.voices.speakers["reading", "reader"])
    assert torch.allclose(_letters(found, labelled[0]), _letters(hearing, parts[2].utterances[0]), atol=1e-4)


def _letters(hearing: StatisticStates, utterance: Utterance) -> Tensor:
    letters = hearing.hear([example(utterance, seed) for seed in range(30)]).letters
    assert letters is not None
    return letters.mean(dim=0)


def test_the_teacher_knows_labels_reading_and_that_a_hiss_is_none_of_it(trained: Trained, hearing: StatisticStates) -> None:
    answers = [_letters(hearing, utterance) for utterance in tones(trained)]
    right = [LETTERS[int(answer.argmax())] is utterance.emotion for answer, utterance in zip(answers, tones(trained), strict=True)]
    assert np.mean(right) > 0.8
    _, hisses, reading = trained.corpora.train
    assert _letters(hearing, hisses.utterances[0]).max() < 0.55 < torch.stack(answers).max(dim=1).values.mean()
    assert int(_letters(hearing, reading.utterances[0]).argmax()) == LETTERS.index(Emotion.NEUTRAL)


def test_for_the_teacher_corpora_count_by_share_and_letters_of_one_the_same(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clips there are of each."""
    given: list[tuple[Tensor, Tensor]] = []

    def fit(states: Tensor, targets: Tensor, importance: Tensor, _l2: float) -> LinearTeacher:
        given.append((targets, importance))
        return LinearTeacher(torch.zeros(len(LETTERS), states.shape[1]), torch.zeros(len(LETTERS)))

    monkeypatch.setattr(LinearTeacher, "fit", fit)
    few_sad = [u for u in tones(trained) if u.emotion is not Emotion.SAD or u.path.name.endswith("-0.wav")]
    trained.hearing([CorpusPart("tones", 6, few_sad), *trained.corpora.train[1:]], None)
    ((targets, importance),) = given
    hard = targets.max(dim=1).values == 1
    assert [float(importance[hard & (targets[:, place] == 1)].sum()) for place in range(3)] == pytest.approx([2.0, 2.0, 2.0])
    even, calm = ~hard & (targets[:, 0] == targets[:, 1]), ~hard & (targets[:, 1] > 0.84)
    assert (int(even.sum()), int(calm.sum())) == (2 * VIEWS, 4 * VIEWS)
    assert [float(importance[rows].sum()) for rows in (even, calm)] == pytest.approx([1.0, 1.0])


def test_mixup_blends_half_of_the_batches_and_the_teacher_says_what_they_are(trained: Trained, hearing: StatisticStates) -> None:
    some, blended = tones(trained)[::6], 0
    for batch in range(30):
        examples = [example(utterance, 100 * batch + number) for number, utterance in enumerate(some)]
        plain, mixed = hearing.hear(examples).states[:, 0], hearing.hear(examples, mixup=5.0)
        states = mixed.states[:, 0]
        assert torch.equal(states, hearing.hear(examples, mixup=5.0).states[:, 0])
        assert torch.allclose(mixed.letters, hearing._teacher.posterior(states))  # type: ignore[arg-type]
        if torch.equal(states, plain):
            continue
        blended += 1
        between = torch.linalg.lstsq(plain.T, states.T).solution.T
        assert torch.allclose(between.sum(dim=1), torch.ones(len(some)), atol=1e-2)
        assert ((between.abs() > 1e-2).sum(dim=1) <= 2).all()
    assert 8 <= blended <= 22


def test_without_normalisation_everybody_is_a_stranger_and_two_voices_are_enough(trained: Trained) -> None:
    parts = [CorpusPart("tones", 6, [u for u in tones(trained) if u.speaker != "t2"])]
    with pytest.raises(TrainingError, match="there are 2 such speakers"):
        trained.hearing(parts, trained.recipe.normalisation)
    found = trained.hearing(parts, None)
    assert found.voices is found.reference_settings is None
    seen = torch.stack([clean(trained, found, parts[0].utterances[:1], view)[0] for view in range(VIEWS)])
    assert (states_of(found, parts[0].utterances[0], 30)[:, None] == seen).all(dim=2).any(dim=1).all()


def test_what_is_left_out_of_a_training_leaves_no_trace_in_it(trained: Trained, no_workers: None) -> None:
    """As a fold is, of which the store has all states."""
    rest = [
        CorpusPart(part.corpus, part.share, [u for u in part.utterances if u.speaker != "reader"], part.answer)
        for part in trained.corpora.train
    ]
    found = trained.hearing([part for part in rest if part.utterances], trained.recipe.normalisation)
    assert found.voices is not None
    assert ("reading", "reader") not in found.voices.speakers


def test_training_speech_is_familiar_and_a_hiss_is_not(trained: Trained, hearing: StatisticStates) -> None:
    tone, hiss, reading = (hearing.familiarity.distance(clean(trained, hearing, part.utterances)) for part in trained.corpora.train)
    assert torch.cat([tone, reading]).mean() == pytest.approx(1.0, abs=0.1)
    assert hiss.min() > 2 * tone.mean()


@pytest.fixture(scope="module")
def bundle(trained: Trained) -> Bundle:
    return open_bundle(trained.bundle)


def test_the_bundle_holds_the_normaliser_and_familiarity_and_says_what_it_is(
    trained: Trained, bundle: Bundle, hearing: StatisticStates
) -> None:
    manifest = read_bundle_manifest(trained.bundle)
    assert {NORMALISER_FILE, FAMILIARITY_FILE, "encoder/model.safetensors", "mapper.safetensors"} <= set(manifest.files)
    assert manifest.normalisation is not None
    assert manifest.normalisation.prior_segments == 2.0
    assert manifest.pretrained == ["openai/whisper-small-enough: encoder up to layer 3, states of 1, 3; MIT"]
    assert len(manifest.trained_on) == 4
    assert bundle.voice_space is not None
    assert bundle.reference_settings is not None
    assert hearing.voices is not None
    assert bundle.reference_settings.ratio == pytest.approx(hearing.voices.ratio.numpy())
    assert bundle.reference_settings.emotion_offsets == pytest.approx(hearing.voices.emotion_offsets.numpy())
    assert (bundle.reference_settings.population_mean == 0).all()
    assert bundle.familiarity is not None
    states = clean(trained, hearing, tones(trained))
    assert torch.equal(bundle.familiarity.distance(states), hearing.familiarity.distance(states))


def test_it_is_calibrated_on_corpora_that_only_validate(trained: Trained) -> None:
    validation = json.loads((trained.bundle / "training.json").read_text())["validation"]
    assert {one["about"]["split"].split(",")[0]: one["clips"] for one in validation} == {"tones": 12, "others": 8}


def test_it_answers_strangers_and_learns_a_voice_from_its_own_sums(trained: Trained, bundle: Bundle) -> None:
    predictor = Predictor(bundle, load_merged_llm(bundle))
    sounds = [SpeechInput(read_audio(utterance.path)) for utterance in trained.corpora.test[0].utterances[:6]]
    answers = predictor.predict(sounds)
    for answer, alone in zip(answers, [predictor.predict([sound])[0] for sound in sounds], strict=True):
        assert answer.prediction is not None
        assert alone.prediction is not None
        assert answer.prediction.posterior == pytest.approx(alone.prediction.posterior, abs=1e-3)
    sums = [answer.sums for answer in answers if answer.sums is not None]
    assert [len(one.sums) for one in sums] == [WIDTH + len(LETTERS)] * 6
    assert bundle.reference_settings is not None
    together = sums[0]
    for one in sums[1:]:
        together += one
    shift = voice_shift(together, bundle.reference_settings)
    known = predictor.predict(sounds, shift)
    assert np.abs(shift).max() > 0.1
    assert any(one.prediction != other.prediction for one, other in zip(answers, known, strict=True))
    for answer, other in zip(answers, known, strict=True):
        assert answer.sums is not None
        assert other.sums is not None
        assert answer.sums.sums[:WIDTH] == pytest.approx(other.sums.sums[:WIDTH])


def test_it_is_less_confident_about_what_is_unfamiliar(trained: Trained, bundle: Bundle) -> None:
    sounds = [torch.from_numpy(read_audio(part.utterances[0].path)) for part in trained.corpora.train[:2]]
    tone, hiss = bundle.distances(*bundle.states(sounds))
    assert hiss > 2 * tone


def test_its_public_set_holds_its_own_answers_to_states_as_it_hears_them(bundle: Bundle) -> None:
    clips = read_rehearsal_set(bundle.folder).clips
    assert {tuple(clip.states.shape) for clip in clips} == {(1, WIDTH)}
    assert {clip.emotion for clip in clips} == {*LETTERS, None}
    distances = bundle.distances(torch.stack([clip.states for clip in clips]), torch.ones(len(clips), 1, dtype=torch.bool))
    assert max(distances) > 2 > 1 > min(distances)
    llm = load_merged_llm(bundle)
    again = predict_states(bundle.uncalibrated(), llm, [clip.states for clip in clips], [clip.sound for clip in clips])
    for clip, prediction in zip(clips, again, strict=True):
        assert list(prediction.posterior.values()) == pytest.approx(clip.posterior.tolist(), abs=1e-3)


def test_uncalibrated_it_stays_as_unsure_about_what_is_unfamiliar(bundle: Bundle) -> None:
    plain = bundle.uncalibrated()
    assert plain.familiarity is bundle.familiarity is not None
    assert plain.voice_space == bundle.voice_space
    assert (plain.manifest.temperature, plain.manifest.unsure_below) == (1.0, 0.0)


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _changed(name: str, to: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        tensors = load_file(path)
        save_file({**tensors, name: to(tensors[name]).contiguous()}, path)

    return change


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        (NORMALISER_FILE, _cut, "cannot be read"),
        (NORMALISER_FILE, Path.unlink, "cannot be read"),
        (NORMALISER_FILE, _changed("ratio", lambda ratio: -ratio), "a ratio under 0"),
        (NORMALISER_FILE, _changed("emotion_offsets", lambda offsets: offsets[1:]), "emotion_offsets for 3 letters"),
        (FAMILIARITY_FILE, _cut, "is damaged"),
        (FAMILIARITY_FILE, _changed("basis", lambda basis: basis[:, 1:]), f"{WIDTH} wide"),
        (FAMILIARITY_FILE, _changed("centre", lambda centre: centre * float("nan")), "finite"),
    ],
)
def test_damaged_files_are_refused_whether_their_digests_fit_or_not(
    trained: Trained, tmp_path: Path, name: str, damage: Callable[[Path], None], told: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(trained.bundle, folder)
    damage(folder / name)
    with pytest.raises(BundleError, match=f"{name} is (not the file it was released with|missing)"):
        open_bundle(folder)
    with pytest.raises(BundleError, match=told):
        open_bundle(sign(folder))
