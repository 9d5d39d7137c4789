"""Switching bundles while segments arrive: nothing is lost or predicted twice, and each prediction names its bundle."""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from model.audio import Int16, float_to_pcm16, pcm16_to_float, read_audio, s_to_samples
from model.bundle import Bundle, open_bundle
from model.bundle_format import LEARNED_FROM_FILE, find_bundle, read_bundle_manifest
from model.emotions import EVERYDAY
from model.errors import BundleError, EmosllmError, EngineUnavailable
from model.predictor import Predictor, SpeechInput
from monitor.bundles.registry import retire_bundle
from monitor.config import Config, EngineConfig
from monitor.control import send_command
from monitor.daemon.client import format_status
from monitor.daemon.recorder import Recorder
from monitor.inference.bundle_switch import BundleSwitchOutcome, BundleSwitchQueue, BundleSwitchWaiters
from monitor.inference.engines.transformers import TransformersEngine
from monitor.inference.protocol import BundleSwitched, EngineChanged, EngineState
from tests.support.bundle_variants import ADAPTER, MAPPER, sign, variant_of_packaged
from tests.support.bundles import STORED
from tests.support.commands import Running, configure, stored
from tests.support.inference import (
    PATIENCE_S,
    UTC_ZONE,
    SwitchingSupervisor,
    never,
    noise_segments,
    report,
    wait_until,
    with_recorder,
    worker_pid,
)
from tests.support.paths import DEMO
from tests.support.servers import NOBODY

QUICK = EngineConfig(kind="transformers", bundle="compact", max_batch=4)
LETTERS: dict[str, object] = {"letters": ["A", "S", "H", "N"], "training_prior": None, "normalisation": None}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles that are like packaged."""
    folder = tmp_path_factory.mktemp("others")
    return [variant_of_packaged(folder / f"other{seed}", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def ten(utterances: list[Int16]) -> list[Int16]:
    return [pcm[:32_000] for pcm in utterances[:10]]


@pytest.fixture(scope="module")
def said(packaged: Bundle, others: list[Path], ten: list[Int16]) -> dict[str, np.ndarray]:
    """Posteriors (10, letters) that fresh engines give, by version."""
    tables = {}
    for opened in (packaged, *(open_bundle(folder, packaged) for folder in others)):
        bundle = opened.under(EVERYDAY)
        answers = Predictor(bundle, TransformersEngine(bundle)).predict([SpeechInput(pcm16_to_float(pcm)) for pcm in ten])
        tables[bundle.version] = np.array([list(answer.prediction.posterior.values()) for answer in answers if answer.prediction])
    return tables


def version(bundle: Path) -> str:
    return read_bundle_manifest(bundle).version


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformers", "embedded"])
def test_under_load_every_segment_is_judged_once_by_the_bundle_it_names(
    kind: str, tmp_path: Path, packaged: Bundle, others: list[Path], ten: list[Int16], said: dict[str, np.ndarray]
) -> None:
    """Segments come without end while somebody switches at random, often before the last switch is over."""
    rng = random.Random(kind)
    switched = SwitchingSupervisor(tmp_path, QUICK.model_copy(update={"kind": kind}))
    wanted = [rng.choice([packaged.folder, *others]) for _ in range(12)]
    for number in range(120):
        switched.submit(ten[number % 10])
        if number % 10 == 5:
            switched.supervisor.use(str(wanted[number // 10]))
        if number % 40 == 20:
            switched.until_ready()
            wait_until(lambda known=number: len(switched.results) > known // 2, PATIENCE_S)
    wait_until(
        lambda: not switched.supervisor.waiting and switched.outcomes[-1:] and switched.outcomes[-1][0] == str(wanted[-1]), PATIENCE_S
    )
    switched.supervisor.finish(never)

    assert [entry for entry, _ in switched.results] == list(range(120)), "in order, once each"
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


def _each_is_its_bundles(switched: SwitchingSupervisor, said: dict[str, np.ndarray]) -> None:
    for entry, result in switched.results:
        found = np.array(list(result.prediction.posterior.values()))
        assert np.abs(found - said[result.prediction.bundle_version][entry % 10]).max() < 0.01, entry


@pytest.mark.slow
def test_with_processes_killed_in_between_too(
    tmp_path: Path, packaged: Bundle, others: list[Path], ten: list[Int16], said: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.inference.supervisor._RESTART_DELAYS_S", (0.5,))
    switched = SwitchingSupervisor(tmp_path, retry_forever=True)
    for number in range(4):
        ready = switched.states.count(EngineState.READY)
        for pcm in ten:
            switched.submit(pcm)
        wait_until(lambda known=ready: switched.states.count(EngineState.READY) > known, PATIENCE_S)
        switched.supervisor.use(str(others[number % 2]))
        time.sleep((0.0, 0.3, 0.05, 0.6)[number])
        os.kill(worker_pid(switched.supervisor), signal.SIGKILL)
    switched.supervisor.finish(never)
    assert sorted(entry for entry, _ in switched.results) == list(range(40))
    assert not switched.dropped
    _each_is_its_bundles(switched, said)
    assert {told for _, told, _ in switched.outcomes} <= {version(other) for other in others}, "a kill from outside refuses no bundle"
    assert switched.registry.to_load() == str(others[1])


def test_a_switch_that_is_asked_for_while_the_process_loads_waits_for_it(tmp_path: Path, others: list[Path]) -> None:
    switched = SwitchingSupervisor(tmp_path, sounds=noise_segments(3))
    assert switched.supervisor.in_use == ""
    assert switched.use(others[0]) == (str(others[0]), version(others[0]), "")
    assert switched.states.count(EngineState.LOADING) == 1
    assert switched.supervisor.in_use == version(others[0])
    switched.supervisor.finish(never)
    assert len(switched.results) == 3
    assert switched.registry.to_load() == str(others[0])
    assert json.loads((tmp_path / "bundles.json").read_text())["uses"] == [], "that is for whoever asked"


@pytest.mark.slow
def test_what_cannot_be_taken_up_in_place_is_loaded_by_a_new_process(tmp_path: Path, packaged: Bundle) -> None:
    other = variant_of_packaged(tmp_path / "letters", about=LETTERS | {"version": "compact-letters0"})
    switched = SwitchingSupervisor(tmp_path, sounds=noise_segments(8))
    wait_until(lambda: bool(switched.results))
    for pcm in noise_segments(12):
        switched.submit(pcm)
    assert switched.use(other) == (str(other), "compact-letters0", "")
    for pcm in noise_segments(4):
        switched.submit(pcm)
    assert switched.use("compact") == ("compact", packaged.manifest.version, "")
    switched.supervisor.finish(never)
    assert [entry for entry, _ in switched.results] == list(range(24))
    assert EngineState.RESTARTING not in switched.states, "nothing went wrong"
    assert switched.states.count(EngineState.LOADING) == 3
    for result in (result for _, result in switched.results):
        assert len(result.prediction.posterior) == (4 if result.prediction.bundle_version.startswith("compact-letters0") else 7)


@pytest.mark.slow
def test_one_that_a_new_process_cannot_load_is_refused_and_the_one_before_goes_on(tmp_path: Path, others: list[Path]) -> None:
    bad = variant_of_packaged(tmp_path / "bad", about=LETTERS | {"version": "compact-bad00000"})
    (bad / MAPPER).write_bytes(b"damaged")
    switched = SwitchingSupervisor(tmp_path, sounds=noise_segments(2))
    switched.use(others[0])
    for pcm in noise_segments(6):
        switched.submit(pcm)
    name, told, reason = switched.use(bad)
    assert (name, told) == (str(bad), "")
    assert "is damaged" in reason
    switched.supervisor.finish(never)
    assert len(switched.results) == 8
    assert switched.versions()[7] == version(others[0])
    assert (switched.registry.to_load(), switched.registry.fallback_reason()) == (str(others[0]), "")
    assert switched.supervisor.error is None


def _not_numbers(folder: Path) -> Path:
    bundle = variant_of_packaged(folder)
    weights = load_file(bundle / ADAPTER)
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, bundle / ADAPTER, {"format": "pt"})
    return sign(bundle)


def _damaged(folder: Path) -> Path:
    bundle = variant_of_packaged(folder)
    (bundle / MAPPER).write_bytes(b"damaged")
    return bundle


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformers", "embedded"])
def test_one_that_is_damaged_is_refused_and_the_old_one_goes_on_in_the_same_process(
    kind: str, tmp_path: Path, packaged: Bundle, ten: list[Int16], said: dict[str, np.ndarray]
) -> None:
    switched = SwitchingSupervisor(tmp_path, QUICK.model_copy(update={"kind": kind}), sounds=ten)
    for bundle, told in ((_damaged(tmp_path / "damaged"), "is damaged"), (_not_numbers(tmp_path / "nan"), "no numbers")):
        name, in_use, reason = switched.use(bundle)
        assert (name, in_use) == (str(bundle), "")
        assert told in reason
    for pcm in ten:
        switched.submit(pcm)
    switched.supervisor.finish(never)
    assert [entry for entry, _ in switched.results] == list(range(20))
    _each_is_its_bundles(switched, said)
    assert set(switched.versions().values()) == {packaged.manifest.version}
    assert switched.states.count(EngineState.LOADING) == 1
    assert switched.registry.to_load() == "compact"


@pytest.mark.slow
def test_without_a_process_the_next_one_is_started_with_it_at_once(
    tmp_path: Path, others: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.inference.supervisor._RESTART_DELAYS_S", (600.0,))
    switched = SwitchingSupervisor(tmp_path, sounds=noise_segments(1), retry_forever=True)
    wait_until(lambda: len(switched.results) == 1)
    os.kill(worker_pid(switched.supervisor), signal.SIGKILL)
    wait_until(lambda: EngineState.RESTARTING in switched.states)
    switched.submit(noise_segments(1)[0])
    assert switched.use(others[1])[1] == version(others[1])
    switched.supervisor.finish(never)
    assert switched.versions()[1] == version(others[1])


@pytest.mark.slow
def test_one_that_is_in_use_already_stays(tmp_path: Path, packaged: Bundle) -> None:
    switched = SwitchingSupervisor(tmp_path)
    assert switched.use("compact") == ("compact", packaged.manifest.version, "")
    switched.supervisor.finish(never)


def test_what_is_no_bundle_or_is_retired_is_refused_at_once(tmp_path: Path) -> None:
    switched = SwitchingSupervisor(tmp_path)
    with pytest.raises(BundleError, match="no bundle at"):
        switched.supervisor.use(str(tmp_path / "nothing"))
    mine = variant_of_packaged(tmp_path / "mine")
    (mine / LEARNED_FROM_FILE).write_text("{}")
    retire_bundle(mine)
    with pytest.raises(BundleError, match="erased since"):
        switched.supervisor.use(str(mine))
    switched.supervisor.finish(lambda: True)
    assert switched.outcomes == []


@pytest.mark.slow
def test_one_that_goes_before_its_turn_is_refused(tmp_path: Path, others: list[Path]) -> None:
    mine = Path(shutil.copytree(others[0], tmp_path / "mine"))
    switched = SwitchingSupervisor(tmp_path)
    switched.supervisor.use(str(mine))
    shutil.rmtree(mine)
    wait_until(lambda: bool(switched.outcomes))
    name, told, reason = switched.outcomes[0]
    assert (name, told) == (str(mine), "")
    assert reason
    switched.supervisor.finish(never)
    assert switched.registry.to_load() == "compact"


def test_after_the_end_nothing_is_switched_and_what_was_asked_for_is_told(tmp_path: Path, others: list[Path]) -> None:
    switched = SwitchingSupervisor(tmp_path)
    switched.supervisor.use(str(others[0]))
    switched.supervisor.finish(lambda: True)
    assert switched.outcomes == [(str(others[0]), "", "judging ended before")]
    with pytest.raises(EngineUnavailable, match="start the monitor again"):
        switched.supervisor.use("compact")


@pytest.mark.slow
def test_a_server_that_is_down_makes_no_bundle_go_and_no_process_end(tmp_path: Path, others: list[Path]) -> None:
    switched = SwitchingSupervisor(tmp_path, EngineConfig(kind="server", url=NOBODY, bundle=str(others[0])), retry_forever=True)
    wait_until(lambda: switched.states.count(EngineState.AWAY) > 1, 240)
    switched.supervisor.finish(lambda: True)
    assert (switched.registry.to_load(), switched.registry.fallback_reason()) == (str(others[0]), "")
    assert set(switched.states) == {EngineState.LOADING, EngineState.AWAY}
    assert switched.states.count(EngineState.LOADING) == 1


@pytest.mark.slow
def test_one_that_waits_for_a_server_that_is_down_can_be_overtaken_and_is_gone_back_from(
    tmp_path: Path, packaged: Bundle, others: list[Path]
) -> None:
    switched = SwitchingSupervisor(tmp_path, EngineConfig(kind="server", url=NOBODY, bundle="compact"), retry_forever=True)
    switched.supervisor.use(str(others[0]))
    waits = (EngineState.AWAY, str(others[0]))
    wait_until(lambda: (switched.states[-1:], switched.registry.to_load()) == ([waits[0]], waits[1]), PATIENCE_S)
    assert switched.outcomes == []
    switched.supervisor.use(str(others[1]))
    wait_until(lambda: bool(switched.outcomes), PATIENCE_S)
    assert switched.outcomes == [(str(others[0]), "", "another bundle was asked for since")]
    assert switched.registry.to_load() == str(others[1])
    switched.supervisor.finish(lambda: True)
    assert switched.outcomes[1:] == [(str(others[1]), "", "judging ended before")]


def test_of_several_that_were_asked_for_the_last_counts() -> None:
    told: list[tuple[str, str, str]] = []
    switch = BundleSwitchQueue(lambda *outcome: told.append(outcome))
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
    switch = BundleSwitchQueue(lambda name, *_: told.append(name))
    threads = [threading.Thread(target=lambda part=part: [switch.ask(f"{part}-{n}") for n in range(500)]) for part in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or switch.wanted:
        if switch.begin(in_place=True):
            switch.done("v")
    assert sorted(told) == sorted(f"{part}-{n}" for part in range(4) for n in range(500))


PACKAGED = read_bundle_manifest(find_bundle("compact")).version


def database(home: Path) -> Path:
    return home / "state" / "emosllm-monitor" / "timeline.db"


def say(running: Running, start_s: float, end_s: float) -> None:
    assert running.process.stdin is not None
    running.process.stdin.write(float_to_pcm16(read_audio(DEMO)[s_to_samples(start_s) : s_to_samples(end_s)]).tobytes())
    running.process.stdin.flush()


def test_what_is_said_from_then_on_is_judged_by_the_other_bundle(home: Path, tmp_path: Path) -> None:
    mine, bad = variant_of_packaged(tmp_path / "mine"), variant_of_packaged(tmp_path / "bad", 2)
    (bad / MAPPER).write_bytes(b"damaged")
    version = read_bundle_manifest(mine).version
    configure(home, engine={"kind": "transformers", "bundle": "compact"})
    running = Running(home, "--source", "-", "--at", datetime(2026, 1, 5, 9, tzinfo=UTC).isoformat(), stdin=subprocess.PIPE)
    running.until(lambda: "listening to" in running.output)
    # While it loads there is nobody to switch, and who asks is not kept waiting.
    first = send_command(database(home), "use-bundle", name="compact")
    assert first == {"version": PACKAGED, "state": "switching"} or first["state"] == "in use"
    running.until(lambda: send_command(database(home), "status")["bundle"] == PACKAGED)
    running.until(lambda: send_command(database(home), "status")["next_bundle"] is None)
    say(running, 0, 20)
    running.until(lambda: send_command(database(home), "status")["judged"] == 3)

    _until_in_use(running, home, mine, version)
    with pytest.raises(EmosllmError, match="is damaged"):
        _until_in_use(running, home, bad, "")
    with pytest.raises(EmosllmError, match="no bundle at"):
        send_command(database(home), "use-bundle", name=str(tmp_path / "nothing"))
    with pytest.raises(EmosllmError, match="needs name"):
        send_command(database(home), "use-bundle")
    status = send_command(database(home), "status")
    assert (status["bundle"], status["next_bundle"], status["problems"]) == (version, None, [])
    assert status["engine_detail"] == f"transformers, {version}"

    say(running, 20, 40)
    assert running.process.stdin is not None
    running.process.stdin.close()
    assert running.process.wait(120) == 0
    versions = [entry.prediction.bundle_version for entry in stored(home)[0] if entry.prediction]
    assert versions[:3] == [STORED] * 3
    assert len(versions) > 3
    assert set(versions[3:]) == {f"{version}+everyday"}


def _until_in_use(running: Running, home: Path, bundle: Path, version: str) -> None:
    """A machine that is busy may need more than the four seconds that are waited for: asked again until it is settled."""
    deadline = time.monotonic() + 120
    while (answer := send_command(database(home), "use-bundle", name=str(bundle)))["state"] == "switching":
        assert time.monotonic() < deadline
    assert answer == {"version": version, "state": "in use"}


def test_who_asks_is_told_what_became_of_it_and_nobody_else_is_kept(tmp_path: Path) -> None:
    switching = BundleSwitchWaiters()
    assert not switching.tell("a", BundleSwitchOutcome("a-0", "")), "nobody waits"
    assert switching.wait("a", lambda: None, 0.01) is None, "that was an earlier change"
    later = threading.Timer(0.05, lambda: switching.tell("b", BundleSwitchOutcome("", "no")))
    later.start()
    assert switching.wait("b", lambda: None, 30) == BundleSwitchOutcome("", "no")
    assert switching.wait("c", lambda: switching.tell("c", BundleSwitchOutcome("c-1", "")) and None, 30) == BundleSwitchOutcome("c-1", "")


def test_a_change_that_takes_long_is_in_the_status_until_it_is_over_and_what_failed_then_is_a_problem(tmp_path: Path) -> None:
    def act(recorder: Recorder) -> None:
        status = recorder._status
        assert recorder.use_bundle("compact", 0.01) == ""
        assert (status.next_bundle, status.problems) == ("compact", [])
        told = format_status({**status.as_json(), "pid": 1}, UTC_ZONE)
        assert "Bundle      none yet, changing to compact" in told
        report(recorder, BundleSwitched("compact", "", "it is damaged"))
        assert status.next_bundle == ""
        assert status.problems == ["the bundle compact is not used: it is damaged"]
        report(recorder, BundleSwitched("compact", PACKAGED, ""))
        assert status.problems == []
        with pytest.raises(EmosllmError, match="no bundle at"):
            recorder.use_bundle(str(tmp_path / "nothing"), 0.01)
        assert status.next_bundle == ""

    with_recorder(tmp_path, Config(), act)


def test_status_names_the_bundle_only_while_one_judges(tmp_path: Path) -> None:
    def act(recorder: Recorder) -> None:
        recorder.supervisor._in_use = PACKAGED
        report(recorder, EngineChanged(EngineState.READY, f"embedded, {PACKAGED}"))
        assert recorder._status.as_json()["bundle"] == PACKAGED
        recorder.supervisor._in_use = ""
        report(recorder, EngineChanged(EngineState.RESTARTING, "it died"))
        assert recorder._status.as_json()["bundle"] is None

    with_recorder(tmp_path, Config(), act)
