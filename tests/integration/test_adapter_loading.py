"""An engine that runs takes up another bundle: what it then says is what a fresh engine says, again and again, and without growing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.audio import Int16, pcm16_to_float
from model.bundle import Bundle, load_llm, open_bundle
from model.bundle_format import find_bundle
from model.errors import BundleError, NeedsRestart
from model.language_model import LanguageModel, LoraAdapter
from model.predictor import Predictor, SpeechInput
from monitor.inference.engines.base import Engine, has_amx, has_gpu
from monitor.inference.engines.transformers import TransformersEngine
from monitor.inference.engines.vllm import EmbeddedEngine
from monitor.inference.worker_process import LIBRARY_ENVIRONMENT
from tests.support.bundle_variants import ADAPTER, sign, variant_of_packaged
from tests.support.servers import SharedServer

CLOSE = 0.01
VERY_CLOSE = 1e-3


@pytest.fixture(scope="module")
def others(packaged: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Two bundles like packaged with mappers and adapters of their own."""
    folder = tmp_path_factory.mktemp("others")
    return [open_bundle(variant_of_packaged(folder / f"other{seed}", seed), packaged) for seed in (1, 2)]


@pytest.fixture(scope="module")
def sounds(utterances: list[Int16]) -> list[SpeechInput]:
    return [SpeechInput(pcm16_to_float(pcm)) for pcm in utterances[:8]]


@pytest.fixture(scope="module")
def expected(packaged: Bundle, others: list[Bundle], sounds: list[SpeechInput]) -> dict[str, np.ndarray]:
    """Posteriors (sounds, letters) of fresh language models whose adapter stands beside the weights, by version."""
    return {bundle.manifest.version: posteriors(bundle, load_llm(bundle), sounds) for bundle in (packaged, *others)}


def posteriors(bundle: Bundle, llm: LanguageModel, sounds: list[SpeechInput]) -> np.ndarray:
    """Calibrated, (sounds, letters)."""
    answers = Predictor(bundle, llm).predict(sounds)
    return np.array([list(answer.prediction.posterior.values()) for answer in answers if answer.prediction])


def swap_about(engine: Engine, packaged: Bundle, others: list[Bundle], sounds: list[SpeechInput], expected: dict[str, np.ndarray]) -> None:
    """From bundle to bundle and back, some of them twice; back at the first, its answers are the very same."""
    first = posteriors(packaged, engine, sounds)
    assert np.abs(first - expected[packaged.manifest.version]).max() < VERY_CLOSE
    for bundle in (others[0], others[1], others[0], packaged, others[1], others[1], packaged):
        engine.switch_to(bundle)
        assert np.abs(posteriors(bundle, engine, sounds) - expected[bundle.manifest.version]).max() < VERY_CLOSE, bundle.manifest.version
    assert (posteriors(packaged, engine, sounds) == first).all()


def test_the_bundles_say_different_things_and_not_by_their_mappers_alone(
    packaged: Bundle, others: list[Bundle], sounds: list[SpeechInput], expected: dict[str, np.ndarray]
) -> None:
    first, *rest = expected.values()
    assert all(np.abs(table - first).max() > 5 * CLOSE for table in rest)
    assert np.abs(rest[0] - rest[1]).max() > 5 * CLOSE
    old_adapter = posteriors(others[0], TransformersEngine(packaged), sounds)
    assert np.abs(old_adapter - rest[0]).max() > 5 * CLOSE


def test_transformers_says_what_a_fresh_one_says(
    packaged: Bundle, others: list[Bundle], sounds: list[SpeechInput], expected: dict[str, np.ndarray]
) -> None:
    engine = TransformersEngine(packaged)
    swap_about(engine, packaged, others, sounds, expected)
    assert not engine._llm.training


def test_embedded_vllm_says_what_a_fresh_one_says(
    embedded: EmbeddedEngine, packaged: Bundle, others: list[Bundle], sounds: list[SpeechInput], expected: dict[str, np.ndarray]
) -> None:
    swap_about(embedded, packaged, others, sounds, expected)


_NEEDS_EIGHT_BITS = pytest.mark.skipif(not (has_gpu() or has_amx()), reason="nothing here multiplies 8-bit floats")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "near", "apart"),
    [("float32", VERY_CLOSE, 0), pytest.param("fp8", CLOSE, 1e-5, marks=_NEEDS_EIGHT_BITS)],
)
def test_an_engine_as_the_judging_process_has_it_says_so_too_in_8_bits_nearly(
    packaged: Bundle,
    others: list[Bundle],
    sounds: list[SpeechInput],
    expected: dict[str, np.ndarray],
    tmp_path: Path,
    precision: str,
    near: float,
    apart: float,
) -> None:
    np.savez(tmp_path / "sounds.npz", *(sound.audio for sound in sounds))
    asked = [packaged, others[0], packaged]
    told = [precision, tmp_path / "sounds.npz", tmp_path / "said.npy", *(bundle.folder for bundle in asked)]
    subprocess.run(
        [sys.executable, "-m", "tests.support.engine_process", *map(str, told)], check=True, env=os.environ | LIBRARY_ENVIRONMENT
    )
    said = np.load(tmp_path / "said.npy")
    for bundle, posteriors_of_it in zip(asked, said, strict=True):
        assert near > np.abs(posteriors_of_it - expected[bundle.manifest.version]).max() > apart
    assert (said[0] == said[2]).all()


def test_a_server_says_what_a_fresh_one_says_and_is_sent_what_it_has_not(
    shared: SharedServer, packaged: Bundle, others: list[Bundle], sounds: list[SpeechInput], expected: dict[str, np.ndarray]
) -> None:
    server = shared.as_client("swapping")
    engine = server.engine(packaged)
    swap_about(engine, packaged, others, sounds, expected)
    with server.client() as client:
        served = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert set(served) == {bundle.manifest.version for bundle in (packaged, *others)}
    engine.close()
    # Another engine, as one that is started anew, finds what was sent before.
    later = server.engine(others[0])
    assert np.abs(posteriors(others[0], later, sounds) - expected[others[0].manifest.version]).max() < CLOSE
    later.close()


def _no_adapter(folder: Path) -> Path:
    bundle = variant_of_packaged(folder)
    (bundle / ADAPTER).write_bytes(b"no weights")
    return sign(bundle)


def _cut(folder: Path) -> Path:
    """An adapter of another language model's size."""
    bundle = variant_of_packaged(folder)
    save_file({name: tensor[:, :-1].clone() for name, tensor in load_file(bundle / ADAPTER).items()}, bundle / ADAPTER, {"format": "pt"})
    return sign(bundle)


@pytest.fixture(params=["transformers", "embedded"])
def running(request: pytest.FixtureRequest, packaged: Bundle) -> Iterator[Engine]:
    """An engine with packaged. The one that all tests share gets packaged back."""
    engine: Engine = request.getfixturevalue("embedded") if request.param == "embedded" else TransformersEngine(packaged)
    yield engine
    engine.switch_to(packaged)


def test_an_adapter_that_cannot_be_loaded_leaves_the_old_one(
    running: Engine, packaged: Bundle, others: list[Bundle], sounds: list[SpeechInput], expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    damaged = open_bundle(_no_adapter(tmp_path / "damaged"), packaged)
    misfit = open_bundle(_cut(tmp_path / "misfit"), packaged)
    for bundle in (packaged, *others):
        running.switch_to(bundle)
        for bad in (damaged, misfit):
            with pytest.raises(BundleError, match="cannot be loaded"):
                running.switch_to(bad)
        assert np.abs(posteriors(bundle, running, sounds) - expected[bundle.manifest.version]).max() < CLOSE


def _with(settings: dict[str, object], folder: Path) -> Path:
    bundle = variant_of_packaged(folder)
    path = bundle / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return sign(bundle)


def _with_one_more(name: str, folder: Path) -> Path:
    bundle = variant_of_packaged(folder)
    save_file({**load_file(bundle / ADAPTER), name: torch.zeros(8, 8)}, bundle / ADAPTER, {"format": "pt"})
    return sign(bundle)


def test_what_would_change_other_things_than_an_adapter_does_is_refused(packaged: Bundle, tmp_path: Path) -> None:
    for number, settings in enumerate(({"use_dora": True}, {"rank_pattern": {"q_proj": 4}}, {"modules_to_save": ["lm_head"]}, {"r": 0})):
        with pytest.raises(BundleError, match="cannot be loaded"):
            LoraAdapter.load(_with(settings, tmp_path / str(number)) / "adapter")
    with pytest.raises(BundleError, match="more than pairs"):
        LoraAdapter.load(_with_one_more("base_model.model.lm_head.weight", tmp_path / "more") / "adapter")


@pytest.mark.parametrize(
    ("differs", "told"),
    [
        ({"llm": 1.01}, "another language model"),
        ({"about": {"letters": ["A", "S", "H", "N"], "training_prior": None, "normalisation": None}}, "the letters ASHN, not ASHUFDN"),
    ],
)
def test_what_only_a_fresh_engine_can_serve_is_told_and_changes_nothing(
    running: Engine,
    differs: dict[str, object],
    told: str,
    packaged: Bundle,
    sounds: list[SpeechInput],
    expected: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    with pytest.raises(NeedsRestart, match=told):
        running.switch_to(open_bundle(variant_of_packaged(tmp_path / "other", **differs), packaged))
    assert np.abs(posteriors(packaged, running, sounds) - expected[packaged.manifest.version]).max() < CLOSE


def test_an_adapter_of_a_higher_rank_is_taken_up_too(running: Engine, packaged: Bundle, sounds: list[SpeechInput], tmp_path: Path) -> None:
    wide = open_bundle(variant_of_packaged(tmp_path / "wide", rank=16), packaged)
    running.switch_to(wide)
    assert np.abs(posteriors(wide, running, sounds) - posteriors(wide, load_llm(wide), sounds)).max() < VERY_CLOSE


def test_another_encoder_needs_a_fresh_engine_and_the_same_one_is_shared(
    packaged: Bundle, others: list[Bundle], embedded: EmbeddedEngine, tmp_path: Path
) -> None:
    assert all(bundle.encoder is packaged.encoder for bundle in others)
    folder = variant_of_packaged(tmp_path / "other")
    (folder / "encoder/config.json").write_text((folder / "encoder/config.json").read_text() + "\n")
    other = open_bundle(sign(folder), packaged)
    assert other.encoder is not packaged.encoder
    with pytest.raises(NeedsRestart, match="another speech encoder"):
        embedded.switch_to(other)


def test_a_bundle_that_is_damaged_shares_nothing(packaged: Bundle, tmp_path: Path) -> None:
    folder = variant_of_packaged(tmp_path / "other")
    (folder / "encoder/model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"encoder/model\.safetensors is missing"):
        open_bundle(folder, packaged)


def test_parts_elsewhere_are_the_same_by_name(packaged: Bundle) -> None:
    elsewhere = packaged.manifest.model_copy(update={"files": {}, "llm": "somebody/llm"})
    assert elsewhere.part("somebody/llm") == "somebody/llm"
    assert packaged.manifest.part("llm").keys() == {path.name for path in (find_bundle("compact") / "llm").iterdir()}


@pytest.mark.slow
def test_many_swaps_take_no_more_memory_than_few(running: Engine, packaged: Bundle, others: list[Bundle]) -> None:
    """Each with an answer, because an adapter's weights may be taken up only then."""
    sound = SpeechInput(np.zeros(16_000, np.float32))
    process, resident = psutil.Process(), []
    for swap in range(50):
        bundle = others[swap % 2]
        running.switch_to(bundle)
        Predictor(bundle, running).predict([sound])
        resident.append(process.memory_info().rss)
    assert resident[-1] - resident[10] < 10 * 2**20, "each adapter has half a MiB, so what stays of forty would be seen"
