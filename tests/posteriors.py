"""Made-up answers of a model to many voices of several corpora, for tests of calibration and of shares."""

import numpy as np

from model.types import Emotion
from train.left_out import LeftOut

N, H, S, A = Emotion.NEUTRAL, Emotion.HAPPY, Emotion.SAD, Emotion.ANGRY
FOUR = (N, H, S, A)


def left_out(corpora: int = 4, voices: int = 6, clips: int = 10, lean: float = 0.6, signal: float = 2.0, seed: int = 0) -> LeftOut:
    """Log-probabilities under an even prior. signal: of what was acted, in standard deviations of what was not.

    lean: how far answers of one corpus lean to some letters, as standard deviation; half as far those of a voice.
    """
    random = np.random.default_rng(seed)
    acted = np.tile(np.repeat(np.arange(len(FOUR)), clips), corpora * voices)
    corpus = np.repeat(np.arange(corpora), voices * len(FOUR) * clips)
    voice = np.repeat(np.arange(corpora * voices), len(FOUR) * clips)
    logits = random.standard_normal((len(acted), len(FOUR)))
    logits[np.arange(len(acted)), acted] += signal
    logits += lean * random.standard_normal((corpora, len(FOUR)))[corpus]
    logits += lean / 2 * random.standard_normal((corpora * voices, len(FOUR)))[voice]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return LeftOut(FOUR, logs, acted, np.array([f"corpus {c}" for c in corpus]), np.array([f"voice {v}" for v in voice]))
