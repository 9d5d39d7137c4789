"""Who is blamed for dead judging processes: simulated engines that die on certain segments, from outside, or always."""

import random
from collections.abc import Callable

import pytest

from monitor.judging.blame import DEATHS_OF_A_BUNDLE, Blame


class Engine:
    """Plays processes that answer one batch a turn and die as told."""

    def __init__(self, segments: int, dies: Callable[[list[int]], bool], room: int = 8) -> None:
        self.blame = Blame()
        self.waiting = list(range(segments))
        self.answers: list[int] = []
        self.given_up: list[int] = []
        self.deaths = 0
        self._dies, self._room = dies, room

    def run(self, turns: int = 500) -> None:
        """Until nothing waits, the bundle has failed, or the turns are over."""
        for _ in range(turns):
            if not self.waiting or self.blame.bundle_failed:
                return
            asked = self.blame.may_ask(self.waiting, [], self._room)
            if self._dies(asked):
                self.deaths += 1
                guilty = self.blame.died(asked)
                if guilty is not None:
                    self.given_up.append(guilty)
                    self.waiting.remove(guilty)
            else:
                self.answers += asked
                self.waiting = [entry for entry in self.waiting if entry not in asked]
                self.blame.answered(asked)


def test_without_deaths_everything_is_asked_in_order_in_whole_batches() -> None:
    engine = Engine(20, lambda asked: False)
    engine.run()
    assert engine.answers == list(range(20))


@pytest.mark.parametrize("deadly", [{0}, {7}, {18}, {3, 5}, {0, 10, 18}])
def test_segments_that_kill_are_given_up_and_all_others_answered(deadly: set[int]) -> None:
    engine = Engine(20, lambda asked: bool(deadly.intersection(asked)))
    engine.run()
    assert sorted(engine.given_up) == sorted(deadly)
    assert sorted(engine.answers) == sorted(set(range(20)) - deadly)
    assert not engine.blame.bundle_failed


def test_a_bundle_that_always_dies_is_blamed_after_three_deaths_and_no_segment_is_given_up() -> None:
    engine = Engine(20, lambda asked: True)
    engine.run()
    assert engine.blame.bundle_failed
    assert engine.deaths == DEATHS_OF_A_BUNDLE
    assert engine.given_up == []
    engine.blame.another_bundle()
    assert not engine.blame.bundle_failed


def test_a_bundle_that_dies_while_it_loads_is_blamed_too() -> None:
    blame = Blame()
    for _ in range(DEATHS_OF_A_BUNDLE):
        assert not blame.bundle_failed
        assert blame.died([]) is None
    assert blame.bundle_failed


def test_kills_from_outside_cost_hardly_ever_a_segment() -> None:
    lost = 0
    for seed in range(200):
        rng = random.Random(seed)
        left = 20

        def killed(_asked: list[int], rng: random.Random = rng) -> bool:
            nonlocal left
            left -= (now := left > 0 and rng.random() < 0.2)
            return now

        engine = Engine(60, killed, room=4)
        engine.run()
        if not engine.blame.bundle_failed:
            lost += len(engine.given_up)
            assert sorted(engine.answers + engine.given_up) == list(range(60))
    assert lost < 20, f"{lost} of 12,000 good segments were given up, with every fifth process killed"


def test_an_accused_segment_is_asked_alone() -> None:
    blame = Blame()
    blame.died([3])
    assert blame.may_ask([3, 4, 5], [], 8) == [4], "careful after a death"
    blame.answered([4])
    assert blame.may_ask([3, 5, 6], [], 8) == [5, 6]
    assert blame.may_ask([3, 5, 6], [5, 6], 8) == []
    blame.answered([5, 6])
    assert blame.may_ask([3], [], 8) == [3]
    assert blame.may_ask([3, 9], [3], 8) == []
    blame.answered([3])
    assert blame.may_ask([9], [], 8) == [9]


def test_a_bad_bundle_costs_no_segment_where_only_one_waits() -> None:
    blame = Blame()
    for _ in range(10):
        assert blame.may_ask([3], [], 8) == [3]
        assert blame.died([3]) is None
    assert blame.may_ask([3, 4], [], 8) == [4]
    blame.answered([4])
    assert blame.died([3]) == 3, "others are answered, this one kills"
