"""Whisper as an encoder: transformers' own numbers at a clip's own length, whatever is beside it, around it and however loud it is."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import gelu
from transformers import WhisperFeatureExtractor, WhisperModel

from model.audio import SAMPLE_RATE
from model.bundle import load_merged_llm, open_bundle
from model.bundle_format import read_bundle_manifest
from model.encoders import CombinedEncoder, NanoEncoder, load_encoder
from model.errors import BundleError
from model.nano_encoder import HOP_SAMPLES
from model.predictor import Predictor, SpeechInput
from model.whisper_encoder import WhisperEncoder, WhisperSettings, prepare_audio
from tests.support import tiny
from tests.support.commands import run
from tests.support.corpora import CONTOURS, QUICK, TAKES, write_corpus

SETTINGS = WhisperSettings(layers=(1, 2), source="somebody/whisper", license="MIT")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny Whisper in a folder."""
    return tiny.whisper(tmp_path_factory.mktemp("whisper"))


def encoder_of(whole: Path, **settings: Any) -> WhisperEncoder:
    return WhisperEncoder.of(str(whole), SETTINGS.model_copy(update=settings))


def voice(seconds: float, seed: int = 0) -> Tensor:
    """A gliding tone with harmonics in a little noise, with 0.2 s of near silence at both ends, which is trimmed in part."""
    random = torch.Generator().manual_seed(seed)
    hz = torch.linspace(120, 220, int(seconds * SAMPLE_RATE)) * (1 + 0.1 * seed)
    phase = 2 * torch.pi * hz.cumsum(0) / SAMPLE_RATE
    tone = sum((torch.sin(k * phase) / k for k in range(1, 6)), torch.zeros(())) * 0.05
    edge = torch.zeros(SAMPLE_RATE // 5)
    clip = torch.cat([edge, tone, edge])
    return clip + 1e-5 * torch.randn(len(clip), generator=random)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=tolerance, atol=tolerance)


def test_a_clip_says_the_same_whatever_is_in_its_batch(whole: Path) -> None:
    encoder = encoder_of(whole)
    clips = [voice(seconds, seed) for seed, seconds in enumerate((1.0, 3.1, 0.1, 7.0, 1.01, 2.97, 5.0, 6.5, 6.9, 7.1, 6.4))]
    together, mask = encoder(clips)
    assert together.shape[2] == encoder.width == 96
    for clip, states, real in zip(clips, together, mask, strict=True):
        alone, all_real = encoder([clip])
        assert all_real.all()
        assert close(states[real], alone[0])
        assert (states[~real] == 0).all()


@pytest.mark.parametrize("layer", [1, 3])
def test_states_are_those_of_transformers_blocks_at_the_clip_s_own_length(whole: Path, layer: int) -> None:
    encoder = encoder_of(whole, layers=(layer,), pool=1)
    mel = encoder.log_mel(prepare_audio(voice(2.3), SETTINGS.level_dbfs).audio)
    plain = WhisperModel.from_pretrained(whole).encoder.eval()
    with torch.no_grad():
        hidden = gelu(plain.conv2(gelu(plain.conv1(mel[None])))).transpose(1, 2)
        hidden = hidden + plain.embed_positions(torch.arange(hidden.shape[1]))
        for block in plain.layers[:layer]:
            hidden = block(hidden, None)
    states, _ = encoder([voice(2.3)])
    # Half precision, in which weights are kept, is good to three digits.
    assert close(states, hidden, 1e-2)
    assert states.std() > 0.5


def test_at_full_length_they_are_those_of_transformers_whole_encoder(whole: Path) -> None:
    encoder = encoder_of(whole, layers=(3,), pool=1)
    mel = encoder.log_mel(0.1 * torch.randn(9 * SAMPLE_RATE))
    assert mel.shape == (80, 800)
    plain = WhisperModel.from_pretrained(whole).encoder.eval()
    with torch.no_grad():
        expected = plain(mel[None]).last_hidden_state
        found = plain.layer_norm(encoder._states([mel])[0])
    assert close(found[None], expected, 1e-2)


def test_the_spectrogram_is_that_of_whisper_s_feature_extractor_without_padding(whole: Path) -> None:
    audio = prepare_audio(voice(1.7), SETTINGS.level_dbfs).audio
    audio = audio[: len(audio) // HOP_SAMPLES * HOP_SAMPLES]
    expected = WhisperFeatureExtractor()(audio.numpy(), sampling_rate=SAMPLE_RATE, padding="do_not_pad", return_tensors="pt")
    assert close(encoder_of(whole).log_mel(audio)[None], expected["input_features"])


def test_pooled_states_are_means_of_frames_and_the_last_of_those_that_are_there(whole: Path) -> None:
    clips = [voice(1.03), voice(2.0), voice(1.05)]
    frames, frame_mask = encoder_of(whole, pool=1)(clips)
    states, mask = encoder_of(whole, pool=4)(clips)
    for many, real, few, there in zip(frames, frame_mask, states, mask, strict=True):
        many, few = many[real], few[there]
        assert len(few) == math.ceil(len(many) / 4)
        for number, state in enumerate(few):
            assert close(state, many[4 * number : 4 * number + 4].mean(dim=0))
    assert any(int(real.sum()) % 4 for real in frame_mask), "no clip had an incomplete group"
    assert encoder_of(whole).states_per_s == 12.5


def test_neither_silence_around_a_clip_nor_its_gain_changes_its_states(whole: Path) -> None:
    encoder, clip = encoder_of(whole), voice(1.5)
    expected, _ = encoder([clip])
    quieter, _ = encoder([clip * 0.1])
    assert close(quieter, expected, 1e-3)
    silence = 1e-5 * torch.randn(40 * HOP_SAMPLES)
    surrounded, _ = encoder([torch.cat([silence, clip, silence[: 10 * HOP_SAMPLES]])])
    assert close(surrounded, expected, 1e-3)
    different, _ = encoder([voice(1.5, seed=3)])
    assert not close(different, expected, 0.1)


def test_the_level_is_kept_as_a_figure_and_can_be_set() -> None:
    loud = prepare_audio(voice(1.0), -26.0)
    quiet = prepare_audio(voice(1.0) * 0.1, -26.0)
    assert loud.level_dbfs - quiet.level_dbfs == pytest.approx(20, abs=0.01)
    for level in (-26.0, -12.0):
        scaled = prepare_audio(voice(1.0), level).audio
        assert 10 * torch.log10(scaled.square().mean()) == pytest.approx(level, abs=0.01)
    assert prepare_audio(torch.zeros(SAMPLE_RATE), -26.0).level_dbfs == pytest.approx(-100)


@pytest.mark.parametrize("samples", [0, 1, 319, 6399])
def test_what_is_shorter_than_two_fifths_of_a_second_is_filled_up(whole: Path, samples: int) -> None:
    states, mask = encoder_of(whole)([0.1 * torch.randn(samples)])
    assert mask.sum() == 5
    assert torch.isfinite(states).all()


def test_sound_beyond_the_last_position_is_not_heard(whole: Path) -> None:
    clip = 0.1 * torch.randn(10 * SAMPLE_RATE)
    states, mask = encoder_of(whole)([clip, clip[:SAMPLE_RATE]])
    assert mask.sum(dim=1).tolist() == [100, 13]
    assert torch.isfinite(states).all()


def test_a_saved_encoder_has_the_used_weights_in_half_precision_and_hears_the_same(whole: Path, tmp_path: Path) -> None:
    encoder = encoder_of(whole)
    encoder.save(tmp_path / "saved")
    weights = load_file(tmp_path / "saved/model.safetensors")
    assert torch.equal(weights.pop("centre"), encoder.centre)
    assert torch.equal(weights.pop("scale"), encoder.scale)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert not [name for name in weights if name.startswith(("layers.2.", "decoder", "layer_norm"))]
    assert sum(tensor.numel() for tensor in weights.values()) == sum(parameter.numel() for parameter in encoder.parameters())
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["settings"] == {
        "layers": [1, 2],
        "pool": 4,
        "statistics": False,
        "level_dbfs": -26.0,
        "source": "somebody/whisper",
        "license": "MIT",
    }
    loaded = load_encoder(str(tmp_path / "saved"))
    assert loaded.origins == encoder.origins == ["somebody/whisper: encoder up to layer 2, states of 1, 2; MIT"]
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    clips = [voice(1.0), voice(2.0)]
    assert torch.equal(loaded(clips)[0], encoder(clips)[0])


def test_a_plain_whisper_is_an_encoder_by_itself(tmp_path: Path) -> None:
    """With the states that are taken by default, of a model that has as many layers."""
    folder = tiny.whisper(tmp_path / "deep", encoder_layers=4)
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, WhisperEncoder)
    assert (encoder.settings.layers, encoder.settings.source, encoder.width) == ((3, 4), str(folder), 96)


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for section, values in changes.items():
            config[section] |= values
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["layers.1.fc1.weight"]
    save_file(weights, folder / "model.safetensors")


def _cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_config(settings={"pool": 0}), r"settings\.pool: .* greater than or equal to 1"),
        (_config(settings={"layers": [2, 1]}), "ascending order"),
        (_config(settings={"layers": [10**9]}), r"settings\.layers\.0: .* less than or equal to 128"),
        (_config(settings={"layers": [1, 3]}), "Missing key.*layers.2"),
        (_config(settings={"layers": [1]}), "Unexpected key.*layers.1"),
        (_config(settings={"colour": "red"}), r"settings\.colour: Extra"),
        (_config(whisper={"d_model": 10**9}), r"whisper\.d_model"),
        (_config(whisper={"d_model": 8192}), "size mismatch"),
        (_config(whisper={"encoder_attention_heads": 7}), "divisible"),
        (_config(whisper={"activation_function": "sneeze"}), r"whisper\.activation_function"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "emosllm-whisper-states"}'), "settings: Field required"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "No such file"),
        (_without_a_weight, r"Missing key.*layers\.1\.fc1\.weight"),
        (_cut, "damaged"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(whole: Path, tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    encoder_of(whole).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(BundleError, match=f"(?s){told}"):
        load_encoder(str(tmp_path))


def _as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _without_an_encoder_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.conv1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: WhisperFeatureExtractor(sampling_rate=8000).save_pretrained(folder), "sampling_rate 8000, not 16000"),
        (lambda folder: WhisperFeatureExtractor(feature_size=128).save_pretrained(folder), "feature_size 128, not 80"),
        (_without_an_encoder_weight, r"has no encoder\.conv1\.weight"),
        (_as_pickle, "cannot be loaded"),
        (_cut, "cannot be loaded"),
        (shutil.rmtree, "check the name and the network"),
    ],
)
def test_a_whole_whisper_that_is_no_use_is_refused(tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    folder = tiny.whisper(tmp_path / "whisper")
    damage(folder)
    with pytest.raises(BundleError, match=told):
        encoder_of(folder)


def test_sizes_that_could_not_be_saved_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    folder = tiny.whisper(tmp_path / "whisper")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "gelu_new"}))
    with pytest.raises(BundleError, match="activation_function: Input should be 'gelu'"):
        encoder_of(folder)


def test_layers_that_a_whisper_does_not_have_and_other_models_are_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has 3 layers; there is no layer 4"):
        load_encoder(str(whole))
    with pytest.raises(BundleError, match="is a wavlm, not a Whisper"):
        encoder_of(tiny.wavlm(tmp_path / "wavlm"))


@pytest.fixture
def combined(whole: Path) -> CombinedEncoder:
    """A Whisper and nano's encoder with random weights."""
    torch.manual_seed(0)
    return CombinedEncoder([encoder_of(whole), NanoEncoder(2, width=16)]).freeze()


def test_encoders_side_by_side_say_what_each_says_about_the_same_moment(combined: CombinedEncoder) -> None:
    clips = [voice(1.0), voice(2.73), torch.cat([voice(1.5), torch.zeros(SAMPLE_RATE)])]
    states, mask = combined(clips)
    assert states.shape[2] == combined.width == 96 + 32
    for clip, both, real in zip(clips, states, mask, strict=True):
        alone = [part([clip])[0][0] for part in combined.parts]
        assert abs(len(alone[0]) - len(alone[1])) <= 1
        count = int(real.sum())
        assert count == min(map(len, alone))
        assert close(both[:count], torch.cat([part[:count] for part in alone], dim=1))


def test_encoders_side_by_side_come_back_from_their_folder(combined: CombinedEncoder, tmp_path: Path) -> None:
    combined.save(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded([voice(1.0)])[0], combined([voice(1.0)])[0])
    assert loaded.origins == combined.origins == combined.parts[0].origins
    shutil.rmtree(tmp_path / "part-2")
    with pytest.raises(BundleError, match="damaged: part-2 is missing"):
        load_encoder(str(tmp_path))
    for parts in (0, 10**9, "many"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "emosllm-combined-encoder", "parts": parts}))
        with pytest.raises(BundleError, match="damaged"):
            load_encoder(str(tmp_path))


def test_encoders_of_different_pace_do_not_go_side_by_side(whole: Path) -> None:
    with pytest.raises(BundleError, match=r"states a second as each other, not \[12\.5, 25\.0\]"):
        CombinedEncoder([encoder_of(whole, pool=2), NanoEncoder()])


@pytest.fixture(scope="module")
def released(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle trained in seconds by the installed command on tones, with a Whisper beside nano's encoder as the frozen ear."""
    folder = tmp_path_factory.mktemp("tones")
    torch.manual_seed(0)
    NanoEncoder(1, width=16).freeze().save(folder / "nano")
    encoder = f"""
[encoder]
kind = "combined"
[[encoder.parts]]
kind = "whisper"
source = "{whole}"
origin = "openai/whisper-small-enough"
license = "MIT"
layers = [1, 3]
[[encoder.parts]]
source = "{folder / "nano"}"
"""
    recipe = re.sub(r"\[encoder\].*?(?=\[mapper\])", encoder, QUICK, flags=re.DOTALL)
    recipe = recipe.replace("teacher_share = 0.5\n", "").replace("steps = 26\n", "steps = 4\n")
    recipe = recipe.replace('sampling = "shuffle"\n', 'sampling = "shuffle"\ncache_states = true\n')
    (folder / "recipe.toml").write_text(recipe)
    manifest = write_corpus(folder)
    arguments = ["--recipe", str(folder / "recipe.toml"), "--manifest", str(manifest), "--work", str(folder / "work")]
    done = run("train", *arguments, "--out", str(folder / "bundle"))
    assert done.returncode == 0, done.stderr
    return folder / "bundle"


def test_a_recipe_names_a_whisper_and_the_bundle_carries_its_layers(released: Path, whole: Path) -> None:
    manifest = read_bundle_manifest(released)
    assert manifest.encoder == "encoder"
    assert manifest.pretrained == ["openai/whisper-small-enough: encoder up to layer 3, states of 1, 3; MIT"]
    config = json.loads((released / "encoder/part-1/config.json").read_text())
    assert (config["settings"]["source"], config["settings"]["license"]) == ("openai/whisper-small-enough", "MIT")
    assert str(whole) not in (released / "README.md").read_text() + (released / "LICENSE").read_text() + json.dumps(config)
    assert f"## Built on\n\n- {manifest.pretrained[0]}" in (released / "README.md").read_text()
    assert "Copyright (c) 2022 OpenAI" in (released / "LICENSE").read_text()


def test_its_states_are_kept_once_for_each_clip_that_is_trained_on(released: Path) -> None:
    (kept,) = (released.parent / "work").glob("states-combined-*")
    files = list(kept.rglob("*.safetensors"))
    assert len(files) == 3 * len(CONTOURS) * TAKES
    (states,) = load_file(files[0]).values()
    assert (states.dtype, states.shape[1]) == (torch.float16, 96 + 16)


def test_its_bundle_answers_without_the_whole_whisper(released: Path) -> None:
    bundle = open_bundle(released)
    assert bundle.encoder.width == 96 + 16
    sounds = [SpeechInput(voice(seconds).numpy()) for seconds in (1.0, 1.5)]
    answers = Predictor(bundle, load_merged_llm(bundle)).predict(sounds)
    for answer, alone in zip(answers, [Predictor(bundle, load_merged_llm(bundle)).predict([sound])[0] for sound in sounds], strict=True):
        assert answer.prediction is not None
        assert alone.prediction is not None
        assert sum(answer.prediction.posterior.values()) == pytest.approx(1)
        assert answer.prediction.posterior == pytest.approx(alone.prediction.posterior, abs=1e-4)


def test_statistics_are_one_state_a_clip_whatever_else_is_heard_and_however_loud(whole: Path) -> None:
    encoder = encoder_of(whole, statistics=True)
    clips = [0.1 * torch.randn(int(seconds * SAMPLE_RATE)) for seconds in (1.0, 4.0, 2.5)]
    states, mask = encoder(clips)
    assert mask.all()
    frames, real = encoder_of(whole, pool=1)(clips)
    for i, clip in enumerate(clips):
        own = frames[i][real[i]]
        wanted = torch.cat([own.mean(dim=0), own.std(dim=0, correction=0)])
        assert torch.allclose(states[i, 0], wanted, atol=1e-4)
        assert torch.allclose(states[i], encoder([clip / 10])[0][0], atol=1e-3)
    encoder.standardise(states[:, 0].mean(dim=0), torch.full((encoder.width,), 2.0))
    assert torch.allclose(encoder(clips)[0], (states - states.mean(dim=0)) / 2, atol=1e-4)
    with pytest.raises(ValueError, match="every scale over 0"):
        encoder.standardise(encoder.centre, torch.zeros(encoder.width))
