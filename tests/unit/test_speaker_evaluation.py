"""What knowing a person is worth: references from their own clips, drawn as everyday speech is, never from the clips that are judged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from model.audio import SAMPLE_RATE, Float32
from model.bundle import Bundle
from model.emotions import Emotion
from model.errors import TrainingError
from model.language_model import SpeechLLM
from model.predictor import Predictor, PromptStyle, SpeechInput
from model.prompts import Strategy
from model.speech_encoder import SpeechEncoder
from model.voice_reference import ReferenceSettings, VoiceSums
from tests.support import tiny
from tests.support.bundles import NANO
from tests.support.tiny import LETTERS, SECONDS, A, N, OfLevels, S, clip, level_of, person
from train.__main__ import main
from train.corpora.manifest import Utterance, write_corpus_manifest
from train.corpora.splits import CorpusPart
from train.evaluation.evaluate import Enrolment, EvaluatedBundle, RobustnessSets, evaluate_bundle
from train.evaluation.personalization import (
    BundleSpeakerPredictor,
    CachingEncoder,
    PeoplePredictions,
    everyday,
    personal_figures,
    predict_people,
)


def study(clips: Sequence[Utterance], minutes: Sequence[float], draws: int = 3) -> tuple[PeoplePredictions, OfLevels]:
    predictor = OfLevels()
    return predict_people(predictor, clips, minutes, draws=draws, seed=0), predictor


def test_a_reference_is_built_mostly_from_neutral_speech_while_there_is_some(tmp_path: Path) -> None:
    clips = person(tmp_path, "c", "f1", 0.0, {N: 90, A: 60, S: 60})
    for seed in range(20):
        order, places = everyday(clips, np.random.default_rng(seed))
        assert not set(order) & set(places)
        assert sorted([*order, *places]) == list(range(len(clips)))
        assert Counter(clips[place].emotion for place in places) == {N: 30, A: 30, S: 30}, "the same for every draw"
        neutral = [clips[place].emotion is N for place in order]
        assert 0.6 <= np.mean(neutral[:60]) <= 1.0
        assert not any(neutral[-10:]), "what is left are the others"
    shares = [np.mean([clips[p].emotion is N for p in everyday(clips, np.random.default_rng(s))[0][:60]]) for s in range(40)]
    assert 0.75 <= np.mean(shares) <= 0.85
    assert everyday(clips, np.random.default_rng(3)) == everyday(clips, np.random.default_rng(3))


def test_no_clip_that_is_judged_is_part_of_the_reference(tmp_path: Path) -> None:
    """Every clip has a level of its own far above the others', so that the sum tells which ones are in it."""
    clips = [clip(tmp_path, "c", "f1", emotion, n, 2.0 ** -(2 + n)) for n, emotion in enumerate([N, N, N, A, A, S, S])]

    class Summing(OfLevels):
        def shift_of(self, sums: VoiceSums | None) -> Float32:
            assert sums is not None
            return sums.sums

    predictor = Summing()
    predict_people(predictor, clips, [0, 1], draws=4, seed=0)
    with_reference = [(levels, shift) for levels, shift in predictor.asked if shift is not None]
    assert len(with_reference) == 4
    for levels, shift in with_reference:
        assert shift is not None
        assert not any(int(shift / level) % 2 for level in levels)


def test_knowing_the_voice_helps_and_the_change_is_told_on_the_same_clips(tmp_path: Path) -> None:
    counts = {N: 30, A: 12, S: 12}
    clips = [*person(tmp_path, "c", "f1", 0.15, counts), *person(tmp_path, "c", "m1", -0.15, counts)]
    result, predictor = study(clips, [0, 0.2, 60])
    assert predictor.cleared == 2
    assert [one.utterance for one in result.judged] == clips
    for point in result.points:
        assert [one.utterance for one in point.judged] == [one.utterance for one in result.before]
    stranger, little, known = personal_figures(result, LETTERS, calm=())
    assert [point.minutes for point in (stranger, little, known)] == [0, 0.2, 60]
    everyone = stranger.groups[0]
    assert (everyone.by, everyone.clips, everyone.speakers, everyone.chance) == ("all", 44, 2, 0.3333)
    assert everyone.change is not None
    assert (everyone.change.value, everyone.change.interval_95) == (0, (0, 0))
    assert known.groups[0].uar.value > everyone.uar.value + 0.2
    for before, after in zip(stranger.groups, known.groups, strict=True):
        assert after.change is not None
        assert after.change.value == pytest.approx(after.uar.value - before.uar.value, abs=2e-4)
    assert {one.name for one in known.groups if one.by == "gender"} == {"female", "male"}
    assert known.people[0].people == 2
    assert known.people[0].worst > stranger.people[0].worst


def test_what_a_corpus_cannot_give_is_told(tmp_path: Path) -> None:
    clips = [
        *person(tmp_path, "long", "f1", 0.0, {N: 30, A: 30}),
        *person(tmp_path, "short", "m1", 0.0, {N: 3, A: 4}),
    ]
    result, predictor = study(clips, [0, 0.5, 60, 600], draws=2)
    none, half, hour, hours = personal_figures(result, LETTERS, calm=())
    found = {one.name: one.reference for one in half.groups if one.by == "corpus"}
    assert found["long"] is not None
    assert found["short"] is not None
    assert found["long"].minutes == 0.5
    assert found["short"].minutes == pytest.approx(4 * SECONDS / 60, abs=1e-4)
    assert found["short"].neutral_share == 0.5
    assert none.groups[0].reference is not None
    assert (none.groups[0].reference.minutes, none.groups[0].reference.neutral_share) == (0, None)
    everything = {one.name: one.reference for one in hour.groups if one.by == "corpus"}
    assert everything["long"] is not None
    assert everything["long"].minutes == pytest.approx(35 * SECONDS / 60, abs=1e-4)
    assert hours.model_copy(update={"minutes": 60.0}) == hour
    assert len({shift for _, shift in predictor.asked if shift is not None}) <= 2 * (2 + 1), "the same reference is not asked about twice"


def test_intervals_do_not_shrink_with_more_draws(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [
        clip(tmp_path, "c", f"f{k}", emotion, number, level_of(emotion) + float(rng.normal(scale=0.15)))
        for k in range(4)
        for emotion, count in {N: 12, A: 10, S: 10}.items()
        for number in range(count)
    ]
    widths = []
    for draws in (1, 12):
        (point,) = personal_figures(study(clips, [10], draws)[0], LETTERS, calm=())
        assert point.groups[0].clips == 4 * (4 + 5 + 5)
        low, high = point.groups[0].uar.interval_95
        widths.append(high - low)
    assert widths[1] > 0.6 * widths[0] > 0


def test_calm_speech_is_told_apart_and_clips_of_nobody_are_left_out(tmp_path: Path) -> None:
    clips = [*person(tmp_path, "acted", "f1", 0.1, {N: 12, A: 12}), *person(tmp_path, "read", "m1", 0.15, {None: 6})]
    clips += [clip(tmp_path, "read", "", None, 99, 0.1)]
    result, _ = study(clips, [0, 10])
    assert len(result.judged) == 30
    stranger, known = personal_figures(result, LETTERS, calm={"read"})
    assert [one.name for one in stranger.groups if one.by == "corpus"] == ["acted"]
    (before,), (after,) = stranger.outliers, known.outliers
    assert (before.clips, before.emotional_share, before.sure) == (2, 1.0, {A: 2})
    assert (after.emotional_share, after.emotional_share_of_sure, after.sure) == (0.0, 0.0, {N: 2})
    assert after.reference is not None
    assert (after.reference.minutes, after.reference.neutral_share) == (pytest.approx(4 * SECONDS / 60, abs=1e-4), 1.0)


class Counting(SpeechEncoder):
    """An encoder that counts what it encodes."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = encoder.width
        self.encoded = 0

    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self.encoded += len(audio)
        return self.encoder(audio)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def normalising() -> tuple[Bundle, SpeechLLM]:
    """A tiny bundle that subtracts a person's reference; after one clip it already does so by half."""
    from model.bundle_format import Normalisation

    llm = SpeechLLM(tiny.llama(), tiny.tokenizer())
    bundle = tiny.bundle(llm)
    manifest = bundle.manifest.model_copy(update={"normalisation": Normalisation(prior_segments=1.0)})
    mean, ratio = np.zeros(bundle.encoder.width, np.float32), np.ones(bundle.encoder.width, np.float32)
    settings = ReferenceSettings(1.0, mean, np.zeros((len(manifest.letters), len(mean)), np.float32), ratio)
    return replace(bundle, manifest=manifest, reference_settings=settings), llm


@pytest.fixture
def voices(tmp_path: Path) -> list[Utterance]:
    """Two people's noises, each clip another one."""
    rng = np.random.default_rng(0)
    clips = [u for name in ("f1", "m1") for u in person(tmp_path, "c", name, 0.0, {N: 6, A: 4})]
    for number, one in enumerate(clips):
        soundfile.write(one.path, rng.normal(scale=0.05, size=SAMPLE_RATE + 100 * number), SAMPLE_RATE)
    return clips


def test_a_bundle_encodes_every_clip_once_and_answers_as_the_monitor_would(
    normalising: tuple[Bundle, SpeechLLM], voices: list[Utterance]
) -> None:
    bundle, llm = normalising
    counting = Counting(bundle.encoder)
    predictor = BundleSpeakerPredictor(replace(bundle, encoder=counting), llm, PromptStyle.of(bundle))
    result = predict_people(predictor, voices, [0, 0.05, 10], draws=2, seed=0)
    assert counting.encoded == len(voices)
    sounds = [SpeechInput(soundfile.read(u.path, dtype="float32")[0]) for u in voices[:3]]
    plain = Predictor(bundle, llm)
    sums = plain.predict(sounds)[0].sums
    assert sums is not None
    shift = predictor.shift_of(sums)
    assert np.abs(shift).max() > 0
    for asked in (None, shift):
        for mine, theirs in zip(predictor.predict(sounds, asked), plain.predict(sounds, asked), strict=True):
            assert mine.prediction is not None
            assert theirs.prediction is not None
            for letter in Emotion:
                assert mine.prediction.posterior[letter] == pytest.approx(theirs.prediction.posterior[letter], abs=0.01)
    known = [one.posterior for one in result.points[-1].judged]
    assert known != [one.posterior for one in result.before], "a reference changes what is answered"


def test_asked_with_words_labelled_clips_need_them_and_calm_ones_without_have_none(
    normalising: tuple[Bundle, SpeechLLM], voices: list[Utterance]
) -> None:
    bundle, llm = normalising
    asked = EvaluatedBundle(bundle, llm, replace(PromptStyle.of(bundle), strategy=Strategy.TRANSCRIPT_PREFIX))
    worded = [replace(u, transcript="Nobody told me that.") for u in voices if u.speaker == "f1"]
    calm = CorpusPart("calm", 1, [replace(u, corpus="calm", emotion=None) for u in voices if u.speaker == "m1"])
    around, enrolment = RobustnessSets([calm]), Enrolment((0, 10), draws=1)
    evaluation = evaluate_bundle(asked, worded, "here", "", surroundings=around, enrolment=enrolment)
    assert evaluation.clips == len(worded)
    (at_once,) = evaluate_bundle(asked, worded, "here", "", surroundings=around).outliers
    (outliers,) = evaluation.outliers
    assert (outliers.corpus, outliers.clips, outliers.sure) == (at_once.corpus, at_once.clips, at_once.sure) == ("calm", 10, outliers.sure)
    assert [one.corpus for point in evaluation.personal for one in point.outliers] == ["calm", "calm"]
    with pytest.raises(TrainingError, match="transcript-prefix needs transcripts, and 10 of 20 utterances have none"):
        evaluate_bundle(asked, voices[:10], "here", "", surroundings=around, enrolment=enrolment)


def test_states_are_given_back_as_they_were_kept_beside_new_ones(normalising: tuple[Bundle, SpeechLLM]) -> None:
    encoder = CachingEncoder(normalising[0].encoder)
    sounds = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.05 for n in (16000, 30000, 8000)]
    states, mask = encoder(sounds)
    again, again_mask = encoder([sounds[2], sounds[0]])
    assert torch.equal(again_mask.sum(1), mask.sum(1)[[2, 0]])
    assert torch.equal(again[1][again_mask[1]], states[0][mask[0]])
    plain, _ = normalising[0].encoder(sounds)
    assert torch.allclose(states, plain, atol=5e-3)
    assert not states[~mask].any()
    encoder.kept.clear()
    assert torch.equal(encoder(sounds)[0], states)


def test_a_bundle_that_hears_every_voice_alike_is_refused_with_what_to_do(
    tmp_path: Path, voices: list[Utterance], capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus_manifest(tmp_path / "m.csv", voices)
    assert main(["evaluate", "--bundle", str(NANO), "--manifest", str(tmp_path / "m.csv"), "--person-minutes", "0,10"]) == 1
    said = capsys.readouterr()
    assert "was trained without personal normalisation" in said.err
    assert "leave --person-minutes out" in said.err
    assert main(["evaluate", "--manifest", str(tmp_path / "m.csv"), "--server", "http://127.0.0.1:9", "--person-minutes", "1"]) == 1
    assert "--person-minutes needs a bundle" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["", "one", "-1", "0,inf", "0,,1", "nan"])
def test_what_are_no_minutes_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--manifest", "m.csv", f"--person-minutes={minutes}"])
    assert "invalid minutes" in capsys.readouterr().err
