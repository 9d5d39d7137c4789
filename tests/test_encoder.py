"""Encoders: transformers' own and nano's behind one interface, frozen, and deaf to padding."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.encoder import CombinedEncoder, NanoEncoder, SpeechEncoder, TransformersEncoder, load_encoder
from model.errors import BundleError
from model.features import N_FEATURES
from model.whisper import WhisperEncoder, WhisperSettings
from tests import tiny


@pytest.fixture(params=["wavlm-layer", "wavlm-group", "wav2vec2", "whisper", "nano", "combined"])
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> SpeechEncoder:
    make: dict[str, Callable[[], SpeechEncoder]] = {
        "wavlm-layer": lambda: load_encoder(str(tiny.wavlm(tmp_path / "e"))),
        "wavlm-group": lambda: load_encoder(str(tiny.wavlm(tmp_path / "e", "group"))),
        "wav2vec2": lambda: load_encoder(str(tiny.wav2vec2(tmp_path / "e"))),
        "whisper": lambda: _whisper(tmp_path),
        "nano": lambda: _warmed_nano().freeze(),
        "combined": lambda: CombinedEncoder([_whisper(tmp_path), _warmed_nano()]).freeze(),
    }
    return make[request.param]()


def _whisper(folder: Path) -> WhisperEncoder:
    return WhisperEncoder.of(str(tiny.whisper(folder / "e")), WhisperSettings(layers=(1, 2)))


def _warmed_nano(branches: int = 2) -> NanoEncoder:
    """Random weights, but batch statistics that are not those of a fresh layer."""
    torch.manual_seed(0)
    encoder = NanoEncoder(branches)
    encoder.states(torch.randn(4, 60, N_FEATURES), torch.tensor([60, 50, 40, 30]))
    return encoder.eval()


def test_padding_beside_longer_sound_changes_nothing(encoder: SpeechEncoder) -> None:
    torch.manual_seed(1)
    clips = [torch.randn(n) * 0.05 for n in (16000, 41234, 7001)]
    together, mask = encoder(clips)
    assert together.shape[2] == encoder.width
    for row, clip in enumerate(clips):
        alone, alone_mask = encoder([clip])
        assert alone_mask.all()
        assert mask[row].sum() == alone.shape[1]
        assert torch.allclose(together[row][mask[row]], alone[0], atol=2e-4)


def test_more_sound_gives_more_states_but_never_more_than_the_mask_says(encoder: SpeechEncoder) -> None:
    _, mask = encoder([torch.randn(n) * 0.05 for n in (16000, 48000)])
    short, long = mask.sum(dim=1).tolist()
    assert 2.5 * short < long < 3.5 * short
    assert mask[0, :short].all()
    assert not mask[0, short:].any()


def test_a_loaded_encoder_is_frozen_and_stays_in_eval_mode(encoder: SpeechEncoder) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_nano_comes_back_from_its_folder_as_it_was(tmp_path: Path) -> None:
    encoder = _warmed_nano().freeze()
    encoder.save(tmp_path)
    loaded = load_encoder(str(tmp_path))
    clip = [torch.randn(20000) * 0.05]
    assert torch.equal(loaded(clip)[0], encoder(clip)[0])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "settings": {"width": 64}}))
    with pytest.raises(BundleError, match="damaged"):
        load_encoder(str(tmp_path))


def test_branches_trained_apart_say_side_by_side_what_each_said_alone() -> None:
    single = [_warmed_nano(1), NanoEncoder(1).eval()]
    clip = [torch.randn(20000) * 0.05]
    joined = NanoEncoder.of(single).freeze()
    assert joined.width == 2 * single[0].width
    assert torch.allclose(joined(clip)[0], torch.cat([encoder(clip)[0] for encoder in single], dim=2), atol=1e-5)


@pytest.mark.parametrize("lengths", [[60], [61, 61], [64, 50, 3, 1], [1]])
def test_a_frozen_nano_says_what_its_branches_say(lengths: list[int]) -> None:
    """In one network for all branches, with whatever padding; and a state dict knows nothing of that."""
    encoder = _warmed_nano(3)
    inputs = torch.zeros(len(lengths), max(lengths), N_FEATURES)
    for row, length in enumerate(lengths):
        inputs[row, :length] = torch.randn(length, N_FEATURES)
    expected, real = encoder.states(inputs, torch.tensor(lengths))
    names = set(encoder.state_dict())
    states, mask = encoder.freeze().states(inputs, torch.tensor(lengths))
    assert torch.equal(mask, real)
    assert torch.allclose(states, expected, atol=1e-5)
    assert expected.abs().max() > 1
    assert (states[~mask] == 0).all()
    assert set(encoder.state_dict()) == names


def test_what_is_no_speech_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_encoder(str(tmp_path / "nowhere"))
    tiny.llama().save_pretrained(tmp_path / "llm")
    with pytest.raises(BundleError):
        load_encoder(str(tmp_path / "llm"))
    folder = tiny.wavlm(tmp_path / "rate")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "sampling_rate": 8000}))
    with pytest.raises(BundleError, match="8000 Hz"):
        load_encoder(str(folder))


def test_weights_that_would_execute_code_are_not_read(tmp_path: Path) -> None:
    folder = tiny.wavlm(tmp_path / "pickle")
    state = TransformersEncoder.load(str(folder)).model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(BundleError):
        load_encoder(str(folder))
