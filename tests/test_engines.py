"""The three kinds of engine give the same posterior for the same bundle: alone, in a batch, embedded, served, or without vLLM."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from model.audio import Int16, pcm16_to_float
from model.bundle import Bundle
from model.errors import EngineRejected, EngineUnavailable
from monitor.config import EngineConfig
from monitor.engine import EmbeddedEngine, Engine, ServerEngine, TransformersEngine, open_engine, read_key
from monitor.predictor import Predictor
from tests.conftest import Server

CLOSE = 0.01


@pytest.fixture(scope="module")
def plain(nano: Bundle) -> TransformersEngine:
    return TransformersEngine(nano)


@pytest.fixture(scope="module")
def expected(nano: Bundle, plain: TransformersEngine, utterances: list[Int16]) -> np.ndarray:
    """Posteriors (20, letters), one at a time, without padding, vLLM or batches."""
    rows = [plain.log_probs(nano.speech_embeds([torch.from_numpy(pcm16_to_float(pcm))]))[0] for pcm in utterances]
    return np.exp(rows)


def _posteriors(bundle: Bundle, engine: Engine, sounds: list[Int16], together: bool) -> np.ndarray:
    batches = [sounds] if together else [[sound] for sound in sounds]
    embeds = [bundle.speech_embeds([torch.from_numpy(pcm16_to_float(pcm)) for pcm in batch]) for batch in batches]
    return np.exp([row for batch in embeds for row in engine.log_probs(batch)])


def test_the_utterances_are_not_all_alike(expected: np.ndarray) -> None:
    assert len(set(expected.argmax(axis=1))) >= 4
    assert expected.max(axis=1).std() > 0.05


@pytest.mark.parametrize("together", [False, True])
def test_transformers_alone_and_in_a_batch(
    nano: Bundle, plain: TransformersEngine, utterances: list[Int16], expected: np.ndarray, together: bool
) -> None:
    assert np.abs(_posteriors(nano, plain, utterances, together) - expected).max() < CLOSE


@pytest.mark.parametrize("together", [False, True])
def test_embedded_vllm_gives_the_same(
    nano: Bundle, embedded: EmbeddedEngine, utterances: list[Int16], expected: np.ndarray, together: bool
) -> None:
    found = _posteriors(nano, embedded, utterances, together)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-3
    assert np.abs(found - expected).max() < CLOSE


@pytest.mark.parametrize("together", [False, True])
def test_a_vllm_server_gives_the_same(
    nano: Bundle, server: Server, utterances: list[Int16], expected: np.ndarray, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOSLLM_API_KEY", server.key)
    engine = open_engine(EngineConfig(kind="server", url=server.url), nano)
    assert np.abs(_posteriors(nano, engine, utterances, together) - expected).max() < CLOSE
    engine.close()


def test_the_adapter_is_applied(nano: Bundle, plain: TransformersEngine, utterances: list[Int16], expected: np.ndarray) -> None:
    with plain._llm.llm.disable_adapter():
        without = _posteriors(nano, plain, utterances, together=True)
    assert np.abs(without - expected).max() > CLOSE


def test_the_predictor_answers_in_the_order_asked(
    nano: Bundle, embedded: EmbeddedEngine, utterances: list[Int16], expected: np.ndarray
) -> None:
    predictions = Predictor(nano, embedded).predict(utterances)
    for row, prediction in zip(expected, predictions, strict=True):
        assert list(prediction.posterior) == nano.manifest.letters
        assert prediction.emotion == nano.manifest.letters[int(row.argmax())]
        assert prediction.bundle_version == nano.manifest.version
        assert prediction.unsure == (prediction.confidence < nano.manifest.unsure_below)
    assert Predictor(nano, embedded).predict([]) == []


def test_a_wrong_key_is_a_lasting_error_that_says_where_the_key_goes(nano: Bundle, server: Server) -> None:
    with pytest.raises(EngineRejected, match="key_file"):
        ServerEngine(nano, server.url, "wrong")


def test_a_server_for_another_bundle_is_refused(nano: Bundle, server: Server) -> None:
    other = Bundle(nano.folder, nano.manifest.model_copy(update={"version": "nano-00000000"}), nano.encoder, nano.mapper)
    with pytest.raises(EngineRejected, match="nano-00000000"):
        ServerEngine(other, server.url, server.key)


def test_a_server_that_is_not_there_is_a_passing_error(nano: Bundle) -> None:
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:9"):
        ServerEngine(nano, "http://127.0.0.1:9", None)


def test_a_server_that_breaks_in_the_middle_is_a_passing_error_too(nano: Bundle) -> None:
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": nano.manifest.version}]}).encode()
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
        engine = ServerEngine(nano, f"http://127.0.0.1:{broken.server_port}", None)
        with pytest.raises(EngineUnavailable, match="status 503"):
            engine.log_probs(nano.speech_embeds([torch.zeros(16000)] * 3))
        engine.close()
        broken.shutdown()


def test_the_key_comes_from_the_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOSLLM_API_KEY", "from the environment")
    (tmp_path / "key").write_text("from the file\n")
    assert read_key("") == "from the environment"
    assert read_key(str(tmp_path / "key")) == "from the file"
    with pytest.raises(EngineRejected, match="nokey"):
        read_key(str(tmp_path / "nokey"))
