"""What learns in a phase is decided here and nowhere else, and counted."""

import logging
from collections.abc import Callable, Collection

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
    belongs: dict[str, Callable[[str], bool]] = {
        "llm": lambda name: _IS_LORA not in name,
        "lora": lambda name: _IS_LORA in name,
    }
    chosen: list[nn.Parameter] = []
    mapper.requires_grad_("mapper" in parts)
    if "mapper" in parts:
        chosen += mapper.parameters()
    llm.requires_grad_(False)
    for part in sorted(set(parts) - {"mapper"}):
        found = [parameter for name, parameter in llm.named_parameters() if belongs[part](name)]
        if not found:
            raise TrainingError(f"nothing to train in {part!r}: the language model has no such parameters in this phase")
        for parameter in found:
            parameter.requires_grad_(True)
        chosen += found
    logger.info("trainable: %s, %d parameters", "+".join(sorted(parts)), sum(parameter.numel() for parameter in chosen))
    return chosen
