"""What learns in a phase is decided here and nowhere else, and counted."""

import logging
from collections.abc import Collection

from torch import nn

from model.errors import TrainingError
from model.mapper import QPMapper
from model.speech_llm import SpeechLLM

logger = logging.getLogger(__name__)

_IS_LORA = ".lora_"


def set_trainable(parts: Collection[str], mapper: QPMapper, llm: SpeechLLM) -> list[nn.Parameter]:
    """Let exactly `parts` (mapper, llm, lora) learn; everything else is frozen. Returns the parameters that learn.

    Raises TrainingError when a part has no parameters, such as `lora` before an adapter was added.
    """
    chosen: list[nn.Parameter] = []
    modules: dict[str, nn.Module] = {"mapper": mapper, "lora": llm, "llm": llm}
    mapper.requires_grad_(False)
    llm.requires_grad_(False)
    for part in sorted(parts):
        prefix = "mapper." if part == "mapper" else "llm."
        found = [p for name, p in modules[part].named_parameters() if is_trained_by(prefix + name, {part})]
        if not found:
            raise TrainingError(f"nothing to train in {part!r}: the language model has no such parameters in this phase")
        for parameter in found:
            parameter.requires_grad_(True)
        chosen += found
    logger.info("trainable: %s, %d parameters", "+".join(sorted(parts)), sum(parameter.numel() for parameter in chosen))
    return chosen


def is_trained_by(name: str, parts: Collection[str]) -> bool:
    """Whether a parameter of the whole network (`mapper.…` or `llm.…`) belongs to one of the parts mapper, lora, llm."""
    if name.startswith("mapper."):
        return "mapper" in parts
    return ("lora" if _IS_LORA in name else "llm") in parts
