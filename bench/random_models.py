"""Bundles of the paper's size, or a tiny one, from random weights, in the formats that real ones have. Accuracy means nothing here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig, Wav2Vec2FeatureExtractor

from model.bundle import Bundle, open_bundle
from model.bundle_format import MANIFEST_FILE, BundleManifest, MapperSettings, file_checksums
from model.emotions import Emotion
from model.encoders import TransformersEncoder
from model.language_model import SpeechLLM
from model.mapper import QPMapper
from tests.support import tiny
from train.model_sizes import known_config


@dataclass(frozen=True)
class ModelSize:
    """Configurations of encoder and language model, and of the mapper between them. dtype: of the language model's weights."""

    name: str
    encoder: Any
    llm: Any
    mapper: MapperSettings
    dtype: str


def paper_model() -> ModelSize:
    """WavLM base+ and Llama 3.2 3B (paper, 3.1)."""
    encoder, llm = known_config("microsoft/wavlm-base-plus"), known_config("meta-llama/Llama-3.2-3B-Instruct")
    return ModelSize("WavLM base+, Llama 3.2 3B", encoder, llm, MapperSettings(queries=32, layers=2, heads=8, width=768), "bfloat16")


def tiny_model() -> ModelSize:
    """The same classes with hardly any weights."""
    encoder = AutoConfig.for_model("wavlm", **tiny.SMALL_ENCODER, feat_extract_norm="group")
    return ModelSize("tiny", encoder, tiny.llama().config, MapperSettings(queries=32, layers=2, heads=4, width=48), "float32")


def build_random_bundle(size: ModelSize, folder: Path) -> Bundle:
    """Write a bundle with its language model beside it, and open it. The tokenizer is a small one of the same kind."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    AutoModel.from_config(size.encoder).save_pretrained(folder / "encoder-source")
    alone = size.encoder.feat_extract_norm == "group"
    Wav2Vec2FeatureExtractor(do_normalize=not alone, return_attention_mask=not alone).save_pretrained(folder / "encoder-source")
    tokenizer = tiny.llama_tokenizer()
    with torch.device(device):
        llm = AutoModelForCausalLM.from_config(size.llm, dtype=getattr(torch, size.dtype))
    llm.config.eos_token_id, llm.generation_config = tokenizer.eos_token_id, GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    llm.save_pretrained(folder / "llm-source")
    tokenizer.save_pretrained(folder / "llm-source")
    encoder = TransformersEncoder.load(str(folder / "encoder-source"))
    mapper = QPMapper(encoder.width, llm.config.hidden_size, **size.mapper.model_dump())
    speech_llm = SpeechLLM(llm, tokenizer)
    speech_llm.add_lora()
    return _released(folder / "bundle", folder / "encoder-source", folder / "llm-source", mapper, speech_llm, size.mapper)


def _released(folder: Path, encoder: Path, llm: Path, mapper: QPMapper, speech_llm: SpeechLLM, settings: MapperSettings) -> Bundle:
    folder.mkdir()
    save_file(mapper.state_dict(), folder / "mapper.safetensors")
    speech_llm.save(None, folder / "adapter")
    manifest = BundleManifest(
        name="random",
        version="random-00000000",
        created="2026-01-01",
        strategy="ser",
        letters=list(Emotion),
        temperature=1.0,
        unsure_below=0.0,
        encoder=str(encoder),
        llm=str(llm),
        mapper=settings,
        prompt=0,
        license="CC0-1.0",
        trained_on=[],
        limits=[],
        scores=[],
        files=file_checksums(folder),
    )
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(), encoding="utf-8")
    return open_bundle(folder)
