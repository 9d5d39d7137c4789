"""Recipes: allowed values, how corpora are divided, what each phase trains, and which examples a step sees."""

import re
import shutil
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.emotions import Emotion
from model.errors import TrainingError
from model.language_model import SpeechLLM
from model.mapper import QPMapper
from model.prompts import RenderedPrompt, Task
from model.whisper_encoder import WhisperSettings
from tests.support import tiny
from tests.support.corpora import QUICK, RECIPE, write_corpus, write_manifest
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart, CorpusSplits, all_utterances, content_hash
from train.learning.examples import Example, PhaseExamples
from train.learning.trainer import learning_rate, set_trainable
from train.recipe import PhaseRecipe, Pretrained, WhisperRecipe, load_recipe, to_recipe

Values = dict[str, Any]

WHISPER = {"kind": "whisper", "source": "openai/whisper-base", "license": "MIT"}
STATISTICS = WHISPER | {"statistics": True, "speeds": [1.0, 0.9]}


def quick() -> Values:
    """The keys and values of a recipe that is right."""
    return tomllib.loads(QUICK)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers, three letters."""
    return write_corpus(tmp_path_factory.mktemp("tones"))


def test_the_paper_s_recipe_holds_the_paper_s_values() -> None:
    recipe = load_recipe("paper")
    assert isinstance(recipe.llm, Pretrained)
    assert recipe.llm.source == "meta-llama/Llama-3.2-3B-Instruct"
    assert isinstance(recipe.encoder, Pretrained)
    assert recipe.encoder.source.startswith("microsoft/wavlm-base")
    assert recipe.mapper.model_dump() == {"queries": 32, "layers": 2, "heads": 8, "width": 768}
    assert recipe.lora.model_dump() == {"rank": 8, "alpha": 16}
    assert "".join(sorted(recipe.letters)) == "ACDFHNOSU"
    for phase in recipe.phases:
        assert (phase.learning_rate, phase.weight_decay, phase.warmup, phase.batch) == (5e-4, 0.01, 0.1, 512)
        # What nano adds for want of a pre-trained language model, the paper does not have.
        assert (phase.input, phase.letter_weight, phase.teacher_share, phase.average_last) == ("speech", 1.0, 0.0, 0.0)
        assert not phase.features
    assert [(phase.name, phase.tasks, set(phase.trainable)) for phase in recipe.phases] == [
        ("P1", ["asr"], {"mapper"}),
        ("P2", ["asr"], {"mapper", "lora"}),
        ("P3", ["asr", "ser", "joint"], {"mapper", "lora"}),
    ]
    assert recipe.phases[-1].shots == recipe.release.shots == 1
    assert [(corpus.name, corpus.by, corpus.share) for corpus in recipe.corpora] == [
        ("LibriSpeech", "split", 1),
        ("MSP-Podcast", "split", 1),
    ]
    assert recipe.corpora[1].model_dump(include={"train", "validation", "test"}) == {
        "train": ["train"],
        "validation": ["development"],
        "test": ["test1"],
    }
    assert recipe.loop.sampling == "shuffle"


def test_a_recipe_names_a_whisper_as_its_frozen_encoder() -> None:
    values = quick()
    values["phases"][1].pop("teacher_share")
    values["encoder"] = dict(WHISPER)
    recipe = to_recipe(values, "quick")
    assert isinstance(recipe.encoder, WhisperRecipe)
    assert recipe.encoder.settings == WhisperSettings(layers=(3, 4), pool=4, level_dbfs=-26, source="openai/whisper-base", license="MIT")
    assert recipe.sources == ["openai/whisper-base"]
    values["encoder"] |= {"layers": [2, 5], "pool": 2, "source": "/weights/base", "origin": "openai/whisper-base"}
    changed = to_recipe(values, "quick")
    assert isinstance(changed.encoder, WhisperRecipe)
    assert (changed.encoder.settings.layers, changed.encoder.settings.source) == ((2, 5), "openai/whisper-base")
    assert changed.sources == ["/weights/base"]


def test_the_compact_recipe_keeps_its_test_and_validation_away_from_training() -> None:
    recipe = load_recipe("compact")
    assert isinstance(recipe.encoder, WhisperRecipe)
    assert (recipe.encoder.source, recipe.encoder.statistics, recipe.encoder.views) == ("openai/whisper-base", True, 5)
    assert recipe.normalisation is not None
    assert recipe.folds == 4
    for corpus in recipe.corpora:
        assert not set(corpus.train) & {*corpus.test, *corpus.validation}
        assert bool(corpus.folds) == (corpus.by == "speaker")
        assert not corpus.validation or not corpus.train
    assert {corpus.name for corpus in recipe.corpora if corpus.validation} >= {"EMOVO", "ASED"}


def _set(*keys: str | int, to: object) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        place: Any = values
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_set("nmae", to=1), "nmae: Extra inputs"),
        (_set("phases", 0, "step", to=3), "phases.0.step: Extra inputs"),
        (_set("phases", 1, "learning_rate", to="fast"), "phases.1.learning_rate: Input should be a valid number"),
        (_set("loop", "micro_batch", to=0), "loop.micro_batch"),
        (_set("phases", 0, "warmup", to=1.0), "phases.0.warmup"),
        (_set("phases", 0, "tasks", to=["sre"]), "phases.0.tasks.0"),
        (_set("letters", to=["S", "Q"]), "letters.1"),
        (_set("letters", to=["S"]), "letters"),
        (_set("corpora", 0, to={"name": "tones", "by": "speaker"}), "tones needs names under train, validation or test"),
        (_set("corpora", 0, "folds", to=[["t0", "t1", "t2"]]), "tones has validation and folds"),
        (_set("corpora", 0, "answer", to={"S": 0.7, "N": 0.7}), "the answer of tones adds up to more than 1"),
        (_set("encoder", "rooms", to=2), "rooms and room_share belong together"),
        (_set("encoder", "branches", to=0), "branches"),
        (_set("phases", 0, "epochs", to=2.0), "phase base needs steps or epochs, one of the two"),
        (_set("phases", 0, "steps", to=None), "phase base needs steps or epochs, one of the two"),
        (_set("phases", 1, "name", to="base"), "two phases have the same name"),
        (_set("loop", "micro_batch", to=5), "phase base: batch 12 is not made of whole micro-batches of 5"),
        (_set("encoder", to={"source": "somewhere"}), "teacher_share needs an encoder that is trained here"),
        (_set("encoder", to=WHISPER), "teacher_share needs an encoder that is trained here"),
        (_set("encoder", to=WHISPER | {"layers": [4, 3]}), "encoder.whisper.layers: Value error, layers [4, 3] must be in ascending order"),
        (_set("encoder", to=WHISPER | {"pool": 0}), "encoder.whisper.pool: Input should be greater"),
        (_set("encoder", to={"kind": "whisper", "source": "somewhere"}), "encoder.whisper.license: Field required"),
        (_set("encoder", to={"kind": "combined", "parts": [WHISPER]}), "encoder.combined.parts: List should have at least 2"),
        (_set("encoder", to={"kind": "combined", "parts": [WHISPER, STATISTICS]}), "speeds and rooms are for a Whisper alone"),
        (_set("encoder", to=WHISPER | {"speeds": [1.0], "rooms": 1}), "rooms, speeds of a Whisper need statistics = true"),
        (_set("encoder", to=STATISTICS | {"speeds": [0.9, 1.0]}), "the first of speeds must be 1.0"),
        (_set("encoder", to=STATISTICS | {"speeds": []}), "encoder.whisper.speeds: Tuple should have at least 1"),
        (_set("encoder", to=STATISTICS | {"rooms": 2}), "rooms and room_share belong together"),
        (_set("encoder", to=STATISTICS | {"teacher_l2": 0}), "encoder.whisper.teacher_l2: Input should be greater than 0"),
        (_set("encoder", "speeds", to=[0.0]), "encoder.trained.speeds.0: Input should be greater than 0"),
        (_set("normalisation", to={}), "normalisation needs a Whisper's statistics"),
        (_set("normalisation", to={"prior_segments": 0}), "normalisation.prior_segments: Input should be greater than 0"),
        (_set("llm", to={"source": "somewhere"}), "phase base trains the language model itself"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_the_key(change: Callable[[Values], None], named: str) -> None:
    values = quick()
    to_recipe(values, "quick")
    change(values)
    with pytest.raises(TrainingError, match=re.escape(named)):
        to_recipe(values, "quick")


def test_a_recipe_that_is_no_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("= 3")
    with pytest.raises(TrainingError, match=r"broken\.toml is not usable"):
        load_recipe(str(tmp_path / "broken.toml"))
    with pytest.raises(TrainingError, match=r"one of the shipped: compact, nano, .*paper"):
        load_recipe("none-such")


def test_speakers_are_divided_as_the_recipe_says(manifest: Path) -> None:
    corpora = CorpusSplits.load(to_recipe(quick(), "quick"), [manifest])
    sides = [{u.speaker for u in all_utterances(side)} for side in (corpora.train, corpora.validation, corpora.test)]
    assert sides == [{"t0", "t1", "t2"}, {"t3"}, {"t4"}]
    assert content_hash(corpora.train) == content_hash(CorpusSplits.load(to_recipe(quick(), "quick"), [manifest]).train)
    assert content_hash(corpora.train) != content_hash([*corpora.train, *corpora.validation])


def test_folds_leave_each_speaker_out_once(tmp_path: Path) -> None:
    corpora = CorpusSplits.load(to_recipe(tomllib.loads(RECIPE), "tones"), [write_corpus(tmp_path, hisses=True)])
    assert [{u.speaker for u in all_utterances(fold)} for fold in corpora.folds] == [{"t0", "t1"}, {"t2", "t3"}]
    assert [{u.speaker for u in all_utterances(corpora.without(number))} for number in (0, 1)] == [{"t2", "t3", ""}, {"t0", "t1", ""}]
    assert [path.name for noise in corpora.noises for path in noise.paths] == ["hiss-0.wav"]
    assert [u.path.name for u in corpora.test[1].utterances] == ["hiss-2.wav", "hiss-3.wav"]


def test_a_corpus_may_only_validate_while_others_have_folds(tmp_path: Path) -> None:
    values = tomllib.loads(RECIPE)
    values["corpora"].append({"name": "others", "by": "file", "validation": ["o-*.wav"]})
    row = ["o-0.wav", "others", "o", "S", "CC0-1.0", "", ""]
    (tmp_path / "others").mkdir()
    shutil.copyfile(write_corpus(tmp_path, hisses=True).with_name("t5-S-0.wav"), tmp_path / "others/o-0.wav")
    manifests = [tmp_path / "manifest.csv", write_manifest(tmp_path / "others/manifest.csv", [row])]
    corpora = CorpusSplits.load(to_recipe(values, "tones"), manifests)
    assert [u.speaker for u in all_utterances(corpora.validation)] == ["o"]
    for parts in (corpora.train, corpora.without(0), corpora.without(1), *corpora.folds):
        assert "others" not in {part.corpus for part in parts}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("corpora", 0, "folds", to=[["t0", "t1"], ["t2", "t4"]]), "must hold names of train, none of them twice"),
        (_set("corpora", 1, "test", to=["hiss-[123].wav"]), "hiss-1.wav is both trained on and held out"),
        (_set("corpora", 1, "train", to=["roar-*"]), "no utterance of the file roar-"),
        (_set("noises", 0, "test", to=["hiss-*.wav"]), "hiss-0.wav is both trained with and measured with"),
        (_set("noises", 0, "train", to=["roar-*"]), "no file roar-.* for the noise hiss"),
    ],
)
def test_folds_outliers_and_noises_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[[Values], None], told: str) -> None:
    values = tomllib.loads(RECIPE)
    change(values)
    with pytest.raises(TrainingError, match=told):
        CorpusSplits.load(to_recipe(values, "tones"), [write_corpus(tmp_path, hisses=True)])


def test_a_noise_in_halves_may_be_trained_and_measured_with(tmp_path: Path) -> None:
    values = tomllib.loads(RECIPE)
    values["noises"][0] |= {"test": ["hiss-0.wav"], "halves": True}
    corpora = CorpusSplits.load(to_recipe(values, "tones"), [write_corpus(tmp_path, hisses=True)])
    assert ([one.second_half for one in corpora.noises], [one.second_half for one in corpora.test_noises]) == ([False], [True])


def test_the_answer_to_an_outlier_spreads_what_it_does_not_name() -> None:
    part = CorpusPart("reading", 1, [], {Emotion.NEUTRAL: 0.4})
    assert part.soft_answer([Emotion.SAD, Emotion.NEUTRAL, Emotion.SURPRISE]) == pytest.approx([0.2, 0.6, 0.2])
    assert CorpusPart("speech", 1, []).soft_answer(list(Emotion)) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("corpora", 0, "name", to="songs"), "wants the corpus songs, but the manifests hold tones"),
        (_set("corpora", 0, "test", to=["t9", "t4"]), "no utterance of the speaker t9"),
        (_set("corpora", 0, "by", to="split"), "no utterance of the split t0, t1, t2"),
        (_set("letters", to=["S", "N", "U", "F"]), r"no training utterance for F \(fear\)"),
        (_set("corpora", 0, "validation", to=["t2", "t3"]), "both trained on and held out: t2"),
        (_set("corpora", 0, "test", to=["t3"]), "both trained on and held out: t3"),
    ],
)
def test_corpora_that_do_not_fit_the_recipe_are_refused(manifest: Path, change: Callable[[Values], None], told: str) -> None:
    values = quick()
    change(values)
    with pytest.raises(TrainingError, match=told):
        CorpusSplits.load(to_recipe(values, "quick"), [manifest])


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="hold nothing"):
        CorpusSplits.load(to_recipe(quick(), "quick"), [write_manifest(tmp_path / "empty.csv", [])])


def test_a_recipe_for_words_alone_needs_no_emotions(manifest: Path) -> None:
    values = quick()
    values["letters"] = ["S", "N", "U", "F"]
    for phase in values["phases"]:
        phase["tasks"] = ["asr"]
    assert all_utterances(CorpusSplits.load(to_recipe(values, "quick"), [manifest]).train)


def _parts() -> tuple[QPMapper, SpeechLLM]:
    torch.manual_seed(0)
    llm = SpeechLLM(tiny.llama(), tiny.tokenizer())
    return QPMapper(48, 64, queries=4, layers=1, heads=4, width=48), llm


@pytest.mark.parametrize(("parts", "with_lora"), [(["mapper"], False), (["mapper", "llm"], False), (["mapper", "lora"], True)])
def test_one_step_changes_exactly_the_parts_named(parts: list[str], with_lora: bool) -> None:
    mapper, llm = _parts()
    if with_lora:
        llm.add_lora()
        with torch.no_grad():  # a fresh adapter's A has no gradient until B is not zero
            for name, parameter in llm.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    named = {**{f"mapper.{n}": p for n, p in mapper.named_parameters()}, **{f"llm.{n}": p for n, p in llm.named_parameters()}}
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    learning = set_trainable(parts, mapper, llm)
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    speech = mapper(torch.randn(2, 6, 48), torch.ones(2, 6, dtype=torch.bool))
    logits, targets = llm(speech, [RenderedPrompt(tuple(range(1, 100)), (2,))] * 2, [(3,), (4,)])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    optimizer.step()
    changed = {name for name, parameter in named.items() if not torch.equal(parameter, before[name])}
    expected = {name for name in named if _belongs(name, parts)}
    assert changed == expected
    assert sum(p.numel() for p in learning) == sum(named[name].numel() for name in expected)


def _belongs(name: str, parts: list[str]) -> bool:
    if name.startswith("mapper."):
        return "mapper" in parts
    return ("lora" if ".lora_" in name else "llm") in parts


def test_lora_before_there_is_an_adapter_is_an_error() -> None:
    with pytest.raises(TrainingError, match="lora"):
        set_trainable(["lora"], *_parts())


def test_the_shipped_recipe_trains_what_the_paper_trains_last() -> None:
    last = load_recipe("nano").phases[-1]
    assert set(last.trainable) == {"mapper", "lora"}


@pytest.mark.parametrize(("line", "reason"), [("nmae = 1", "nmae"), ("[encoder]\nsteps = 0", "steps"), ("= 3", "not usable")])
def test_a_recipe_with_an_unknown_or_wrong_key_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "r.toml").write_text(line)
    with pytest.raises(TrainingError, match=reason):
        load_recipe(str(tmp_path / "r.toml"))
    with pytest.raises(TrainingError, match="nano"):
        load_recipe("no-such-recipe")


LETTERS = [Emotion.SAD, Emotion.NEUTRAL, Emotion.SURPRISE]


def phase(**changes: Any) -> PhaseRecipe:
    """A phase of batches of four."""
    values = {"name": "p", "trainable": ["mapper"], "tasks": ["ser"], "batch": 4, "learning_rate": 0.8, "weight_decay": 0.0, "warmup": 0.2}
    length = {} if "epochs" in changes else {"steps": 10}
    return PhaseRecipe(**{**values, **length, **changes})


def said(number: int, emotion: str | None = "N", transcript: str | None = None, corpus: str = "c") -> Utterance:
    """One utterance; nobody looks for its file here."""
    letter = Emotion(emotion) if emotion else None
    return Utterance(Path(f"{corpus}-{number}.wav"), corpus, "s", None, letter, transcript, None, None, "CC0-1.0")


def plan(utterances: list[Utterance], sampling: str = "shuffle", seed: int = 0, **changes: Any) -> PhaseExamples:
    """A plan over one corpus."""
    return PhaseExamples(phase(**changes), [CorpusPart("c", 1, utterances)], LETTERS, sampling, seed)


def drawn(a_plan: PhaseExamples, steps: int) -> list[Example]:
    """All examples of the first steps."""
    return [example for step in range(steps) for example in a_plan.batch(step)]


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_a_step_sees_the_same_examples_whatever_was_seen_before(sampling: str) -> None:
    utterances = [said(i, "SNU"[i % 3]) for i in range(10)]
    in_order = [plan(utterances, sampling).batch(step) for step in range(6)]
    resumed = plan(utterances, sampling)
    assert [resumed.batch(step) for step in (5, 0, 3)] == [in_order[5], in_order[0], in_order[3]]
    assert plan(utterances, sampling, seed=1).batch(0) != in_order[0]
    assert len({example.seed for batch in in_order for example in batch}) == 24


def test_shuffle_goes_through_everyone_once_per_epoch_in_a_new_order() -> None:
    utterances = [said(i) for i in range(10)]
    seen = [example.utterance for example in drawn(plan(utterances), 5)]
    assert set(seen[:10]) == set(seen[10:]) == set(utterances)
    assert seen[:10] != seen[10:]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 5), (0.1, 1)])
def test_epochs_become_as_many_steps_as_it_takes(epochs: float, steps: int) -> None:
    assert plan([said(i) for i in range(10)], epochs=epochs).steps == steps


def test_balanced_draws_corpora_by_share_and_letters_uniformly() -> None:
    many = [said(i, "N", corpus="many") for i in range(90)] + [said(90, "S", corpus="many"), said(91, "U", corpus="many")]
    few = [said(0, "S", corpus="few"), said(1, "U", corpus="few")]
    a_plan = PhaseExamples(phase(), [CorpusPart("many", 3, many), CorpusPart("few", 1, few)], LETTERS, "balanced", 0)
    seen = drawn(a_plan, 1500)
    corpora = Counter(example.utterance.corpus for example in seen)
    # Six standard errors of a share of 6000 draws.
    assert corpora["many"] / len(seen) == pytest.approx(0.75, abs=0.034)
    letters = Counter(example.utterance.emotion for example in seen if example.utterance.corpus == "many")
    assert [letters[letter] / corpora["many"] for letter in LETTERS] == pytest.approx([1 / 3] * 3, abs=0.042)


def test_an_utterance_is_asked_only_what_it_can_answer() -> None:
    words, mood, both, foreign = said(0, None, "yes"), said(1, "N"), said(2, "N", "yes"), said(3, "F", "yes")
    seen = drawn(plan([words, mood, both, foreign, said(4, None), said(5, "F")], tasks=["asr", "ser", "joint"]), 40)
    asked = {utterance: {example.task for example in seen if example.utterance == utterance} for utterance in {e.utterance for e in seen}}
    assert asked == {words: {Task.ASR}, mood: {Task.SER}, both: {Task.ASR, Task.SER, Task.JOINT}, foreign: {Task.ASR}}
    assert {example.prompt for example in seen} == set(range(10)), "all ten wordings of a task are used"


def test_a_phase_that_nobody_can_teach_is_refused() -> None:
    with pytest.raises(TrainingError, match="phase p: no utterance has what asr or joint needs"):
        plan([said(0), said(1)], tasks=["asr", "joint"])


def test_the_learning_rate_warms_up_and_decays_linearly() -> None:
    rates = [learning_rate(phase(), step, 10) for step in range(10)]
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    paper = [learning_rate(phase(warmup=0.1, learning_rate=5e-4), step, 1000) for step in range(1000)]
    assert paper[99] == paper[100] == 5e-4 == max(paper)
    assert np.ptp(np.diff(paper[:100])) < 1e-12
    assert np.ptp(np.diff(paper[100:])) < 1e-12
    assert learning_rate(phase(), 0, 1) == 0.8
