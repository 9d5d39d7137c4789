"""What a language model is asked, wherever it runs: chat messages around speech embeds, and the two kinds of answer it gives.

B requests, Q queries, H hidden size, L letters. A request knows neither audio nor bundles; who answers knows no strategies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from model.prompts import Message
from model.types import Emotion

# A transcript of 15 s of fast speech, with room for languages whose words are many tokens.
MAX_WRITTEN_TOKENS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Chat messages, one of which holds the place (prompts.AUDIO) of the speech embeds (Q, H)."""

    turns: tuple[Message, ...]
    speech: Tensor


class LanguageModel(Protocol):
    """Answers requests. The same request gets the same answer from every implementation (within rounding)."""

    def letter_log_probs(self, requests: Sequence[Request], letters: Sequence[Emotion]) -> list[list[float]]:
        """Requests that end right before the letter, to B lists of L log-probabilities that sum to 1 over `letters`.

        Raises EngineUnavailable or EngineRejected where an engine is asked.
        """

    def write(self, requests: Sequence[Request], stop: str) -> list[str]:
        """The greedy answers, each ending with `stop` where the model wrote it, else at its end or at MAX_WRITTEN_TOKENS."""
