"""QPMapper: an utterance of any length becomes a fixed number of vectors in the language model's space (paper, 2.1).

B batch, T encoder frames, D encoder width, W mapper width, Q queries, H hidden size of the language model.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


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
        real = torch.cat([mask, mask.new_ones(batch, queries)], dim=1)  # padding is hidden from everyone, queries from nobody
        if self.training:
            return self.leave(self.mix(sequence, src_key_padding_mask=~real)[:, -queries:])  # type: ignore[no-any-return]
        return self.leave(self._mixed(sequence, real))  # type: ignore[no-any-return]

    def _mixed(self, sequence: Tensor, real: Tensor) -> Tensor:
        """What the layers make of the queries (B, Q, W): the same, without dropout, and without what the last one makes of the frames."""
        seen, hidden = real[:, None, None, :], sequence
        for number, layer in enumerate(self.mix.layers, 1):
            everyone = layer.norm1(hidden)
            asking = everyone
            if number == len(self.mix.layers):
                hidden, asking = (rows[:, -len(self.queries) :] for rows in (hidden, everyone))
            hidden = hidden + _attend(layer.self_attn, asking, everyone, seen)
            hidden = hidden + layer.linear2(functional.gelu(layer.linear1(layer.norm2(hidden))))
        return self.mix.norm(hidden)  # type: ignore[no-any-return, misc]


def _attend(attention: nn.MultiheadAttention, asking: Tensor, asked: Tensor, seen: Tensor) -> Tensor:
    """Rows (B, A, W) to what they take from (B, S, W), where `seen` (B, 1, 1, S)."""
    width, heads = asking.shape[2], attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query = functional.linear(asking, weight[:width], bias[:width])
    key, value = functional.linear(asked, weight[width:], bias[width:]).chunk(2, dim=2)
    query, key, value = (
        rows.reshape(*rows.shape[:2], heads, -1).transpose(1, 2) for rows in (query, key, value)
    )  # (B, heads, rows, W / heads)
    taken = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    return attention.out_proj(taken.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
