"""Muted and heard stretches: they tile the stream whatever the chunks, and zeros count from the first when they are many."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.audio import Int16, s_to_samples
from monitor.sound.mute import MUTED_AFTER_S, MuteWatch, Stretch
from monitor.sound.types import AudioChunk

LONG = s_to_samples(MUTED_AFTER_S)


def sound(*parts: int) -> Int16:
    """Loud and silent stretches of so many samples, in turn, loud first."""
    return np.concatenate([np.full(length, 1 - number % 2, np.int16) for number, length in enumerate(parts)])


def watch_all(pcm: Int16, cuts: list[int], start: int = 0, settled: bool = False) -> list[Stretch]:
    """Stretches of a sound delivered in pieces; with `settled`, asked after each."""
    watch, stretches = MuteWatch(), list[Stretch]()
    for begin, end in itertools.pairwise([0, *cuts, len(pcm)]):
        stretches += watch.push(AudioChunk(start + begin, pcm[begin:end]))
        stretches += watch.settled() if settled else []
    return stretches + watch.flush()


def joined(stretches: list[Stretch]) -> list[Stretch]:
    """Neighbours of one kind as one."""
    result: list[Stretch] = []
    for stretch in stretches:
        if result and result[-1].muted == stretch.muted and result[-1].end == stretch.start:
            result[-1] = Stretch(result[-1].start, stretch.end, stretch.muted)
        else:
            result.append(stretch)
    return result


def expected(pcm: Int16) -> list[Stretch]:
    """The same by the slowest and plainest way: every run of equal samples on its own."""
    stretches, at = list[Stretch](), 0
    for loud, run in itertools.groupby(pcm.tolist(), bool):
        length = len(list(run))
        stretches.append(Stretch(at, at + length, not loud and length >= LONG))
        at += length
    return joined(stretches)


lengths = st.one_of(st.integers(1, 600), st.integers(LONG - 2, LONG + 2), st.integers(LONG, 2 * LONG))


@given(st.lists(lengths, min_size=1, max_size=7), st.lists(st.floats(0, 1), max_size=12), st.booleans(), st.booleans())
def test_stretches_tile_the_stream_whatever_the_chunks(parts: list[int], cuts: list[float], zeros_first: bool, settled: bool) -> None:
    pcm = sound(*([0] if zeros_first else []), *parts)
    stretches = watch_all(pcm, sorted(int(cut * len(pcm)) for cut in cuts), settled=settled)
    assert all(one.end == other.start for one, other in itertools.pairwise(stretches))
    assert joined(stretches) == expected(pcm)
    if not settled:
        assert joined(stretches) == stretches


@pytest.mark.parametrize("chunk", [1, 480, 4_096, 10 * LONG])
def test_zeros_are_muted_from_the_first_once_they_last(chunk: int) -> None:
    pcm = sound(5_000, LONG, 300, LONG - 1, 300)
    stretches = watch_all(pcm, list(range(chunk, len(pcm), chunk)))
    assert stretches == [Stretch(0, 5_000, False), Stretch(5_000, 5_000 + LONG, True), Stretch(5_000 + LONG, len(pcm), False)]


def test_a_mute_is_known_as_soon_as_it_has_lasted_and_as_over_with_the_first_sound() -> None:
    watch = MuteWatch()
    assert watch.push(AudioChunk(0, sound(100, LONG - 1))) == []
    assert not watch.muted
    assert watch.settled() == [Stretch(0, 100, False)]
    assert watch.push(AudioChunk(99 + LONG, sound(0, 1))) == []
    assert watch.muted
    assert watch.settled() == [Stretch(100, 100 + LONG, True)]
    assert watch.settled() == []
    assert watch.push(AudioChunk(100 + LONG, sound(0, 10, 1))) == [Stretch(100 + LONG, 110 + LONG, True)]
    assert not watch.muted


def test_after_the_end_of_a_sound_zeros_count_from_anew() -> None:
    watch = MuteWatch()
    watch.push(AudioChunk(0, sound(0, LONG)))
    assert watch.flush() == [Stretch(0, LONG, True)]
    assert not watch.muted
    watch.push(AudioChunk(LONG, sound(0, LONG - 1)))
    assert watch.flush() == [Stretch(LONG, 2 * LONG - 1, False)]


def test_a_hole_in_the_stream_belongs_to_no_stretch_and_zeros_do_not_count_across_it() -> None:
    watch = MuteWatch()
    watch.push(AudioChunk(0, sound(50, LONG)))
    assert watch.push(AudioChunk(2 * LONG, sound(0, LONG - 1))) == [Stretch(50, 50 + LONG, True)]
    assert watch.flush() == [Stretch(2 * LONG, 3 * LONG - 1, False)]
    assert watch.flush() == []
    assert watch.push(AudioChunk(9 * LONG, sound(5))) == []
    assert watch.flush() == [Stretch(9 * LONG, 9 * LONG + 5, False)]
