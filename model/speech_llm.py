"""SpeechLLM: a causal language model with a LoRA adapter that reads speech embeds between the tokens of a chat request.

B batch, Q queries, H hidden size, S sequence length, A answer length, V vocabulary, L letters. This file owns peft.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.errors import BundleError
from model.prompts import Rendered

# Attention and FFN (paper, 3.1), by the names of the Llama and Qwen families. vLLM is given the same list.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_RANK = 8
LORA_ALPHA = 16
IGNORED = -100


class SpeechLLM(nn.Module):
    """The language model, its tokenizer, and what it says about speech embeds."""

    def __init__(self, llm: Any, tokenizer: Any) -> None:
        super().__init__()
        self.llm = llm
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, source: str, adapter: Path | None = None) -> Self:
        """From a hub name or folder (safetensors only), with a PEFT folder as adapter. Raises BundleError."""
        try:
            llm = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, dtype="auto")
            tokenizer = AutoTokenizer.from_pretrained(source)
            if adapter is not None:
                llm = PeftModel.from_pretrained(llm, str(adapter))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise BundleError(f"the language model {source} cannot be loaded: {error}") from error
        return cls(llm, tokenizer).eval()

    @property
    def hidden_size(self) -> int:
        """H: what the mapper must deliver."""
        return int(self.llm.config.hidden_size)

    def add_lora(self) -> None:
        """Put a fresh LoRA adapter (r = 8, alpha = 16) on attention and FFN; the base weights are frozen from here on."""
        config = LoraConfig(
            r=LORA_RANK,
            lora_alpha=LORA_ALPHA,
            target_modules=list(LORA_TARGETS),
            task_type="CAUSAL_LM",
            lora_dropout=0.0,
        )
        self.llm = get_peft_model(self.llm, config)

    def save(self, folder: Path, adapter: Path) -> None:
        """Write the base model and tokenizer to `folder` and the LoRA adapter, in PEFT's format, to `adapter`."""
        self.llm.save_pretrained(adapter)
        # PEFT's model card template says nothing true about this adapter.
        (adapter / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)
        self.llm.unload().save_pretrained(folder)

    def forward(self, speech: Tensor, prompts: Sequence[Rendered], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Speech embeds (B, Q, H) and token ids to logits (B, A, V) that predict the answers, and targets (B, A).

        Shorter answers are padded with IGNORED in the targets.
        """
        sequences = [torch.cat([self._place(speech[i], prompts[i]), self._embed(answers[i])]) for i in range(len(prompts))]
        output = self.llm(inputs_embeds=pad_sequence(sequences, batch_first=True), attention_mask=_mask(sequences))
        # The token at position p is predicted by the logits at p - 1.
        starts = [len(row) - len(answer) - 1 for row, answer in zip(sequences, answers, strict=True)]
        logits = [output.logits[i, start : start + len(answers[i])] for i, start in enumerate(starts)]
        targets = [torch.tensor(answer, device=speech.device) for answer in answers]
        return pad_sequence(logits, batch_first=True), pad_sequence(targets, batch_first=True, padding_value=IGNORED)

    @torch.inference_mode()
    def letter_log_probs(self, speech: Tensor, prompts: Sequence[Rendered], letters: Sequence[int]) -> Tensor:
        """Speech embeds (B, Q, H) and requests that end before the letter, to log-probabilities (B, L) over `letters`' token ids."""
        sequences = [self._place(speech[i], prompt) for i, prompt in enumerate(prompts)]
        output = self.llm(inputs_embeds=pad_sequence(sequences, batch_first=True), attention_mask=_mask(sequences))
        last = torch.tensor([len(row) - 1 for row in sequences])
        logits: Tensor = output.logits[torch.arange(len(sequences)), last][:, list(letters)]
        return logits.float().log_softmax(dim=-1)

    @torch.inference_mode()
    def generate(self, speech: Tensor, prompt: Rendered, max_new_tokens: int = 128) -> str:
        """The greedy answer to one utterance; speech embeds (Q, H)."""
        ids = self.llm.generate(
            inputs_embeds=self._place(speech, prompt)[None],
            attention_mask=torch.ones(1, len(prompt.before) + len(speech) + len(prompt.after), dtype=torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        return str(self.tokenizer.decode(ids[0], skip_special_tokens=True))

    def _place(self, speech: Tensor, prompt: Rendered) -> Tensor:
        """One request as input embeddings (S, H)."""
        before, after = self._embed(prompt.before), self._embed(prompt.after)
        return torch.cat([before, speech.to(before.dtype), after])

    def _embed(self, ids: Sequence[int]) -> Tensor:
        table = self.llm.get_input_embeddings()
        return table(torch.tensor(list(ids), dtype=torch.long, device=table.weight.device))  # type: ignore[no-any-return]


def _mask(sequences: Sequence[Tensor]) -> Tensor:
    return pad_sequence([row.new_ones(len(row), dtype=torch.long) for row in sequences], batch_first=True)
