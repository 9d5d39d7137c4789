"""The yardstick: EmoSLLM as most people would write it, one segment after another through transformers and PEFT, nothing kept between."""

from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.bundle import Bundle, resolve
from model.predictor import Sound, Style
from model.prompts import AUDIO, TEMPLATE_SETTINGS, Task, parse_answer
from model.types import Emotion

_MOST_TOKENS = 12


class PlainLoop:
    """The bundle's language model with its adapter beside it; encoder and mapper are those of the bundle."""

    def __init__(self, bundle: Bundle, device: str = "cpu", dtype: str = "float32") -> None:
        source = resolve(bundle.folder, bundle.manifest.llm)
        self._bundle = bundle
        self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
        llm = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        self._llm: Any = PeftModel.from_pretrained(llm, str(bundle.folder / "adapter")).eval().to(device)

    @torch.no_grad()
    def answer(self, sound: Sound) -> Emotion | None:
        """What the model writes of its own accord, read; None where that is not in the grammar."""
        speech = self._bundle.mapper(*self._bundle.encoder([torch.from_numpy(sound.audio)]))
        turns = Style.of(self._bundle).turns(sound, None, Task.SER)
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **TEMPLATE_SETTINGS)
        before, _, after = text.partition(AUDIO)
        inputs = torch.cat([self._embedded(before), speech.to(self._llm.device, self._llm.dtype), self._embedded(after)], dim=1)
        written = self._llm.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device),
            max_new_tokens=_MOST_TOKENS,
            do_sample=False,
            pad_token_id=self._tokenizer.eos_token_id,
        )
        answer = parse_answer(self._tokenizer.decode(written[0], skip_special_tokens=True))
        return answer.emotion if answer else None

    def _embedded(self, text: str) -> torch.Tensor:
        ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(self._llm.device)
        return self._llm.get_input_embeddings()(ids)  # type: ignore[no-any-return]
