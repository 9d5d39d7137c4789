"""How a backlog is grouped for the encoder."""

from hypothesis import given
from hypothesis import strategies as st

from model.speech_encoder import length_groups


@given(st.lists(st.integers(1, 240_000), max_size=80), st.integers(1, 640_000))
def test_every_segment_is_in_one_group_and_groups_stay_in_bounds(lengths: list[int], limit: int) -> None:
    groups = length_groups(lengths, limit)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[place] for place in group) <= limit


def test_like_lengths_go_together() -> None:
    assert length_groups([10, 100, 11, 99], 200) == [[0, 2], [3, 1]]
    assert length_groups([10, 12, 13, 30, 36, 37], 1000, ratio=1.2) == [[0, 1], [2], [3, 4], [5]]
