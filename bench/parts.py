"""What each part of nano costs one core for one segment of four seconds, side by side; vLLM's own overhead is not in it."""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from bench.sounds import demo_segments
from bench.timing import best_seconds
from model.audio import SAMPLE_RATE, pcm16_to_float
from model.bundle import load_llm, open_bundle
from model.encoder import NanoEncoder
from model.features import analyse, normalise
from model.manifest import find_bundle
from model.predictor import Sound, Style
from model.prompts import Task, emotion_prefix
from model.request import Request
from monitor.judging.voice import measure

_SECONDS = 4
_ROUNDS = 20


def run() -> list[str]:
    """Markdown lines; ratios are to all parts together."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = _times()
    finally:
        torch.set_num_threads(threads)
    whole = sum(times.values())
    lines = [f"## One segment of {_SECONDS} s on one core, nano", "", "| part | ms | share |", "|---|---|---|"]
    return lines + [f"| {name} | {1000 * took:.1f} | {took / whole:.2f} |" for name, took in {**times, "together": whole}.items()]


@torch.inference_mode()
def _times() -> dict[str, float]:
    bundle = open_bundle(find_bundle("nano"))
    llm = load_llm(bundle)
    assert isinstance(bundle.encoder, NanoEncoder)
    encoder, mapper = bundle.encoder, bundle.mapper
    pcm = np.concatenate(demo_segments())[: _SECONDS * SAMPLE_RATE]
    audio = torch.from_numpy(pcm16_to_float(pcm))
    raw = analyse(audio)
    features = pad_sequence([normalise(raw)], batch_first=True)
    lengths = torch.tensor([features.shape[1]])
    states, mask = encoder.states(features, lengths)
    turns = Style.of(bundle).turns(Sound(audio.numpy()), emotion_prefix(), Task.SER)
    request = Request(turns, mapper(states, mask)[0])
    return {
        "level and pitch, for the summary": best_seconds(lambda: measure(pcm), _ROUNDS),
        "features": best_seconds(lambda: normalise(analyse(audio)), _ROUNDS),
        "encoder": best_seconds(lambda: encoder.states(features, lengths), _ROUNDS),
        "mapper": best_seconds(lambda: mapper(states, mask), _ROUNDS),
        "language model, whole request, with LoRA": best_seconds(lambda: llm.letter_log_probs([request], bundle.manifest.letters), _ROUNDS),
    }


if __name__ == "__main__":
    print("\n".join(run()))
