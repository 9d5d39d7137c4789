"""Bundles: what is written comes back, damage is refused with its reason, and unfamiliar speech lowers confidence."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.bundle import FAMILIARITY_FILE, Bundle, Familiarity, load_llm, open_bundle
from model.bundle_format import MANIFEST_FILE, compute_version, file_checksums, find_bundle, read_bundle_manifest, verify_checksums
from model.emotions import Emotion, Prediction
from model.errors import BundleError
from model.predictor import Predictor, SpeechInput
from monitor.config import EngineConfig
from tests.support.bundle_variants import sign
from tests.support.bundles import NANO
from train.rehearsal_set import predict_states


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(find_bundle("compact"), tmp_path / "bundle")
    return tmp_path / "bundle"


def _rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps({**manifest, **changes}))


def test_the_built_in_bundle_is_whole_small_and_says_what_it_is() -> None:
    folder = find_bundle("compact")
    manifest = read_bundle_manifest(folder)
    verify_checksums(folder, manifest)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 60 * 2**20
    assert manifest.version == compute_version("compact", manifest.files)
    assert manifest.license == "CC-BY-NC-SA-4.0"
    assert "NonCommercial" in (folder / "LICENSE").read_text()
    assert not {Emotion.CONTEMPT, Emotion.OTHER} & set(manifest.letters)
    assert any("contempt" in limit for limit in manifest.limits)
    score = next(score for score in manifest.scores if "ravdess_17" in score.split)
    assert score.unweighted_accuracy >= 0.65
    assert score.conditions
    assert score.outliers["ESC-10"] < 0.1
    assert f"{score.unweighted_accuracy:.3f}" in (folder / "README.md").read_text()
    assert score.interval_95[0] < score.unweighted_accuracy < score.interval_95[1]


def test_the_bundle_that_was_built_in_before_still_opens_and_its_name_now_means_this_one() -> None:
    former = open_bundle(NANO)
    assert (former.manifest.version, former.reference_settings, former.manifest.training_prior) == ("nano-7defb358", None, None)
    assert former.speech_embeds([torch.zeros(16000)]).shape[:2] == (1, 32)
    assert find_bundle("nano") == find_bundle("compact")
    assert EngineConfig(bundle="nano").bundle == "compact"


def test_its_parts_are_those_of_the_paper() -> None:
    bundle = open_bundle(find_bundle("compact"))
    llm = load_llm(bundle)
    assert bundle.mapper.settings["queries"] == 32
    assert llm.llm.peft_config["default"].r == 8
    assert bundle.speech_embeds([torch.zeros(16000)]).shape == (1, 32, llm.hidden_size)


def test_letter_biases_move_answers_after_the_temperature_and_only_letters_it_has_may_have_one(copy: Path) -> None:
    _rewrite(copy, letter_bias={"S": 1.5, "N": -0.5}, temperature=2.0)
    plain, biased = open_bundle(find_bundle("compact")), open_bundle(copy)
    log_probs = torch.linspace(-3, 0, len(plain.manifest.letters)).log_softmax(0)
    bias = torch.tensor([{"S": 1.5, "N": -0.5}.get(letter, 0.0) for letter in plain.manifest.letters])
    assert not plain.manifest.letter_bias
    expected = (log_probs.double() / 2 + bias).softmax(0).tolist()
    assert list(biased.prediction(log_probs.tolist()).posterior.values()) == pytest.approx(expected, abs=1e-6)
    raw = list(biased.uncalibrated().prediction(log_probs.tolist()).posterior.values())
    assert raw == pytest.approx(log_probs.exp().tolist(), abs=1e-6)
    for wrong in ({"C": 1.0}, {"S": "a lot"}, {"S": float("inf")}):
        _rewrite(copy, letter_bias=wrong)
        with pytest.raises(BundleError, match="letter_bias"):
            open_bundle(copy)


def _truncate(folder: Path) -> None:
    (folder / "mapper.safetensors").write_bytes((folder / "mapper.safetensors").read_bytes()[:-8])


def _flip(folder: Path) -> None:
    data = bytearray((folder / "llm/model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "llm/model.safetensors").write_bytes(bytes(data))


def _remove(folder: Path) -> None:
    (folder / "adapter/adapter_config.json").unlink()


def _add_pickle(folder: Path) -> None:
    (folder / "llm/pytorch_model.bin").write_bytes(pickle.dumps({}))


def _link(folder: Path) -> None:
    target = folder.parent / "elsewhere"
    (folder / "mapper.safetensors").rename(target)
    (folder / "mapper.safetensors").symlink_to(target)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "mapper.safetensors is not the file"),
        (_flip, "llm/model.safetensors is not the file"),
        (_remove, "adapter_config.json is missing"),
        (_add_pickle, "does not belong"),
        (_link, "does not belong"),
        (lambda folder: (folder / MANIFEST_FILE).unlink(), "cannot read"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("{"), "not a bundle"),
        (lambda folder: _rewrite(folder, format=2), "format"),
        (lambda folder: _rewrite(folder, letters=["A", "X"]), "letters"),
        (lambda folder: _rewrite(folder, temperature=0), "temperature"),
        (lambda folder: _rewrite(folder, surprise=1), "surprise"),
        (lambda folder: _rewrite(folder, mapper={"queries": 16, "layers": 2, "heads": 8, "width": 128}), "does not fit"),
    ],
)
def test_what_is_damaged_is_refused(copy: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(copy)
    with pytest.raises(BundleError, match=reason):
        open_bundle(copy)


def test_a_mapper_for_another_language_model_is_refused(copy: Path) -> None:
    weights = load_file(copy / "mapper.safetensors")
    weights["leave.weight"], weights["leave.bias"] = weights["leave.weight"][:64].clone(), weights["leave.bias"][:64].clone()
    save_file(weights, copy / "mapper.safetensors")
    _rewrite(copy, files=file_checksums(copy))
    with pytest.raises(BundleError, match="vectors of 64"):
        load_llm(open_bundle(copy))


def test_an_adapter_for_another_language_model_is_refused(copy: Path) -> None:
    weights = load_file(copy / "adapter/adapter_model.safetensors")
    save_file({name: tensor[:, :-1].clone() for name, tensor in weights.items()}, copy / "adapter/adapter_model.safetensors")
    _rewrite(copy, files=file_checksums(copy))
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_llm(open_bundle(copy))


def test_a_name_that_is_no_bundle_is_answered_with_those_there_are() -> None:
    with pytest.raises(BundleError, match="built-in: compact"):
        find_bundle("no-such-bundle")


WIDTH, DIMENSIONS = 32, 4


def speech(count: int, seed: int = 0, within: float = 0.1) -> Tensor:
    """States that fill four dimensions around a centre, and the others by `within`."""
    plane = 3 * torch.randn(DIMENSIONS, WIDTH, generator=torch.Generator().manual_seed(99))
    random = torch.Generator().manual_seed(seed)
    return 5 + torch.randn(count, DIMENSIONS, generator=random) @ plane + within * torch.randn(count, WIDTH, generator=random)


@pytest.fixture(scope="module")
def fitted() -> Familiarity:
    return Familiarity.fit(speech(400), dimensions=DIMENSIONS)


def test_the_mean_distance_of_speech_is_one_of_what_was_fitted_and_of_more_of_it(fitted: Familiarity) -> None:
    assert fitted.distance(speech(400)).mean() == pytest.approx(1.0, abs=0.02)
    assert fitted.distance(speech(400, seed=1)).mean() == pytest.approx(1.0, abs=0.05)


def test_where_an_utterance_lies_among_speech_does_not_matter_only_how_far_it_is_from_all_of_it(fitted: Familiarity) -> None:
    extreme = 5 + 4 * (speech(100, seed=1, within=0.0) - 5)
    noise = 0.1 * torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(2))
    assert fitted.distance(extreme + noise).mean() == pytest.approx(1.0, abs=0.1)
    assert fitted.distance(speech(100, seed=1) + noise).mean() == pytest.approx(2.0, abs=0.2)
    assert fitted.distance(speech(100, seed=1) + 1.4 * noise).mean() == pytest.approx(3.0, abs=0.3)


def test_the_distance_has_bounds(fitted: Familiarity) -> None:
    far = torch.full((1, WIDTH), 1e4) * torch.randn(1, WIDTH)
    found = fitted.distance(torch.cat([far, fitted.centre[None]]))
    assert found.tolist() == [20.0, 0.5]


def test_few_states_span_fewer_dimensions_than_are_asked_for() -> None:
    few = Familiarity.fit(speech(12))
    assert few.basis.shape == (3, WIDTH)
    assert Familiarity.fit(speech(2)).basis.shape == (1, WIDTH)
    assert Familiarity.fit(speech(400)).basis.shape == (WIDTH, WIDTH), "no more than there are"


def test_its_file_brings_the_same_back_and_none_is_none(fitted: Familiarity, tmp_path: Path) -> None:
    assert Familiarity.load(tmp_path, WIDTH) is None
    fitted.save(tmp_path)
    loaded = Familiarity.load(tmp_path, WIDTH)
    assert loaded is not None
    assert torch.equal(loaded.distance(speech(20, seed=3)), fitted.distance(speech(20, seed=3)))
    assert loaded.basis.dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"usual": torch.tensor([0.0])}, "finite numbers"),
        ({"usual": torch.tensor([float("nan")])}, "finite numbers"),
        ({"usual": torch.tensor([1.0, 2.0])}, "damaged"),
        ({"centre": torch.full((WIDTH,), float("inf"))}, "finite numbers"),
        ({"centre": torch.zeros(WIDTH - 1)}, "32 wide"),
        ({"basis": torch.zeros(DIMENSIONS, WIDTH + 1)}, "32 wide"),
        ({"basis": torch.zeros(WIDTH)}, "32 wide"),
        ({"basis": None}, "damaged"),
    ],
)
def test_a_damaged_file_is_refused(fitted: Familiarity, tmp_path: Path, change: dict[str, Tensor | None], told: str) -> None:
    fitted.save(tmp_path)
    tensors = load_file(tmp_path / FAMILIARITY_FILE) | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / FAMILIARITY_FILE)
    with pytest.raises(BundleError, match=rf"{FAMILIARITY_FILE} .*{told}"):
        Familiarity.load(tmp_path, WIDTH)


def test_a_file_that_was_cut_is_refused(fitted: Familiarity, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    content = (tmp_path / FAMILIARITY_FILE).read_bytes()
    (tmp_path / FAMILIARITY_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="is damaged"):
        Familiarity.load(tmp_path, WIDTH)


@pytest.fixture(scope="module")
def without() -> Bundle:
    """A bundle that does not know what its training speech was like."""
    return open_bundle(NANO)


@pytest.fixture(scope="module")
def bundle(without: Bundle) -> Bundle:
    """One that is told that utterances like the first of `sounds` are what it was trained on."""
    random = torch.Generator().manual_seed(0)
    like_the_first = _mean_states(without, sounds()[:1]) + 0.05 * torch.randn(100, without.encoder.width, generator=random)
    return replace(without, familiarity=Familiarity.fit(like_the_first, dimensions=8))


def sounds() -> list[SpeechInput]:
    """A tone, one second of noise and two seconds of it."""
    time = torch.arange(24_000) / 16_000
    random = torch.Generator().manual_seed(1)
    tone = 0.1 * torch.sin(2 * torch.pi * 150 * time * (1 + 0.2 * time))
    return [SpeechInput(audio.numpy()) for audio in (tone, *(0.1 * torch.randn(length, generator=random) for length in (16_000, 32_000)))]


def _mean_states(bundle: Bundle, some: list[SpeechInput]) -> Tensor:
    return torch.stack([bundle.states([torch.from_numpy(sound.audio)])[0][0].mean(dim=0) for sound in some])


def test_a_bundle_without_it_is_as_confident_about_everything(without: Bundle) -> None:
    states, mask = without.states([torch.from_numpy(sound.audio) for sound in sounds()])
    assert without.distances(states, mask) == [1.0, 1.0, 1.0]
    assert without.prediction([-1.0] * 7) == without.prediction([-1.0] * 7, 1.0)


def test_distances_are_of_mean_states_without_padding_the_reference_subtracted(bundle: Bundle) -> None:
    assert bundle.familiarity is not None
    states, mask = bundle.states([torch.from_numpy(sound.audio) for sound in sounds()])
    assert not mask.all()
    means = _mean_states(bundle, sounds())
    assert bundle.distances(states, mask) == pytest.approx(bundle.familiarity.distance(means).tolist(), rel=1e-3)
    shift = torch.linspace(-0.5, 0.5, bundle.encoder.width)
    shifted = bundle.distances(states, mask, shift.numpy())
    assert shifted == pytest.approx(bundle.familiarity.distance(means - shift).tolist(), rel=1e-3)
    assert shifted[0] > 2 * bundle.distances(states, mask)[0]


def test_the_distance_multiplies_the_temperature(bundle: Bundle) -> None:
    log_probs = torch.randn(7, generator=torch.Generator().manual_seed(0)).log_softmax(dim=0).tolist()
    temperature = bundle.manifest.temperature
    for distance in (1.0, 3.0):
        wanted = (torch.tensor(log_probs, dtype=torch.float64) / (temperature * distance)).softmax(dim=0).tolist()
        assert list(bundle.prediction(log_probs, distance).posterior.values()) == pytest.approx(wanted)
    sure, far = bundle.prediction([10.0, *[0.0] * 6]), bundle.prediction([10.0, *[0.0] * 6], 20.0)
    assert (sure.unsure, far.unsure) == (False, True)
    assert sure.emotion == far.emotion


@pytest.mark.parametrize("shifted", [False, True])
def test_what_is_unlike_training_is_answered_the_same_with_less_confidence(bundle: Bundle, without: Bundle, shifted: bool) -> None:
    llm = load_llm(without)
    shift = np.linspace(-0.3, 0.3, bundle.encoder.width, dtype=np.float32) if shifted else None
    plain, found = Predictor(without, llm).predict(sounds(), shift), Predictor(bundle, llm).predict(sounds(), shift)
    states, mask = bundle.states([torch.from_numpy(sound.audio) for sound in sounds()])
    distances = bundle.distances(states, mask, shift)
    assert max(distances) > 2
    for one, other, distance in zip(plain, found, distances, strict=True):
        assert one.prediction is not None
        assert other.prediction is not None
        assert _logs(other.prediction) == pytest.approx(_tempered(_logs(one.prediction), distance), abs=1e-2)


def test_states_that_are_at_hand_are_answered_as_their_sound_is(bundle: Bundle) -> None:
    llm = load_llm(bundle)
    states, mask = bundle.states([torch.from_numpy(sound.audio) for sound in sounds()])
    rows = [row[real] for row, real in zip(states, mask, strict=True)]
    for one, other in zip(predict_states(bundle, llm, rows, sounds()), Predictor(bundle, llm).predict(sounds()), strict=True):
        assert other.prediction is not None
        assert _logs(one) == pytest.approx(_logs(other.prediction), abs=1e-2)


def _logs(prediction: Prediction) -> list[float]:
    return torch.tensor(list(prediction.posterior.values())).log().tolist()


def _tempered(logs: list[float], temperature: float) -> list[float]:
    return (torch.tensor(logs) / temperature).log_softmax(dim=0).tolist()


def test_it_stays_where_the_calibration_is_taken_off(bundle: Bundle) -> None:
    assert bundle.uncalibrated().familiarity is bundle.familiarity
    assert bundle.uncalibrated().manifest.temperature == 1.0


def test_a_bundle_s_folder_brings_it_and_a_damaged_one_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.familiarity is not None
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    assert open_bundle(folder).familiarity is None
    bundle.familiarity.save(folder)
    opened = open_bundle(sign(folder)).familiarity
    assert opened is not None
    states = torch.randn(3, bundle.encoder.width)
    assert torch.equal(opened.distance(states), bundle.familiarity.distance(states))
    narrower = Familiarity.fit(torch.randn(8, bundle.encoder.width - 1))
    narrower.save(folder)
    with pytest.raises(BundleError, match=f"{FAMILIARITY_FILE} is not the file it was released with"):
        open_bundle(folder)
    with pytest.raises(BundleError, match=f"{bundle.encoder.width} wide"):
        open_bundle(sign(folder))
