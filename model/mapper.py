"""QPMapper: an utterance of any length becomes a fixed number of vectors in the language model's space (paper, 2.1).

B batch, T encoder frames, D encoder width, W mapper width, Q queries, H hidden size of the language model.
"""

import torch
from torch import Tensor, nn


class QPMapper(nn.Module):
    """Learnable queries are appended to the encoder's states; a transformer encoder mixes them; the queries' outputs are kept.

    The paper's size: 32 queries, 2 layers, 8 heads, width 768 (that of WavLM base+); another encoder width is first projected.
    The frames' order reaches the mapper through the states themselves, so no positions are added.
    """

    def __init__(
        self,
        encoder_width: int,
        llm_width: int,
        *,
        queries: int = 32,
        layers: int = 2,
        heads: int = 8,
        width: int = 768,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the mapper's width {width} is not divisible by its {heads} heads")
        self.settings = {"queries": queries, "layers": layers, "heads": heads, "width": width}
        self.enter: nn.Module = nn.Linear(encoder_width, width) if encoder_width != width else nn.Identity()
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.mix = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.leave = nn.Linear(width, llm_width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, D) and bool mask (B, T), True where real, to speech embeds (B, Q, H)."""
        batch, queries = len(states), len(self.queries)
        sequence = torch.cat([self.enter(states), self.queries.expand(batch, -1, -1)], dim=1)  # (B, T + Q, W)
        hidden = torch.cat([~mask, mask.new_zeros(batch, queries)], dim=1)  # padding is hidden from everyone, queries from nobody
        mixed = self.mix(sequence, src_key_padding_mask=hidden)
        return self.leave(mixed[:, -queries:])  # type: ignore[no-any-return]
