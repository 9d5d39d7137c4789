"""The language model: requests around speech embeds, the causal model that answers them, and its LoRA adapter.

B batch, Q queries, H hidden size, S sequence length, A answer length, V vocabulary, L letters, R rank of the adapter.
Every engine implements the protocol `LanguageModel`; `SpeechLLM` does so with transformers. A request knows neither audio nor bundles, and
an engine knows no prompting strategies. This file owns peft and imports it only for training: for inference, `LoraAdapter` merges
W + scale * B A, with B (out, R) and A (R, in), into the weights (out, in). It always starts from the language model's own weights, never
from what another adapter made of them, so removing an adapter restores exactly the same numbers.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from model.emotions import Emotion
from model.errors import BundleError
from model.prompts import Message, RenderedPrompt, letter_ids, render_prompt
from model.remote import explain_load_error

# A transcript of 15 s of fast speech, with room for languages whose words are many tokens.
MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModelRequest:
    """Chat messages, one of which holds the place (prompts.AUDIO) of the speech embeds (Q, H)."""

    turns: tuple[Message, ...]
    speech: Tensor


class LanguageModel(Protocol):
    """Answers requests. The same request gets the same answer from every implementation (within rounding)."""

    def letter_log_probs(self, requests: Sequence[LanguageModelRequest], letters: Sequence[Emotion]) -> list[list[float]]:
        """Requests that end right before the letter, to B lists of L log-probabilities that sum to 1 over `letters`.

        Raises EngineUnavailable or EngineRejected where an engine is asked.
        """

    def write(self, requests: Sequence[LanguageModelRequest], stop: str) -> list[str]:
        """The greedy answers, each ending with `stop` where the model wrote it, else at its end or at MAX_WRITTEN_TOKENS."""


_PEFT_PREFIX = "base_model.model."
_THIN, _WIDE = ".lora_A.weight", ".lora_B.weight"
# What PEFT can do and this project's training never does; each is off where it is empty.
_UNSUPPORTED = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias")


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """scale: of the products. pairs: A and B by the name that the layer's weight has in the language model's files."""

    folder: Path
    scale: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a folder in PEFT's format. Raises BundleError."""
        try:
            told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "adapter_model.safetensors")
            names = [name.removesuffix(_THIN) for name in weights if name.endswith(_THIN)]
            pairs = {f"{name.removeprefix(_PEFT_PREFIX)}.weight": (weights[name + _THIN], weights[name + _WIDE]) for name in names}
            scale = float(told["lora_alpha"]) / int(told["r"])
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as error:
            raise _adapter_error(folder, repr(error)) from error
        if foreign := [key for key in _UNSUPPORTED if told.get(key)]:
            raise _adapter_error(folder, f"it uses {', '.join(foreign)}, which only a vLLM server or PEFT may know")
        if 2 * len(pairs) != len(weights):
            raise _adapter_error(folder, "it holds more than pairs of LoRA matrices")
        return cls(folder, scale, pairs)

    def check(self, shapes: Mapping[str, torch.Size]) -> None:
        """Raises BundleError unless all of it fits a language model whose weights have these shapes."""
        for name, (thin, wide) in self.pairs.items():
            if name not in shapes:
                raise _adapter_error(self.folder, f"the language model has no {name}")
            if (len(wide), thin.shape[1]) != tuple(shapes[name]) or wide.shape[1] != len(thin):
                raise _adapter_error(
                    self.folder, f"its matrices {tuple(wide.shape)} and {tuple(thin.shape)} do not make {name} {tuple(shapes[name])}"
                )

    def merged(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The language model's own weights, by name, with this adapter in them: those it changes in float32, the others as they are."""
        for name, weight in weights:
            pair = self.pairs.get(name)
            if pair is None:
                yield name, weight
            else:
                thin, wide = (matrix.float().to(weight.device) for matrix in pair)
                yield name, weight.float() + self.scale * (wide @ thin)


def _adapter_error(folder: Path, reason: str) -> BundleError:
    return BundleError(f"the adapter in {folder} cannot be loaded: {reason}")


# Attention and FFN (paper, 3.1), by the names of the Llama and Qwen families. vLLM is given the same list.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORE_INDEX = -100


def stored_dtype(source: str) -> torch.dtype:
    """In which numbers a language model's weights are stored, by hub name or folder; float32 where it does not say. Raises BundleError."""
    try:
        told = getattr(AutoConfig.from_pretrained(source), "dtype", None)
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"the language model {source} cannot be loaded: {explain_load_error(source, error)}") from error
    return told if isinstance(told, torch.dtype) else torch.float32


class SpeechLLM(nn.Module):
    """The language model, its tokenizer, and what it says about speech embeds. A LanguageModel by itself, through transformers."""

    def __init__(self, llm: Any, tokenizer: Any) -> None:
        super().__init__()
        self.llm = llm
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, source: str, adapter: Path | None = None, dtype: str = "auto") -> Self:
        """From a hub name or folder (safetensors only), with a PEFT folder as adapter. dtype: as torch names it. Raises BundleError."""
        try:
            llm = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(source)
            if adapter is not None:
                from peft import PeftModel

                llm = PeftModel.from_pretrained(llm, str(adapter))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise BundleError(f"the language model {source} cannot be loaded: {explain_load_error(source, error)}") from error
        if tokenizer.chat_template is None:
            raise BundleError(f"{source} has no chat template; take the instruct (chat) version of this language model")
        return cls(llm, tokenizer).eval()

    @property
    def hidden_size(self) -> int:
        """H: what the mapper must deliver."""
        return int(self.llm.config.hidden_size)

    def add_lora(self, rank: int = 8, alpha: int = 16) -> None:
        """Put a fresh LoRA adapter on attention and FFN, of the paper's size (3.1) unless told; the base is frozen from here on."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=list(LORA_TARGETS),
            task_type="CAUSAL_LM",
            lora_dropout=0.0,
        )
        self.llm = get_peft_model(self.llm, config)

    @torch.no_grad()
    def merge(self, adapter: LoraAdapter) -> None:
        """Lay an adapter into the weights of a language model that has none. Raises BundleError where it does not fit."""
        own = self.llm.state_dict()
        adapter.check({name: weight.shape for name, weight in own.items()})
        for name, weight in adapter.merged((name, own[name]) for name in adapter.pairs):
            own[name].copy_(weight)

    def save(self, folder: Path | None, adapter: Path) -> None:
        """Write the LoRA adapter, in PEFT's format, to `adapter`, and base model and tokenizer to `folder` unless they are elsewhere.

        The adapter is taken off in the second case: save last.
        """
        for config in self.llm.peft_config.values():
            # PEFT keeps a set, whose order differs between processes, and with it the adapter's file and the bundle's version.
            config.target_modules = sorted(config.target_modules)
        self.llm.save_pretrained(adapter)
        # PEFT's model card template says nothing true about this adapter.
        (adapter / "README.md").unlink(missing_ok=True)
        if folder is not None:
            self.tokenizer.save_pretrained(folder)
            self.llm.unload().save_pretrained(folder)

    def forward(self, speech: Tensor, prompts: Sequence[RenderedPrompt], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Speech embeds (B, Q, H) and token ids to logits (B, A, V) that predict the answers, and targets (B, A).

        Shorter answers are padded with IGNORED in the targets.
        """
        tails = [torch.cat([self._tail(speech[i], prompts[i]), self._embed(answers[i])]) for i in range(len(prompts))]
        output = self._logits([prompt.before for prompt in prompts], tails)
        # The token at position p is predicted by the logits at p - 1.
        starts = [len(row) - len(answer) - 1 for row, answer in zip(tails, answers, strict=True)]
        logits = [output[i, start : start + len(answers[i])] for i, start in enumerate(starts)]
        targets = [torch.tensor(answer, device=speech.device) for answer in answers]
        return pad_sequence(logits, batch_first=True), pad_sequence(targets, batch_first=True, padding_value=IGNORE_INDEX)

    @torch.inference_mode()
    def letter_log_probs(self, requests: Sequence[LanguageModelRequest], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel. Raises BundleError for a tokenizer that splits letters."""
        prompts = [render_prompt(self.tokenizer, request.turns) for request in requests]
        tails = [self._tail(request.speech, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        last = torch.tensor([len(row) - 1 for row in tails])
        ids = list(letter_ids(self.tokenizer, letters).values())
        logits = self._logits([prompt.before for prompt in prompts], tails)[torch.arange(len(tails)), last][:, ids]
        table: list[list[float]] = logits.float().log_softmax(dim=-1).tolist()
        return table

    @torch.inference_mode()
    def write(self, requests: Sequence[LanguageModelRequest], stop: str) -> list[str]:
        """See LanguageModel."""
        sequences = [self._place(request.speech, render_prompt(self.tokenizer, request.turns)) for request in requests]
        ids = self.llm.generate(
            # Generation continues at the right edge, so shorter requests are padded on the left.
            inputs_embeds=pad_sequence(sequences, batch_first=True, padding_side="left"),
            attention_mask=_mask(sequences, padding_side="left"),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            stop_strings=[stop],
            tokenizer=self.tokenizer,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [head + found for head, found, _ in (str(text).partition(stop) for text in texts)]

    def _logits(self, heads: Sequence[Sequence[int]], tails: Sequence[Tensor]) -> Tensor:
        """Logits (B, S, V) at the positions of `tails`, embeddings (S, H) that follow the token ids `heads`.

        What stands before the speech is the same for all requests of a batch, so it is read once and its keys and values are shared, with
        their gradients. Checkpointing keeps no keys and values, so then every row is read whole.
        """
        if len(set(heads)) > 1 or (self.training and self.llm.is_gradient_checkpointing):
            rows = [torch.cat([self._embed(head), row]) for head, row in zip(heads, tails, strict=True)]
            whole = self.llm(inputs_embeds=pad_sequence(rows, batch_first=True), attention_mask=_mask(rows)).logits
            spans = [whole[i, len(head) : len(head) + len(row)] for i, (head, row) in enumerate(zip(heads, tails, strict=True))]
            return pad_sequence(spans, batch_first=True)
        cache = self.llm(inputs_embeds=self._embed(heads[0])[None], use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(tails))
        mask = _mask(tails)
        mask = torch.cat([mask.new_ones(len(tails), len(heads[0])), mask], dim=1)
        tail = pad_sequence(list(tails), batch_first=True)
        logits: Tensor = self.llm(inputs_embeds=tail, attention_mask=mask, past_key_values=cache).logits
        return logits

    def _tail(self, speech: Tensor, prompt: RenderedPrompt) -> Tensor:
        """The speech embeds and what follows them, as input embeddings (S, H)."""
        after = self._embed(prompt.after)
        return torch.cat([speech.to(after.dtype), after])

    def _place(self, speech: Tensor, prompt: RenderedPrompt) -> Tensor:
        """One request as input embeddings (S, H)."""
        return torch.cat([self._embed(prompt.before), self._tail(speech, prompt)])

    def _embed(self, ids: Sequence[int]) -> Tensor:
        table = self.llm.get_input_embeddings()
        return table(torch.tensor(list(ids), dtype=torch.long, device=table.weight.device))  # type: ignore[no-any-return]


def _mask(sequences: Sequence[Tensor], padding_side: str = "right") -> Tensor:
    ones = [row.new_ones(len(row), dtype=torch.long) for row in sequences]
    return pad_sequence(ones, batch_first=True, padding_side=padding_side)
