"""Is the bundle whole, is there a transcriber where one is set, and does the engine really answer? It is started as the daemon does."""

import importlib.util
import tempfile
import time
from pathlib import Path

import numpy as np

from model.audio import s_to_samples
from model.manifest import find_bundle, read_manifest, verify
from monitor.config import Config, EngineConfig
from monitor.doctor.findings import Finding, Verdict
from monitor.judging.transcription import require_transcriber
from monitor.judging.trial import try_out
from monitor.known_voice import lines, states
from monitor.look import in_use_of

_TRIED_S = 1.0


def bundle(config: Config) -> Finding:
    """Raises BundleError."""
    folder = find_bundle(in_use_of(config))
    manifest = read_manifest(folder)
    verify(folder, manifest)
    return Finding(Verdict.OK, "bundle", f"{manifest.version}, all {len(manifest.files)} files as released, licence {manifest.license}")


def voice(config: Config) -> Finding:
    """How well the person's voice is known. Raises BundleError, TimelineError, StoreKeyError."""
    known = states(config)
    short = any(one["state"] == "known" and not one["enough"] for one in known or ())
    advice = ["`emosllm-monitor voice renew` learns it anew"] if short else []
    return Finding(Verdict.WARN if short else Verdict.OK, "voice", "\n".join([*lines(known, config.timeline.zone_info()), *advice]))


def transcriber_there(config: Config) -> Finding:
    """Only whether its package and model are on this machine. Raises TranscriberUnavailable, BundleError."""
    used = _used(config)
    manifest = read_manifest(find_bundle(used.bundle))
    require_transcriber(used, manifest)
    if not used.transcriber:
        return Finding(Verdict.OK, "transcriber", f"none is set, and {manifest.version} needs no words")
    from model.transcriber import find_model

    return Finding(Verdict.OK, "transcriber", f"{used.transcriber} is in {find_model(used.transcriber)}; not loaded (--quick)")


def transcriber(config: Config) -> Finding:
    """Load what is set and try it on silence, whether the bundle needs it or not. Raises TranscriberUnavailable, BundleError."""
    found, used = transcriber_there(config), _used(config)
    if not used.transcriber:
        return found
    from model.transcriber import Transcriber

    began = time.monotonic()
    loaded = Transcriber(used.transcriber, used.transcriber_language)
    took = f"loaded and tried on silence in {time.monotonic() - began:.1f} s"
    manifest = read_manifest(find_bundle(used.bundle))
    idle = "" if manifest.strategy.needs_transcript else f"; {manifest.version} needs no words, so the monitor does not load it"
    return Finding(Verdict.OK, "transcriber", f"{loaded.description}: {took}{idle}")


def engine_installed(config: Config) -> Finding:
    """Only whether its package is there: that takes no time."""
    kind = config.engine.kind
    package = {"embedded": "vllm", "server": "httpx", "transformers": "transformers"}[kind]
    if importlib.util.find_spec(package) is None:
        return Finding(Verdict.FAIL, "engine", f"{kind} needs {package}, which is not installed; run `make setup`")
    return Finding(Verdict.OK, "engine", f"{_named(config)} is installed; not started (--quick)")


def engine(config: Config) -> Finding:
    """Start a judging process and let it judge a second of silence. Raises EngineUnavailable, EngineRejected."""
    with tempfile.TemporaryDirectory() as folder:
        trial = try_out(_used(config), Path(folder) / "engine.log", np.zeros(s_to_samples(_TRIED_S), np.int16))
    answered = f"ready after {trial.ready_s:.0f} s, {_TRIED_S:.0f} s of sound judged in {trial.answer_s:.2f} s"
    words = f", words by {trial.transcriber}" if trial.transcriber else ""
    return Finding(Verdict.OK, "engine", f"{_named(config)}, {trial.prediction.bundle_version}{words}: {answered}")


def _used(config: Config) -> EngineConfig:
    """The engine with the bundle that is in use."""
    return config.engine.model_copy(update={"bundle": in_use_of(config)})


def _named(config: Config) -> str:
    return f"{config.engine.kind} at {config.engine.url}" if config.engine.kind == "server" else config.engine.kind
