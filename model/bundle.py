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
from model.encoder import SpeechEncoder, load_encoder
from model.errors import BundleError
from model.manifest import BundleManifest, read_manifest, verify
from model.mapper import QPMapper
from model.priors import Prior, corrected, marked
from model.speech_llm import SpeechLLM
from model.types import Prediction


@dataclass(frozen=True)
class Bundle:
    """The front half of a released set, and what is needed to read the back half's answer.

    prior: what its posteriors are corrected to; None leaves them under the prior of its training.
    """

    folder: Path
    manifest: BundleManifest
    encoder: SpeechEncoder
    mapper: QPMapper
    prior: Prior | None = None

    def uncalibrated(self) -> "Bundle":
        """The same, with its answers as the language model gives them: temperature 1, the prior of its training, nothing unsure."""
        return replace(self, manifest=self.manifest.model_copy(update={"temperature": 1.0, "unsure_below": 0.0}), prior=None)

    def under(self, prior: Prior) -> "Bundle":
        """The same, its posteriors corrected to a prior; one that does not state the prior of its training is left as it is."""
        return self if self.manifest.training_prior is None else replace(self, prior=prior)

    @property
    def version(self) -> str:
        """What its predictions name: the version, and the prior that they are corrected to."""
        return marked(self.manifest.version, self.prior)

    @torch.inference_mode()
    def speech_embeds(self, audio: Sequence[Tensor]) -> Tensor:
        """B float32 tensors (N,) in [-1, 1) at SAMPLE_RATE to speech embeds (B, Q, H), float32, on the mapper's device."""
        return self.embeds_of(*self.encoder(audio))

    @torch.inference_mode()
    def embeds_of(self, states: Tensor, mask: Tensor) -> Tensor:
        """Encoder states (B, T, D) and mask (B, T), True where real, to speech embeds (B, Q, H), float32, on the mapper's device."""
        device = self.mapper.queries.device
        return self.mapper(states.to(device), mask.to(device))  # type: ignore[no-any-return]

    def prediction(self, log_probs: Sequence[float]) -> Prediction:
        """Log-probabilities (L,) over the bundle's letters, in their order, to a prediction, calibrated and under its prior."""
        manifest = self.manifest
        tempered = (torch.tensor(log_probs, dtype=torch.float64) / manifest.temperature).softmax(dim=0).tolist()
        posterior = dict(zip(manifest.letters, tempered, strict=True))
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
    return Bundle(folder, manifest, encoder, mapper.eval().requires_grad_(False))


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
