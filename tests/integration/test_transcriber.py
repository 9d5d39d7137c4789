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
from model.bundle_format import read_bundle_manifest
from model.emotions import EVERYDAY
from model.errors import BundleError, ConfigError, EngineUnavailable, TrainingError, TranscriberUnavailable
from model.predictor import Predictor, SpeechInput
from model.prompts import Strategy, Task, _render, chat_messages, emotion_prefix, render_prompt
from model.transcriber import MAX_TRANSCRIPT_BYTES, Transcriber, _bounded, find_whisper_model
from monitor.bundles.library import activate_bundle
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config, EngineConfig, PrivacyConfig, load_config
from monitor.daemon.app import run_daemon
from monitor.daemon.client import format_status
from monitor.daemon.recorder import Recorder
from monitor.daemon.status import DaemonStatus
from monitor.doctor.checks import check_engine, check_transcriber, check_transcriber_installed
from monitor.doctor.findings import Verdict
from monitor.inference.engines.server import _error_message
from monitor.inference.engines.transformers import TransformersEngine
from monitor.inference.protocol import EngineChanged, EngineState
from monitor.inference.worker import ModelRunner
from monitor.personalization.retraining import retrain
from monitor.scheduler.jobs import JobOutcome
from tests.support import tiny
from tests.support.bundle_variants import variant_of_packaged
from tests.support.bundles import NANO
from tests.support.corpora import QUICK, RECIPE, write_corpus
from tests.support.inference import (
    PATIENCE_S,
    RECORDED_AT,
    UTC_ZONE,
    RecordedEvents,
    SwitchingSupervisor,
    never,
    report,
    wait_until,
    with_recorder,
)
from tests.support.storage import raw
from tests.support.tiny_audio_models import HIGH, HIGH_HZ, LOOP_HZ, LOW, LOW_HZ, tiny_whisper, tone
from train.corpora.manifest import read_corpus_manifest as read_corpus
from train.corpora.manifest import write_corpus_manifest
from train.nightly.night import NightlyRetraining
from train.pipeline import train_and_release
from train.recipe import to_recipe

NOWHERE = "nobody/whisper-that-is-nowhere"
LOW_PCM, HIGH_PCM = float_to_pcm16(tone(LOW_HZ)), float_to_pcm16(tone(HIGH_HZ))
CLOSE = 0.01


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is asked with the words before the letter: like nano, whose answers the words change more than compact's."""
    return variant_of_packaged(tmp_path_factory.mktemp("bundles") / "prefixed", about={"strategy": "transcript-prefix"}, base=NANO)


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the words in the instruction."""
    return variant_of_packaged(tmp_path_factory.mktemp("bundles") / "hinted", seed=2, about={"strategy": "prompt-hint"}, base=NANO)


def _engine(bundle: Path | str, whisper: Path | str, **settings: object) -> EngineConfig:
    return EngineConfig(kind="transformers", bundle=str(bundle), transcriber=str(whisper), max_batch=4).model_copy(update=settings)


def _posteriors(bundle: Path, said: dict[str, np.ndarray]) -> np.ndarray:
    """What transformers makes of sounds when it is told their words."""
    opened = open_bundle(bundle).under(EVERYDAY)
    answers = Predictor(opened, TransformersEngine(opened)).predict(
        [SpeechInput(pcm16_to_float(pcm), words) for words, pcm in said.items()]
    )
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
    assert find_whisper_model("somebody/tiny") == cached / "snapshots" / revision
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
        find_whisper_model("base")


# --- in the judging process ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transformers", pytest.param("embedded", marks=pytest.mark.slow)])
def test_a_segment_is_judged_with_its_own_words(kind: str, tmp_path: Path, whisper: Path, prefixed: Path) -> None:
    silence = np.zeros(SAMPLE_RATE, np.int16)
    expected = _posteriors(prefixed, {LOW: LOW_PCM, HIGH: HIGH_PCM})
    without = _posteriors(prefixed, {"": LOW_PCM})
    assert np.abs(expected[0] - without[0]).max() > CLOSE, "the words matter"
    told = RecordedEvents([LOW_PCM, HIGH_PCM, silence])
    judge = told.judge(tmp_path, _engine(prefixed, whisper, kind=kind))
    judge.start()
    wait_until(lambda: EngineState.READY in told.states, PATIENCE_S)
    assert judge.transcriber == f"{whisper}, int8, any language"
    judge.finish(never)
    results = dict(told.results)
    found = np.array([list(results[entry].prediction.posterior.values()) for entry in (0, 1)])
    assert np.abs(found - expected).max() < CLOSE
    assert [results[entry].transcript for entry in (0, 1)] == [LOW, HIGH]
    assert (judge.error, judge.untranscribed, judge.transcriber) == (None, 0, "")
    assert LOW not in (tmp_path / "engine.log").read_text()


def test_words_in_the_instruction_are_those_of_the_segment_too(whisper: Path, hinted: Path) -> None:
    judging = ModelRunner(_engine(hinted, whisper))
    judging.begin()
    (result,) = judging.judge([LOW_PCM])
    assert result.transcript == LOW
    assert np.abs(list(result.prediction.posterior.values()) - _posteriors(hinted, {LOW: LOW_PCM})[0]).max() < CLOSE


def test_a_segment_that_it_fails_on_is_judged_as_one_without_words_and_counted(
    whisper: Path, prefixed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judging = ModelRunner(_engine(prefixed, whisper))
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
    judging = ModelRunner(_engine(prefixed, whisper))
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
        prefixed = render_prompt(tokenizer, chat_messages(Task.JOINT, 0, emotion_prefix(said)))
        assert tokenizer.decode(prefixed.after).endswith(f"| ASR: {said} | Emotion:")
        assert said in tokenizer.decode(render_prompt(tokenizer, chat_messages(Task.SER, 0, emotion_prefix(), hint=said)).after)
    assert _render.cache_info().currsize == 1


# --- other bundles, and a transcriber that is not there ------------------------------------------------------------


def test_a_running_monitor_takes_the_transcriber_up_with_a_bundle_that_needs_it_and_lets_it_go(tmp_path: Path, whisper: Path) -> None:
    switched = SwitchingSupervisor(tmp_path, _engine("compact", whisper))
    switched.until_ready()
    assert switched.supervisor.transcriber == "", "the built-in bundle needs no words"
    prefixed, hinted = (
        variant_of_packaged(tmp_path / strategy, seed, about={"strategy": strategy})
        for seed, strategy in enumerate(("transcript-prefix", "prompt-hint"))
    )
    for bundle, words in ((prefixed, LOW), (hinted, LOW), (Path("compact"), None)):
        assert switched.use(str(bundle))[2] == ""
        assert bool(switched.supervisor.transcriber) == (words is not None)
        switched.submit(LOW_PCM)
        wait_until(lambda: len(switched.results) == len(switched.sounds))
        assert switched.results[-1][1].transcript == words
    assert switched.states.count(EngineState.LOADING) == 1, "all in one process"
    switched.supervisor.finish(never)


@pytest.mark.slow
def test_one_that_cannot_be_loaded_leaves_the_bundle_in_use(tmp_path: Path, prefixed: Path) -> None:
    switched = SwitchingSupervisor(tmp_path, _engine("compact", NOWHERE))
    switched.until_ready()
    assert "is not on this machine" in switched.use(str(prefixed))[2]
    switched.submit(LOW_PCM)
    wait_until(lambda: bool(switched.results))
    assert switched.states.count(EngineState.LOADING) == 1
    assert (switched.registry.to_load(), switched.registry.fallback_reason()) == ("compact", "")
    switched.supervisor.finish(never)


def test_where_none_is_set_such_a_bundle_is_refused_by_whoever_wants_to_use_it(home: Path, tmp_path: Path, prefixed: Path) -> None:
    needs = r"is asked with the words of each segment \(transcript-prefix\).*set \[engine\] transcriber"
    switched = SwitchingSupervisor(tmp_path, _engine("compact", ""))
    with pytest.raises(BundleError, match=needs):
        switched.supervisor.use(str(prefixed))
    switched.supervisor.finish(lambda: True)
    with pytest.raises(BundleError, match=needs):
        ModelRunner(_engine(prefixed, ""))
    with pytest.raises(BundleError, match=needs):
        run_daemon(Config(engine=_engine(prefixed, "")), "-", None, None)
    with pytest.raises(BundleError, match=needs):
        activate_bundle(Config(), str(prefixed), "a test")
    assert not (home / "state").exists(), "nothing was begun"


@pytest.mark.slow
def test_one_that_is_not_there_at_the_start_is_waited_for_and_no_bundle_is_blamed(tmp_path: Path, whisper: Path, prefixed: Path) -> None:
    told = RecordedEvents([LOW_PCM])
    judge = told.judge(tmp_path, _engine(prefixed, tmp_path / "later"))
    judge.start()
    judge.finish(never)
    assert isinstance(judge.error, EngineUnavailable)
    assert "no Whisper model" in str(judge.error)
    assert BundleRegistry(str(prefixed), tmp_path / "bundles.json").fallback_reason() == ""
    assert judge.waiting == 1, "it is judged once there is one"


@pytest.mark.slow
def test_where_it_comes_back_what_waited_is_judged(tmp_path: Path, whisper: Path, prefixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.inference.supervisor._REFUSED_DELAY_S", 0.1)
    later, told = tmp_path / "later", RecordedEvents([LOW_PCM])
    judge = told.judge(tmp_path, _engine(prefixed, later), retry_forever=True)
    judge.start()
    wait_until(lambda: EngineState.RESTARTING in told.states, PATIENCE_S)
    shutil.copytree(whisper, tmp_path / "coming")
    (tmp_path / "coming").rename(later)
    judge.finish(never)
    assert [result.transcript for _, result in told.results] == [LOW]


# --- what a person sees, and what is kept --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_words_are_stored_only_where_the_person_wants_it(tmp_path: Path, whisper: Path, prefixed: Path, keep: bool) -> None:
    config = Config(engine=_engine(prefixed, whisper), privacy=PrivacyConfig(keep_transcripts=keep))

    def judged(recorder: Recorder) -> None:
        at = RECORDED_AT + timedelta(seconds=20)
        recorder.segment(16_000 * 20, LOW_PCM, at, at + timedelta(seconds=2))
        recorder.start()
        recorder.finish(never)
        assert recorder.supervisor.error is None

    path = with_recorder(tmp_path, config, judged, bundle=str(prefixed))
    with closing(raw(path)) as connection:
        assert connection.execute("SELECT transcript FROM segment WHERE id = 3 AND posterior IS NOT NULL").fetchone()[0] == (
            LOW if keep else None
        )
    for file in tmp_path.iterdir():
        assert file.is_dir() or LOW.encode() not in file.read_bytes(), file.name


def test_status_names_what_transcribes_and_says_where_it_failed(tmp_path: Path) -> None:
    def act(recorder: Recorder) -> None:
        status: DaemonStatus = recorder._status
        assert status.as_json()["transcriber"] is None
        assert "Transcriber" not in format_status({**status.as_json(), "pid": 1}, UTC_ZONE)
        recorder.supervisor._in_use, recorder.supervisor._transcriber, recorder.supervisor._untranscribed = (
            "a-1",
            "base, int8, language en",
            3,
        )
        report(recorder, EngineChanged(EngineState.READY, "transformers, a-1"))
        recorder.flush()
        lines = format_status({**status.as_json(), "pid": 1}, UTC_ZONE).splitlines()
        assert "Transcriber base, int8, language en" in lines
        assert any(line.startswith("Problem     the transcriber failed on 3 segments") for line in lines)

    with_recorder(tmp_path, Config(), act)


@pytest.mark.slow
def test_the_doctor_loads_what_is_set_whether_it_is_needed_or_not(whisper: Path, prefixed: Path) -> None:
    assert "none is set" in check_transcriber(Config()).detail
    idle = Config(engine=_engine("compact", whisper))
    assert check_transcriber_installed(idle).detail == f"{whisper} is in {whisper}; not loaded (--quick)"
    assert "needs no words, so the monitor does not load it" in check_transcriber(idle).detail
    needed = Config(engine=_engine(prefixed, whisper))
    found = check_transcriber(needed)
    assert found.verdict is Verdict.OK
    assert found.detail.startswith(f"{whisper}, int8, any language: loaded and tried on silence in")
    assert f"words by {whisper}, int8, any language" in check_engine(needed).detail
    for broken in (_engine("compact", NOWHERE), _engine(prefixed, "")):
        with pytest.raises((TranscriberUnavailable, BundleError)):
            check_transcriber(Config(engine=broken))


def test_a_server_that_quotes_a_request_is_not_quoted() -> None:
    quoted = f"1 validation error:\n  {{'type': 'extra_forbidden', 'loc': 'body.messages', 'msg': 'no', 'input': '{LOW}'}}"
    said = _error_message(httpx.Response(400, json={"error": {"message": quoted}}))
    assert "extra_forbidden" in said
    assert LOW not in said
    assert LOW not in _error_message(httpx.Response(422, text=json.dumps({"detail": [{"msg": "no", "input": LOW}]})))


# --- training ------------------------------------------------------------------------------------------------------


def test_nights_leave_a_bundle_alone_that_is_asked_with_words(tmp_path: Path, prefixed: Path) -> None:
    assert read_bundle_manifest(prefixed).strategy is Strategy.TRANSCRIPT_PREFIX
    with pytest.raises(BundleError, match="nights learn from sound alone"):
        NightlyRetraining(prefixed, tmp_path / "work")
    config = Config(engine=_engine(prefixed, ""), privacy=PrivacyConfig(keep_audio=True))
    result = retrain(config, now=RECORDED_AT, regardless=True, dry_run=True, tell=print, stop=Event())
    assert result.outcome is JobOutcome.NOTHING
    assert "nights learn from sound alone" in result.reason


@pytest.mark.slow
def test_a_recipe_may_release_such_a_bundle_where_the_words_are_known(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, hisses=True)
    values, hisses = tomllib.loads(QUICK), tomllib.loads(RECIPE)
    values["release"]["strategy"] = "transcript-prefix"
    values["phases"][1]["tasks"] = ["joint"]
    values["corpora"] += hisses["corpora"][1:]
    values["noises"] = hisses["noises"]
    recipe = to_recipe(values, "words")
    wordless = tmp_path / "wordless.csv"
    write_corpus_manifest(wordless, [replace(utterance, transcript=None) for utterance in read_corpus(manifest)])
    with pytest.raises(TrainingError, match="transcript-prefix needs transcripts"):
        train_and_release(recipe, [wordless], tmp_path / "bundle", tmp_path / "work", 0, None)
    assert not (tmp_path / "work").exists(), "it was said before anything was learned"
    (evaluation,) = train_and_release(recipe, [manifest], tmp_path / "bundle", tmp_path / "work", 0, None)
    assert evaluation.about.strategy == read_bundle_manifest(tmp_path / "bundle").strategy == Strategy.TRANSCRIPT_PREFIX
    assert [one.corpus for one in evaluation.outliers] == ["hisses"], "where nobody speaks there are no words"
