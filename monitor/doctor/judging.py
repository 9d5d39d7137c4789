"""Is the bundle whole, and does the engine really answer? It is started as the daemon starts it."""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np

from model.audio import s_to_samples
from model.manifest import find_bundle, read_manifest, verify
from monitor.config import Config
from monitor.doctor.findings import Finding, Verdict
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
        used = config.engine.model_copy(update={"bundle": in_use_of(config)})
        trial = try_out(used, Path(folder) / "engine.log", np.zeros(s_to_samples(_TRIED_S), np.int16))
    answered = f"ready after {trial.ready_s:.0f} s, {_TRIED_S:.0f} s of sound judged in {trial.answer_s:.2f} s"
    return Finding(Verdict.OK, "engine", f"{_named(config)}, {trial.prediction.bundle_version}: {answered}")


def _named(config: Config) -> str:
    return f"{config.engine.kind} at {config.engine.url}" if config.engine.kind == "server" else config.engine.kind
