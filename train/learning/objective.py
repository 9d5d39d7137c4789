"""What is minimised: the negative log-likelihood of the answers' tokens (paper, 2.2), as one module that Accelerate can wrap.

B examples, T encoder frames, D encoder width, Q queries, H hidden size, A answer length, L letters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.mapper import QPMapper
from model.speech_llm import IGNORED, SpeechLLM
from train.learning.hearing import Heard
from train.learning.phrasing import Asked


class EmoSLLM(nn.Module):
    """Mapper and language model; the frozen encoder stays outside, so that it is neither wrapped nor kept in checkpoints."""

    def __init__(self, mapper: QPMapper, llm: SpeechLLM) -> None:
        super().__init__()
        self.mapper = mapper
        self.llm = llm

    def forward(self, heard: Heard | None, asked: Sequence[Asked], soft: Tensor, letters: Sequence[int], letter_weight: float) -> Tensor:
        """Sum over all answers' tokens of weight times negative log-likelihood, a scalar.

        heard: None puts noise in the place of speech. soft (B, L): the target at the letter, over the token ids `letters`; rows of examples
        without a letter are not looked at. The letter's token weighs `letter_weight`, every other one 1.
        """
        speech = self._noise(len(asked)) if heard is None else self.mapper(heard.states, heard.mask)
        logits, targets = self.llm(speech, [one.prompt for one in asked], [one.answer for one in asked])
        log_probs = logits.float().log_softmax(dim=-1)  # (B, A, V)
        rows = torch.tensor([i for i, one in enumerate(asked) if one.letter_at >= 0], dtype=torch.long, device=targets.device)
        places = torch.tensor([one.letter_at for one in asked if one.letter_at >= 0], dtype=torch.long, device=targets.device)
        at_letters = log_probs[rows, places][:, list(letters)]  # (rows, L)
        if heard is not None and heard.offsets is not None:
            at_letters = _moved(at_letters, heard.offsets.to(at_letters.device)[rows])
        letter_loss = -(soft.to(at_letters.device)[rows] * at_letters).sum()
        plain = targets.clone()
        plain[rows, places] = IGNORED
        rest = nn.functional.nll_loss(log_probs.flatten(0, 1), plain.flatten(), ignore_index=IGNORED, reduction="sum")
        total: Tensor = letter_weight * letter_loss + rest
        return total

    def _noise(self, size: int) -> Tensor:
        """Embeds (B, Q, H) without any meaning, as large as the language model's own."""
        table = self.llm.llm.get_input_embeddings().weight
        shape = (size, len(self.mapper.queries), self.llm.hidden_size)
        noise: Tensor = torch.randn(shape, device=table.device) * table.std().detach()
        return noise


def _moved(log_probs: Tensor, offsets: Tensor) -> Tensor:
    """Log-probabilities of letters (B, L) with offsets added; together the letters stay as probable as they were."""
    return (log_probs + offsets).log_softmax(dim=1) + log_probs.logsumexp(dim=1, keepdim=True)
