"""A bundle in memory: encoder, mapper, language model and their calibration, loaded together or not at all.

B batch, N samples, Q queries, H hidden size, L letters. `open_bundle` loads what turns sound into speech embeds; the language model is
loaded apart, because an engine may hold it elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.adapter import Adapter
from model.audio import Float32
from model.encoder import SpeechEncoder, load_encoder
from model.errors import BundleError
from model.familiarity import Familiarity
from model.manifest import NORMALISER, BundleManifest, read_manifest, verify
from model.mapper import QPMapper
from model.priors import Prior, corrected, marked
from model.speech_llm import SpeechLLM
from model.types import Prediction
from model.voice_reference import ReferenceSettings


@dataclass(frozen=True)
class Bundle:
    """The front half of a released set, and what is needed to read the back half's answer.

    reference_settings: how sums of a voice become what is subtracted from its states; None where the bundle does not normalise.
    familiarity: how unlike training speech an utterance is; None where the bundle does not tell.
    prior: what its posteriors are corrected to; None leaves them under the prior of its training.
    """

    folder: Path
    manifest: BundleManifest
    encoder: SpeechEncoder
    mapper: QPMapper
    reference_settings: ReferenceSettings | None = None
    familiarity: Familiarity | None = None
    prior: Prior | None = None

    @property
    def voice_space(self) -> str | None:
        """See BundleManifest."""
        return self.manifest.voice_space

    def uncalibrated(self) -> "Bundle":
        """The same, with its answers as the language model gives them: no letter bias, temperature 1, the prior of its training, nothing
        unsure."""
        plain = {"letter_bias": {}, "temperature": 1.0, "unsure_below": 0.0}
        return replace(self, manifest=self.manifest.model_copy(update=plain), prior=None)

    def under(self, prior: Prior) -> "Bundle":
        """The same, its posteriors corrected to a prior; one that does not state the prior of its training is left as it is."""
        return self if self.manifest.training_prior is None else replace(self, prior=prior)

    @property
    def version(self) -> str:
        """What its predictions name: the version, and the prior that they are corrected to."""
        return marked(self.manifest.version, self.prior)

    @torch.inference_mode()
    def states(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """B float32 tensors (N,) in [-1, 1) at SAMPLE_RATE to encoder states (B, T, D) and their mask (B, T), True where real."""
        return self.encoder(audio)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def speech_embeds(self, audio: Sequence[Tensor], shift: Float32 | None = None) -> Tensor:
        """B float32 tensors (N,) in [-1, 1) at SAMPLE_RATE to speech embeds (B, Q, H), float32, on the mapper's device."""
        return self.embeds_of(*self.states(audio), shift)

    @torch.inference_mode()
    def embeds_of(self, states: Tensor, mask: Tensor, shift: Float32 | None = None) -> Tensor:
        """Encoder states (B, T, D) and mask (B, T), True where real, to speech embeds (B, Q, H), float32, on the mapper's device.

        shift: float32 (D,), the reference of the voice, from `shift_of`; subtracted from every state.
        """
        device = self.mapper.queries.device
        if shift is not None:
            states = states - torch.from_numpy(shift).to(states.device)
        return self.mapper(states.to(device), mask.to(device))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def distances(self, states: Tensor, mask: Tensor, shift: Float32 | None = None) -> list[float]:
        """How unlike training speech each of B utterances is: Familiarity.distance of their mean states, 1 where the bundle does not tell.

        states, mask, shift: as in `embeds_of`.
        """
        if self.familiarity is None:
            return [1.0] * len(states)
        real = mask[:, :, None].to(states.device)
        means = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        if shift is not None:
            means = means - torch.from_numpy(shift).to(means.device)
        return self.familiarity.distance(means.cpu()).tolist()

    def prediction(self, log_probs: Sequence[float], distance: float = 1.0) -> Prediction:
        """Log-probabilities (L,) over the bundle's letters, in their order, to a prediction, calibrated and under its prior.

        distance: of the utterance to training speech, see `distances`.
        """
        manifest = self.manifest
        bias = torch.tensor([manifest.letter_bias.get(letter, 0.0) for letter in manifest.letters], dtype=torch.float64)
        tempered = torch.tensor(log_probs, dtype=torch.float64) / (manifest.temperature * distance)
        posterior = dict(zip(manifest.letters, (tempered + bias).softmax(dim=0).tolist(), strict=True))
        if self.prior is not None and manifest.training_prior is not None:
            posterior = corrected(posterior, self.prior.over(manifest.letters), manifest.training_prior)
        return Prediction(posterior, max(posterior.values()) < manifest.unsure_below, self.version)


def open_bundle(folder: Path, beside: Bundle | None = None) -> Bundle:
    """Verify and load encoder and mapper; the encoder is that of `beside` where it is the same one.

    Raises BundleError with the reason; nothing of a refused bundle is used.
    """
    manifest = read_manifest(folder)
    verify(folder, manifest)
    shared = beside is not None and beside.manifest.part(beside.manifest.encoder) == manifest.part(manifest.encoder)
    encoder = beside.encoder if beside is not None and shared else load_encoder(resolve(folder, manifest.encoder))
    try:
        weights = load_file(folder / "mapper.safetensors")
        hidden = len(weights["leave.bias"])
        mapper = QPMapper(encoder.width, hidden, **manifest.mapper.model_dump())
        mapper.load_state_dict(weights)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"the mapper of {folder} does not fit its encoder or bundle.json: {error}") from error
    settings = _reference_settings(folder, manifest, encoder.width)
    return Bundle(folder, manifest, encoder, mapper.eval().requires_grad_(False), settings, Familiarity.load(folder, encoder.width))


def _reference_settings(folder: Path, manifest: BundleManifest, width: int) -> ReferenceSettings | None:
    if manifest.normalisation is None:
        return None
    try:
        known = load_file(folder / NORMALISER)
        mean, offsets, ratio = (known[name].float() for name in ("population_mean", "emotion_offsets", "ratio"))
    except (OSError, KeyError, SafetensorError) as error:
        raise BundleError(f"{folder} normalises voices, but its {NORMALISER} cannot be read: {error}") from error
    if mean.shape != (width,) or offsets.shape != (len(manifest.letters), width) or ratio.shape != (width,):
        wanted = f"population_mean and ratio, and emotion_offsets for {len(manifest.letters)} letters, each {width} wide"
        raise BundleError(f"{folder / NORMALISER} must hold {wanted}, the width of the encoder")
    if not all(bool(torch.isfinite(one).all()) for one in (mean, offsets, ratio)) or bool((ratio < 0).any()):
        raise BundleError(f"{folder / NORMALISER} holds what is no number, or a ratio under 0; get the bundle again")
    return ReferenceSettings(manifest.normalisation.prior_segments, mean.numpy(), offsets.numpy(), ratio.numpy())


def load_llm(bundle: Bundle) -> SpeechLLM:
    """The bundle's language model with its adapter beside it, as training wants it. Raises BundleError when it does not fit the mapper."""
    return _checked(bundle, SpeechLLM.load(resolve(bundle.folder, bundle.manifest.llm), bundle.folder / "adapter"))


def load_merged_llm(bundle: Bundle) -> SpeechLLM:
    """The same with the adapter in its weights, which answers sooner. Raises BundleError."""
    llm = SpeechLLM.load(resolve(bundle.folder, bundle.manifest.llm))
    llm.merge(Adapter.load(bundle.folder / "adapter"))
    return _checked(bundle, llm)


def _checked(bundle: Bundle, llm: SpeechLLM) -> SpeechLLM:
    delivered = bundle.mapper.leave.out_features
    if llm.hidden_size != delivered:
        raise BundleError(
            f"{bundle.folder}: the mapper delivers vectors of {delivered}, but the language model {bundle.manifest.llm}"
            f" takes {llm.hidden_size}"
        )
    return llm


def resolve(folder: Path, source: str) -> str:
    """Where a part's weights are: inside the bundle, or at the folder or hub name given."""
    inside = folder / source
    return str(inside) if inside.is_dir() else source
