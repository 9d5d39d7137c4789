"""The segmenter against what it promises: the same segments however the sound is chunked, nothing lost, nothing twice."""

import csv
import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, ms_to_samples, read_audio, s_to_samples
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk, SpeechSegment
from monitor.config import SegmenterConfig
from tests.support.paths import DEMO
from tests.support.virtual_microphone import synthetic_voice

# How segments are cut does not depend on who calls a frame speech; Silero would not take the voice made here for one.
mechanics = partial(SegmenterConfig, detector="webrtcvad")
# Long enough for layouts drawn at random, and made once.
VOICE = synthetic_voice(40)
FRAME_SAMPLES = ms_to_samples(30)


def silence(seconds: float) -> Int16:
    """A quiet room: int16 noise of a few units, which webrtcvad does not take for speech."""
    return np.random.default_rng(3).integers(-3, 4, s_to_samples(seconds)).astype(np.int16)


def voice(seconds: float, offset_s: float = 0.0) -> Int16:
    start = s_to_samples(offset_s)
    return VOICE[start : start + s_to_samples(seconds)]


def segment_all(sound: Int16, config: SegmenterConfig, chunk: int = 0) -> list[SpeechSegment]:
    """Segments of a whole sound delivered in chunks of `chunk` samples, 0 for one piece."""
    segmenter = Segmenter(config)
    segments = []
    for start in range(0, len(sound), chunk or max(1, len(sound))):
        segments += segmenter.push(AudioChunk(start, sound[start : start + chunk] if chunk else sound))
    return segments + segmenter.flush()


def spans(segments: list[SpeechSegment]) -> list[tuple[int, int]]:
    return [(segment.start, segment.end) for segment in segments]


def assert_true_to(sound: Int16, segments: list[SpeechSegment], config: SegmenterConfig) -> None:
    """In order, apart, within bounds, and sample for sample what was heard."""
    reached = 0
    for number, segment in enumerate(segments):
        assert reached <= segment.start < segment.end <= len(sound)
        np.testing.assert_array_equal(segment.pcm, sound[segment.start : segment.end])
        assert segment.pcm.dtype == np.int16
        assert len(segment.pcm) <= ms_to_samples(config.max_segment_ms)
        flushed = number == len(segments) - 1 and len(sound) - segment.end < ms_to_samples(config.hangover_ms)
        assert flushed or len(segment.pcm) >= ms_to_samples(config.min_segment_ms)
        reached = segment.end


DEFAULT = mechanics()
SHORT = mechanics(max_segment_ms=3000)
# Words, pauses shorter and longer than the hangover, speech longer than the longest segment, speech up to the end.
TALK = np.concatenate(
    [
        silence(0.7),
        voice(0.4),
        silence(0.9),
        voice(1.3, 5),
        silence(0.3),
        voice(0.5, 9),
        silence(1.4),
        voice(8, 12),
        silence(0.8),
        voice(0.7, 30)[:-123],
    ]
)


def test_the_synthetic_voice_is_speech_and_the_room_is_not() -> None:
    (whole,) = segment_all(voice(10), DEFAULT)
    assert len(whole.pcm) == s_to_samples(10)
    assert segment_all(silence(10), DEFAULT) == []
    assert segment_all(np.zeros(160_000, np.int16), DEFAULT) == []


@pytest.mark.parametrize(("chunk", "frame_ms"), [(1, 30), (7, 30), (480, 30), (1000, 10), (1000, 20), (1000, 30), (1024, 30), (16_000, 20)])
def test_any_chunking_gives_the_segments_of_the_whole(chunk: int, frame_ms: int) -> None:
    config = mechanics(frame_ms=frame_ms, max_segment_ms=3000)
    whole = segment_all(TALK, config)
    assert len(whole) >= 6
    assert_true_to(TALK, whole, config)
    chunked = segment_all(TALK, config, chunk)
    assert spans(chunked) == spans(whole)
    for one, other in zip(chunked, whole, strict=True):
        np.testing.assert_array_equal(one.pcm, other.pcm)


def test_real_speech_is_found_whole_whatever_the_chunks() -> None:
    sound = float_to_pcm16(read_audio(DEMO))
    segments = segment_all(sound, DEFAULT)
    assert_true_to(sound, segments, DEFAULT)
    for chunk in (480, 1024, 9_999):
        assert spans(segment_all(sound, DEFAULT, chunk)) == spans(segments)
    heard = np.zeros(len(sound), bool)
    for start, end in spans(segments):
        heard[start:end] = True
    with DEMO.with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        clips = [(float(row["start_s"]), float(row["end_s"])) for row in csv.DictReader(file, delimiter="\t")]
    # A clip is about half silence. What is loud in it is speech, but for the household noise under the faintest clip.
    for start_s, end_s in clips:
        clip = slice(s_to_samples(start_s), s_to_samples(end_s))
        loud = np.abs(sound[clip].astype(int)) > np.abs(sound[clip].astype(int)).max() // 4
        assert heard[clip][loud].mean() > 0.95


def test_what_comes_later_never_changes_earlier_segments() -> None:
    final = spans(segment_all(TALK, SHORT))
    for length in range(0, len(TALK), 4999):
        seen = spans(Segmenter(SHORT).push(AudioChunk(0, TALK[:length])))
        assert seen == final[: len(seen)]


def test_frame_lengths_agree_about_where_speech_is() -> None:
    sound = np.concatenate([silence(1), voice(2), silence(2), voice(3, 10), silence(2)])
    for frame_ms in (10, 20, 30):
        found = spans(segment_all(sound, mechanics(frame_ms=frame_ms)))
        assert len(found) == 2
        for (start, end), (true_start, true_end) in zip(found, [(1.0, 3.0), (5.0, 8.0)], strict=True):
            assert -0.5 < start / SAMPLE_RATE - true_start <= 0
            assert 0 <= end / SAMPLE_RATE - true_end < 0.5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    layout=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 2500)), min_size=1, max_size=6),
    rest=st.integers(0, 959),
    chunk=st.sampled_from([0, 333, 480, 4096]),
    frame_ms=st.sampled_from([10, 20, 30]),
    onset_ms=st.integers(30, 400),
    pre_roll_ms=st.integers(0, 1100),
    hangover_ms=st.integers(60, 1500),
    min_segment_ms=st.integers(500, 1500),
    max_segment_ms=st.integers(3000, 6000),
)
@example(
    layout=[(421, 0)],
    rest=0,
    chunk=0,
    frame_ms=30,
    onset_ms=241,
    pre_roll_ms=0,
    hangover_ms=200,
    min_segment_ms=500,
    max_segment_ms=3000,
)
def test_promises_hold_for_any_layout(layout: list[tuple[int, int]], rest: int, chunk: int, **settings_: int) -> None:
    config = mechanics(**settings_)  # type: ignore[arg-type]
    parts, spoken, length = [], [], 0
    for number, (voice_ms, silence_ms) in enumerate(layout):
        parts += [voice(voice_ms / 1000, 5 * number), silence(silence_ms / 1000)]
        spoken.append((length, length + len(parts[-2])))
        length += len(parts[-2]) + len(parts[-1])
    sound = np.concatenate([*parts, silence(rest / SAMPLE_RATE)])
    segments = segment_all(sound, config, chunk)
    assert_true_to(sound, segments, config)
    heard = np.zeros(len(sound), bool)
    for segment in segments:
        heard[segment.start : segment.end] = True
    # webrtcvad takes a few frames to call a voice one, and may miss the dip between two syllables.
    slack = 3 * ms_to_samples(config.frame_ms)
    # An onset is counted in whole frames, and speech begins and ends somewhere inside one.
    onset = (math.ceil(config.onset_ms / config.frame_ms) + 1) * ms_to_samples(config.frame_ms)
    for start, end in spoken:
        if config.hangover_ms >= 200 and end - start >= onset + 2 * slack:
            assert heard[start + slack : end - slack].all()


def test_a_short_word_is_padded_with_what_was_heard_around_it() -> None:
    sound = np.concatenate([silence(2), voice(0.3), silence(6)])
    (default,) = segment_all(sound, DEFAULT)
    assert len(default.pcm) >= ms_to_samples(DEFAULT.min_segment_ms)
    assert default.start < s_to_samples(2) < s_to_samples(2.3) < default.end
    (long,) = segment_all(sound, mechanics(min_segment_ms=3000))
    assert len(long.pcm) == s_to_samples(3)
    assert long.start == default.start
    np.testing.assert_array_equal(long.pcm, sound[long.start : long.end])


def test_pre_roll_and_tail_surround_the_speech_and_no_more() -> None:
    sound = np.concatenate([silence(3), voice(2), silence(3)])
    (plain,) = segment_all(sound, mechanics(pre_roll_ms=0))
    (rolled,) = segment_all(sound, mechanics(pre_roll_ms=600))
    assert abs(plain.start - s_to_samples(3)) <= 2 * FRAME_SAMPLES
    assert plain.start - rolled.start == s_to_samples(0.6)
    assert plain.end == rolled.end
    assert s_to_samples(5) < plain.end < s_to_samples(5.5)


def test_pre_roll_does_not_reach_into_the_segment_before() -> None:
    config = mechanics(pre_roll_ms=2000, hangover_ms=200)
    sound = np.concatenate([silence(1), voice(2), silence(0.45), voice(2, 9), silence(1)])
    first, second = segment_all(sound, config)
    assert first.end == second.start
    assert_true_to(sound, [first, second], config)


def test_the_tail_of_a_stream_is_not_lost() -> None:
    sound = np.concatenate([silence(1), voice(2.0)[:-77]])
    assert len(sound) % FRAME_SAMPLES
    assert segment_all(sound, DEFAULT)[-1].end == len(sound)


def test_flush_emits_an_open_segment_of_any_length_and_nothing_that_was_not_confirmed() -> None:
    word = voice(0.3)
    (short,) = segment_all(word, DEFAULT)
    assert short.end == len(word) < ms_to_samples(DEFAULT.min_segment_ms)
    assert segment_all(word, mechanics(onset_ms=500)) == []


def test_flush_twice_gives_nothing_more_and_the_stream_goes_on_behind_it() -> None:
    segmenter = Segmenter(DEFAULT)
    segmenter.push(AudioChunk(0, voice(2)[:-5]))
    (first,) = segmenter.flush()
    assert segmenter.flush() == []
    assert not segmenter.speaking
    segmenter.push(AudioChunk(first.end, voice(2, 5)))
    (second,) = segmenter.flush()
    assert second.start == first.end
    np.testing.assert_array_equal(second.pcm, voice(2, 5))


def test_long_speech_is_cut_without_losing_a_sample() -> None:
    sound = np.concatenate([silence(1), voice(38), silence(2)])
    segments = segment_all(sound, DEFAULT)
    assert len(segments) >= 3
    assert_true_to(sound, segments, DEFAULT)
    assert all(one.end == other.start for one, other in itertools.pairwise(segments))
    lengths_ms = [1000 * len(segment.pcm) / SAMPLE_RATE for segment in segments[:-1]]
    assert all(10_000 <= length <= 15_000 for length in lengths_ms)


@pytest.mark.parametrize("dip_s", [10.2, 12.0, 14.91])
def test_long_speech_is_cut_at_its_quietest_moment(dip_s: float) -> None:
    sound = voice(20).copy()
    dip = slice(s_to_samples(dip_s), s_to_samples(dip_s + 0.09))
    sound[dip] //= 50
    first, second = segment_all(sound, DEFAULT)
    assert dip.start <= first.end <= dip.stop
    assert (second.start, second.end) == (first.end, len(sound))


@pytest.mark.parametrize("max_segment_ms", [2000, 3000])
@pytest.mark.parametrize("pause_s", [2, 6])
def test_a_pause_at_the_longest_length_does_not_make_a_segment_of_silence(max_segment_ms: int, pause_s: float) -> None:
    config = mechanics(max_segment_ms=max_segment_ms, hangover_ms=3000)
    (only,) = segment_all(np.concatenate([voice(1.2), silence(pause_s)]), config)
    assert s_to_samples(1.2) <= only.end < s_to_samples(1.7)


def test_a_closed_segment_is_closed_at_once() -> None:
    segmenter, sound = Segmenter(DEFAULT), np.concatenate([voice(2), silence(1)])
    starts = iter(range(0, len(sound), FRAME_SAMPLES))
    while not segmenter.push(AudioChunk(start := next(starts), sound[start : start + FRAME_SAMPLES])):
        pass
    assert not segmenter.speaking
    # A single voiced frame right behind it is not speech yet.
    segmenter.push(AudioChunk(start + FRAME_SAMPLES, voice(0.03, 9.05)))
    assert not segmenter.speaking


@pytest.mark.parametrize("pause_s", [0.1, 0.3, 0.5])
def test_the_last_word_after_a_cut_in_a_pause_is_not_lost(pause_s: float) -> None:
    # Too short to open a segment of its own, but the pause before it is shorter than the hangover.
    sound = np.concatenate([voice(2.85), silence(pause_s), voice(0.12, 9), silence(3)])
    first, second = segment_all(sound, SHORT)
    assert_true_to(sound, [first, second], SHORT)
    assert first.end == second.start
    assert second.end > s_to_samples(2.85 + pause_s + 0.12)


def test_a_hole_in_the_stream_closes_the_segment_and_positions_stay_exact() -> None:
    before, after = voice(2)[:-100], np.concatenate([voice(2, 9), silence(2)])
    hole = len(before) + 12_345
    segmenter = Segmenter(DEFAULT)
    assert segmenter.push(AudioChunk(0, before)) == []
    found = segmenter.push(AudioChunk(hole, after))
    (alone,) = segment_all(after, DEFAULT)
    assert spans(found) == [(0, len(before)), (hole + alone.start, hole + alone.end)]
    np.testing.assert_array_equal(found[0].pcm, before)
    np.testing.assert_array_equal(found[1].pcm, alone.pcm)


def test_a_stream_that_goes_back_is_refused() -> None:
    segmenter = Segmenter(DEFAULT)
    segmenter.push(AudioChunk(0, voice(1)))
    with pytest.raises(ValueError, match="starts at sample 5"):
        segmenter.push(AudioChunk(5, voice(1)))


@pytest.mark.parametrize("start_over", [Segmenter.reset, Segmenter.flush])
def test_after_a_reset_or_a_flush_nothing_is_remembered_of_the_sound_before(
    start_over: Callable[[Segmenter], object],
) -> None:
    segmenter, faint = Segmenter(DEFAULT), TALK // 10
    # Enough for webrtcvad to learn a level of noise at which it misses faint speech.
    noise = np.random.default_rng(0).normal(0, 3000, s_to_samples(10)).astype(np.int16)
    segmenter.push(AudioChunk(0, noise[:-11]))
    start_over(segmenter)
    assert not segmenter.speaking
    shift = 0 if start_over is Segmenter.reset else len(noise) - 11
    found = segmenter.push(AudioChunk(shift, faint)) + segmenter.flush()
    assert spans(found) == [(shift + start, shift + end) for start, end in spans(segment_all(faint, DEFAULT))]


@pytest.mark.parametrize(("pause_s", "count"), [(0.3, 1), (0.45, 1), (0.75, 2), (1.5, 2)])
def test_a_pause_ends_a_segment_only_when_it_outlasts_the_hangover(pause_s: float, count: int) -> None:
    sound = np.concatenate([voice(2), silence(pause_s), voice(2, 9), silence(1)])
    assert len(segment_all(sound, DEFAULT)) == count


def test_the_longest_pre_roll_and_onset_fit_into_the_shortest_maximum() -> None:
    config = mechanics(pre_roll_ms=700, onset_ms=300, max_segment_ms=2000)
    sound = np.concatenate([silence(4), voice(5), silence(4)])
    segments = segment_all(sound, config)
    assert_true_to(sound, segments, config)
    assert segments[0].start < s_to_samples(4) < segments[0].end


def test_segments_do_not_change_with_the_callers_buffer() -> None:
    segmenter = Segmenter(DEFAULT)
    buffer = voice(2).copy()
    segmenter.push(AudioChunk(0, buffer))
    buffer[:] = 0
    (segment,) = segmenter.flush()
    np.testing.assert_array_equal(segment.pcm, voice(2))
    segment.pcm[0] = 1  # torch warns about what cannot be written to


def test_speaking_and_level_follow_the_sound() -> None:
    segmenter = Segmenter(DEFAULT)
    assert not segmenter.speaking
    assert segmenter.level_dbfs == pytest.approx(-90.3, abs=0.01)
    segmenter.push(AudioChunk(0, voice(1)))
    assert segmenter.speaking
    expected = 20 * math.log10(np.sqrt(np.mean(voice(1)[-640:-160].astype(float) ** 2)) / 32_768)
    assert segmenter.level_dbfs == pytest.approx(expected)
    segmenter.push(AudioChunk(s_to_samples(1), np.full(48_000, -32_768, np.int16)))
    assert segmenter.level_dbfs == 0.0
    segmenter.push(AudioChunk(s_to_samples(4), np.zeros(48_000, np.int16)))
    assert not segmenter.speaking
