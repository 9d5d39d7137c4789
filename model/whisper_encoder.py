"""Whisper's encoder as a frozen speech encoder: the hidden states of its first layers, at each clip's own length.

Whisper was trained on 30 s of audio, padded with silence (Radford et al., 2023). Here nothing is padded, which takes a tenth
of the time: positions are cut to the clip. Audio is prepared so that neither the silence around it nor its gain changes the
states. B batch, N samples, F mel frames (100 a second), T encoder frames (50 a second), K states (T / pool, or 1),
D encoder width.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import gelu, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder as TransformersWhisper

from model.audio import SAMPLE_RATE
from model.errors import BundleError
from model.nano_encoder import trim_silence
from model.remote import explain_load_error
from model.speech_encoder import SpeechEncoder, group_by_length, length_mask, pad_states

WHISPER_STATES_TYPE = "emosllm-whisper-states"

_FFT, _HOP = 400, 160
_MEL_STRIDE = 2  # of the second convolution: two mel frames become one encoder frame
_FRAME_SAMPLES = _HOP * _MEL_STRIDE
_POWER_FLOOR = 1e-10
_MEL_RANGE = 8.0  # bels under the loudest value
# Encoder frames computed at once, 40 s: beyond it a batch only costs memory. Padding takes as long as sound, so little of it is allowed.
_MAX_BATCH_FRAMES, _MAX_LENGTH_RATIO = 2000, 1.15

Layers = Annotated[tuple[Annotated[int, Field(ge=1, le=128)], ...], Field(min_length=1, max_length=16)]


class WhisperSettings(BaseModel):
    """Which states of which Whisper a bundle hears with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Layers = (3, 4)
    """After how many transformer blocks hidden states are taken, without Whisper's final layer norm; concatenated along D."""
    pool: Annotated[int, Field(ge=1, le=50)] = 4
    """How many encoder frames are averaged to a state; 4 gives 12.5 states a second, as nano has. Not used with `statistics`."""
    statistics: bool = False
    """One state for the whole clip: mean and standard deviation over time of every channel (statistics pooling, Snyder et al., 2018)."""
    level_dbfs: Annotated[float, Field(ge=-60, le=0)] = -26.0
    """The root mean square to which a clip is scaled, in dB relative to full scale."""
    source: str = "unknown"
    """Whose weights these are, for readers: a hub name or a citation."""
    license: str = "unknown"
    """The licence of those weights."""

    @field_validator("layers")
    @classmethod
    def _in_order(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"layers {list(layers)} must be in ascending order and each named once")
        return layers


class _Sizes(BaseModel):
    """Sizes of Whisper's encoder, by their names in transformers' WhisperConfig; bounded, so that a damaged file cannot take all memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_model: Annotated[int, Field(ge=1, le=8192)]
    encoder_attention_heads: Annotated[int, Field(ge=1, le=256)]
    encoder_ffn_dim: Annotated[int, Field(ge=1, le=65536)]
    num_mel_bins: Annotated[int, Field(ge=1, le=512)]
    max_source_positions: Annotated[int, Field(ge=1, le=20000)]
    activation_function: Literal["gelu", "relu", "silu"]


class _Saved(BaseModel):
    """config.json of a folder that `WhisperEncoder.save` wrote."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["emosllm-whisper-states"] = "emosllm-whisper-states"
    settings: WhisperSettings
    whisper: _Sizes


@dataclass(frozen=True, slots=True, eq=False)
class PreparedAudio:
    """A clip as Whisper hears it. audio: float32 (N,), without silence at its edges, at the settings' level; at least 0.4 s.

    level_dbfs: the root mean square before it was scaled, in dB relative to full scale; -100 for digital silence.
    """

    audio: Tensor
    level_dbfs: float


def prepare_audio(audio: Tensor, level_dbfs: float) -> PreparedAudio:
    """Trim float32 (N,) in [-1, 1) as nano's features are trimmed, and scale what remains to a root mean square of `level_dbfs`."""
    trimmed = trim_silence(audio)
    found = 10 * torch.log10(trimmed.square().mean() + _POWER_FLOOR)
    return PreparedAudio(trimmed * 10 ** ((level_dbfs - found) / 20), float(found))


class WhisperEncoder(SpeechEncoder):
    """Any transformers WhisperModel's encoder up to the highest layer that is used, in float32.

    Sound beyond the positions that the weights have (30 s in all that OpenAI published) is not heard; segments last 15 s at most.
    Weights are rounded to float16, as they are saved, so that the states of training are those of the bundle.
    """

    gains_from_gpu = True

    def __init__(self, model: TransformersWhisper, settings: WhisperSettings) -> None:
        """Use `of`, `load` or `untrained`. model: transformers' encoder; what it has beyond the layers that are used is taken off."""
        super().__init__()
        self.settings = settings
        self.model = model
        self.model.layers = model.layers[: settings.layers[-1]]
        self.model.layer_norm = nn.Identity()
        self.width = model.config.d_model * len(settings.layers) * (2 if settings.statistics else 1)
        # One state for a clip, whose length this cannot know: a second is the shortest that a monitor makes.
        self.states_per_s = 1.0 if settings.statistics else SAMPLE_RATE / _FRAME_SAMPLES / settings.pool
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.zeros(self.width))
        self.register_buffer("scale", torch.ones(self.width))
        filters = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).mel_filters
        self._mel_filters: Tensor
        self._window: Tensor
        self.register_buffer("_mel_filters", torch.from_numpy(filters).float().T.contiguous(), persistent=False)
        self.register_buffer("_window", torch.hann_window(_FFT), persistent=False)

    @property
    def origins(self) -> Sequence[str]:
        """See SpeechEncoder."""
        used = ", ".join(map(str, self.settings.layers))
        return [f"{self.settings.source}: encoder up to layer {self.settings.layers[-1]}, states of {used}; {self.settings.license}"]

    @classmethod
    def of(cls, source: str, settings: WhisperSettings) -> Self:
        """From the hub name or folder of a whole WhisperModel; safetensors only. Raises BundleError with the reason."""
        try:
            config = AutoConfig.from_pretrained(source)
            _check(source, config, settings)
            _check_sound(source, config)
            whole, info = WhisperModel.from_pretrained(
                source, config=config, use_safetensors=True, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise BundleError(f"the speech encoder {source} cannot be loaded: {explain_load_error(source, error)}") from error
        missing = sorted(name for name in info["missing_keys"] if name.startswith("encoder."))
        if missing:
            raise BundleError(f"the speech encoder {source} is damaged: it has no {missing[0]}; get it again")
        encoder = cls(whole.encoder, settings)
        encoder.model.half().float()
        return encoder.freeze()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder that `save` wrote. Raises BundleError when its files are damaged or do not fit each other."""
        try:
            saved = _Saved.model_validate_json((folder / "config.json").read_bytes())
            weights = load_file(folder / "model.safetensors")
            with torch.device("meta"):  # sizes are compared with those of the weights before any memory is taken
                model = _random(WhisperConfig(**saved.whisper.model_dump()), saved.settings)
            encoder = cls(model, saved.settings)
            centre, scale = weights.pop("centre"), weights.pop("scale")
            encoder.model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
            encoder.standardise(centre, scale)
        except ValidationError as error:
            wrong = error.errors()[0]
            where = ".".join(str(part) for part in wrong["loc"]) or "the whole file"
            raise BundleError(f"the speech encoder in {folder} is damaged: config.json: {where}: {wrong['msg']}") from error
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise BundleError(f"the speech encoder in {folder} is damaged: {error}") from error
        return encoder.freeze()

    @classmethod
    def untrained(cls, config: WhisperConfig, settings: WhisperSettings) -> Self:
        """Random weights of a Whisper's sizes, to count and to time. Raises BundleError for layers that it does not have."""
        _check("of this size", config, settings)
        return cls(_random(config, settings), settings).freeze()

    def save(self, folder: Path) -> None:
        """Write what `load` reads: the layers that are used, in float16, and where they are from."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.half().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file({**weights, "centre": self.centre, "scale": self.scale}, folder / "model.safetensors")
        config = _Saved(settings=self.settings, whisper=_sizes(self.model.config))
        (folder / "config.json").write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")

    def standardise(self, centre: Tensor, scale: Tensor) -> None:
        """States come as (state - centre) / scale from now on, both (D,). Raises ValueError for another size, or a scale not over 0."""
        if centre.shape != (self.width,) or scale.shape != (self.width,) or not bool((scale > 0).all()):
            raise ValueError(f"centre and scale must be {self.width} numbers each, every scale over 0")
        self.centre.copy_(centre)
        self.scale.copy_(scale)

    @torch.no_grad()
    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See SpeechEncoder; D = d_model * len(layers), twice that with statistics. Clips of like length are computed together."""
        mels = [self.log_mel(prepare_audio(clip.cpu(), self.settings.level_dbfs).audio) for clip in audio]
        found: dict[int, Tensor] = {}
        for group in group_by_length([mel.shape[1] // _MEL_STRIDE for mel in mels], _MAX_BATCH_FRAMES, _MAX_LENGTH_RATIO):
            found.update(zip(group, self._states([mels[place] for place in group]), strict=True))
        return pad_states([found[place] for place in range(len(mels))])

    def log_mel(self, audio: Tensor) -> Tensor:
        """float32 (N,) to what WhisperFeatureExtractor makes of it without padding: (num_mel_bins, F), F = N // 320 * 2, on the device.

        Sound beyond the last position of the weights is left out.
        """
        frames = min(len(audio) // _FRAME_SAMPLES, self.model.config.max_source_positions)
        audio = audio[: frames * _FRAME_SAMPLES].to(self._window.device)
        spectra = torch.stft(audio, _FFT, _HOP, window=self._window, center=True, return_complex=True)[:, :-1]
        power = torch.view_as_real(spectra).square().sum(dim=-1)
        mel = (self._mel_filters @ power).clamp(min=_POWER_FLOOR).log10()
        return (torch.maximum(mel, mel.max() - _MEL_RANGE) + 4) / 4

    def _states(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Mel frames (num_mel_bins, F) of B clips to states (K, D) of each, whatever they are padded with here."""
        lengths = torch.tensor([mel.shape[1] // _MEL_STRIDE for mel in mels], device=mels[0].device)
        # Zeros after a clip are what the convolutions see after it when it is alone. F is even, so the second one, whose windows are three
        # frames around every other, never looks past the end.
        inputs = pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2)
        hidden = gelu(self.model.conv2(gelu(self.model.conv1(inputs)))).transpose(1, 2)
        hidden = hidden + self.model.embed_positions.weight[: hidden.shape[1]]
        real = length_mask(lengths, hidden.shape[1])
        attended = None if bool(real.all()) else real[:, None, None, :]
        taken = []
        for number, layer in enumerate(self.model.layers, start=1):
            hidden = layer(hidden, attended)
            if number in self.settings.layers:
                taken.append(hidden)
        states = torch.cat(taken, dim=2)
        if self.settings.statistics:
            return list((_statistics(states, real) - self.centre) / self.scale)
        pooled = (_pooled(states, real, self.settings.pool) - self.centre) / self.scale
        return [row[: math.ceil(int(length) / self.settings.pool)] for row, length in zip(pooled, lengths, strict=True)]


def _pooled(states: Tensor, real: Tensor, pool: int) -> Tensor:
    """Means (B, K, D) of `pool` states each; states (B, T, D) that are not `real` (B, T) do not count."""
    missing = -states.shape[1] % pool
    batch, width = states.shape[0], states.shape[2]
    total = pad(states * real[:, :, None], (0, 0, 0, missing)).view(batch, -1, pool, width).sum(dim=2)
    count = pad(real, (0, missing)).view(batch, -1, pool).sum(dim=2)
    return total / count.clamp(min=1)[:, :, None]


def _statistics(states: Tensor, real: Tensor) -> Tensor:
    """Mean and standard deviation over time of states (B, T, D) that are `real` (B, T), as one state each: (B, 1, 2 D)."""
    weight = real[:, :, None] / real.sum(dim=1)[:, None, None]
    mean = (states * weight).sum(dim=1, keepdim=True)
    spread = ((states - mean).square() * weight).sum(dim=1, keepdim=True).sqrt()
    return torch.cat([mean, spread], dim=2)


def _random(config: WhisperConfig, settings: WhisperSettings) -> TransformersWhisper:
    """transformers' encoder of these sizes with random weights, as deep as it is used."""
    used = WhisperConfig(**{**config.to_dict(), "encoder_layers": settings.layers[-1], "attn_implementation": "sdpa"})
    return TransformersWhisper(used)


def _check(source: str, config: Any, settings: WhisperSettings) -> None:
    """Raises BundleError for what is no Whisper, for layers that it does not have, and for sizes that could not be saved."""
    if not isinstance(config, WhisperConfig):
        raise BundleError(f"the speech encoder {source} is a {config.model_type}, not a Whisper")
    if settings.layers[-1] > config.encoder_layers:
        raise BundleError(f"the speech encoder {source} has {config.encoder_layers} layers; there is no layer {settings.layers[-1]}")
    try:
        _sizes(config)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise BundleError(f"the speech encoder {source} is not usable: its {wrong['loc'][0]}: {wrong['msg']}") from error


def _sizes(config: WhisperConfig) -> _Sizes:
    return _Sizes(**{name: getattr(config, name) for name in _Sizes.model_fields})


def _check_sound(source: str, config: WhisperConfig) -> None:
    """Raises BundleError where the feature extractor beside the weights makes other features than log_mel; a folder may have none."""
    try:
        extractor = WhisperFeatureExtractor.from_pretrained(source)
    except OSError:
        return
    wanted = {"sampling_rate": SAMPLE_RATE, "n_fft": _FFT, "hop_length": _HOP, "feature_size": config.num_mel_bins}
    for name, value in wanted.items():
        if getattr(extractor, name) != value:
            raise BundleError(f"the speech encoder {source} wants {name} {getattr(extractor, name)}, not {value}")
