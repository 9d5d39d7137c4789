"""The frozen speech encoders of a bundle, and the one function that loads them: WavLM and its kin, Whisper, nano's own.

B batch, N samples, T encoder frames, D encoder width. Padding never changes the states of real frames. A new kind of
encoder implements SpeechEncoder and is registered here.
"""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from model.audio import SAMPLE_RATE
from model.errors import BundleError
from model.nano_encoder import HOP_SAMPLES, N_MELS, N_PROSODY, StackedBranches, extract_features, normalise_features
from model.remote import explain_load_error
from model.speech_encoder import SpeechEncoder, length_mask, pad_states
from model.whisper_encoder import WHISPER_STATES_TYPE, WhisperEncoder, WhisperSettings

__all__ = ["CombinedEncoder", "NanoEncoder", "SpeechEncoder", "TransformersEncoder", "is_project_encoder", "load_encoder"]

NANO_TYPE = "emosllm-nano-encoder"
COMBINED_TYPE = "emosllm-combined-encoder"
_FRAMES_PER_STATE = 4  # of nano's features
_MOST_PARTS = 8


class TransformersEncoder(SpeechEncoder):
    """Any transformers speech encoder with a feature extractor beside it: WavLM, wav2vec 2.0, HuBERT, ... (paper, 3.1)."""

    gains_from_gpu = True

    def __init__(self, model: nn.Module, extractor: Any) -> None:
        super().__init__()
        self.model = model
        self.extractor = extractor
        self.width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.states_per_s = SAMPLE_RATE / math.prod(model.config.conv_stride)  # type: ignore[union-attr, arg-type]

    @classmethod
    def load(cls, source: str) -> Self:
        """From a hub name or a folder; safetensors only. Raises BundleError when it is missing or not a speech encoder."""
        try:
            extractor = AutoFeatureExtractor.from_pretrained(source)
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise BundleError(f"the speech encoder {source} cannot be loaded: {explain_load_error(source, error)}") from error
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
        return pad_states(states)

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
        self.states_per_s = SAMPLE_RATE / HOP_SAMPLES / _FRAMES_PER_STATE
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
        features = [normalise_features(extract_features(clip)) for clip in audio]
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
            bands = bands * length_mask(frames, bands.shape[3])[:, None, None, :]
        line, line_frames = features[:, :, 2 * N_MELS :].transpose(1, 2), lengths
        for stage in self.prosody:
            line_frames = torch.div(line_frames + 1, 2, rounding_mode="floor")
            line = stage(line)
            line = line * length_mask(line_frames, line.shape[2])[:, None, :]
        joined = torch.cat([bands.flatten(1, 2), line], dim=1).transpose(1, 2)
        states = self.join_norm(self.join(joined).float())
        packed = pack_padded_sequence(states, frames, batch_first=True, enforce_sorted=False)
        # Half precision, where training uses it, is for the convolutions; recurrent layers on a CPU are single precision.
        with torch.autocast(features.device.type, enabled=False):
            context, _ = pad_packed_sequence(self.context(packed)[0], batch_first=True, total_length=states.shape[1])
            mask = length_mask(frames, states.shape[1])
            return self.context_norm(states + context) * mask[:, :, None], mask


class CombinedEncoder(SpeechEncoder):
    """Several encoders that hear the same clip; a state is what all of them say, so D is the sum of their widths.

    They must give as many states a second as each other. Whisper and nano trim silence alike, so their states lie beside each other within
    one state; where one has a state more than another at the end of a clip, that state is left out.
    """

    def __init__(self, parts: Sequence[SpeechEncoder]) -> None:
        """Raises BundleError for encoders whose states are not of the same length."""
        super().__init__()
        rates = sorted({part.states_per_s for part in parts})
        if len(rates) != 1:
            raise BundleError(f"encoders side by side need as many states a second as each other, not {rates}; change Whisper's `pool`")
        self.parts = nn.ModuleList(parts)
        self.width, self.states_per_s = sum(part.width for part in parts), rates[0]

    @property
    def origins(self) -> Sequence[str]:
        """See SpeechEncoder."""
        return [origin for part in self._parts for origin in part.origins]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder that `save` wrote. Raises BundleError with the part that is damaged."""
        try:
            count = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["parts"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the speech encoder in {folder} is damaged: {error}") from error
        if not 1 <= count <= _MOST_PARTS:
            raise BundleError(f"the speech encoder in {folder} is damaged: config.json names {count} parts")
        names = [_part_name(number) for number in range(count)]
        for name in names:
            if not (folder / name / "config.json").is_file():
                raise BundleError(f"the speech encoder in {folder} is damaged: {name} is missing")
        return cls([load_encoder(str(folder / name)) for name in names]).freeze()

    def save(self, folder: Path) -> None:
        """Write each encoder to a folder of its own inside `folder`, and how many there are."""
        for number, part in enumerate(self._parts):
            part.save(folder / _part_name(number))
        config = {"model_type": COMBINED_TYPE, "parts": len(self.parts)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @torch.no_grad()
    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See SpeechEncoder; the parts' states in their order along D."""
        heard = [part(audio) for part in self._parts]
        shortest = min(states.shape[1] for states, _ in heard)
        real = torch.stack([mask[:, :shortest] for _, mask in heard]).all(dim=0)
        return torch.cat([states[:, :shortest] for states, _ in heard], dim=2) * real[:, :, None], real

    def freeze(self) -> Self:
        """See SpeechEncoder; the parts too, of which nano hears quicker then."""
        for part in self._parts:
            part.freeze()
        return super().freeze()

    @property
    def _parts(self) -> list[SpeechEncoder]:
        return [part for part in self.parts if isinstance(part, SpeechEncoder)]


def _part_name(number: int) -> str:
    return f"part-{number + 1}"


_PROJECT_ENCODERS: dict[str, Callable[[Path], SpeechEncoder]] = {
    NANO_TYPE: NanoEncoder.load,
    WHISPER_STATES_TYPE: WhisperEncoder.load,
    COMBINED_TYPE: CombinedEncoder.load,
}


def is_project_encoder(source: str) -> bool:
    """Whether `source` is a folder that an encoder of this project was saved to. Raises BundleError for a damaged config.json."""
    return _type_in(source) in _PROJECT_ENCODERS


def load_encoder(source: str) -> SpeechEncoder:
    """The encoder at a folder or hub name, whichever kind it is; of a whole Whisper, the states that WhisperSettings has by default.

    Raises BundleError.
    """
    kind = _type_in(source)
    if kind in _PROJECT_ENCODERS:
        return _PROJECT_ENCODERS[kind](Path(source))
    if kind is None:
        with suppress(OSError, ValueError):  # what cannot be had is told by TransformersEncoder
            kind = AutoConfig.from_pretrained(source).model_type
    if kind == "whisper":
        return WhisperEncoder.of(source, WhisperSettings(source=source))
    return TransformersEncoder.load(source)


def _type_in(source: str) -> str | None:
    """What a folder's config.json says that it is; None where there is no such file."""
    config = Path(source) / "config.json"
    if not config.is_file():
        return None
    try:
        return str(json.loads(config.read_text(encoding="utf-8")).get("model_type"))
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{config} is damaged: {error}") from error


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
