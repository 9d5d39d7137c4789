"""One training of a recipe on some speakers: builds encoder, mapper and language model, trains them, and records how.

Every training has its own folder inside the work folder, named after everything that it depends on.
"""

import hashlib
import json
import logging
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from model.audio import audio_length_s
from model.encoders import CombinedEncoder, load_encoder
from model.errors import TrainingError
from model.language_model import SpeechLLM
from model.mapper import QPMapper
from model.speech_encoder import SpeechEncoder
from model.whisper_encoder import WhisperEncoder
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart, CorpusSplits, all_utterances, content_hash
from train.learning.encoder_states import FrameStates, StateSource, StatisticStates, statistic_store
from train.learning.examples import VoiceLevels
from train.learning.small_models import build_small_llm, build_tokenizer, train_state_source
from train.learning.trainer import Trainer, TrainingMaterials, require_whole_micro_batches
from train.recipe import CombinedRecipe, EncoderTraining, Pretrained, Recipe, WhisperRecipe

logger = logging.getLogger(__name__)

_STATE_BYTES = 2  # in half precision


def build_materials(
    recipe: Recipe, corpora: CorpusSplits, parts: Sequence[CorpusPart], work: Path, seed: int, device: torch.device
) -> TrainingMaterials:
    """Everything a run on `parts` of the corpora needs, from `seed` alone. Raises BundleError, TrainingError."""
    work.mkdir(parents=True, exist_ok=True)
    _require_memory(recipe)
    hearing = _state_source(recipe, corpora, parts, work, seed, device)
    torch.manual_seed(seed)
    llm = _language_model(recipe, parts)
    llm.add_lora(recipe.lora.rank, recipe.lora.alpha)
    mapper = QPMapper(hearing.encoder.width, llm.hidden_size, **recipe.mapper.model_dump())
    known = (hearing.reference_settings, hearing.familiarity) if isinstance(hearing, StatisticStates) else (None, None)
    return TrainingMaterials(parts, hearing, mapper, llm, measure_voices(recipe, parts, work), corpora.noises, *known)


def measure_voices(recipe: Recipe, parts: Sequence[CorpusPart], work: Path) -> VoiceLevels | None:
    """The measured voices, where the recipe uses them."""
    if not recipe.release.features and not any(phase.features for phase in recipe.phases):
        return None
    return VoiceLevels.of(all_utterances(parts), work / "voices.jsonl")


def _state_source(
    recipe: Recipe, corpora: CorpusSplits, parts: Sequence[CorpusPart], work: Path, seed: int, device: torch.device
) -> StateSource:
    if isinstance(recipe.encoder, EncoderTraining):
        return train_state_source(recipe.encoder, corpora, parts, recipe.letters, work, seed)
    if isinstance(recipe.encoder, WhisperRecipe) and recipe.encoder.statistics:
        store = statistic_store(recipe.encoder, corpora, work)
        return StatisticStates(recipe.encoder, store, parts, recipe.letters, seed, recipe.normalisation)
    encoder = frozen_encoder(recipe.encoder)
    if encoder.gains_from_gpu:
        encoder.to(device)
    if not recipe.loop.cache_states:
        return FrameStates(encoder, None)
    kept = work / f"states-{_states_name(recipe.encoder)}"
    _require_room(kept, all_utterances(parts), encoder)
    return FrameStates(encoder, kept)


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


def _language_model(recipe: Recipe, parts: Sequence[CorpusPart]) -> SpeechLLM:
    if isinstance(recipe.llm, Pretrained):
        dtype = "bfloat16" if recipe.loop.precision == "bf16" else "float32"
        return SpeechLLM.load(recipe.llm.source, dtype=dtype)
    transcripts = sorted({u.transcript for u in all_utterances(parts) if u.transcript})
    tokenizer = build_tokenizer(recipe.llm, transcripts)
    return SpeechLLM(build_small_llm(recipe.llm, tokenizer), tokenizer)


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


def train_or_load(
    recipe: Recipe,
    corpora: CorpusSplits,
    parts: Sequence[CorpusPart],
    work: Path,
    seed: int,
    accelerator: Accelerator,
    last_phase: str | None = None,
) -> TrainingMaterials:
    """The recipe's phases on `parts` of the corpora, or what an earlier run made of the same."""
    require_whole_micro_batches(recipe, accelerator.num_processes)
    folder = run_folder(recipe, parts, work, seed)
    # One process makes what is kept in `work`; the others find it there.
    with accelerator.main_process_first():
        materials = build_materials(recipe, corpora, parts, work, seed, accelerator.device)
    folder.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        (folder / "run.json").write_text(json.dumps(run_record(recipe, parts, seed), indent=2) + "\n", encoding="utf-8")
    Trainer(recipe, materials, folder, seed, accelerator).run(last_phase)
    return materials


def run_folder(recipe: Recipe, parts: Sequence[CorpusPart], work: Path, seed: int) -> Path:
    """Where a run keeps its checkpoints, log and TensorBoard files."""
    return work / f"{recipe.name}-{run_key(recipe, parts, seed)}"


def run_key(recipe: Recipe, parts: Sequence[CorpusPart], seed: int) -> str:
    """Twelve digits that change with the recipe, the data or the seed, but not with how the loop is cut or where checkpoints fall."""
    learned = recipe.model_dump(
        mode="json", exclude={"loop": {"micro_batch", "checkpoint_steps", "gradient_checkpointing", "cache_states"}}
    )
    learned.pop("release")
    return hashlib.sha256(repr((sorted(learned.items()), seed, content_hash(parts))).encode()).hexdigest()[:12]


def run_record(recipe: Recipe, parts: Sequence[CorpusPart], seed: int) -> dict[str, Any]:
    """What made a run what it is: effective recipe, seed, code, data and libraries."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "git_revision": _git_revision(),
        "data": {part.corpus: content_hash([part]) for part in parts},
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
        | {"python": platform.python_version()},
    }


def _git_revision() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # an installed copy has no history
    return done.stdout.strip()
