"""From a recipe to what it trains: encoder, mapper, language model with a fresh adapter, and what is measured of the voices."""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from model.audio import audio_length_s
from model.encoder import CombinedEncoder, SpeechEncoder, load_encoder
from model.errors import TrainingError
from model.mapper import QPMapper
from model.speech_llm import SpeechLLM
from model.whisper import WhisperEncoder
from train.corpora.manifest import Utterance
from train.corpora.splits import Corpora, Part, everyone
from train.learning.encoders import trained_hearing
from train.learning.hearing import Hearing, WholeHearing
from train.learning.nano_llm import build_llm, build_tokenizer
from train.learning.statistics import StatisticsHearing, statistics_store
from train.learning.trainer import Materials
from train.learning.voices import Voices
from train.recipe import CombinedRecipe, EncoderTraining, Pretrained, Recipe, WhisperRecipe

logger = logging.getLogger(__name__)

_STATE_BYTES = 2  # in half precision


def build(recipe: Recipe, corpora: Corpora, parts: Sequence[Part], work: Path, seed: int, device: torch.device) -> Materials:
    """Everything a run on `parts` of the corpora needs, from `seed` alone. Raises BundleError, TrainingError."""
    work.mkdir(parents=True, exist_ok=True)
    _require_memory(recipe)
    hearing = _hearing(recipe, corpora, parts, work, seed, device)
    torch.manual_seed(seed)
    llm = _language_model(recipe, parts)
    llm.add_lora(recipe.lora.rank, recipe.lora.alpha)
    mapper = QPMapper(hearing.encoder.width, llm.hidden_size, **recipe.mapper.model_dump())
    known = (hearing.reference_settings, hearing.familiarity) if isinstance(hearing, StatisticsHearing) else (None, None)
    return Materials(parts, hearing, mapper, llm, voices_of(recipe, parts, work), corpora.noises, *known)


def voices_of(recipe: Recipe, parts: Sequence[Part], work: Path) -> Voices | None:
    """The measured voices, where the recipe uses them."""
    if not recipe.release.features and not any(phase.features for phase in recipe.phases):
        return None
    return Voices.of(everyone(parts), work / "voices.jsonl")


def _hearing(recipe: Recipe, corpora: Corpora, parts: Sequence[Part], work: Path, seed: int, device: torch.device) -> Hearing:
    if isinstance(recipe.encoder, EncoderTraining):
        return trained_hearing(recipe.encoder, corpora, parts, recipe.letters, work, seed)
    if isinstance(recipe.encoder, WhisperRecipe) and recipe.encoder.statistics:
        store = statistics_store(recipe.encoder, corpora, work)
        return StatisticsHearing(recipe.encoder, store, parts, recipe.letters, seed, recipe.normalisation)
    encoder = frozen_encoder(recipe.encoder)
    if encoder.gains_from_gpu:
        encoder.to(device)
    if not recipe.loop.cache_states:
        return WholeHearing(encoder, None)
    kept = work / f"states-{_states_name(recipe.encoder)}"
    _require_room(kept, everyone(parts), encoder)
    return WholeHearing(encoder, kept)


def frozen_encoder(recipe: Pretrained | WhisperRecipe | CombinedRecipe) -> SpeechEncoder:
    """An encoder that is not trained here. Raises BundleError."""
    if isinstance(recipe, WhisperRecipe):
        return WhisperEncoder.of(recipe.source, recipe.settings)
    if isinstance(recipe, CombinedRecipe):
        return CombinedEncoder([frozen_encoder(part) for part in recipe.parts]).freeze()
    return load_encoder(recipe.source)


def _states_name(recipe: Pretrained | WhisperRecipe | CombinedRecipe) -> str:
    """The same for the same states; it stands in the name of the folder that keeps them."""
    if isinstance(recipe, Pretrained):
        return recipe.source.replace("/", "--")
    return f"{recipe.kind}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}"


def _language_model(recipe: Recipe, parts: Sequence[Part]) -> SpeechLLM:
    if isinstance(recipe.llm, Pretrained):
        dtype = "bfloat16" if recipe.loop.precision == "bf16" else "float32"
        return SpeechLLM.load(recipe.llm.source, dtype=dtype)
    transcripts = sorted({u.transcript for u in everyone(parts) if u.transcript})
    tokenizer = build_tokenizer(recipe.llm, transcripts)
    return SpeechLLM(build_llm(recipe.llm, tokenizer), tokenizer)


def _require_room(kept: Path, utterances: Sequence[Utterance], encoder: SpeechEncoder) -> None:
    """States that the disk cannot hold would only stop the run hours later; raises TrainingError."""
    if kept.exists():
        return  # how much of it is there already is not counted; a disk that fills up later is told by the write that fails
    needed = sum(audio_length_s(u.path) for u in utterances) * encoder.states_per_s * encoder.width * _STATE_BYTES
    free = shutil.disk_usage(kept.parent).free
    if needed > free:
        raise TrainingError(
            f"keeping the encoder's states takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free where {kept.parent} is;"
            " use another --work, or cache_states = false"
        )


def _require_memory(recipe: Recipe) -> None:
    """Weights in a folder that are larger than the memory there is will not get better by trying; raises TrainingError."""
    needed = sum(file.stat().st_size for source in recipe.sources for file in Path(source).expanduser().glob("*.safetensors"))
    available = psutil.virtual_memory().available
    if needed > available:
        raise TrainingError(
            f"the weights of {recipe.name} take {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB of memory are free;"
            " take a machine with more, or a smaller language model"
        )
