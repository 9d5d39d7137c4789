"""The benchmarks' own arithmetic, that their yardstick does the same work, and that what needs a GPU runs on a small size."""

import os
import subprocess
import sys

import pytest

from bench.baselines import (
    Clock,
    ComputeWork,
    DevicePeaks,
    LlmShape,
    PlainLoop,
    arrivals,
    convolutions_work,
    delays,
    frames_work,
    llm_work,
    most_monitors,
    percentile_95,
)
from bench.harness import Target, demo_segments, markdown_table
from bench.load.report import ClinicRows, Costs, Event, LoadResult, report_lines
from model.audio import pcm16_to_float
from model.bundle import Bundle
from model.predictor import Predictor, SpeechInput
from monitor.inference.engines.vllm import EmbeddedEngine
from tests.support.paths import ROOT


class Hand:
    """A clock that only moves when somebody sleeps or works."""

    def __init__(self) -> None:
        self.at = 0.0

    def pass_by(self, seconds: float) -> None:
        """Let time go by."""
        self.at += seconds

    @property
    def clock(self) -> Clock:
        """What is asked."""
        return Clock(lambda: self.at, self.pass_by)


def test_tables_keep_three_digits_and_aims_say_whether_they_are_reached() -> None:
    assert markdown_table(["a", "b"], [["x", 1234.5], [1, 0.012345]]) == ["| a | b |", "|---|---|", "| x | 1234 |", "| 1 | 0.012 |"]
    fast, soon = Target("pace", "pace", 20, "a second", at_least=True), Target("delay", "delay", 300, "ms")
    assert fast.row({"pace": 20.0}) == ["pace", "at least 20 a second", "20.0 a second", "reached"]
    assert fast.row({"pace": 19.9})[3] == "**missed**"
    assert [soon.row({"delay": found})[3] for found in (299.0, 300.0)] == ["reached", "**missed**"]
    assert soon.row({})[2] == "not measured in this run"


def test_the_floor_is_the_slower_of_operations_and_bytes() -> None:
    assert DevicePeaks(10.0, 100.0).least_s(ComputeWork(50.0, 200.0)) == 5.0
    assert DevicePeaks(100.0, 10.0).least_s(ComputeWork(50.0, 200.0)) == 20.0


def test_the_work_of_a_batch_is_that_of_its_weights_its_attention_and_its_caches() -> None:
    llm = LlmShape(parameters=1000, layers=2, hidden=10, kv_width=4, weight_bytes=2)
    one = llm_work(llm, requests=1, computed=5, context=8)
    assert one.operations == 2 * 1000 * 5 + 2 * (2 * 10 * 5 * 8)
    assert one.bytes == 1000 * 2 + 2 * 2 * 4 * 8 * 2
    many = llm_work(llm, requests=64, computed=5, context=8)
    assert many.operations == 64 * one.operations
    assert many.bytes == 2000 + 64 * (one.bytes - 2000), "weights are read once for all"
    assert frames_work(100, 50, 2, 4) == ComputeWork(2 * 100 * 50 * 2, 400)
    assert convolutions_work([3, 5], [4, 2], [2, 2], samples=10, requests=1).operations == 2 * 4 * 1 * 3 * 4 + 2 * 2 * 3 * 5 * 2


def test_segments_come_as_often_as_monitors_speak() -> None:
    due = arrivals(monitors=100, every_s=4.0, lasts_s=100.0)
    assert due == sorted(due)
    assert len(due) == pytest.approx(2500, rel=0.1)
    assert due == arrivals(100, 4.0, 100.0)


def test_all_that_wait_are_judged_together_and_wait_for_what_is_being_judged() -> None:
    hand, batches = Hand(), []

    def judge(count: int) -> None:
        batches.append(count)
        hand.pass_by(1.0)

    assert delays(judge, [1.0, 1.5, 1.6, 1.7, 9.0], 2, hand.clock) == pytest.approx([1.0, 1.5, 1.4, 2.3, 1.0])
    assert batches == [1, 2, 1, 1]


@pytest.mark.parametrize(("holds", "found"), [(0, 0), (1, 1), (37, 37), (1000, 1000)])
def test_the_most_monitors_are_found_to_a_tenth(holds: int, found: int) -> None:
    assert most_monitors(lambda monitors: 1.0 if monitors <= holds else 3.0, 2.0) == pytest.approx(found, rel=0.11)


def test_a_percentile_of_few() -> None:
    assert percentile_95([]) == 0.0
    assert percentile_95([3.0]) == 3.0
    assert percentile_95(list(range(1, 101))) == pytest.approx(95.95)


@pytest.mark.slow
def test_the_plain_loop_writes_the_letter_that_is_most_probable_here(packaged: Bundle, embedded: EmbeddedEngine) -> None:
    sounds = [SpeechInput(pcm16_to_float(pcm)) for pcm in demo_segments()[:6]]
    plain = PlainLoop(packaged)
    ours = [answer.prediction.emotion for answer in Predictor(packaged, embedded).predict(sounds) if answer.prediction]
    assert len(set(ours)) > 1
    assert [plain.answer(sound) for sound in sounds] == ours


@pytest.mark.slow
def test_the_papers_size_runs_on_a_small_size() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.paper_size", "--small", "--segment", "1", "--trial", "0.5"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("| ")]
    ours, qwen, plain, floor = rows[1:]
    assert ours[0].startswith("ours")
    assert qwen[0].startswith("Qwen2-Audio")
    paces = [float(row[1].replace(",", "")) for row in (ours, qwen, plain, floor)]
    assert min(paces) > 0
    assert paces[3] > paces[0] > paces[2], "the floor is the quickest, the plain loop slower than ours"
    assert int(ours[3]) > 0
    assert int(qwen[3]) > 0


def _told(name: str, closed: dict[str, float], judged: dict[str, float], twice: int = 0) -> dict[str, object]:
    return {"name": name, "closed": closed, "judged": judged, "twice": twice, "refused": [], "waiting_most": 2}


def test_a_load_test_tells_what_was_lost_doubled_and_did_not_arrive() -> None:
    one = _told("one", {"1": 1040.0, "2": 1041.0, "3": 1301.0}, {"1": 1040.2, "2": 1041.4, "3": 1302.0})
    other = _told("other", {"1": 1042.0, "2": 1043.0}, {"1": 1042.6}, twice=1)
    arrived = ClinicRows({"one": (3, 3, 3), "other": (3, 2, 1)}, 6000)
    costs = Costs(1030.0, 1050.0, {"vLLM": 2.0})
    killed = Event("vLLM killed", 1300.0, 1310.0)
    told = report_lines(LoadResult(1000.0, 600.0, [one, other], [killed], (1390.0, 1570.0), {"flood": {"200": 7}}, arrived, costs))
    for row in (
        "| segments closed | 5 |",
        "| judged in their own timelines | 4 |",
        "| lost | 1 |",
        "| judged twice | 1 |",
        "| of them double | 1 |",
        "| people of whom the clinic has not exactly what was closed | 1 |",
        "| vLLM | 666.7 | 10.0% |",
        "| flood | 200 (7 times) |",
        "- vLLM killed after 300 s; back 10 s later",
    ):
        assert row in told
    (calm,) = [line for line in told if line.startswith("| undisturbed | 3 |")]
    assert "0.300 to 0.600" in calm
