"""What the tests share: a home of their own for each, and one engine, one server and one microphone for the whole run."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

# Nothing here may look for weights on the network, and vLLM shall not report its use.
os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
# Tests run beside each other, and many start several processes: threads that wait for each other busily would take the cores from them all.
os.environ.update(OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="nobind")

import numpy as np
import pytest

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, read_audio, s_to_samples
from model.bundle import Bundle, open_bundle
from model.manifest import find_bundle
from monitor.judging.engine import EmbeddedEngine
from tests.postgres import Clinic, Postgres, postgres
from tests.servers import Server, SharedServer
from tests.virtual_microphone import VirtualMicrophone

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "demo.opus"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state and a configuration directory that nothing else uses and no keyring, for this process and those it starts."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.delenv("EMOSLLM_STORE_KEY", raising=False)
    monkeypatch.delenv("EMOSLLM_STORE_URL", raising=False)
    monkeypatch.setenv("TZ", "Europe/Paris")
    return folder


@pytest.fixture(scope="session")
def packaged() -> Bundle:
    """The embedded default."""
    return open_bundle(find_bundle("compact"))


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
def embedded(packaged: Bundle) -> Iterator[EmbeddedEngine]:
    """Real vLLM in this process."""
    engine = EmbeddedEngine(packaged, kv_cache_mib=64)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """`emosllm-monitor serve` for packaged, with keys and TLS."""
    with SharedServer(tmp_path_factory.mktemp("shared"), "--max-adapters", "2", "--at-a-time", "8", "--of-each", "40") as running:
        yield running


@pytest.fixture(scope="session")
def server(shared: SharedServer) -> Server:
    """The same, as its first client sees it."""
    return shared.server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A real PostgreSQL server. Who stops it starts it again."""
    with postgres() as running:
        yield running


@pytest.fixture(scope="session")
def clinic(postgres_server: Postgres) -> Clinic:
    """A clinic's database that is set up. Tests keep to subjects and logins of their own."""
    return postgres_server.clinic("clinic")


@pytest.fixture(scope="session")
def microphone() -> Iterator[VirtualMicrophone]:
    """A private PulseAudio server whose default source hears what is played into it."""
    with VirtualMicrophone() as running:
        yield running
