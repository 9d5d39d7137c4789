"""Frozen speech encoders: sound in, one state per encoder frame out. WavLM and its kin through transformers, or nano's own.

B batch, N samples, T encoder frames, D encoder width. Padding never changes the states of the sound beside it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from transformers import AutoFeatureExtractor, AutoModel

from model.audio import SAMPLE_RATE
from model.errors import BundleError
from model.features import N_MELS, N_PROSODY, analyse, normalise
from model.hub import why_not
from model.nano_states import StackedBranches

NANO_TYPE = "emosllm-nano-encoder"


class SpeechEncoder(nn.Module):
    """What every encoder offers. Once frozen, parameters take no gradient and `train()` leaves it in eval mode."""

    width: int
    _frozen = False

    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """B float32 tensors (N,) in [-1, 1), of any lengths, to states (B, T, D) and a bool mask (B, T), True where real."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the encoder to a folder that `load_encoder` reads."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder stays in eval mode: dropout or batch statistics would change what the mapper is trained on."""
        return super().train(mode and not self._frozen)

    def freeze(self) -> Self:
        """Take all parameters out of training, for good."""
        self._frozen = True
        self.requires_grad_(False)
        return self.eval()


class TransformersEncoder(SpeechEncoder):
    """Any transformers speech encoder with a feature extractor beside it: WavLM, wav2vec 2.0, HuBERT, ... (paper, 3.1)."""

    def __init__(self, model: nn.Module, extractor: Any) -> None:
        super().__init__()
        self.model = model
        self.extractor = extractor
        self.width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @classmethod
    def load(cls, source: str) -> Self:
        """From a hub name or a folder; safetensors only. Raises BundleError when it is missing or not a speech encoder."""
        try:
            extractor = AutoFeatureExtractor.from_pretrained(source)
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise BundleError(f"the speech encoder {source} cannot be loaded: {why_not(source, error)}") from error
        if extractor.sampling_rate != SAMPLE_RATE:
            raise BundleError(f"the speech encoder {source} wants {extractor.sampling_rate} Hz, not {SAMPLE_RATE} Hz")
        if not hasattr(model, "_get_feature_vector_attention_mask"):
            raise BundleError(f"{source} is a {type(model).__name__}, not an encoder of raw speech such as WavLM")
        return cls(model, extractor).freeze()

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        self.model.save_pretrained(folder)  # type: ignore[operator]
        self.extractor.save_pretrained(folder)

    @torch.no_grad()
    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See SpeechEncoder. Encoders with group norm were pre-trained without a mask and would let padding in: one at a time."""
        device = next(self.model.parameters()).device
        alone = getattr(self.model.config, "feat_extract_norm", "layer") == "group"
        groups = [[clip] for clip in audio] if alone else [list(audio)]
        states = [state for group in groups for state in self._encode(group, device)]
        return _pad(states)

    def _encode(self, audio: list[Tensor], device: torch.device) -> list[Tensor]:
        batch = self.extractor(
            [clip.cpu().numpy() for clip in audio],
            sampling_rate=SAMPLE_RATE,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        states = self.model(**batch).last_hidden_state
        # transformers offers no public name for "how many frames do these samples become"; every encoder of the family has this one.
        mask = self.model._get_feature_vector_attention_mask(  # type: ignore[operator]
            states.shape[1], batch["attention_mask"], add_adapter=False
        )
        return [state[real.bool()] for state, real in zip(states, mask, strict=True)]


class NanoEncoder(SpeechEncoder):
    """Convolutional recurrent encoders of a quarter of a million parameters each over log-mel and pitch, trained by this project.

    Several of them, from different random weights, hear the same features side by side; a state is what all of them say, so D is
    branches * width. They err on different voices, and together less (Hansen and Salamon, 1990). 12.5 states per second.
    """

    def __init__(self, branches: int = 1, channels: Sequence[int] = (16, 32, 64, 96), width: int = 128, prosody_width: int = 32) -> None:
        super().__init__()
        self.settings = {"branches": branches, "channels": list(channels), "width": width, "prosody_width": prosody_width}
        self.width = branches * width
        self.branches = nn.ModuleList(_Branch(channels, width, prosody_width) for _ in range(branches))
        self._stacked: StackedBranches | None = None

    @classmethod
    def of(cls, single: Sequence["NanoEncoder"]) -> "NanoEncoder":
        """Encoders of one branch each, side by side; they share their weights with the new one."""
        settings = {name: value for name, value in single[0].settings.items() if name != "branches"}
        joined = cls(len(single), **settings)  # type: ignore[arg-type]
        joined.branches = nn.ModuleList(branch for encoder in single for branch in encoder.branches)
        return joined

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder with config.json and model.safetensors. Raises BundleError when the two do not fit."""
        try:
            settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["settings"]
            encoder = cls(**settings)
            encoder.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(f"the speech encoder in {folder} is damaged: {error}") from error
        encoder.freeze()
        return encoder

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")
        config = {"model_type": NANO_TYPE, "settings": self.settings}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @torch.no_grad()
    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See SpeechEncoder; D = branches * width."""
        features = [normalise(analyse(clip)) for clip in audio]
        lengths = torch.tensor([len(clip) for clip in features])
        return self.states(pad_sequence(features, batch_first=True), lengths)

    def states(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, F, N_FEATURES), F feature frames of which `lengths` (B,) are real, to states (B, F / 4, D) and mask."""
        if self._frozen:
            with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
                self._stacked = self._stacked or StackedBranches(list(self.branches))
                return self._stacked(features.float(), lengths)
        heard = [branch(features, lengths) for branch in self.branches]
        return torch.cat([states for states, _ in heard], dim=2), heard[0][1]


class _Branch(nn.Module):
    """Four 3x3 convolutions (time / 4), prosody through two 1-D convolutions, then a residual bidirectional GRU."""

    def __init__(self, channels: Sequence[int], width: int, prosody_width: int) -> None:
        super().__init__()
        stages = list(zip((2, *channels), channels, ((2, 2), (2, 2), (2, 1), (2, 1)), strict=False))
        self.bands = nn.ModuleList(_band_stage(i, o, stride) for i, o, stride in stages)
        self.prosody = nn.ModuleList([_line_stage(N_PROSODY, prosody_width), _line_stage(prosody_width, prosody_width)])
        self.join = nn.Linear(channels[-1] * (N_MELS // 16) + prosody_width, width)
        self.join_norm = nn.LayerNorm(width)
        self.context = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.context_norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As NanoEncoder.states, with D = width."""
        bands = features[:, :, : 2 * N_MELS].reshape(*features.shape[:2], 2, N_MELS).permute(0, 2, 3, 1)  # (B, 2, N_MELS, F)
        frames = lengths
        for stage, time_stride in zip(self.bands, (2, 2, 1, 1), strict=True):
            frames = torch.div(frames + time_stride - 1, time_stride, rounding_mode="floor")
            bands = stage(bands)
            bands = bands * _mask(frames, bands.shape[3])[:, None, None, :]
        line, line_frames = features[:, :, 2 * N_MELS :].transpose(1, 2), lengths
        for stage in self.prosody:
            line_frames = torch.div(line_frames + 1, 2, rounding_mode="floor")
            line = stage(line)
            line = line * _mask(line_frames, line.shape[2])[:, None, :]
        joined = torch.cat([bands.flatten(1, 2), line], dim=1).transpose(1, 2)
        states = self.join_norm(self.join(joined).float())
        packed = pack_padded_sequence(states, frames, batch_first=True, enforce_sorted=False)
        # Half precision, where training uses it, is for the convolutions; recurrent layers on a CPU are single precision.
        with torch.autocast(features.device.type, enabled=False):
            context, _ = pad_packed_sequence(self.context(packed)[0], batch_first=True, total_length=states.shape[1])
            mask = _mask(frames, states.shape[1])
            return self.context_norm(states + context) * mask[:, :, None], mask


def load_encoder(source: str) -> SpeechEncoder:
    """The encoder at a folder or hub name, whichever kind it is. Raises BundleError."""
    config = Path(source) / "config.json"
    if config.is_file():
        try:
            kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError) as error:
            raise BundleError(f"{config} is damaged: {error}") from error
        if kind == NANO_TYPE:
            return NanoEncoder.load(config.parent)
    return TransformersEncoder.load(source)


def _band_stage(channels_in: int, channels_out: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def _line_stage(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(channels_in, channels_out, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm1d(channels_out),
        nn.ReLU(),
    )


def _mask(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size) < lengths[:, None]


def _pad(states: list[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(state) for state in states])
    padded = pad_sequence(states, batch_first=True)
    return padded, _mask(lengths, padded.shape[1]).to(padded.device)
