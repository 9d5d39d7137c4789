"""A bundle in memory: encoder, mapper, language model and their calibration, loaded together or not at all.

B batch, N samples, Q queries, H hidden size, L letters, D encoder width, K dimensions of a subspace. `open_bundle` loads encoder and
mapper; the language model is loaded separately, because an engine may hold it in another process.

`Familiarity` measures how far an utterance lies from training speech, so that the model is less certain about another language, room or
voice, or about sounds that are no speech. Training states fill a subspace of few dimensions; the mean square outside of it, relative to
that of training speech, multiplies the temperature. On left-out corpora confidence then fits accuracy where one temperature for all is far
off (train/LOG.md). The residual of a principal subspace as a novelty score: Jackson and Mudholkar (1979), Technometrics 21, 341-349;
Wang et al. (2022), "ViM", CVPR.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.audio import Float32
from model.bundle_format import NORMALISER_FILE, BundleManifest, read_bundle_manifest, verify_checksums
from model.emotions import Prediction, Prior, correct_posterior, version_with_prior
from model.encoders import load_encoder
from model.errors import BundleError
from model.language_model import LoraAdapter, SpeechLLM
from model.mapper import QPMapper
from model.speech_encoder import SpeechEncoder
from model.voice_reference import ReferenceSettings

FAMILIARITY_FILE = "familiarity.safetensors"

_MIN_DISTANCE, _MAX_DISTANCE = 0.5, 20.0
"""Bounds of the distance: silence and clipped noise must neither be certain nor overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """basis (K, D): orthonormal rows, in half precision; centre (D,): mean of training states; usual: their mean squared residual."""

    basis: Tensor
    centre: Tensor
    usual: float

    @classmethod
    def fit(cls, states: Tensor, dimensions: int = 64) -> Self:
        """The principal subspace of training states (n, D); of fewer dimensions where there are few states."""
        centre = states.mean(dim=0)
        apart = states - centre
        _, _, rows = torch.linalg.svd(apart, full_matrices=False)
        basis = rows[: min(dimensions, max(1, len(states) // 4))].half().contiguous()
        return cls(basis, centre, float(_residual(apart, basis.float()).mean().clamp(min=1e-6)))

    @torch.inference_mode()
    def distance(self, states: Tensor) -> Tensor:
        """Mean states of utterances (B, D), the reference of the voice subtracted, to (B,): 1 for training speech, more for others."""
        return (_residual(states.float() - self.centre, self.basis.float()) / self.usual).clamp(_MIN_DISTANCE, _MAX_DISTANCE)

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        tensors = {"basis": self.basis, "centre": self.centre, "usual": torch.tensor([self.usual])}
        save_file(tensors, folder / FAMILIARITY_FILE)

    @classmethod
    def load(cls, folder: Path, width: int) -> Self | None:
        """Of a bundle whose encoder is `width` wide; None where it has none. Raises BundleError for a damaged one."""
        path = folder / FAMILIARITY_FILE
        if not path.exists():
            return None
        try:
            known = load_file(path)
            basis, centre, usual = known["basis"], known["centre"].float(), float(known["usual"])
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise BundleError(f"{path} is damaged: {error}; get the bundle again") from error
        finite = bool(torch.isfinite(basis).all() and torch.isfinite(centre).all()) and 0 < usual < float("inf")
        if basis.ndim != 2 or basis.shape[1] != width or centre.shape != (width,) or not finite:
            raise BundleError(f"{path} must hold finite numbers, {width} wide, as its encoder's states are; get the bundle again")
        return cls(basis, centre, usual)


def _residual(apart: Tensor, basis: Tensor) -> Tensor:
    """Mean square (B,) of what of (B, D) lies outside the span of `basis` (K, D)."""
    return (apart - (apart @ basis.T) @ basis).square().mean(dim=1)


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
        return version_with_prior(self.manifest.version, self.prior)

    @torch.inference_mode()
    def states(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """B float32 tensors (N,) in [-1, 1) at SAMPLE_RATE to encoder states (B, T, D) and their mask (B, T), True where real."""
        return self.encoder(audio)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def speech_embeds(self, audio: Sequence[Tensor], shift: Float32 | None = None) -> Tensor:
        """B float32 tensors (N,) in [-1, 1) at SAMPLE_RATE to speech embeds (B, Q, H), float32, on the mapper's device."""
        return self.embed_states(*self.states(audio), shift)

    @torch.inference_mode()
    def embed_states(self, states: Tensor, mask: Tensor, shift: Float32 | None = None) -> Tensor:
        """Encoder states (B, T, D) and mask (B, T), True where real, to speech embeds (B, Q, H), float32, on the mapper's device.

        shift: float32 (D,), the reference of the voice, from `voice_shift`; subtracted from every state.
        """
        device = self.mapper.queries.device
        if shift is not None:
            states = states - torch.from_numpy(shift).to(states.device)
        return self.mapper(states.to(device), mask.to(device))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def distances(self, states: Tensor, mask: Tensor, shift: Float32 | None = None) -> list[float]:
        """How unlike training speech each of B utterances is: Familiarity.distance of their mean states, 1 where the bundle does not tell.

        states, mask, shift: as in `embed_states`.
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
            posterior = correct_posterior(posterior, self.prior.over(manifest.letters), manifest.training_prior)
        return Prediction(posterior, max(posterior.values()) < manifest.unsure_below, self.version)


def open_bundle(folder: Path, beside: Bundle | None = None) -> Bundle:
    """Verify and load encoder and mapper; the encoder is that of `beside` where it is the same one.

    Raises BundleError with the reason; nothing of a refused bundle is used.
    """
    manifest = read_bundle_manifest(folder)
    verify_checksums(folder, manifest)
    shared = beside is not None and beside.manifest.part(beside.manifest.encoder) == manifest.part(manifest.encoder)
    encoder = beside.encoder if beside is not None and shared else load_encoder(weights_source(folder, manifest.encoder))
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
        known = load_file(folder / NORMALISER_FILE)
        mean, offsets, ratio = (known[name].float() for name in ("population_mean", "emotion_offsets", "ratio"))
    except (OSError, KeyError, SafetensorError) as error:
        raise BundleError(f"{folder} normalises voices, but its {NORMALISER_FILE} cannot be read: {error}") from error
    if mean.shape != (width,) or offsets.shape != (len(manifest.letters), width) or ratio.shape != (width,):
        wanted = f"population_mean and ratio, and emotion_offsets for {len(manifest.letters)} letters, each {width} wide"
        raise BundleError(f"{folder / NORMALISER_FILE} must hold {wanted}, the width of the encoder")
    if not all(bool(torch.isfinite(one).all()) for one in (mean, offsets, ratio)) or bool((ratio < 0).any()):
        raise BundleError(f"{folder / NORMALISER_FILE} holds what is no number, or a ratio under 0; get the bundle again")
    return ReferenceSettings(manifest.normalisation.prior_segments, mean.numpy(), offsets.numpy(), ratio.numpy())


def load_llm(bundle: Bundle) -> SpeechLLM:
    """The bundle's language model with its adapter beside it, as training wants it. Raises BundleError when it does not fit the mapper."""
    return _require_fit(bundle, SpeechLLM.load(weights_source(bundle.folder, bundle.manifest.llm), bundle.folder / "adapter"))


def load_merged_llm(bundle: Bundle) -> SpeechLLM:
    """The same with the adapter in its weights, which answers sooner. Raises BundleError."""
    llm = SpeechLLM.load(weights_source(bundle.folder, bundle.manifest.llm))
    llm.merge(LoraAdapter.load(bundle.folder / "adapter"))
    return _require_fit(bundle, llm)


def _require_fit(bundle: Bundle, llm: SpeechLLM) -> SpeechLLM:
    delivered = bundle.mapper.leave.out_features
    if llm.hidden_size != delivered:
        raise BundleError(
            f"{bundle.folder}: the mapper delivers vectors of {delivered}, but the language model {bundle.manifest.llm}"
            f" takes {llm.hidden_size}"
        )
    return llm


def weights_source(folder: Path, source: str) -> str:
    """Where a part's weights are: inside the bundle, or at the folder or hub name given."""
    inside = folder / source
    return str(inside) if inside.is_dir() else source
