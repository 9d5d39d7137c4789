"""A process of its own with an engine of 8-bit floats, because two vLLM engines do not go into one: what it says of some sounds, by bundle.

Arguments: the sounds (.npz), a file for the answers (.npy), and bundle folders, taken up one after the other.
"""

import sys
from pathlib import Path

import numpy as np

from model.bundle import open_bundle
from model.predictor import Predictor, Sound
from monitor.judging.engine import EmbeddedEngine


def main() -> None:
    """Store posteriors (bundles, sounds, letters)."""
    sounds = [Sound(audio) for audio in np.load(sys.argv[1]).values()]
    bundles = [open_bundle(Path(folder)) for folder in sys.argv[3:]]
    engine = EmbeddedEngine(bundles[0], 16, "fp8")
    answers = []
    for bundle in bundles:
        engine.adopt(bundle)
        predicted = Predictor(bundle, engine).predict(sounds)
        answers.append([list(answer.prediction.posterior.values()) for answer in predicted if answer.prediction])
    np.save(sys.argv[2], answers)
    engine.close()


if __name__ == "__main__":
    main()
