"""A process with an embedded engine of its own, set up like the inference worker: prints what it predicts for each bundle.

Run as `python -m`; arguments: the precision, the sounds (.npz), a file for the answers (.npy), and bundle folders, loaded in turn.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from model.bundle import open_bundle
from model.predictor import Predictor, SpeechInput
from monitor.config import EngineConfig
from monitor.inference.engines.base import open_engine


def main() -> None:
    """Store posteriors (bundles, sounds, letters)."""
    sounds = [SpeechInput(audio) for audio in np.load(sys.argv[2]).values()]
    bundles = [open_bundle(Path(folder)) for folder in sys.argv[4:]]
    engine = open_engine(EngineConfig.model_validate({"precision": sys.argv[1], "kv_cache_mib": 16}), bundles[0])
    answers = []
    for bundle in bundles:
        engine.switch_to(bundle)
        predicted = Predictor(bundle, engine).predict(sounds)
        answers.append([list(answer.prediction.posterior.values()) for answer in predicted if answer.prediction])
    np.save(sys.argv[3], answers)
    threads = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    assert torch.cuda.is_available() or not [name for name in threads if "gloo" in name], threads
    engine.close()


if __name__ == "__main__":
    main()
