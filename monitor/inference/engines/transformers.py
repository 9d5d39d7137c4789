"""The engine that runs wherever torch does: the language model in this process through transformers."""

from collections.abc import Sequence

from model.bundle import Bundle, load_merged_llm
from model.emotions import Emotion
from model.language_model import LanguageModelRequest
from monitor.inference.engines.base import check_compatible


class TransformersEngine:
    """Slower than vLLM."""

    def __init__(self, bundle: Bundle) -> None:
        self._llm = load_merged_llm(bundle)
        self._manifest = bundle.manifest

    def letter_log_probs(self, requests: Sequence[LanguageModelRequest], letters: Sequence[Emotion]) -> list[list[float]]:
        """See LanguageModel."""
        return self._llm.letter_log_probs(requests, letters)

    def write(self, requests: Sequence[LanguageModelRequest], stop: str) -> list[str]:
        """See LanguageModel."""
        return self._llm.write(requests, stop)

    def switch_to(self, bundle: Bundle) -> None:
        """See Engine. For a moment there are two language models, so that the old one stays where the new one cannot be had."""
        check_compatible(self._manifest, bundle.manifest)
        self._llm = load_merged_llm(bundle)
        self._manifest = bundle.manifest

    def close(self) -> None:
        """Nothing to let go of."""
