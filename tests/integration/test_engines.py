"""The three kinds of engine give the same posterior for the same bundle: alone, in a batch, embedded, served, or without vLLM."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from model.audio import Int16, pcm16_to_float
from model.bundle import Bundle, load_llm, weights_source
from model.emotions import Emotion
from model.errors import EngineRejected, EngineUnavailable
from model.language_model import LanguageModel, LanguageModelRequest, SpeechLLM
from model.paralinguistics import Terciles, measure_voice
from model.predictor import Predictor, PromptStyle, SpeechInput
from model.prompts import Strategy, Task
from model.remote import read_api_key
from monitor.config import EngineConfig
from monitor.inference.engines.base import open_engine
from monitor.inference.engines.transformers import TransformersEngine
from monitor.inference.engines.vllm import EmbeddedEngine
from tests.support import tiny
from tests.support.servers import NOBODY, Server, serving
from train.corpora.manifest import Utterance
from train.evaluation.served_models import ServedModel

CLOSE = 0.01


@pytest.fixture(scope="module")
def plain(packaged: Bundle) -> TransformersEngine:
    return TransformersEngine(packaged)


@pytest.fixture(scope="module")
def expected(packaged: Bundle, utterances: list[Int16]) -> np.ndarray:
    """Posteriors (20, letters), one at a time, without padding, vLLM or batches, the adapter beside the weights."""
    return _posteriors(packaged, load_llm(packaged), utterances, together=False)


def _posteriors(bundle: Bundle, engine: LanguageModel, pcms: list[Int16], together: bool) -> np.ndarray:
    """Uncalibrated, (utterances, letters), asked as packaged was released."""
    requests = [_request(bundle, pcm, "| Emotion:") for pcm in pcms]
    batches = [requests] if together else [[request] for request in requests]
    return np.exp([row for batch in batches for row in engine.letter_log_probs(batch, bundle.manifest.letters)])


def _request(bundle: Bundle, pcm: Int16, prefix: str | None) -> LanguageModelRequest:
    sound = SpeechInput(pcm16_to_float(pcm))
    return LanguageModelRequest(
        PromptStyle.of(bundle).turns(sound, prefix, Task.SER), bundle.speech_embeds([torch.from_numpy(sound.audio)])[0]
    )


def _sounds(utterances: list[Int16]) -> list[SpeechInput]:
    """The utterances with what a manifest would say about them: words of many lengths, some of them awkward, and a gender."""
    said = ["Kids are talking by the door", "", "so | it || is", "Dzień dobry, świecie!", "word " * 60, "go <|end|><|system|> on"]
    return [SpeechInput(pcm16_to_float(pcm), said[n % len(said)], ("female", "male", None)[n % 3]) for n, pcm in enumerate(utterances)]


@pytest.fixture(scope="module", params=["ser", "prompt-hint", "transcript-prefix", "2 shots", "features", "everything"])
def style(request: pytest.FixtureRequest, utterances: list[Int16]) -> PromptStyle:
    """Ways to ask that packaged was not trained for: an engine must agree on those too."""
    terciles = Terciles.fit([measure_voice(pcm16_to_float(pcm)) for pcm in utterances])
    return {
        "2 shots": PromptStyle(Strategy.SER, shots=2),
        "features": PromptStyle(Strategy.SER, features=terciles),
        "everything": PromptStyle(Strategy.TRANSCRIPT_PREFIX, prompt=7, shots=2, features=terciles),
    }.get(request.param) or PromptStyle(Strategy(request.param))


@pytest.fixture(scope="module")
def answered(packaged: Bundle, plain: TransformersEngine, utterances: list[Int16], style: PromptStyle) -> np.ndarray:
    """Calibrated posteriors (20, letters) in a style, by transformers one at a time."""
    predictor = Predictor(packaged, plain, style)
    return np.array([row for sound in _sounds(utterances) for row in _table(predictor, [sound])])


def _table(predictor: Predictor, sounds: list[SpeechInput]) -> list[list[float]]:
    return [list(answer.prediction.posterior.values()) for answer in predictor.predict(sounds) if answer.prediction]


def test_the_utterances_are_not_all_alike(expected: np.ndarray) -> None:
    assert len(set(expected.argmax(axis=1))) >= 4
    assert expected.max(axis=1).std() > 0.05


@pytest.mark.parametrize("together", [False, True])
def test_transformers_alone_and_in_a_batch(
    packaged: Bundle, plain: TransformersEngine, utterances: list[Int16], expected: np.ndarray, together: bool
) -> None:
    assert np.abs(_posteriors(packaged, plain, utterances, together) - expected).max() < CLOSE


@pytest.mark.parametrize("together", [False, True])
def test_embedded_vllm_gives_the_same(
    packaged: Bundle, embedded: EmbeddedEngine, utterances: list[Int16], expected: np.ndarray, together: bool
) -> None:
    found = _posteriors(packaged, embedded, utterances, together)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-3
    assert np.abs(found - expected).max() < CLOSE


@pytest.mark.parametrize("together", [False, True])
def test_a_vllm_server_gives_the_same(
    packaged: Bundle, server: Server, utterances: list[Int16], expected: np.ndarray, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOSLLM_API_KEY", server.key)
    engine = open_engine(EngineConfig(kind="server", url=server.url, ca_file=server.ca_file), packaged)
    assert np.abs(_posteriors(packaged, engine, utterances, together) - expected).max() < CLOSE
    engine.close()


def test_embedded_vllm_gives_the_same_in_every_style(
    packaged: Bundle, embedded: EmbeddedEngine, utterances: list[Int16], style: PromptStyle, answered: np.ndarray
) -> None:
    assert np.abs(_table(Predictor(packaged, embedded, style), _sounds(utterances)) - answered).max() < CLOSE


def test_a_vllm_server_gives_the_same_in_every_style(
    packaged: Bundle, server: Server, utterances: list[Int16], style: PromptStyle, answered: np.ndarray
) -> None:
    engine = server.engine(packaged)
    assert np.abs(_table(Predictor(packaged, engine, style), _sounds(utterances)) - answered).max() < CLOSE
    engine.close()


def test_styles_are_not_all_alike(packaged: Bundle, plain: TransformersEngine, utterances: list[Int16], expected: np.ndarray) -> None:
    hinted = _table(Predictor(packaged, plain, PromptStyle(Strategy.PROMPT_HINT)), _sounds(utterances))
    assert np.abs(hinted - np.array(_table(Predictor(packaged, plain), _sounds(utterances)))).max() > CLOSE


@pytest.mark.parametrize(("prefix", "stop"), [(None, " |"), ("| ASR:", "| Emotion:")])
def test_all_engines_write_the_same(
    packaged: Bundle,
    plain: TransformersEngine,
    embedded: EmbeddedEngine,
    server: Server,
    utterances: list[Int16],
    prefix: str | None,
    stop: str,
) -> None:
    served = server.engine(packaged)
    requests = [_request(packaged, pcm, prefix) for pcm in utterances]
    alone = [plain.write([request], stop)[0] for request in requests]
    assert len(set(alone)) > 1
    for engine in (plain, embedded, served):
        assert engine.write(requests, stop) == alone, type(engine).__name__
    served.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle before a Qwen3 that stays where it was published: thoughts in its chat template, sampling as its default."""
    folder = tmp_path_factory.mktemp("qwen3")
    source = tiny.qwen3_folder(folder / "published")
    llm = SpeechLLM.load(str(source))
    llm.add_lora()
    with torch.no_grad():  # a fresh adapter changes nothing
        for name, parameter in llm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return tiny.release(tiny.bundle(llm), llm, source, folder / "bundle")


@pytest.fixture(scope="module")
def plain_server(published: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM's own server for it, without anything of ours."""
    with serving(published, tmp_path_factory.mktemp("server") / "server.log") as running:
        yield running


@pytest.mark.slow
def test_a_server_of_a_published_language_model_gives_the_same_whatever_its_defaults(
    published: Bundle, plain_server: Server, utterances: list[Int16]
) -> None:
    plain = TransformersEngine(published)
    requests = [_request(published, pcm, None) for pcm in utterances[:4]]
    engine = plain_server.engine(published)
    for strategy in (Strategy.SER, Strategy.PROMPT_HINT, Strategy.TRANSCRIPT_PREFIX):
        here, there = (_table(Predictor(published, llm, PromptStyle(strategy, shots=1)), _sounds(utterances)) for llm in (plain, engine))
        assert np.abs(np.array(there) - here).max() < CLOSE, strategy
    # Rubbish may be cut off within a letter of several bytes, which vLLM then keeps to itself.
    here, there = ([text.rstrip("\ufffd") for text in llm.write(requests, "| Emotion:")] for llm in (plain, engine))
    assert there == here
    engine.close()


@pytest.mark.slow
def test_a_server_that_takes_no_adapters_says_how_it_would_serve_one(published: Bundle, plain_server: Server) -> None:
    other = Bundle(published.folder, published.manifest.model_copy(update={"version": "tiny-0"}), published.encoder, published.mapper)
    with pytest.raises(EngineRejected, match="serve`, which does, or with --lora-modules tiny-0=FOLDER"):
        plain_server.engine(other)


def test_an_evaluation_is_told_that_a_model_takes_no_audio(published: Bundle, plain_server: Server, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", np.zeros(16_000), 16_000)
    clip = Utterance(tmp_path / "clip.wav", "tones", "t0", None, Emotion.SAD, None, "test", None, "CC0-1.0")
    with pytest.raises(EngineRejected, match="takes no audio"):
        ServedModel(plain_server.url, published.manifest.version, plain_server.key).answer([clip])


def test_the_adapter_is_applied(packaged: Bundle, utterances: list[Int16], expected: np.ndarray) -> None:
    without = _posteriors(packaged, SpeechLLM.load(weights_source(packaged.folder, packaged.manifest.llm)), utterances, together=True)
    assert np.abs(without - expected).max() > CLOSE


def test_the_predictor_answers_in_the_order_asked(
    packaged: Bundle, embedded: EmbeddedEngine, utterances: list[Int16], expected: np.ndarray
) -> None:
    answers = Predictor(packaged, embedded).predict([SpeechInput(pcm16_to_float(pcm)) for pcm in utterances])
    for row, answer in zip(expected, answers, strict=True):
        prediction = answer.prediction
        assert prediction is not None
        assert answer.transcript is None
        assert list(prediction.posterior) == packaged.manifest.letters
        assert prediction.emotion == packaged.manifest.letters[int(row.argmax())]
        assert prediction.bundle_version == packaged.manifest.version
        assert prediction.unsure == (prediction.confidence < packaged.manifest.unsure_below)
    assert Predictor(packaged, embedded).predict([]) == []


def test_a_wrong_key_is_a_lasting_error_that_says_where_the_key_goes(packaged: Bundle, server: Server) -> None:
    with pytest.raises(EngineRejected, match="key_file"):
        replace(server, key="wrong").engine(packaged)


def test_a_server_that_is_not_there_is_a_passing_error(packaged: Bundle) -> None:
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:9"):
        Server(NOBODY, "").engine(packaged, patience_s=1)


def test_a_server_that_breaks_in_the_middle_is_a_passing_error_too(packaged: Bundle) -> None:
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": packaged.manifest.version}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        engine = Server(f"http://127.0.0.1:{broken.server_port}", "").engine(packaged, patience_s=1)
        with pytest.raises(EngineUnavailable, match="status 503"):
            engine.letter_log_probs([_request(packaged, np.zeros(16000, np.int16), "| Emotion:")] * 3, packaged.manifest.letters)
        engine.close()
        broken.shutdown()


def test_the_key_comes_from_the_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOSLLM_API_KEY", "from the environment")
    (tmp_path / "key").write_text("from the file\n")
    assert read_api_key("") == "from the environment"
    assert read_api_key(str(tmp_path / "key")) == "from the file"
    with pytest.raises(EngineRejected, match="nokey"):
        read_api_key(str(tmp_path / "nokey"))
