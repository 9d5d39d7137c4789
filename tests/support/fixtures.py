"""Fixtures of the whole session: the built-in bundle, sound, one engine, one server, one clinic and one microphone, each on first use."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.paths import DEMO

if TYPE_CHECKING:
    from model.audio import Int16
    from model.bundle import Bundle
    from monitor.inference.engines.vllm import EmbeddedEngine
    from tests.support.clinic import Clinic, Postgres
    from tests.support.servers import Server, SharedServer
    from tests.support.virtual_microphone import VirtualMicrophone


@pytest.fixture(scope="session")
def packaged() -> Bundle:
    """The embedded default."""
    from model.bundle import open_bundle
    from model.bundle_format import find_bundle

    return open_bundle(find_bundle("compact"))


@pytest.fixture(scope="session")
def utterances() -> list[Int16]:
    """Twenty stretches of sound: what is spoken in the demo, and six awkward ones."""
    from model.audio import SAMPLE_RATE, float_to_pcm16, read_audio, s_to_samples

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
    from monitor.inference.engines.vllm import EmbeddedEngine

    engine = EmbeddedEngine(packaged, kv_cache_mib=64)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """`emosllm-monitor serve` for packaged, with keys and TLS."""
    from tests.support.servers import SharedServer

    with SharedServer(tmp_path_factory.mktemp("shared"), "--max-adapters", "2", "--at-a-time", "8", "--of-each", "40") as running:
        yield running


@pytest.fixture(scope="session")
def server(shared: SharedServer) -> Server:
    """The same, as its first client sees it."""
    return shared.server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A real PostgreSQL server. Who stops it starts it again."""
    from tests.support.clinic import postgres

    with postgres() as running:
        yield running


@pytest.fixture(scope="session")
def clinic(postgres_server: Postgres) -> Clinic:
    """A clinic's database that is set up. Tests keep to subjects and logins of their own."""
    return postgres_server.clinic("clinic")


@pytest.fixture(scope="session")
def microphone() -> Iterator[VirtualMicrophone]:
    """A private PulseAudio server whose default source hears what is played into it."""
    from tests.support.virtual_microphone import VirtualMicrophone

    with VirtualMicrophone() as running:
        yield running
