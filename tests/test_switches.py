"""A judge that is told to use other bundles: nothing is lost or judged twice, and each answer is that of the bundle it names."""

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from model.audio import Int16, pcm16_to_float
from model.bundle import Bundle, open_bundle
from model.errors import BundleError, EngineUnavailable
from model.manifest import read_manifest
from model.predictor import Predictor, Sound
from model.priors import EVERYDAY, unmarked
from monitor.config import EngineConfig
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.engine import TransformersEngine
from monitor.judging.judge import Judge
from monitor.judging.listener import EngineState, Listener
from monitor.judging.retirement import LEARNED_FROM, retire
from monitor.judging.switch import Switch
from monitor.store.records import Judgement
from tests.servers import NOBODY
from tests.test_judge import _child_of, _sounds, _wait, never
from tests.variants import ADAPTER, MAPPER, sign, variant

QUICK = EngineConfig(kind="transformers", bundle="compact", max_batch=4)
PATIENCE_S = 300.0
LETTERS: dict[str, object] = {"letters": ["A", "S", "H", "N"], "training_prior": None, "normalisation": None}


class Switched:
    """A judge with everything it told, in order."""

    def __init__(self, folder: Path, config: EngineConfig = QUICK, sounds: list[Int16] | None = None, tireless: bool = False) -> None:
        self.sounds = dict(enumerate(sounds or []))
        self.judgements: list[tuple[int, Judgement]] = []
        self.dropped: list[int] = []
        self.states: list[EngineState] = []
        self.outcomes: list[tuple[str, str, str]] = []
        self.choice = BundleChoice(config.bundle, folder / "bundles.json")
        listener = Listener(self.sounds.get, self._judged, lambda entry, _: self.dropped.append(entry), self._changed, self._switched)
        self.judge = Judge(config, self.choice, folder / "engine.log", listener, tireless)
        for entry in self.sounds:
            self.judge.submit(entry)
        self.judge.start()

    def submit(self, pcm: Int16) -> None:
        entry = len(self.sounds)
        self.sounds[entry] = pcm
        self.judge.submit(entry)

    def until_ready(self) -> None:
        _wait(lambda: EngineState.READY in self.states, PATIENCE_S)

    def versions(self) -> dict[int, str]:
        """By entry, without the prior."""
        return {entry: unmarked(judgement.prediction.bundle_version)[0] for entry, judgement in self.judgements}

    def use(self, bundle: Path | str) -> tuple[str, str, str]:
        """Ask for a bundle and wait for what becomes of it."""
        known = len(self.outcomes)
        self.judge.use(str(bundle))
        _wait(lambda: len(self.outcomes) > known, PATIENCE_S)
        return self.outcomes[-1]

    def _judged(self, judgements: Mapping[int, Judgement]) -> None:
        self.judgements += judgements.items()

    def _changed(self, state: EngineState, _detail: str) -> None:
        self.states.append(state)

    def _switched(self, name: str, version: str, reason: str) -> None:
        self.outcomes.append((name, version, reason))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles that are like packaged."""
    folder = tmp_path_factory.mktemp("others")
    return [variant(folder / f"other{seed}", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def ten(utterances: list[Int16]) -> list[Int16]:
    return [pcm[:32_000] for pcm in utterances[:10]]


@pytest.fixture(scope="module")
def said(packaged: Bundle, others: list[Path], ten: list[Int16]) -> dict[str, np.ndarray]:
    """Posteriors (10, letters) that fresh engines give, by version."""
    tables = {}
    for opened in (packaged, *(open_bundle(folder, packaged) for folder in others)):
        bundle = opened.under(EVERYDAY)
        answers = Predictor(bundle, TransformersEngine(bundle)).predict([Sound(pcm16_to_float(pcm)) for pcm in ten])
        tables[bundle.version] = np.array([list(answer.prediction.posterior.values()) for answer in answers if answer.prediction])
    return tables


def version(bundle: Path) -> str:
    return read_manifest(bundle).version


@pytest.mark.parametrize("kind", ["transformers", "embedded"])
def test_under_load_every_segment_is_judged_once_by_the_bundle_it_names(
    kind: str, tmp_path: Path, packaged: Bundle, others: list[Path], ten: list[Int16], said: dict[str, np.ndarray]
) -> None:
    """Segments come without end while somebody switches at random, often before the last switch is over."""
    rng = random.Random(kind)
    switched = Switched(tmp_path, QUICK.model_copy(update={"kind": kind}))
    wanted = [rng.choice([packaged.folder, *others]) for _ in range(12)]
    for number in range(120):
        switched.submit(ten[number % 10])
        if number % 10 == 5:
            switched.judge.use(str(wanted[number // 10]))
        if number % 40 == 20:
            switched.until_ready()
            _wait(lambda known=number: len(switched.judgements) > known // 2, PATIENCE_S)
    _wait(lambda: not switched.judge.waiting and switched.outcomes[-1:] and switched.outcomes[-1][0] == str(wanted[-1]), PATIENCE_S)
    switched.judge.finish(never)

    assert [entry for entry, _ in switched.judgements] == list(range(120)), "in order, once each"
    assert switched.states.count(EngineState.LOADING) == 1, "in one process"
    assert not switched.dropped
    _each_is_its_bundles(switched, said)
    used = [told for _, told, reason in switched.outcomes if not reason]
    assert len(used) >= 3
    assert len(used) + sum("since" in reason for _, _, reason in switched.outcomes) == len(switched.outcomes)
    # Versions change only as the switches did, and in their order.
    order = [packaged.manifest.version, *used]
    place = 0
    for told in switched.versions().values():
        place = order.index(told, place)
    assert switched.outcomes[-1][1] == version(wanted[-1])


def _each_is_its_bundles(switched: Switched, said: dict[str, np.ndarray]) -> None:
    for entry, judgement in switched.judgements:
        found = np.array(list(judgement.prediction.posterior.values()))
        assert np.abs(found - said[judgement.prediction.bundle_version][entry % 10]).max() < 0.01, entry


def test_with_processes_killed_in_between_too(
    tmp_path: Path, packaged: Bundle, others: list[Path], ten: list[Int16], said: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.judging.judge._BACKOFF_S", (0.5,))
    switched = Switched(tmp_path, tireless=True)
    for number in range(4):
        ready = switched.states.count(EngineState.READY)
        for pcm in ten:
            switched.submit(pcm)
        _wait(lambda known=ready: switched.states.count(EngineState.READY) > known, PATIENCE_S)
        switched.judge.use(str(others[number % 2]))
        time.sleep((0.0, 0.3, 0.05, 0.6)[number])
        os.kill(_child_of(switched.judge), signal.SIGKILL)
    switched.judge.finish(never)
    assert sorted(entry for entry, _ in switched.judgements) == list(range(40))
    assert not switched.dropped
    _each_is_its_bundles(switched, said)
    assert {told for _, told, _ in switched.outcomes} <= {version(other) for other in others}, "a kill from outside refuses no bundle"
    assert switched.choice.current == str(others[1])


def test_a_switch_that_is_asked_for_while_the_process_loads_waits_for_it(tmp_path: Path, others: list[Path]) -> None:
    switched = Switched(tmp_path, sounds=_sounds(3))
    assert switched.judge.in_use == ""
    assert switched.use(others[0]) == (str(others[0]), version(others[0]), "")
    assert switched.states.count(EngineState.LOADING) == 1
    assert switched.judge.in_use == version(others[0])
    switched.judge.finish(never)
    assert len(switched.judgements) == 3
    assert switched.choice.current == str(others[0])
    assert json.loads((tmp_path / "bundles.json").read_text())["uses"] == [], "that is for whoever asked"


def test_what_cannot_be_taken_up_in_place_is_loaded_by_a_new_process(tmp_path: Path, packaged: Bundle) -> None:
    other = variant(tmp_path / "letters", about=LETTERS | {"version": "compact-letters0"})
    switched = Switched(tmp_path, sounds=_sounds(8))
    _wait(lambda: bool(switched.judgements))
    for pcm in _sounds(12):
        switched.submit(pcm)
    assert switched.use(other) == (str(other), "compact-letters0", "")
    for pcm in _sounds(4):
        switched.submit(pcm)
    assert switched.use("compact") == ("compact", packaged.manifest.version, "")
    switched.judge.finish(never)
    assert [entry for entry, _ in switched.judgements] == list(range(24))
    assert EngineState.RESTARTING not in switched.states, "nothing went wrong"
    assert switched.states.count(EngineState.LOADING) == 3
    for judgement in (judgement for _, judgement in switched.judgements):
        assert len(judgement.prediction.posterior) == (4 if judgement.prediction.bundle_version.startswith("compact-letters0") else 7)


def test_one_that_a_new_process_cannot_load_is_refused_and_the_one_before_goes_on(tmp_path: Path, others: list[Path]) -> None:
    bad = variant(tmp_path / "bad", about=LETTERS | {"version": "compact-bad00000"})
    (bad / MAPPER).write_bytes(b"damaged")
    switched = Switched(tmp_path, sounds=_sounds(2))
    switched.use(others[0])
    for pcm in _sounds(6):
        switched.submit(pcm)
    name, told, reason = switched.use(bad)
    assert (name, told) == (str(bad), "")
    assert "is damaged" in reason
    switched.judge.finish(never)
    assert len(switched.judgements) == 8
    assert switched.versions()[7] == version(others[0])
    assert (switched.choice.current, switched.choice.aside) == (str(others[0]), "")
    assert switched.judge.error is None


def _not_numbers(folder: Path) -> Path:
    bundle = variant(folder)
    weights = load_file(bundle / ADAPTER)
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, bundle / ADAPTER, {"format": "pt"})
    return sign(bundle)


def _damaged(folder: Path) -> Path:
    bundle = variant(folder)
    (bundle / MAPPER).write_bytes(b"damaged")
    return bundle


@pytest.mark.parametrize("kind", ["transformers", "embedded"])
def test_one_that_is_damaged_is_refused_and_the_old_one_goes_on_in_the_same_process(
    kind: str, tmp_path: Path, packaged: Bundle, ten: list[Int16], said: dict[str, np.ndarray]
) -> None:
    switched = Switched(tmp_path, QUICK.model_copy(update={"kind": kind}), sounds=ten)
    for bundle, told in ((_damaged(tmp_path / "damaged"), "is damaged"), (_not_numbers(tmp_path / "nan"), "no numbers")):
        name, in_use, reason = switched.use(bundle)
        assert (name, in_use) == (str(bundle), "")
        assert told in reason
    for pcm in ten:
        switched.submit(pcm)
    switched.judge.finish(never)
    assert [entry for entry, _ in switched.judgements] == list(range(20))
    _each_is_its_bundles(switched, said)
    assert set(switched.versions().values()) == {packaged.manifest.version}
    assert switched.states.count(EngineState.LOADING) == 1
    assert switched.choice.current == "compact"


def test_without_a_process_the_next_one_is_started_with_it_at_once(
    tmp_path: Path, others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.judging.judge._BACKOFF_S", (600.0,))
    switched = Switched(tmp_path, sounds=_sounds(1), tireless=True)
    _wait(lambda: len(switched.judgements) == 1)
    os.kill(_child_of(switched.judge), signal.SIGKILL)
    _wait(lambda: EngineState.RESTARTING in switched.states)
    switched.submit(_sounds(1)[0])
    assert switched.use(others[1])[1] == version(others[1])
    switched.judge.finish(never)
    assert switched.versions()[1] == version(others[1])


def test_one_that_is_in_use_already_stays(tmp_path: Path, packaged: Bundle) -> None:
    switched = Switched(tmp_path)
    assert switched.use("compact") == ("compact", packaged.manifest.version, "")
    switched.judge.finish(never)


def test_what_is_no_bundle_or_is_retired_is_refused_at_once(tmp_path: Path) -> None:
    switched = Switched(tmp_path)
    with pytest.raises(BundleError, match="no bundle at"):
        switched.judge.use(str(tmp_path / "nothing"))
    mine = variant(tmp_path / "mine")
    (mine / LEARNED_FROM).write_text("{}")
    retire(mine)
    with pytest.raises(BundleError, match="erased since"):
        switched.judge.use(str(mine))
    switched.judge.finish(lambda: True)
    assert switched.outcomes == []


def test_one_that_goes_before_its_turn_is_refused(tmp_path: Path, others: list[Path]) -> None:
    mine = Path(shutil.copytree(others[0], tmp_path / "mine"))
    switched = Switched(tmp_path)
    switched.judge.use(str(mine))
    shutil.rmtree(mine)
    _wait(lambda: bool(switched.outcomes))
    name, told, reason = switched.outcomes[0]
    assert (name, told) == (str(mine), "")
    assert reason
    switched.judge.finish(never)
    assert switched.choice.current == "compact"


def test_after_the_end_nothing_is_switched_and_what_was_asked_for_is_told(tmp_path: Path, others: list[Path]) -> None:
    switched = Switched(tmp_path)
    switched.judge.use(str(others[0]))
    switched.judge.finish(lambda: True)
    assert switched.outcomes == [(str(others[0]), "", "judging ended before")]
    with pytest.raises(EngineUnavailable, match="start the monitor again"):
        switched.judge.use("compact")


def test_a_server_that_is_down_makes_no_bundle_go_and_no_process_end(tmp_path: Path, others: list[Path]) -> None:
    switched = Switched(tmp_path, EngineConfig(kind="server", url=NOBODY, bundle=str(others[0])), tireless=True)
    _wait(lambda: switched.states.count(EngineState.AWAY) > 1, 240)
    switched.judge.finish(lambda: True)
    assert (switched.choice.current, switched.choice.aside) == (str(others[0]), "")
    assert set(switched.states) == {EngineState.LOADING, EngineState.AWAY}
    assert switched.states.count(EngineState.LOADING) == 1


def test_one_that_waits_for_a_server_that_is_down_can_be_overtaken_and_is_gone_back_from(
    tmp_path: Path, packaged: Bundle, others: list[Path]
) -> None:
    switched = Switched(tmp_path, EngineConfig(kind="server", url=NOBODY, bundle="compact"), tireless=True)
    switched.judge.use(str(others[0]))
    waits = (EngineState.AWAY, str(others[0]))
    _wait(lambda: (switched.states[-1:], switched.choice.current) == ([waits[0]], waits[1]), PATIENCE_S)
    assert switched.outcomes == []
    switched.judge.use(str(others[1]))
    _wait(lambda: bool(switched.outcomes), PATIENCE_S)
    assert switched.outcomes == [(str(others[0]), "", "another bundle was asked for since")]
    assert switched.choice.current == str(others[1])
    switched.judge.finish(lambda: True)
    assert switched.outcomes[1:] == [(str(others[1]), "", "judging ended before")]


def test_of_several_that_were_asked_for_the_last_counts() -> None:
    told: list[tuple[str, str, str]] = []
    switch = Switch(lambda *outcome: told.append(outcome))
    assert switch.begin(in_place=True) is None
    for name in ("a", "b", "c", "b", "c"):
        switch.ask(name)
    assert switch.begin(in_place=True) == "c"
    assert [name for name, _, reason in told if "since" in reason] == ["a", "b"], "each once, and not the one that comes"
    switch.ask("d")
    assert switch.begin(in_place=True) is None, "one at a time"
    switch.done("c-1")
    assert told[-1] == ("c", "c-1", "")
    assert switch.begin(in_place=False) == "d"
    switch.ask("d")
    assert switch.begin(in_place=False) is None, "it is under way"
    switch.ask("e")
    assert switch.begin(in_place=False) == "e", "nobody has to wait for a process that may never be ready"
    assert told[-1] == ("d", "", "another bundle was asked for since")
    switch.refused("no")
    assert told[-1] == ("e", "", "no")
    count = len(told)
    switch.refused("again")
    assert len(told) == count


def test_asking_from_many_threads_loses_none() -> None:
    told: list[str] = []
    switch = Switch(lambda name, *_: told.append(name))
    threads = [threading.Thread(target=lambda part=part: [switch.ask(f"{part}-{n}") for n in range(500)]) for part in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or switch.wanted:
        if switch.begin(in_place=True):
            switch.done("v")
    assert sorted(told) == sorted(f"{part}-{n}" for part in range(4) for n in range(500))
