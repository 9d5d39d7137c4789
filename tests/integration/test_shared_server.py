"""One real server for many: who is let in, what harms nobody, whose adapters answer, and what a monitor does while the server is gone."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch

from model.audio import Int16, pcm16_to_float
from model.bundle import Bundle, open_bundle
from model.errors import AccessRefused, ConfigError, EngineRejected, EngineUnavailable
from model.language_model import LanguageModelRequest
from model.predictor import Predictor, SpeechInput
from model.prompts import AUDIO_PLACEHOLDER, Message
from monitor.config import EngineConfig, load_config
from monitor.inference.engines.base import Engine
from monitor.inference.engines.server import ServerConnection, _chat_messages, _pack_adapter
from monitor.inference.engines.transformers import TransformersEngine
from monitor.server.clients import remove_client
from tests.support.bundle_variants import variant_of_packaged
from tests.support.commands import Running, configure, run, stored
from tests.support.paths import DEMO
from tests.support.servers import Server, SharedServer

CLOSE = 0.01


@pytest.fixture(scope="module")
def sounds(utterances: list[Int16]) -> list[SpeechInput]:
    return [SpeechInput(pcm16_to_float(pcm)) for pcm in utterances[:4]]


def posteriors(bundle: Bundle, engine: Engine, sounds: list[SpeechInput]) -> np.ndarray:
    """Calibrated, (sounds, letters)."""
    return np.array([list(answer.prediction.posterior.values()) for answer in Predictor(bundle, engine).predict(sounds)])


@pytest.fixture(scope="module")
def expected(packaged: Bundle, sounds: list[SpeechInput]) -> np.ndarray:
    return posteriors(packaged, TransformersEngine(packaged), sounds)


@pytest.fixture
def well(packaged: Bundle, server: Server, sounds: list[SpeechInput], expected: np.ndarray) -> Iterator[None]:
    """Whatever a test does, another client gets right answers before and after it."""
    engine = server.engine(packaged)
    assert np.abs(posteriors(packaged, engine, sounds) - expected).max() < CLOSE
    yield
    assert np.abs(posteriors(packaged, engine, sounds) - expected).max() < CLOSE
    engine.close()


def question(bundle: Bundle, model: str | None = None) -> dict[str, object]:
    """What a monitor asks about some sound."""
    turns = (Message(role="system", content="Judge."), Message(role="user", content=f"{AUDIO_PLACEHOLDER}\nWhich emotion?"))
    settings = bundle.manifest.mapper
    return {
        "model": model or bundle.manifest.version,
        "messages": _chat_messages(LanguageModelRequest(turns, torch.zeros(settings.queries, 256)), torch.float32),
        **{"add_generation_prompt": True, "continue_final_message": False},
        "chat_template_kwargs": {"enable_thinking": False, "date_string": "26 Jul 2024"},
        **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 1, "temperature": 1.0},
    }


CHAT = "/v1/chat/completions"


# --- who is let in ---


def test_a_key_lets_in_until_it_is_removed(packaged: Bundle, shared: SharedServer, well: None) -> None:
    leaving = shared.as_client("leaving")
    with leaving.client() as client:
        assert client.post(CHAT, json=question(packaged)).status_code == 200
        remove_client(shared.clients, "leaving")
        assert client.post(CHAT, json=question(packaged)).status_code == 401
    for key in ("none", "wrong" * 1000, leaving.key):
        with leaving.client(key) as client:
            for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics"), ("PUT", "/adapters/compact-1"), ("GET", "/x")):
                assert client.request(method, path).status_code == 401, path
            assert client.get("/health").status_code == 200
            del client.headers["Authorization"]
            assert client.post(CHAT, json=question(packaged)).status_code == 401
    with pytest.raises(AccessRefused, match="key_file"):
        replace(leaving, key="wrong").engine(packaged)


def test_only_what_a_monitor_needs_is_there(shared: SharedServer) -> None:
    with shared.server.client() as client:
        for path in ("/v1/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/tokenize", "/invocations", "/adapters"):
            assert client.post(path, json={}).status_code == 404, path
        for path in ("/docs", "/openapi.json", "/version", "/ping", "/server_info", "//metrics", "/v1/models/x"):
            assert client.get(path).status_code == 404, path
        assert client.get("/metrics").status_code == 403
    with shared.as_client("operator", operator=True).client() as client:
        told = client.get("/metrics").text
    assert 'emosllm_answers_total{client="first",status="404"}' in told
    assert "vllm:request_success_total" in told


def test_a_certificate_that_nobody_signed_is_refused(packaged: Bundle, server: Server) -> None:
    with pytest.raises(AccessRefused, match="ca_file"):
        replace(server, ca_file="").engine(packaged)
    with pytest.raises(AccessRefused, match="Hostname mismatch"):
        replace(server, url=server.url.replace("127.0.0.1", "localhost")).engine(packaged)
    with pytest.raises(EngineRejected, match=r"none\.pem cannot be read"):
        ServerConnection(server.url, server.key, "none.pem")
    with pytest.raises(httpx.HTTPError):
        httpx.get(server.url.replace("https", "http") + "/health")


def test_plain_http_to_another_machine_is_refused(home: Path) -> None:
    for url in ("http://192.0.2.7:8000", "http://example.org", "example.org:8000", "ftp://127.0.0.1", "https://"):
        configure(home, engine={"kind": "server", "url": url})
        with pytest.raises(ConfigError, match="must begin with https://"):
            load_config()
    for url in ("https://192.0.2.7:8000", "http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost"):
        assert EngineConfig(kind="server", url=url).url == url


# --- what harms nobody ---


def test_requests_that_are_none_harm_nobody(packaged: Bundle, shared: SharedServer, well: None) -> None:
    clumsy = shared.as_client("clumsy")
    large = b" " * 2_000_000
    with clumsy.client() as client:
        assert client.post(CHAT, content=large).status_code == 413
        assert client.post(CHAT, content=(large[:100_000] for _ in range(20))).status_code == 413, "without its length"
        for body in (b"", b"{", b"[" * 60_000, b"\x00\xff"):
            assert client.post(CHAT, content=body).status_code == 400
        for changes in ({"n": 100}, {"max_tokens": 100_000}, {"stream": True}, {"messages": [{"role": "user", "content": "x" * 60_000}]}):
            assert client.post(CHAT, json={**question(packaged), **changes}).status_code == 400, changes
        spoilt = json.loads(json.dumps(question(packaged)))
        spoilt["messages"][1]["content"][0]["data"] = spoilt["messages"][1]["content"][0]["data"][:1000]
        assert "speech embeds" in client.post(CHAT, json=spoilt).json()["error"]["message"]
        assert client.post(CHAT, json=question(packaged, "nobody")).status_code == 404
        assert client.post(CHAT, json=question(packaged)).status_code == 200


def test_a_flood_of_one_client_costs_only_itself(packaged: Bundle, shared: SharedServer, well: None) -> None:
    """60 that ask all the time, where 40 requests may be open and 8 are worked on: another's ten wait for those 8, not for the 40."""
    flooding, calm = shared.as_client("flooding"), shared.as_client("calm")
    statuses: list[int] = []
    asked = question(packaged)

    async def play() -> int:
        trusted = ssl.create_default_context(cafile=flooding.ca_file)
        limits, over = httpx.Limits(max_connections=100), asyncio.Event()
        async with (
            httpx.AsyncClient(base_url=flooding.url, headers=_keyed(flooding), verify=trusted, limits=limits, timeout=120) as loud,
            httpx.AsyncClient(base_url=calm.url, headers=_keyed(calm), verify=trusted, timeout=120) as quiet,
        ):

            async def flood() -> None:
                while not over.is_set():
                    answer = await loud.post(CHAT, json=asked)
                    statuses.append(answer.status_code)
                    if answer.status_code == 429:
                        assert int(answer.headers["retry-after"]) >= 1
                        await asyncio.sleep(0.1)

            assert (await quiet.post(CHAT, json=asked)).status_code == 200
            going = [asyncio.create_task(flood()) for _ in range(60)]
            while statuses.count(429) < 20:
                await asyncio.sleep(0.01)
            before = statuses.count(200)
            for _ in range(10):
                assert (await quiet.post(CHAT, json=asked)).status_code == 200
            passed = statuses.count(200) - before
            over.set()
            await asyncio.gather(*going)
            return passed

    passed = asyncio.run(play())
    assert set(statuses) == {200, 429}
    # First come, first served would be 40 for each of the ten. Up to 40 more may have been answered before and not read yet.
    assert passed <= 200


def _keyed(server: Server) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.key}"}


# --- adapters of many people ---


def test_more_adapters_than_fit_in_memory_answer_in_turn_each_for_its_owner(
    packaged: Bundle, shared: SharedServer, sounds: list[SpeechInput], expected: np.ndarray, tmp_path: Path
) -> None:
    """Three fit beside each other, packaged among them; three people have one of their own."""
    bundles = [open_bundle(variant_of_packaged(tmp_path / f"own{seed}", seed), packaged) for seed in range(1, 4)]
    own = [posteriors(bundle, TransformersEngine(bundle), sounds) for bundle in bundles]
    servers = [shared.as_client(f"person{number}") for number in range(3)]
    engines = [server.engine(bundle) for server, bundle in zip(servers, bundles, strict=True)]
    for _ in range(2):
        for bundle, engine, table in zip(bundles, engines, own, strict=True):
            assert np.abs(posteriors(bundle, engine, sounds) - table).max() < CLOSE
    everyone = shared.server.engine(packaged)
    assert np.abs(posteriors(packaged, everyone, sounds) - expected).max() < CLOSE
    with servers[0].client() as client:
        assert client.post(CHAT, json=question(packaged, bundles[1].manifest.version)).status_code == 404, "it is another's"
        names = [path.name for path in (shared.adapters / "person1").iterdir()]
        for name in (f"person1/{names[0]}", names[0]):
            assert client.post(CHAT, json=question(packaged, name)).status_code == 404
        assert {model["id"] for model in client.get("/v1/models").json()["data"]} == {
            packaged.manifest.version,
            bundles[0].manifest.version,
        }
    # Whoever may not ask any more leaves nothing behind; others do not notice.
    remove_client(shared.clients, "person1")
    assert np.abs(posteriors(bundles[0], engines[0], sounds) - own[0]).max() < CLOSE
    assert not list((shared.adapters / "person1").iterdir())
    for engine in (*engines, everyone):
        engine.close()


def test_the_least_recently_used_adapters_of_a_client_go_and_come_back_when_they_are_asked_for(
    packaged: Bundle, shared: SharedServer, sounds: list[SpeechInput], tmp_path: Path
) -> None:
    bundle = open_bundle(variant_of_packaged(tmp_path / "own", 7), packaged)
    server = shared.as_client("many")
    engine = server.engine(bundle)
    first = posteriors(bundle, engine, sounds)
    with server.client() as client:
        for number in range(4):
            assert client.put(f"/adapters/other-{number}", content=_pack_adapter(packaged.folder / "adapter")).status_code == 201
        assert bundle.manifest.version not in client.get("/v1/models").text
        assert len(list((shared.adapters / "many").iterdir())) == 4
        assert np.abs(posteriors(bundle, engine, sounds) - first).max() < CLOSE
        assert bundle.manifest.version in client.get("/v1/models").text
        assert "other-0" not in client.get("/v1/models").text
    engine.close()


def test_what_is_no_adapter_harms_nobody(packaged: Bundle, shared: SharedServer, well: None) -> None:
    server = shared.as_client("careless")
    with server.client() as client:
        assert client.put("/adapters/bad", content=b"rubbish").status_code == 422
        assert client.put("/adapters/bad", content=b"\x00" * 20_000_000).status_code == 413
        assert client.put(f"/adapters/{packaged.manifest.version}", content=b"").status_code == 409
        for name in ("..%2f..%2fx", "..", "a.b", "", "x" * 100):
            assert client.put(f"/adapters/{name}", content=b"").status_code in (404, 409), name
        assert client.post(CHAT, json=question(packaged, "bad")).status_code == 404
    assert not list((shared.adapters / "careless").iterdir())


# --- while the server is gone ---


@pytest.mark.slow
def test_a_server_that_dies_is_invisible_in_the_timeline(home: Path, packaged: Bundle, shared: SharedServer) -> None:
    key_file = home / "key"
    key_file.write_text(shared.server.key)
    engine = {"kind": "server", "url": shared.server.url, "key_file": str(key_file), "ca_file": shared.server.ca_file, "max_batch": 2}
    configure(home, engine=engine, log={"level": "debug"})
    running = Running(home, "--source", str(DEMO), "--speed", "max", "--at", "2026-11-20T10:00")
    running.until(lambda: _status()["judged"] >= 2)
    shared.kill()
    running.until(lambda: _status()["away_since"] is not None)
    told = run("status").stdout
    assert "the server does not answer since" in told
    assert f"{_status()['waiting']} segments wait" in told
    shared.start()
    assert running.process.wait(180) == 0, running.output
    segments, _ = stored(home)
    assert len({segment.start_sample for segment in segments}) == len(segments) >= 14
    assert all(segment.prediction is not None for segment in segments), "none was given up"
    assert running.output.count("engine ready") == 2
    assert running.output.count("engine loading") == 1, "the process and its encoder stay"


def _status() -> dict[str, object]:
    told: dict[str, object] = json.loads(run("status", "--json").stdout)
    return {"judged": 0, "away_since": None, **told}


def test_on_a_cpu_the_server_is_two_processes_neither_of_which_waits_busily_for_a_third(shared: SharedServer) -> None:
    processes = psutil.Process(shared.process_id).children(recursive=True)
    assert sum("resource_tracker" not in " ".join(process.cmdline()) for process in processes) == 1


def test_an_engine_waits_for_a_while_and_then_says_so(packaged: Bundle, server: Server, sounds: list[SpeechInput]) -> None:
    engine = server.engine(packaged, patience_s=0.5)
    engine._server._client.base_url = httpx.URL("https://127.0.0.1:9")
    with pytest.raises(EngineUnavailable, match="ConnectError"):
        posteriors(packaged, engine, sounds)
    engine.close()


def test_no_key_and_nothing_asked_is_in_the_logs(home: Path, shared: SharedServer, packaged: Bundle) -> None:
    log = shared.log.read_text()
    assert shared.server.key not in log
    assert shared.server.key not in shared.clients.read_text()
    for asked in ("Which emotion?", "UEsDB"):
        assert asked not in log
