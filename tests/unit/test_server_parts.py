"""The shared server without vLLM: keys, fair queueing, allowed requests, and vLLM's arguments."""

import asyncio
import base64
import io
import itertools
import json
import stat
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.bundle_format import find_bundle, read_bundle_manifest
from model.errors import EngineRejected, ServingError
from model.language_model import LanguageModelRequest, stored_dtype
from model.prompts import AUDIO_PLACEHOLDER, Message
from monitor.inference.engines.server import _chat_messages
from monitor.server.clients import KnownClients, add_client, read_clients, remove_client
from monitor.server.launch import ServerOptions, check_options, vllm_arguments, vllm_environment
from monitor.server.limits import GATEWAY_VARIABLE, FairShare, GatewaySettings, TooManyRequests
from monitor.server.requests import SpeechEmbedsFilter, parse_chat_request, vllm_body
from tests.support.commands import run

PACKAGED = find_bundle("compact")
QUERIES, HIDDEN = 32, 128
EMBEDS = SpeechEmbedsFilter(QUERIES, HIDDEN, torch.float32)


# --- clients ---


def test_a_key_is_shown_once_and_only_its_digest_is_kept(home: Path) -> None:
    added = run("serve", "add-client", "anna")
    key, path = added.stdout.strip(), home / "state/emosllm-monitor/clients.json"
    assert len(key) >= 40
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KnownClients(path).authenticate(key) == "anna"
    assert "already" in run("serve", "add-client", "anna").stderr
    assert "lower-case" in run("serve", "add-client", "../Anna").stderr
    assert "anna" in run("serve", "clients").stdout
    assert json.loads(run("serve", "clients", "--json").stdout)["anna"]["operator"] is False
    assert run("serve", "remove-client", "anna").returncode == 0
    assert KnownClients(path).authenticate(key) is None
    assert "there is no client anna" in run("serve", "remove-client", "anna").stderr


def test_a_server_that_runs_knows_clients_as_they_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    anna = add_client(path, "anna")
    known = KnownClients(path)
    assert known.authenticate(anna) == "anna"
    ben = add_client(path, "ben", operator=True)
    assert (known.authenticate(ben), known.is_operator("ben"), known.is_operator("anna")) == ("ben", True, False)
    remove_client(path, "anna")
    assert (known.authenticate(anna), known.names) == (None, {"ben"})
    for nobodys in ("", None, "wrong", ben[:-1], f"{ben} "):
        assert known.authenticate(nobodys) is None
    path.write_text("{")
    assert known.authenticate(ben) == "ben", "a slip while editing throws nobody out"
    path.unlink()
    assert known.authenticate(ben) is None


def test_many_clients_added_at_once_are_all_there(tmp_path: Path) -> None:
    threads = [threading.Thread(target=add_client, args=(tmp_path / "clients.json", f"c{number}")) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_clients(tmp_path / "clients.json")) == 20


# --- fair shares ---


def test_a_flood_lets_everyone_else_pass() -> None:
    order: list[str] = []

    async def one(share: FairShare, client: str) -> None:
        async with share.admitted(client), share.turn(client):
            order.append(client)
            await asyncio.sleep(0)

    async def play() -> None:
        share = FairShare(at_a_time=2, of_each=100)
        flood = [asyncio.create_task(one(share, "flood")) for _ in range(100)]
        await asyncio.sleep(0)
        others = [asyncio.create_task(one(share, client)) for client in ("anna", "ben", "anna")]
        await asyncio.gather(*flood, *others)

    asyncio.run(play())
    assert len(order) == 103
    assert order.index("anna") < 8
    assert order.index("ben") < 8
    assert len(order) - 1 - order[::-1].index("anna") < 12, "the second too"


def test_a_client_may_have_only_so_much_open_and_others_are_not_concerned() -> None:
    async def play() -> None:
        share = FairShare(at_a_time=1, of_each=3)
        async with share.admitted("flood"), share.admitted("flood"), share.admitted("flood"):
            with pytest.raises(TooManyRequests):
                await share.admitted("flood").__aenter__()
            async with share.admitted("anna"), share.turn("anna"):
                pass
        async with share.admitted("flood"):
            pass

    asyncio.run(play())


def test_whoever_goes_while_waiting_or_at_their_turn_leaves_no_place_taken() -> None:
    async def play() -> None:
        share = FairShare(at_a_time=1, of_each=10)
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with share.turn("anna"):
                entered.set()
                await leave.wait()

        async def pass_through(client: str) -> None:
            async with share.turn(client):
                pass

        holder = asyncio.create_task(hold())
        await entered.wait()
        gone = [asyncio.create_task(pass_through("ben")) for _ in range(3)]
        await asyncio.sleep(0)
        gone[1].cancel()
        leave.set()
        gone[0].cancel()
        await asyncio.gather(holder, *gone, return_exceptions=True)
        await asyncio.wait_for(pass_through("anna"), 5)
        # Cancelled in the very moment in which its turn has come.
        first, second = asyncio.create_task(hold()), asyncio.create_task(pass_through("ben"))
        await asyncio.sleep(0)
        share._call_next()
        await asyncio.gather(first, second)
        for _ in range(2):
            async with share.turn("anna"):
                late = asyncio.create_task(pass_through("ben"))
                await asyncio.sleep(0)
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)
        await asyncio.wait_for(pass_through("anna"), 5)

    asyncio.run(play())


# --- speech embeds ---


def _saved(tensor: torch.Tensor, **options: object) -> str:
    buffer = io.BytesIO()
    torch.save(tensor, buffer, **options)  # type: ignore[arg-type]
    return base64.b64encode(buffer.getvalue()).decode()


def _loaded(data: str) -> torch.Tensor:
    loaded: torch.Tensor = torch.load(io.BytesIO(base64.b64decode(data)), weights_only=True)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_honest_embeds_come_out_as_they_went_in(dtype: torch.dtype) -> None:
    embeds, sent = SpeechEmbedsFilter(QUERIES, HIDDEN, dtype), torch.randn(QUERIES, HIDDEN, dtype=dtype)
    assert torch.equal(_loaded(embeds.cleaned(_saved(sent))), sent)
    assert len(_saved(sent)) <= embeds.longest


def test_a_monitor_sends_as_many_digits_as_the_server_works_with(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16"}))
    assert (stored_dtype(str(tmp_path)), stored_dtype(str(PACKAGED / "llm"))) == (torch.bfloat16, torch.float32)
    request = LanguageModelRequest((Message(role="user", content=f"{AUDIO_PLACEHOLDER}\nWhich emotion?"),), torch.randn(QUERIES, HIDDEN))
    data = _chat_messages(request, torch.bfloat16)[0]["content"][0]["data"]
    assert torch.equal(_loaded(SpeechEmbedsFilter(QUERIES, HIDDEN, torch.bfloat16).cleaned(data)), request.speech.bfloat16())


def _rewritten(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> str:
    """An honest archive with other contents."""
    written = io.BytesIO()
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(_saved(torch.randn(QUERIES, HIDDEN)))))
    with zipfile.ZipFile(written, "w", compression) as new:
        for name in archive.namelist():
            new.writestr(name, change(name, archive.read(name)))
    return base64.b64encode(written.getvalue()).decode()


def test_a_clients_pickle_is_never_read() -> None:
    evil = b"cos\nsystem\n(S'touch /tmp/was-here'\ntR."
    cleaned = EMBEDS.cleaned(_rewritten(lambda name, content: evil if name.endswith("data.pkl") else content))
    assert evil not in base64.b64decode(cleaned)
    assert _loaded(cleaned).shape == (QUERIES, HIDDEN)


def _with(value: float) -> torch.Tensor:
    tensor = torch.zeros(QUERIES, HIDDEN)
    tensor[3, 5] = value
    return tensor


@pytest.mark.parametrize(
    "data",
    [
        _saved(_with(float("nan"))),
        _saved(_with(float("inf"))),
        _saved(torch.zeros(QUERIES, HIDDEN, dtype=torch.float64)),
        _saved(torch.zeros(QUERIES, HIDDEN, dtype=torch.bfloat16)),
        _saved(torch.zeros(QUERIES + 1, HIDDEN)),
        _saved(torch.zeros(1).expand(100_000, HIDDEN)),
        _saved(torch.zeros(100_000, HIDDEN).to_sparse()),
        _saved(torch.zeros(QUERIES, HIDDEN), _use_new_zipfile_serialization=False),
        _rewritten(lambda _, content: content, zipfile.ZIP_DEFLATED),
        _rewritten(lambda name, content: content * 1000 if name.endswith("/0") else content, zipfile.ZIP_DEFLATED),
        base64.b64encode(b"PK\x03\x04 no archive").decode(),
        base64.b64encode(base64.b64decode(_saved(_with(1.0)))[:-200]).decode(),
        "",
        "no base64!",
        "A" * 1_000_000,
    ],
    ids=[
        "nan",
        "inf",
        "float64",
        "bfloat16",
        "rows",
        "strides",
        "sparse",
        "legacy",
        "deflated",
        "bomb",
        "zip",
        "cut",
        "empty",
        "base64",
        "long",
    ],
)
def test_other_embeds_are_refused(data: str) -> None:
    with pytest.raises(ValueError, match="the speech embeds"):
        EMBEDS.cleaned(data)


# --- questions ---


def _asked(**changes: object) -> bytes:
    turns = (Message(role="system", content="Judge."), Message(role="user", content=f"{AUDIO_PLACEHOLDER}\nWhich emotion?"))
    speech = torch.linspace(0, 1, QUERIES * HIDDEN).view(QUERIES, HIDDEN)
    question: dict[str, object] = {
        "model": "compact-1",
        "messages": _chat_messages(LanguageModelRequest(turns, speech), torch.float32),
        "add_generation_prompt": True,
        "continue_final_message": False,
        "chat_template_kwargs": {"enable_thinking": False, "date_string": "26 Jul 2024"},
        **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 1, "temperature": 1.0},
        **{"allowed_token_ids": [5, 6], "logprobs": True, "top_logprobs": 2, "return_tokens_as_token_ids": True},
    }
    return json.dumps({name: value for name, value in {**question, **changes}.items() if value is not None}).encode()


def test_a_question_gets_through_as_it_was_asked_under_the_name_that_vllm_knows() -> None:
    told = json.loads(vllm_body(parse_chat_request(_asked(), EMBEDS), "anna/compact-1.0"))
    asked = json.loads(_asked())
    assert torch.equal(_loaded(told["messages"][1]["content"][0].pop("data")), _loaded(asked["messages"][1]["content"][0].pop("data")))
    assert told.pop("model") == "anna/compact-1.0"
    del asked["model"]
    assert {name: told[name] for name in asked} == asked
    assert told.keys() - asked.keys() <= {"stop", "include_stop_str_in_output"}


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 257},
        {"max_tokens": 0},
        {"max_tokens": None},
        {"n": 2},
        {"stream": True},
        {"best_of": 2},
        {"prompt_logprobs": 1},
        {"temperature": 2.0},
        {"top_logprobs": 10},
        {"allowed_token_ids": list(range(10))},
        {"allowed_token_ids": [-1]},
        {"stop": ["x"] * 5},
        {"chat_template": "{{ 0 }}"},
        {"chat_template_kwargs": {"enable_thinking": False, "date_string": "today"}},
        {"chat_template_kwargs": {"enable_thinking": False, "date_string": "26 Jul 2024", "x": 1}},
        {"messages": []},
        {"messages": [{"role": "user", "content": "x"}] * 17},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "prompt_embeds", "data": ""}, {"type": "text", "text": "x"}]}]},
        {"model": 5},
        {"top_k": "0"},
        {"logit_bias": {"5": 100}},
    ],
    ids=str,
)
def test_what_the_monitor_never_asks_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_chat_request(_asked(**changes), EMBEDS)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b"[" * 60_000, b'{"model": ' + b"9" * 60_000 + b"}", b'{"secret": "words"}']
)
def test_what_is_no_question_is_refused_without_being_quoted(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        parse_chat_request(body, EMBEDS)
    assert "words" not in str(refused.value)


# --- adapters ---


# --- starting ---


def _serving(folder: Path, **changes: object) -> ServerOptions:
    (folder / "cert.pem").touch()
    told: dict[str, object] = {
        **{"bundle": "compact", "host": "127.0.0.1", "port": 8000, "certificate": None, "certificate_key": None},
        **{"clients": folder / "clients.json", "adapters": folder / "adapters", "max_adapters": 2, "at_a_time": 4, "of_each": 8},
        **{"tensor_parallel": 1, "data_parallel": 1},
    }
    return ServerOptions(**{**told, **changes})  # type: ignore[arg-type]


def test_a_server_open_to_others_needs_tls_and_clients(tmp_path: Path) -> None:
    tls = {"certificate": tmp_path / "cert.pem", "certificate_key": tmp_path / "cert.pem"}
    for host in ("127.0.0.1", "::1", "localhost"):
        check_options(_serving(tmp_path, host=host))
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(ServingError, match="--tls-cert"):
            check_options(_serving(tmp_path, host=host))
        with pytest.raises(ServingError, match="add-client"):
            check_options(_serving(tmp_path, host=host, **tls))
    add_client(tmp_path / "clients.json", "anna")
    check_options(_serving(tmp_path, host="0.0.0.0", **tls))
    remove_client(tmp_path / "clients.json", "anna")
    with pytest.raises(ServingError, match="names nobody"):
        check_options(_serving(tmp_path))
    with pytest.raises(ServingError, match="belong together"):
        check_options(_serving(tmp_path, certificate=tmp_path / "cert.pem"))
    with pytest.raises(ServingError, match="cannot be read"):
        check_options(_serving(tmp_path, certificate=tmp_path / "none.pem", certificate_key=tmp_path / "cert.pem"))


@pytest.mark.parametrize(("gpu", "amx"), [(True, False), (False, True), (False, False)])
def test_in_which_numbers_vllm_is_told_to_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, amx: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)

    def told(precision: str) -> list[str]:
        arguments = vllm_arguments(_serving(tmp_path, precision=precision))
        pairs = dict(itertools.pairwise(arguments))
        return [pairs[name] for name in ("--dtype", "--quantization") if name in pairs]

    assert told("auto") == ([] if gpu else ["float32"])
    assert told("bfloat16") == ["bfloat16"]
    if gpu or amx:
        assert told("fp8") == ["bfloat16", "fp8_per_block"]
    else:
        with pytest.raises(EngineRejected, match="needs an NVIDIA GPU, or a processor with AMX"):
            told("fp8")


def test_what_vllm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "in the way")
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)  # an embedded engine leaves it behind
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    serving = _serving(tmp_path, tensor_parallel=2, data_parallel=3, passed_on=["--max-model-len", "512"])
    arguments, environment = vllm_arguments(serving), vllm_environment(serving)
    told = " ".join(arguments)
    for part in (
        *(
            "--tensor-parallel-size 2 --data-parallel-size 3",
            "--max-loras 3 --max-cpu-loras 3",
            "--middleware monitor.server.gateway.Gateway",
        ),
        f"--lora-modules {read_bundle_manifest(PACKAGED).version}={PACKAGED / 'adapter'}",
    ):
        assert part in told
    assert told.endswith("--max-model-len 512")
    assert "VLLM_API_KEY" not in environment
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    door = GatewaySettings.model_validate_json(environment[GATEWAY_VARIABLE])
    assert (door.bundle, door.clients, door.rank, door.at_a_time, door.of_each) == (PACKAGED, None, 8, 4, 8)
