"""QPMapper: the paper's size, the right shape, deaf to padding."""

import pytest
import torch

from model.mapper import QPMapper


def test_any_length_becomes_the_queries_in_the_language_models_width() -> None:
    mapper = QPMapper(48, 96, queries=32, layers=2, heads=4, width=64).eval()
    for frames in (1, 7, 300):
        assert mapper(torch.randn(2, frames, 48), torch.ones(2, frames, dtype=torch.bool)).shape == (2, 32, 96)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    mapper = QPMapper(48, 96, queries=8, layers=2, heads=4, width=48).eval()
    states = torch.randn(1, 20, 48)
    padded = torch.cat([states, 100 * torch.randn(1, 15, 48)], dim=1)
    mask = torch.arange(35)[None] < 20
    assert torch.allclose(mapper(padded, mask), mapper(states, mask[:, :20]), atol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
def test_outside_training_the_same_is_said_in_fewer_steps(layers: int) -> None:
    torch.manual_seed(0)
    mapper = QPMapper(48, 96, queries=8, layers=layers, heads=4, width=48).eval()
    states, mask = torch.randn(3, 30, 48), torch.arange(30)[None] < torch.tensor([[30], [12], [1]])
    quick = mapper(states, mask)
    for module in mapper.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    assert torch.allclose(mapper.train()(states, mask), quick, atol=1e-5)


def test_every_frame_can_reach_every_query() -> None:
    torch.manual_seed(0)
    mapper = QPMapper(48, 96, queries=8, layers=2, heads=4, width=48).eval()
    states = torch.randn(1, 20, 48, requires_grad=True)
    mapper(states, torch.ones(1, 20, dtype=torch.bool)).square().sum().backward()
    assert states.grad is not None
    assert (states.grad.abs().sum(dim=2) > 0).all()


def test_the_papers_size() -> None:
    mapper = QPMapper(768, 3072)
    assert mapper.queries.shape == (32, 768)
    assert mapper.settings == {"queries": 32, "layers": 2, "heads": 8, "width": 768}
    block = 12 * 768**2 + 13 * 768  # attention 4 w^2 + 4 w, feed-forward 8 w^2 + 5 w, two norms 4 w
    assert sum(p.numel() for p in mapper.parameters()) == 2 * block + 2 * 768 + 32 * 768 + 3072 * 769


def test_a_width_that_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="not divisible"):
        QPMapper(48, 96, heads=5, width=48)
