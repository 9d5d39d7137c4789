"""SpeechLLM: a causal language model with a LoRA adapter that reads speech embeds between the tokens of a chat request.

B batch, Q queries, H hidden size, S sequence length, A answer length, V vocabulary, L letters. This file owns peft, and imports it only
where an adapter stands beside the weights: whoever judges has none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from model.adapter import Adapter
from model.errors import BundleError
from model.hub import why_not
from model.prompts import Rendered, letter_ids, render
from model.request import MAX_WRITTEN_TOKENS, Request
from model.types import Emotion

# Attention and FFN (paper, 3.1), by the names of the Llama and Qwen families. vLLM is given the same list.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100


def stored_dtype(source: str) -> torch.dtype:
    """In which numbers a language model's weights are stored, by hub name or folder; float32 where it does not say. Raises BundleError."""
    try:
        told = getattr(AutoConfig.from_pretrained(source), "dtype", None)
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"the language model {source} cannot be loaded: {why_not(source, error)}") from error
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
            raise BundleError(f"the language model {source} cannot be loaded: {why_not(source, error)}") from error
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
    def merge(self, adapter: Adapter) -> None:
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

    def forward(self, speech: Tensor, prompts: Sequence[Rendered], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Speech embeds (B, Q, H) and token ids to logits (B, A, V) that predict the answers, and targets (B, A).

        Shorter answers are padded with IGNORED in the targets.
        """
        tails = [torch.cat([self._tail(speech[i], prompts[i]), self._embed(answers[i])]) for i in range(len(prompts))]
        output = self._logits([prompt.before for prompt in prompts], tails)
        # The token at position p is predicted by the logits at p - 1.
        starts = [len(row) - len(answer) - 1 for row, answer in zip(tails, answers, strict=True)]
        logits = [output[i, start : start + len(answers[i])] for i, start in enumerate(starts)]
        targets = [torch.tensor(answer, device=speech.device) for answer in answers]
        return pad_sequence(logits, batch_first=True), pad_sequence(targets, batch_first=True, padding_value=IGNORED)

    @torch.inference_mode()
    def letter_log_probs(self, requests: Sequence[Request], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel. Raises BundleError for a tokenizer that splits letters."""
        prompts = [render(self.tokenizer, request.turns) for request in requests]
        tails = [self._tail(request.speech, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        last = torch.tensor([len(row) - 1 for row in tails])
        ids = list(letter_ids(self.tokenizer, letters).values())
        logits = self._logits([prompt.before for prompt in prompts], tails)[torch.arange(len(tails)), last][:, ids]
        table: list[list[float]] = logits.float().log_softmax(dim=-1).tolist()
        return table

    @torch.inference_mode()
    def write(self, requests: Sequence[Request], stop: str) -> list[str]:
        """See LanguageModel."""
        sequences = [self._place(request.speech, render(self.tokenizer, request.turns)) for request in requests]
        ids = self.llm.generate(
            # Generation continues at the right edge, so shorter requests are padded on the left.
            inputs_embeds=pad_sequence(sequences, batch_first=True, padding_side="left"),
            attention_mask=_mask(sequences, padding_side="left"),
            max_new_tokens=MAX_WRITTEN_TOKENS,
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

    def _tail(self, speech: Tensor, prompt: Rendered) -> Tensor:
        """The speech embeds and what follows them, as input embeddings (S, H)."""
        after = self._embed(prompt.after)
        return torch.cat([speech.to(after.dtype), after])

    def _place(self, speech: Tensor, prompt: Rendered) -> Tensor:
        """One request as input embeddings (S, H)."""
        return torch.cat([self._embed(prompt.before), self._tail(speech, prompt)])

    def _embed(self, ids: Sequence[int]) -> Tensor:
        table = self.llm.get_input_embeddings()
        return table(torch.tensor(list(ids), dtype=torch.long, device=table.weight.device))  # type: ignore[no-any-return]


def _mask(sequences: Sequence[Tensor], padding_side: str = "right") -> Tensor:
    ones = [row.new_ones(len(row), dtype=torch.long) for row in sequences]
    return pad_sequence(ones, batch_first=True, padding_side=padding_side)
