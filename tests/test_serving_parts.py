"""The parts of a shared server that need no vLLM: keys, fair shares, what may be asked, and which adapters are kept."""

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
from safetensors.torch import load_file, save, save_file

from model.errors import EngineRejected, ServingError
from model.manifest import find_bundle, read_manifest
from model.prompts import AUDIO, Message
from model.request import Request
from model.speech_llm import stored_dtype
from monitor.judging.served_engine import _chat_messages, _packed
from monitor.serving.adapter_files import AdapterFiles
from monitor.serving.clients import KnownClients, add_client, read_clients, remove_client
from monitor.serving.embeds import Embeds
from monitor.serving.fairness import FairShare, TooMany
from monitor.serving.launch import Serving, check, vllm_arguments, vllm_environment
from monitor.serving.question import body_for_vllm, read_question
from monitor.serving.settings import VARIABLE, DoorSettings
from tests.commands import run
from tests.variants import variant

PACKAGED = find_bundle("compact")
QUERIES, HIDDEN = 32, 128
EMBEDS = Embeds(QUERIES, HIDDEN, torch.float32)


# --- clients ---


def test_a_key_is_shown_once_and_only_its_digest_is_kept(home: Path) -> None:
    added = run("serve", "add-client", "anna")
    key, path = added.stdout.strip(), home / "state/emosllm-monitor/clients.json"
    assert len(key) >= 40
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KnownClients(path).named_by(key) == "anna"
    assert "already" in run("serve", "add-client", "anna").stderr
    assert "lower-case" in run("serve", "add-client", "../Anna").stderr
    assert "anna" in run("serve", "clients").stdout
    assert json.loads(run("serve", "clients", "--json").stdout)["anna"]["operator"] is False
    assert run("serve", "remove-client", "anna").returncode == 0
    assert KnownClients(path).named_by(key) is None
    assert "there is no client anna" in run("serve", "remove-client", "anna").stderr


def test_a_server_that_runs_knows_clients_as_they_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    anna = add_client(path, "anna")
    known = KnownClients(path)
    assert known.named_by(anna) == "anna"
    ben = add_client(path, "ben", operator=True)
    assert (known.named_by(ben), known.is_operator("ben"), known.is_operator("anna")) == ("ben", True, False)
    remove_client(path, "anna")
    assert (known.named_by(anna), known.names) == (None, {"ben"})
    for nobodys in ("", None, "wrong", ben[:-1], f"{ben} "):
        assert known.named_by(nobodys) is None
    path.write_text("{")
    assert known.named_by(ben) == "ben", "a slip while editing throws nobody out"
    path.unlink()
    assert known.named_by(ben) is None


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
            with pytest.raises(TooMany):
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
    embeds, sent = Embeds(QUERIES, HIDDEN, dtype), torch.randn(QUERIES, HIDDEN, dtype=dtype)
    assert torch.equal(_loaded(embeds.cleaned(_saved(sent))), sent)
    assert len(_saved(sent)) <= embeds.longest


def test_a_monitor_sends_as_many_digits_as_the_server_works_with(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16"}))
    assert (stored_dtype(str(tmp_path)), stored_dtype(str(PACKAGED / "llm"))) == (torch.bfloat16, torch.float32)
    request = Request((Message(role="user", content=f"{AUDIO}\nWhich emotion?"),), torch.randn(QUERIES, HIDDEN))
    data = _chat_messages(request, torch.bfloat16)[0]["content"][0]["data"]
    assert torch.equal(_loaded(Embeds(QUERIES, HIDDEN, torch.bfloat16).cleaned(data)), request.speech.bfloat16())


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
    turns = (Message(role="system", content="Judge."), Message(role="user", content=f"{AUDIO}\nWhich emotion?"))
    speech = torch.linspace(0, 1, QUERIES * HIDDEN).view(QUERIES, HIDDEN)
    question: dict[str, object] = {
        "model": "compact-1",
        "messages": _chat_messages(Request(turns, speech), torch.float32),
        "add_generation_prompt": True,
        "continue_final_message": False,
        "chat_template_kwargs": {"enable_thinking": False, "date_string": "26 Jul 2024"},
        **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 1, "temperature": 1.0},
        **{"allowed_token_ids": [5, 6], "logprobs": True, "top_logprobs": 2, "return_tokens_as_token_ids": True},
    }
    return json.dumps({name: value for name, value in {**question, **changes}.items() if value is not None}).encode()


def test_a_question_gets_through_as_it_was_asked_under_the_name_that_vllm_knows() -> None:
    told = json.loads(body_for_vllm(read_question(_asked(), EMBEDS), "anna/compact-1.0"))
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
        read_question(_asked(**changes), EMBEDS)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b"[" * 60_000, b'{"model": ' + b"9" * 60_000 + b"}", b'{"secret": "words"}']
)
def test_what_is_no_question_is_refused_without_being_quoted(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        read_question(body, EMBEDS)
    assert "words" not in str(refused.value)


# --- adapters ---


@pytest.fixture
def files(tmp_path: Path) -> AdapterFiles:
    return AdapterFiles(tmp_path / "adapters", PACKAGED / "adapter", rank=16)


def _arrives(files: AdapterFiles, content: bytes, client: str = "anna") -> Path:
    arrived = files.new_file(client)
    arrived.write_bytes(content)
    return arrived


@pytest.mark.parametrize("rank", [8, 16])
def test_an_adapter_is_kept_as_peft_would_write_it(files: AdapterFiles, tmp_path: Path, rank: int) -> None:
    adapter = variant(tmp_path / "other", 1, rank=rank) / "adapter"
    sent = _packed(adapter)
    assert len(sent) < files.most_bytes
    folder = files.keep(_arrives(files, sent), "anna", "compact-1")
    there = load_file(folder / "adapter_model.safetensors")
    assert there.keys() == load_file(adapter / "adapter_model.safetensors").keys()
    assert all(torch.equal(tensor, there[name]) for name, tensor in load_file(adapter / "adapter_model.safetensors").items())
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == rank
    assert files.kept() == {"anna": {"compact-1": folder}}
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def _packed_with(folder: Path, settings: dict[str, object] | None = None, drop: str = "", **tensors: torch.Tensor) -> bytes:
    weights = load_file(PACKAGED / "adapter/adapter_model.safetensors")
    first = next(iter(weights))
    changed = {name: tensors.get("first", tensor) if name == first else tensor for name, tensor in weights.items() if name != drop}
    changed |= {name: tensor for name, tensor in tensors.items() if name != "first"}
    told = json.loads((PACKAGED / "adapter/adapter_config.json").read_text()) | (settings or {})
    return bytes(save(changed, {"adapter_config": json.dumps(told)}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"settings": {"r": 17}}, "rank is not between 1 and 16"),
        ({"settings": {"r": 4}}, "another shape"),
        ({"settings": {"r": "8"}}, "rank"),
        ({"settings": {"lora_alpha": -1}}, "lora_alpha"),
        ({"settings": {"use_rslora": True}}, "use_rslora"),
        ({"settings": {"use_dora": True}}, "use_dora"),
        ({"settings": {"target_modules": ["q_proj"]}}, "target_modules"),
        ({"settings": {"modules_to_save": ["lm_head"]}}, "modules_to_save"),
        ({"first": torch.zeros(8, 129)}, "another shape"),
        ({"first": torch.full((8, HIDDEN), float("nan"))}, "no number"),
        ({"extra": torch.zeros(1)}, "tensors are not those"),
    ],
    ids=str,
)
def test_an_adapter_that_does_not_fit_is_not_kept(files: AdapterFiles, tmp_path: Path, change: dict[str, object], told: str) -> None:
    name = next(iter(load_file(PACKAGED / "adapter/adapter_model.safetensors")))
    if "first" in change:
        shape = load_file(PACKAGED / "adapter/adapter_model.safetensors")[name].shape
        change = {"first": change["first"] if told != "no number" else torch.full(shape, float("nan"))}
    with pytest.raises(ValueError, match=told):
        files.keep(_arrives(files, _packed_with(tmp_path, **change)), "anna", "compact-1")  # type: ignore[arg-type]
    assert files.kept() == {"anna": {}}
    assert not list((tmp_path / "adapters/anna").iterdir())


def test_what_is_no_adapter_at_all_is_not_kept(files: AdapterFiles, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    for content in (b"", b"rubbish", (2**60).to_bytes(8, "little") + b"{}", (tmp_path / "bare.safetensors").read_bytes()):
        with pytest.raises(ValueError, match=r"safetensors|settings"):
            files.keep(_arrives(files, content), "anna", "compact-1")
    assert files.kept() == {"anna": {}}


def test_what_a_crash_left_behind_is_erased_at_the_next_start(files: AdapterFiles, tmp_path: Path) -> None:
    kept = files.keep(_arrives(files, _packed(PACKAGED / "adapter")), "anna", "compact-1")
    _arrives(files, b"half")
    half = kept.parent / "new-0.folder"
    half.mkdir()
    (half / "adapter_config.json").write_text("{}")
    assert files.kept() == {"anna": {"compact-1": kept}}
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


# --- starting ---


def _serving(folder: Path, **changes: object) -> Serving:
    (folder / "cert.pem").touch()
    told: dict[str, object] = {
        **{"bundle": "compact", "host": "127.0.0.1", "port": 8000, "certificate": None, "certificate_key": None},
        **{"clients": folder / "clients.json", "adapters": folder / "adapters", "max_adapters": 2, "at_a_time": 4, "of_each": 8},
        **{"tensor_parallel": 1, "data_parallel": 1},
    }
    return Serving(**{**told, **changes})  # type: ignore[arg-type]


def test_a_server_open_to_others_needs_tls_and_clients(tmp_path: Path) -> None:
    tls = {"certificate": tmp_path / "cert.pem", "certificate_key": tmp_path / "cert.pem"}
    for host in ("127.0.0.1", "::1", "localhost"):
        check(_serving(tmp_path, host=host))
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(ServingError, match="--tls-cert"):
            check(_serving(tmp_path, host=host))
        with pytest.raises(ServingError, match="add-client"):
            check(_serving(tmp_path, host=host, **tls))
    add_client(tmp_path / "clients.json", "anna")
    check(_serving(tmp_path, host="0.0.0.0", **tls))
    remove_client(tmp_path / "clients.json", "anna")
    with pytest.raises(ServingError, match="names nobody"):
        check(_serving(tmp_path))
    with pytest.raises(ServingError, match="belong together"):
        check(_serving(tmp_path, certificate=tmp_path / "cert.pem"))
    with pytest.raises(ServingError, match="cannot be read"):
        check(_serving(tmp_path, certificate=tmp_path / "none.pem", certificate_key=tmp_path / "cert.pem"))


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
        *("--tensor-parallel-size 2 --data-parallel-size 3", "--max-loras 3 --max-cpu-loras 3", "--middleware monitor.serving.door.Door"),
        f"--lora-modules {read_manifest(PACKAGED).version}={PACKAGED / 'adapter'}",
    ):
        assert part in told
    assert told.endswith("--max-model-len 512")
    assert "VLLM_API_KEY" not in environment
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    door = DoorSettings.model_validate_json(environment[VARIABLE])
    assert (door.bundle, door.clients, door.rank, door.at_a_time, door.of_each) == (PACKAGED, None, 8, 4, 8)
