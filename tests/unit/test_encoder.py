"""From sound to speech embeddings: encoders, the QPMapper, and how segments are batched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.encoders import CombinedEncoder, NanoEncoder, TransformersEncoder, load_encoder
from model.errors import BundleError
from model.mapper import QPMapper
from model.nano_encoder import N_FEATURES
from model.speech_encoder import SpeechEncoder, group_by_length
from model.whisper_encoder import WhisperEncoder, WhisperSettings
from tests.support import tiny


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


def test_any_length_becomes_the_queries_in_the_language_models_width() -> None:
    mapper = QPMapper(48, 96, queries=32, layers=2, heads=4, width=64).eval()
    for frames in (1, 7, 300):
        assert mapper(torch.randn(2, frames, 48), torch.ones(2, frames, dtype=torch.bool)).shape == (2, 32, 96)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    mapper = QPMapper(48, 96, queries=8, layers=2, heads=4, width=48).eval()
    states = torch.randn(1, 20, 48)
    padded = torch.cat([states, 100 * torch.randn(1, 15, 48)], dim=1)
    mask = torch.arange(35)[None] < 20
    assert torch.allclose(mapper(padded, mask), mapper(states, mask[:, :20]), atol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
def test_outside_training_the_same_is_said_in_fewer_steps(layers: int) -> None:
    torch.manual_seed(0)
    mapper = QPMapper(48, 96, queries=8, layers=layers, heads=4, width=48).eval()
    states, mask = torch.randn(3, 30, 48), torch.arange(30)[None] < torch.tensor([[30], [12], [1]])
    quick = mapper(states, mask)
    for module in mapper.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    assert torch.allclose(mapper.train()(states, mask), quick, atol=1e-5)


def test_every_frame_can_reach_every_query() -> None:
    torch.manual_seed(0)
    mapper = QPMapper(48, 96, queries=8, layers=2, heads=4, width=48).eval()
    states = torch.randn(1, 20, 48, requires_grad=True)
    mapper(states, torch.ones(1, 20, dtype=torch.bool)).square().sum().backward()
    assert states.grad is not None
    assert (states.grad.abs().sum(dim=2) > 0).all()


def test_the_papers_size() -> None:
    mapper = QPMapper(768, 3072)
    assert mapper.queries.shape == (32, 768)
    assert mapper.settings == {"queries": 32, "layers": 2, "heads": 8, "width": 768}
    block = 12 * 768**2 + 13 * 768  # attention 4 w^2 + 4 w, feed-forward 8 w^2 + 5 w, two norms 4 w
    assert sum(p.numel() for p in mapper.parameters()) == 2 * block + 2 * 768 + 32 * 768 + 3072 * 769


def test_a_width_that_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="not divisible"):
        QPMapper(48, 96, heads=5, width=48)


@given(st.lists(st.integers(1, 240_000), max_size=80), st.integers(1, 640_000))
def test_every_segment_is_in_one_group_and_groups_stay_in_bounds(lengths: list[int], limit: int) -> None:
    groups = group_by_length(lengths, limit)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[place] for place in group) <= limit


def test_like_lengths_go_together() -> None:
    assert group_by_length([10, 100, 11, 99], 200) == [[0, 2], [3, 1]]
    assert group_by_length([10, 12, 13, 30, 36, 37], 1000, ratio=1.2) == [[0, 1], [2], [3, 4], [5]]
