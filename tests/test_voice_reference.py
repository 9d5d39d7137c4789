"""The reference of a voice in the model: sums that add up, what is subtracted, and that a bundle without a use for it is as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file

from model.audio import Float32
from model.bundle import Bundle, load_llm, open_bundle
from model.errors import BundleError
from model.manifest import NORMALISER, find_bundle, read_manifest
from model.predictor import Predictor, Sound
from model.voice_reference import ReferenceSettings, VoiceSums, shift_of
from tests.variants import normalising, sign

_NUMBERS = st.floats(-100, 100, width=32)


def _sums() -> st.SearchStrategy[VoiceSums]:
    return st.builds(VoiceSums, st.floats(0, 1e6), st.floats(0, 1e7), arrays.arrays(np.float32, 5, elements=_NUMBERS))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(normalising(tmp_path_factory.mktemp("bundles") / "normalising"))


@pytest.fixture(scope="module")
def nano() -> Bundle:
    return open_bundle(find_bundle("nano"))


def _sounds() -> list[Sound]:
    rng = np.random.default_rng(1)
    return [Sound((0.1 * rng.normal(size=length)).astype(np.float32)) for length in (30_000, 12_000, 21_000)]


@given(_sums())
def test_what_is_stored_comes_back_bit_for_bit(sums: VoiceSums) -> None:
    back = VoiceSums.from_bytes(sums.to_bytes())
    assert (back.segments, back.speech_s) == (sums.segments, sums.speech_s)
    assert back.sums.tobytes() == sums.sums.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(16),
        bytes(19),
        VoiceSums(-1.0, 1.0, np.ones(3, np.float32)).to_bytes(),
        VoiceSums(1.0, float("nan"), np.ones(3, np.float32)).to_bytes(),
        VoiceSums(1.0, 1.0, np.full(3, np.inf, np.float32)).to_bytes(),
    ],
)
def test_what_are_no_sums_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="sums of a voice"):
        VoiceSums.from_bytes(data)


def test_sums_of_different_lengths_do_not_mix() -> None:
    three, four = (VoiceSums(1.0, 1.0, np.ones(size, np.float32)) for size in (3, 4))
    with pytest.raises(ValueError, match="3 and of 4"):
        three + four
    with pytest.raises(ValueError, match="takes sums of 3"):
        shift_of(four, ReferenceSettings(1.0, np.zeros(3, np.float32)))


def test_the_shift_is_the_distance_to_the_population_shrunk_by_how_little_is_known() -> None:
    settings = ReferenceSettings(30.0, np.array([1.0, -1.0], np.float32))
    assert shift_of(None, settings).tolist() == [0.0, 0.0]
    assert shift_of(VoiceSums(0.0, 0.0, np.zeros(2, np.float32)), settings).tolist() == [0.0, 0.0]
    one = VoiceSums(1.0, 3.0, np.array([3.0, 1.0], np.float32))
    assert shift_of(one, settings) == pytest.approx(np.array([2.0, 2.0]) / 31)
    many = VoiceSums(3000.0, 9000.0, np.array([9000.0, 3000.0], np.float32))
    assert shift_of(many, settings) == pytest.approx(np.array([2.0, 2.0]) * 3000 / 3030)


def test_bundles_of_one_encoder_and_normaliser_share_their_sums_and_others_do_not(bundle: Bundle, tmp_path: Path) -> None:
    night = read_manifest(normalising(tmp_path / "night", adapter=7))
    other = read_manifest(normalising(tmp_path / "other", seed=1))
    assert night.version != bundle.manifest.version
    assert bundle.voice_space == night.voice_space is not None
    assert other.voice_space not in (None, bundle.voice_space)
    assert read_manifest(find_bundle("nano")).voice_space is None


def test_a_bundle_without_normalisation_answers_as_before_and_adds_nothing(nano: Bundle) -> None:
    sounds = _sounds()
    states, mask = nano.encoder([torch.from_numpy(sound.audio) for sound in sounds])
    with torch.inference_mode():
        assert torch.equal(nano.embeds_of(states, mask), nano.mapper(states, mask))
    assert [answer.sums for answer in Predictor(nano, load_llm(nano)).predict(sounds)] == [None] * 3


def test_a_stranger_is_heard_as_without_a_reference_bit_for_bit(bundle: Bundle, nano: Bundle) -> None:
    answers = [Predictor(one, load_llm(one)).predict(_sounds()) for one in (bundle, nano)]
    posteriors = [[dict(answer.prediction.posterior) for answer in found if answer.prediction] for found in answers]
    assert posteriors[0] == posteriors[1]


def test_the_reference_is_subtracted_from_every_state_and_the_sums_are_of_states_before_that(bundle: Bundle) -> None:
    sounds = _sounds()
    shift = np.random.default_rng(2).normal(size=bundle.encoder.width).astype(np.float32)
    predictor = Predictor(bundle, load_llm(bundle))
    plain, shifted = predictor.predict(sounds), predictor.predict(sounds, shift)
    for sound, before, after in zip(sounds, plain, shifted, strict=True):
        states, mask = bundle.encoder([torch.from_numpy(sound.audio)])
        alone = states[mask].mean(dim=0).numpy()
        for answer in (before, after):
            assert answer.sums is not None
            assert (answer.sums.segments, answer.sums.speech_s) == (1.0, len(sound.audio) / 16_000)
            assert answer.sums.sums == pytest.approx(alone, abs=1e-5), "padding has no part in it"
        with torch.inference_mode():
            wanted = bundle.mapper(states - torch.from_numpy(shift), mask)
        assert torch.allclose(bundle.speech_embeds([torch.from_numpy(sound.audio)], shift), wanted, atol=1e-6)
    assert any(before.prediction != after.prediction for before, after in zip(plain, shifted, strict=True))


def _broken(folder: Path, mean: Float32 | None) -> Path:
    normalising(folder)
    (folder / NORMALISER).unlink()
    if mean is not None:
        save_file({"population_mean": torch.from_numpy(mean)}, folder / NORMALISER)
    return sign(folder)


def test_a_bundle_whose_normaliser_is_missing_or_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=NORMALISER):
        open_bundle(_broken(tmp_path / "missing", None))
    for name, mean in (("short", np.zeros(3, np.float32)), ("infinite", np.full(bundle.encoder.width, np.inf, np.float32))):
        with pytest.raises(BundleError, match="population_mean"):
            open_bundle(_broken(tmp_path / name, mean))
