"""The replay of a mood: with a frozen reference sad stays sad, with one that follows it fades."""

import re
from pathlib import Path

import pytest

from bench.studies.mood import Plan, replay, to_lines
from model.errors import TrainingError
from tests.levels import N, OfLevels, S, person
from train.corpora.manifest import Utterance

PLAN = Plan(calm_weeks=2, sad_weeks=7, segments=12)


def people(folder: Path) -> list[Utterance]:
    """Three people whose voices lie apart, and one who is only ever neutral."""
    counts = {N: 16, S: 16}
    voices = {"f1": 0.15, "m1": -0.15, "f2": 0.1}
    clips = [u for name, voice in voices.items() for u in person(folder, "c", name, voice, counts)]
    return [*clips, *person(folder, "c", "calm", 0.0, {N: 20})]


def test_a_frozen_reference_keeps_the_mood_and_one_that_follows_loses_it(tmp_path: Path) -> None:
    predictor = OfLevels()
    lives = replay(predictor, people(tmp_path), PLAN)
    assert (len(lives), predictor.cleared) == (3, 3)
    for life in lives:
        assert len(life.sad) == 9
        assert max(life.sad[:2]) < 0.2
        assert min(life.sad[2:]) > 0.5
        frozen, following = ([tally.of_sure for tally in life.tallies[name]] for name in ("frozen", "following"))
        assert frozen == pytest.approx(life.sad, abs=0.1)
        assert following[-1] < 0.1 < 0.5 < following[2], "week by week sad becomes the new neutral"
        assert all(tally.segments == 7 * 12 for tallies in life.tallies.values() for tally in tallies)


def test_the_same_seed_gives_the_same_weeks_and_the_tables_say_what_was_counted(tmp_path: Path) -> None:
    lives = replay(OfLevels(), people(tmp_path), PLAN)
    assert lives == replay(OfLevels(), people(tmp_path), PLAN)
    assert lives != replay(OfLevels(), people(tmp_path), PLAN, seed=1)
    text = "\n".join(to_lines(lives, PLAN))
    assert text.startswith("## c, 3 people, 12 segments a day")
    assert len(re.findall(r"^\| \d, (calm|sad) \|", text, re.MULTILINE)) == 9
    really, none, frozen, following = (float(x) for x in re.findall(r"^\| \w+ \| ([+-]\d\.\d{3}) \|", text, re.MULTILINE))
    assert abs(frozen - really) < 0.1
    assert following < frozen - 0.1
    assert none < frozen


def test_nobody_with_both_moods_is_refused(tmp_path: Path) -> None:
    clips = person(tmp_path, "c", "f1", 0.0, {N: 20, S: 3})
    with pytest.raises(TrainingError, match="nobody in this manifest has 4 neutral and 4 sad clips"):
        replay(OfLevels(), clips, PLAN)
