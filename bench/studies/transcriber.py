"""How well a Whisper model writes down read English for the monitor, and what a second of speech costs one core of this CPU.

    python -m bench.studies.transcriber MANIFEST MODEL

MANIFEST names LibriSpeech clips with transcripts; MODEL is as in [engine] transcriber. Each clip is transcribed as the monitor does it.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from bench.harness import markdown_table
from model.audio import SAMPLE_RATE, read_audio
from model.transcriber import Transcriber
from train.corpora.manifest import Utterance, read_corpus_manifest
from train.evaluation.metrics import Floats, interval_95, word_error_rate

_CORPUS, _DRAWS = "LibriSpeech", 2000
_WAYS = (("int8", "en"), ("int8", ""), ("float32", "en"))
_HEAD = ["weights", "language", "words wrong, 95 %", "with Whisper's English normaliser", "CPU s a second of speech, 95 %", "CPU s a clip"]


@dataclass(frozen=True, slots=True)
class Clip:
    """What came of one. said: seconds of sound. cpu_s: of its transcript."""

    speaker: str
    reference: str
    transcript: str
    said: float
    cpu_s: float


def main() -> None:
    """Print Markdown lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("model")
    options = parser.parse_args()
    utterances = [one for one in read_corpus_manifest(options.manifest) if one.corpus == _CORPUS and one.transcript]
    rows = [_row(options.model, compute_type, language, utterances) for compute_type, language in _WAYS]
    print(f"{len(utterances)} clips, {len({one.speaker for one in utterances})} speakers.\n")
    print("\n".join(markdown_table(_HEAD, rows)))


def _row(model: str, compute_type: str, language: str, utterances: Sequence[Utterance]) -> list[object]:
    transcriber = Transcriber(model, language, compute_type=compute_type, threads=1)
    clips = [_clip(transcriber, utterance) for utterance in utterances]
    whisper = EnglishTextNormalizer({})
    errors = [_error_rate(clips, *_errors(clips, normalise)) for normalise in (str, whisper)]
    cpu_s, said = np.array([clip.cpu_s for clip in clips]), np.array([clip.said for clip in clips])
    return [compute_type, language or "any", *errors, _error_rate(clips, cpu_s, said), float(cpu_s.mean())]


def _clip(transcriber: Transcriber, utterance: Utterance) -> Clip:
    audio, began = read_audio(utterance.path), time.process_time()
    transcript = transcriber.transcribe(audio)
    return Clip(utterance.speaker or "", utterance.transcript or "", transcript, len(audio) / SAMPLE_RATE, time.process_time() - began)


def _errors(clips: Sequence[Clip], normalise: Callable[[str], str]) -> tuple[Floats, Floats]:
    """Wrong words and words of each clip (n,)."""
    found = [word_error_rate([normalise(clip.reference)], [normalise(clip.transcript)]) for clip in clips]
    words = np.array([words for _, words in found], np.float64)
    return np.array([rate for rate, _ in found]) * words, words


def _error_rate(clips: Sequence[Clip], parts: Floats, wholes: Floats) -> str:
    """The ratio of two sums, with the interval of a bootstrap over speakers, then over their clips."""
    rng, speakers = np.random.default_rng(0), [clip.speaker for clip in clips]
    places = [np.flatnonzero(np.array(speakers) == speaker) for speaker in sorted(set(speakers))]
    drawn = []
    for _ in range(_DRAWS):
        chosen = np.concatenate([rng.choice(places[i], len(places[i])) for i in rng.integers(len(places), size=len(places))])
        drawn.append(parts[chosen].sum() / wholes[chosen].sum())
    low, high = interval_95(np.array(drawn))
    return f"{parts.sum() / wholes.sum():.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
