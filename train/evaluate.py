"""Scores a released bundle on named speakers, through the same files and functions that the monitor uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.audio import read_audio
from model.bundle import load_llm, open_bundle, question
from model.errors import TrainingError
from model.manifest import Score
from model.types import Prediction
from train.corpora import Utterance
from train.metrics import per_letter, recalls, speaker_interval, unweighted_accuracy


@dataclass(frozen=True, slots=True)
class Judged:
    """A clip and what the bundle says about it."""

    clip: Utterance
    prediction: Prediction


def judge(folder: Path, clips: Sequence[Utterance]) -> list[Judged]:
    """Predictions for clips, one at a time, with transformers. Raises BundleError, FormatError."""
    bundle = open_bundle(folder)
    llm = load_llm(bundle)
    asked = question(bundle.manifest, llm.tokenizer)
    judged = []
    for clip in clips:
        speech = bundle.speech_embeds([torch.from_numpy(read_audio(clip.path))])
        log_probs = llm.letter_log_probs(speech, [asked.rendered], asked.letters)[0]
        judged.append(Judged(clip, bundle.prediction(log_probs.tolist())))
    return judged


def score(judged: Sequence[Judged], split: str) -> Score:
    """Unweighted accuracy over the letters that occur, with its interval. `split` says in words which clips these are."""
    if not judged:
        raise TrainingError(f"no labelled clip to score in {split}")
    letters = list(judged[0].prediction.posterior)
    unknown = {item.clip.emotion for item in judged} - set(letters)
    if unknown:
        raise TrainingError(f"this bundle cannot answer {', '.join(str(u) for u in unknown)}, which occurs in {split}")
    true = np.array([letters.index(item.clip.emotion) for item in judged if item.clip.emotion is not None])
    predicted = np.array([letters.index(item.prediction.emotion) for item in judged])
    found = recalls(true, predicted, len(letters))
    speakers = [item.clip.speaker for item in judged]
    low, high = speaker_interval(true, predicted, speakers, len(letters))
    return Score(
        split=split,
        clips=len(judged),
        speakers=len(set(speakers)),
        unweighted_accuracy=round(unweighted_accuracy(true, predicted, len(letters)), 4),
        interval_95=(round(low, 4), round(high, 4)),
        interval_method="bootstrap over speakers, then over their clips, 2000 draws",
        chance=round(1 / int((~np.isnan(found)).sum()), 4),
        recalls=per_letter(found, letters),
    )
