"""Words for bundles that are asked with them: a real Whisper of tiny size, through the real judging process, with and without trouble."""

import json
import shutil
import sys
import tomllib
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event

import httpx
import huggingface_hub.constants
import numpy as np
import pytest

from model.audio import SAMPLE_RATE, float_to_pcm16, pcm16_to_float
from model.bundle import open_bundle
from model.errors import BundleError, ConfigError, EngineUnavailable, TrainingError, TranscriberUnavailable
from model.manifest import read_manifest
from model.predictor import Predictor, Sound
from model.priors import EVERYDAY
from model.prompts import Strategy, Task, _render, emotion_prefix, messages, render
from model.transcriber import MAX_TRANSCRIPT_BYTES, Transcriber, _bounded, find_model
from monitor.config import Config, EngineConfig, PrivacyConfig, load_config
from monitor.doctor.findings import Verdict
from monitor.doctor.judging import engine, transcriber, transcriber_there
from monitor.jobs.job import Outcome
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.engine import TransformersEngine
from monitor.judging.judging import Judging
from monitor.judging.listener import EngineState
from monitor.judging.served_engine import _said
from monitor.library import go_live
from monitor.recorder import Recorder
from monitor.retraining.retrain import retrain
from monitor.start import start
from monitor.status import Status
from monitor.status_text import status_text
from tests import tiny
from tests.stores import raw
from tests.test_judge import Record, _wait, never
from tests.test_recorder import NOON, UTC_ZONE, record
from tests.test_switches import PATIENCE_S, Switched
from tests.tiny_whisper import HIGH, HIGH_HZ, LOOP_HZ, LOW, LOW_HZ, tiny_whisper, tone
from tests.tones import QUICK, RECIPE, write_corpus
from tests.variants import variant
from train.corpora.manifest import read_manifest as read_corpus
from train.corpora.manifest import write_manifest
from train.nightly.night import Night
from train.recipe import to_recipe
from train.run import train

NOWHERE = "nobody/whisper-that-is-nowhere"
LOW_PCM, HIGH_PCM = float_to_pcm16(tone(LOW_HZ)), float_to_pcm16(tone(HIGH_HZ))
CLOSE = 0.01


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle like compact that is asked with the words before the letter."""
    return variant(tmp_path_factory.mktemp("bundles") / "prefixed", about={"strategy": "transcript-prefix"})


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the words in the instruction."""
    return variant(tmp_path_factory.mktemp("bundles") / "hinted", seed=2, about={"strategy": "prompt-hint"})


def _engine(bundle: Path | str, whisper: Path | str, **settings: object) -> EngineConfig:
    return EngineConfig(kind="transformers", bundle=str(bundle), transcriber=str(whisper), max_batch=4).model_copy(update=settings)


def _posteriors(bundle: Path, said: dict[str, np.ndarray]) -> np.ndarray:
    """What transformers makes of sounds when it is told their words."""
    opened = open_bundle(bundle).under(EVERYDAY)
    answers = Predictor(opened, TransformersEngine(opened)).predict([Sound(pcm16_to_float(pcm), words) for words, pcm in said.items()])
    return np.array([list(answer.prediction.posterior.values()) for answer in answers if answer.prediction])


# --- the transcriber alone -----------------------------------------------------------------------------------------


def test_it_writes_what_was_said_in_the_language_it_was_said_in_and_the_same_each_time(whisper: Path) -> None:
    transcriber = Transcriber(str(whisper))
    assert [transcriber.transcribe(tone(hz)) for hz in (LOW_HZ, HIGH_HZ, LOW_HZ)] == [LOW, HIGH, LOW]
    assert transcriber.description == f"{whisper}, int8, any language"
    polish = Transcriber(str(whisper), "pl", compute_type="float32")
    assert polish.transcribe(tone(HIGH_HZ)) == HIGH
    assert polish.description == f"{whisper}, float32, language pl"


def test_what_only_repeats_itself_has_no_words_and_takes_no_time(whisper: Path) -> None:
    transcriber = Transcriber(str(whisper))
    parts, _ = transcriber._model.transcribe(tone(LOOP_HZ), language="en", without_timestamps=True, temperature=0.0)
    assert [len(part.tokens) for part in parts] == [224], "it goes on until it is stopped"
    assert transcriber.transcribe(tone(LOOP_HZ)) == ""


@pytest.mark.parametrize("text", ["one two " * 100, "ą" * 300, "word", ""])
def test_words_are_cut_where_a_small_language_model_has_no_room_for_more(text: str) -> None:
    kept = _bounded(text)
    assert len(kept.encode()) <= MAX_TRANSCRIPT_BYTES
    assert text.startswith(kept)
    assert kept == text or len(kept.encode()) > MAX_TRANSCRIPT_BYTES - 8
    assert set(kept.split()) <= {"one", "two", "word", "ą" * 200}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (NOWHERE, f"not on this machine.*\n.*{sys.executable} -c .*download_model\\('{NOWHERE}'\\)"),
        ("bse", "no Whisper model 'bse'.*base, small"),
        ("no/such/name", "no Whisper model"),
    ],
)
def test_a_model_that_is_not_there_is_not_downloaded_and_how_to_get_it_is_said(name: str, words: str) -> None:
    with pytest.raises(TranscriberUnavailable, match=words):
        Transcriber(name)


def test_one_that_was_downloaded_before_is_found_by_its_name(whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "0" * 40
    cached = tmp_path / "models--somebody--tiny"
    shutil.copytree(whisper, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    assert find_model("somebody/tiny") == cached / "snapshots" / revision
    assert Transcriber("somebody/tiny").transcribe(tone(LOW_HZ)) == LOW


def test_a_folder_that_is_not_whole_is_refused_and_nothing_is_looked_up_elsewhere(whisper: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(whisper, tmp_path / "broken"))
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(TranscriberUnavailable, match="cannot be loaded"):
        Transcriber(str(broken))
    (broken / "tokenizer.json").unlink()
    with pytest.raises(TranscriberUnavailable, match=r"tokenizer\.json is missing.*ct2-transformers-converter"):
        Transcriber(str(broken))
    shutil.copy(whisper / "tokenizer.json", broken)
    (broken / "model.bin").write_bytes(b"no weights")
    with pytest.raises(TranscriberUnavailable, match="cannot be loaded"):
        Transcriber(str(broken))


def test_a_language_that_it_does_not_know_is_refused(whisper: Path, tmp_path: Path) -> None:
    with pytest.raises(TranscriberUnavailable, match=r"does not know the language 'xx'.*en"):
        Transcriber(str(whisper), "xx")
    settings = tmp_path / "config.toml"
    settings.write_text('[engine]\ntranscriber_language = "English"')
    with pytest.raises(ConfigError, match=r"\[engine\] transcriber_language: must be a language's code such as en or pl"):
        load_config(settings)


def test_without_faster_whisper_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(TranscriberUnavailable, match=r"pip install 'emosllm-monitor\[transcribe\]'"):
        find_model("base")


# --- in the judging process ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transformers", "embedded"])
def test_a_segment_is_judged_with_its_own_words(kind: str, tmp_path: Path, whisper: Path, prefixed: Path) -> None:
    silence = np.zeros(SAMPLE_RATE, np.int16)
    expected = _posteriors(prefixed, {LOW: LOW_PCM, HIGH: HIGH_PCM})
    without = _posteriors(prefixed, {"": LOW_PCM})
    assert np.abs(expected[0] - without[0]).max() > CLOSE, "the words matter"
    told = Record([LOW_PCM, HIGH_PCM, silence])
    judge = told.judge(tmp_path, _engine(prefixed, whisper, kind=kind))
    judge.start()
    _wait(lambda: EngineState.READY in told.states, PATIENCE_S)
    assert judge.transcriber == f"{whisper}, int8, any language"
    judge.finish(never)
    judgements = dict(told.judgements)
    found = np.array([list(judgements[entry].prediction.posterior.values()) for entry in (0, 1)])
    assert np.abs(found - expected).max() < CLOSE
    assert [judgements[entry].transcript for entry in (0, 1)] == [LOW, HIGH]
    assert (judge.error, judge.untranscribed, judge.transcriber) == (None, 0, "")
    assert LOW not in (tmp_path / "engine.log").read_text()


def test_words_in_the_instruction_are_those_of_the_segment_too(whisper: Path, hinted: Path) -> None:
    judging = Judging(_engine(hinted, whisper))
    judging.begin()
    (judgement,) = judging.judge([LOW_PCM])
    assert judgement.transcript == LOW
    assert np.abs(list(judgement.prediction.posterior.values()) - _posteriors(hinted, {LOW: LOW_PCM})[0]).max() < CLOSE


def test_a_segment_that_it_fails_on_is_judged_as_one_without_words_and_counted(
    whisper: Path, prefixed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judging = Judging(_engine(prefixed, whisper))
    judging.begin()
    works = Transcriber.transcribe

    def fails_on_high(transcriber: Transcriber, audio: np.ndarray) -> str:
        words = works(transcriber, audio)
        if words == HIGH:
            raise RuntimeError(words)
        return words

    monkeypatch.setattr(Transcriber, "transcribe", fails_on_high)
    low, high = judging.judge([LOW_PCM, HIGH_PCM])
    assert judging.untranscribed == 1
    assert (low.transcript, high.transcript) == (LOW, None)
    assert np.abs(list(high.prediction.posterior.values()) - _posteriors(prefixed, {"": HIGH_PCM})[0]).max() < CLOSE
    assert "RuntimeError" in caplog.text
    assert HIGH not in caplog.text
    judging.judge([LOW_PCM])
    assert judging.untranscribed == 0


def test_what_waits_for_an_engine_elsewhere_is_transcribed_once_and_forgotten(
    whisper: Path, prefixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging = Judging(_engine(prefixed, whisper))
    judging.begin()
    asked: list[float] = []
    works, judges = Transcriber.transcribe, Predictor.predict
    monkeypatch.setattr(Transcriber, "transcribe", lambda self, audio: asked.append(len(audio)) or works(self, audio))

    def is_away(*_: object) -> None:
        raise EngineUnavailable("nobody there")

    monkeypatch.setattr(Predictor, "predict", is_away)
    pcms = [LOW_PCM]
    for _ in range(3):
        with pytest.raises(EngineUnavailable):
            judging.judge(pcms)
    monkeypatch.setattr(Predictor, "predict", judges)
    assert judging.judge(pcms)[0].transcript == LOW
    assert len(asked) == 1
    assert judging._written is None


def test_what_was_said_is_not_remembered_with_the_requests() -> None:
    tokenizer = tiny.tokenizer()
    _render.cache_clear()
    for said in ("one", "two", "three"):
        prefixed = render(tokenizer, messages(Task.JOINT, 0, emotion_prefix(said)))
        assert tokenizer.decode(prefixed.after).endswith(f"| ASR: {said} | Emotion:")
        assert said in tokenizer.decode(render(tokenizer, messages(Task.SER, 0, emotion_prefix(), hint=said)).after)
    assert _render.cache_info().currsize == 1


# --- other bundles, and a transcriber that is not there ------------------------------------------------------------


def test_a_running_monitor_takes_the_transcriber_up_with_a_bundle_that_needs_it_and_lets_it_go(
    tmp_path: Path, whisper: Path, prefixed: Path, hinted: Path
) -> None:
    switched = Switched(tmp_path, _engine("compact", whisper))
    switched.until_ready()
    assert switched.judge.transcriber == "", "the built-in bundle needs no words"
    for bundle, words in ((prefixed, LOW), (hinted, LOW), (Path("compact"), None)):
        assert switched.use(str(bundle))[2] == ""
        assert bool(switched.judge.transcriber) == (words is not None)
        switched.submit(LOW_PCM)
        _wait(lambda: len(switched.judgements) == len(switched.sounds))
        assert switched.judgements[-1][1].transcript == words
    assert switched.states.count(EngineState.LOADING) == 1, "all in one process"
    switched.judge.finish(never)


def test_one_that_cannot_be_loaded_leaves_the_bundle_in_use(tmp_path: Path, prefixed: Path) -> None:
    switched = Switched(tmp_path, _engine("compact", NOWHERE))
    switched.until_ready()
    assert "is not on this machine" in switched.use(str(prefixed))[2]
    switched.submit(LOW_PCM)
    _wait(lambda: bool(switched.judgements))
    assert switched.states.count(EngineState.LOADING) == 1
    assert (switched.choice.current, switched.choice.aside) == ("compact", "")
    switched.judge.finish(never)


def test_where_none_is_set_such_a_bundle_is_refused_by_whoever_wants_to_use_it(home: Path, tmp_path: Path, prefixed: Path) -> None:
    needs = r"is asked with the words of each segment \(transcript-prefix\).*set \[engine\] transcriber"
    switched = Switched(tmp_path, _engine("compact", ""))
    with pytest.raises(BundleError, match=needs):
        switched.judge.use(str(prefixed))
    switched.judge.finish(lambda: True)
    with pytest.raises(BundleError, match=needs):
        Judging(_engine(prefixed, ""))
    with pytest.raises(BundleError, match=needs):
        start(Config(engine=_engine(prefixed, "")), "-", None, None)
    with pytest.raises(BundleError, match=needs):
        go_live(Config(), str(prefixed), "a test")
    assert not (home / "state").exists(), "nothing was begun"


def test_one_that_is_not_there_at_the_start_is_waited_for_and_no_bundle_is_blamed(tmp_path: Path, whisper: Path, prefixed: Path) -> None:
    told = Record([LOW_PCM])
    judge = told.judge(tmp_path, _engine(prefixed, tmp_path / "later"))
    judge.start()
    judge.finish(never)
    assert isinstance(judge.error, EngineUnavailable)
    assert "no Whisper model" in str(judge.error)
    assert BundleChoice(str(prefixed), tmp_path / "bundles.json").aside == ""
    assert judge.waiting == 1, "it is judged once there is one"


def test_where_it_comes_back_what_waited_is_judged(tmp_path: Path, whisper: Path, prefixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.judging.judge._REFUSED_PAUSE_S", 0.1)
    later, told = tmp_path / "later", Record([LOW_PCM])
    judge = told.judge(tmp_path, _engine(prefixed, later), tireless=True)
    judge.start()
    _wait(lambda: EngineState.RESTARTING in told.states, PATIENCE_S)
    shutil.copytree(whisper, tmp_path / "coming")
    (tmp_path / "coming").rename(later)
    judge.finish(never)
    assert [judgement.transcript for _, judgement in told.judgements] == [LOW]


# --- what a person sees, and what is kept --------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_words_are_stored_only_where_the_person_wants_it(tmp_path: Path, whisper: Path, prefixed: Path, keep: bool) -> None:
    config = Config(engine=_engine(prefixed, whisper), privacy=PrivacyConfig(keep_transcripts=keep))

    def judged(recorder: Recorder) -> None:
        at = NOON + timedelta(seconds=20)
        recorder.segment(16_000 * 20, LOW_PCM, at, at + timedelta(seconds=2))
        recorder.judge.start()
        recorder.finish(never)
        assert recorder.judge.error is None

    path = record(tmp_path, config, judged, bundle=str(prefixed))
    with closing(raw(path)) as connection:
        assert connection.execute("SELECT transcript FROM segment WHERE id = 3 AND posterior IS NOT NULL").fetchone()[0] == (
            LOW if keep else None
        )
    for file in tmp_path.iterdir():
        assert file.is_dir() or LOW.encode() not in file.read_bytes(), file.name


def test_status_names_what_transcribes_and_says_where_it_failed(tmp_path: Path) -> None:
    def act(recorder: Recorder) -> None:
        status: Status = recorder._status
        assert status.as_json()["transcriber"] is None
        assert "Transcriber" not in status_text({**status.as_json(), "pid": 1}, UTC_ZONE)
        recorder.judge._in_use, recorder.judge._transcriber, recorder.judge._untranscribed = "a-1", "base, int8, language en", 3
        recorder._on_engine(EngineState.READY, "transformers, a-1")
        recorder.flush()
        lines = status_text({**status.as_json(), "pid": 1}, UTC_ZONE).splitlines()
        assert "Transcriber base, int8, language en" in lines
        assert any(line.startswith("Problem     the transcriber failed on 3 segments") for line in lines)

    record(tmp_path, Config(), act)


def test_the_doctor_loads_what_is_set_whether_it_is_needed_or_not(whisper: Path, prefixed: Path) -> None:
    assert "none is set" in transcriber(Config()).detail
    idle = Config(engine=_engine("compact", whisper))
    assert transcriber_there(idle).detail == f"{whisper} is in {whisper}; not loaded (--quick)"
    assert "needs no words, so the monitor does not load it" in transcriber(idle).detail
    needed = Config(engine=_engine(prefixed, whisper))
    found = transcriber(needed)
    assert found.verdict is Verdict.OK
    assert found.detail.startswith(f"{whisper}, int8, any language: loaded and tried on silence in")
    assert f"words by {whisper}, int8, any language" in engine(needed).detail
    for broken in (_engine("compact", NOWHERE), _engine(prefixed, "")):
        with pytest.raises((TranscriberUnavailable, BundleError)):
            transcriber(Config(engine=broken))


def test_a_server_that_quotes_a_request_is_not_quoted() -> None:
    quoted = f"1 validation error:\n  {{'type': 'extra_forbidden', 'loc': 'body.messages', 'msg': 'no', 'input': '{LOW}'}}"
    said = _said(httpx.Response(400, json={"error": {"message": quoted}}))
    assert "extra_forbidden" in said
    assert LOW not in said
    assert LOW not in _said(httpx.Response(422, text=json.dumps({"detail": [{"msg": "no", "input": LOW}]})))


# --- training ------------------------------------------------------------------------------------------------------


def test_nights_leave_a_bundle_alone_that_is_asked_with_words(tmp_path: Path, prefixed: Path) -> None:
    assert read_manifest(prefixed).strategy is Strategy.TRANSCRIPT_PREFIX
    with pytest.raises(BundleError, match="nights learn from sound alone"):
        Night(prefixed, tmp_path / "work")
    config = Config(engine=_engine(prefixed, ""), privacy=PrivacyConfig(keep_audio=True))
    result = retrain(config, now=NOON, regardless=True, dry_run=True, tell=print, stop=Event())
    assert result.outcome is Outcome.NOTHING
    assert "nights learn from sound alone" in result.reason


def test_a_recipe_may_release_such_a_bundle_where_the_words_are_known(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, hisses=True)
    values, hisses = tomllib.loads(QUICK), tomllib.loads(RECIPE)
    values["release"]["strategy"] = "transcript-prefix"
    values["phases"][1]["tasks"] = ["joint"]
    values["corpora"] += hisses["corpora"][1:]
    values["noises"] = hisses["noises"]
    recipe = to_recipe(values, "words")
    wordless = tmp_path / "wordless.csv"
    write_manifest(wordless, [replace(utterance, transcript=None) for utterance in read_corpus(manifest)])
    with pytest.raises(TrainingError, match="transcript-prefix needs transcripts"):
        train(recipe, [wordless], tmp_path / "bundle", tmp_path / "work", 0, None)
    assert not (tmp_path / "work").exists(), "it was said before anything was learned"
    (evaluation,) = train(recipe, [manifest], tmp_path / "bundle", tmp_path / "work", 0, None)
    assert evaluation.about.strategy == read_manifest(tmp_path / "bundle").strategy == Strategy.TRANSCRIPT_PREFIX
    assert [one.corpus for one in evaluation.outliers] == ["hisses"], "where nobody speaks there are no words"
