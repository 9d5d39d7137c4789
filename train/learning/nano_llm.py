"""A small Llama or Qwen3 from random weights, with a tokenizer whose words are those of the prompts, where no pre-trained LLM is."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from model.prompts import PROMPTS, SYSTEM_PROMPT, clean, emotion_prefix, format_answer
from model.types import Emotion
from train.recipe import SmallLlm

_END = "<|end|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
# Content is a plain string, as in Llama's and Qwen's own templates; a turn's end closes every message.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_MAX_POSITIONS = 1024


def build_tokenizer(recipe: SmallLlm, transcripts: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Byte-level BPE learned from prompts, answers and transcripts; any other text falls back to bytes, so nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        min_frequency=1,
        special_tokens=[_END, *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [SYSTEM_PROMPT, *(prompt for prompts in PROMPTS.values() for prompt in prompts)]
    texts += [clean(transcript) for transcript in transcripts]
    texts += [format_answer(emotion) for emotion in Emotion] * 20 + [emotion_prefix("")] * 20
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_END,
        pad_token=_END,
        chat_template=_CHAT_TEMPLATE,
        model_max_length=_MAX_POSITIONS,
    )


def build_llm(recipe: SmallLlm, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A language model of the recipe's architecture and size with random float32 weights."""
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.intermediate,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.heads,
        "head_dim": recipe.hidden // recipe.heads,
        "max_position_embeddings": _MAX_POSITIONS,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    if recipe.architecture == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**settings))
    return LlamaForCausalLM(LlamaConfig(**settings))
