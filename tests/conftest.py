"""What the tests share: a home of their own for each, and one engine, one server and one microphone for the whole run."""

import csv
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Nothing here may look for weights on the network, and vLLM shall not report its use.
os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")

import httpx
import numpy as np
import pytest

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, read_audio, s_to_samples
from model.bundle import Bundle, open_bundle, resolve
from model.manifest import find_bundle
from monitor.engine import EmbeddedEngine, server_arguments
from tests.virtual_microphone import VirtualMicrophone

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "demo.opus"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state and a configuration directory that nothing else uses, for this process and those it starts."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("TZ", "Europe/Paris")
    return folder


@pytest.fixture(scope="session")
def nano() -> Bundle:
    """The embedded default."""
    return open_bundle(find_bundle("nano"))


@pytest.fixture(scope="session")
def utterances() -> list[Int16]:
    """Twenty stretches of sound: what is spoken in the demo, and six awkward ones."""
    audio = read_audio(DEMO)
    with DEMO.with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    clips = [audio[s_to_samples(float(row["start_s"])) : s_to_samples(float(row["end_s"]))] for row in rows]
    noise = np.random.default_rng(0).normal(scale=0.01, size=3 * SAMPLE_RATE).astype(np.float32)
    clips += [clips[0][: SAMPLE_RATE // 4], clips[1][:SAMPLE_RATE], audio[: 15 * SAMPLE_RATE], noise, np.zeros_like(noise), clips[2] * 0.05]
    assert len(clips) == 20
    return [float_to_pcm16(clip) for clip in clips]


@pytest.fixture(scope="session")
def embedded(nano: Bundle) -> Iterator[EmbeddedEngine]:
    """Real vLLM in this process."""
    engine = EmbeddedEngine(nano, kv_cache_mib=64)
    yield engine
    engine.close()


@dataclass(frozen=True)
class Server:
    """A running vLLM server."""

    url: str
    key: str


@pytest.fixture(scope="session")
def server(nano: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real vLLM OpenAI server for nano, with a key."""
    with serving(nano, tmp_path_factory.mktemp("server") / "server.log") as running:
        yield running


@contextmanager
def serving(bundle: Bundle, log: Path) -> Iterator[Server]:
    """A real vLLM OpenAI server for a bundle, with a key, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = server_arguments(bundle.folder, resolve(bundle.folder, bundle.manifest.llm), bundle.manifest.version)
    here = ["--host", "127.0.0.1", "--port", str(port), "--api-key", "secret", "--dtype", "float32", "--enforce-eager"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments, *here],
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}", log)
        yield Server(f"http://127.0.0.1:{port}", "secret")
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            break
        time.sleep(1)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def microphone() -> Iterator[VirtualMicrophone]:
    """A private PulseAudio server whose default source hears what is played into it."""
    with VirtualMicrophone() as running:
        yield running
