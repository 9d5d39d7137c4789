"""What keeping the frozen encoder's states on disk saves: WavLM base+ at its real size, with random weights, on the demo's segments."""

import tempfile
import time
from pathlib import Path

import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor, WavLMModel

from bench.harness import demo_segments
from model.audio import SAMPLE_RATE
from model.encoders import TransformersEncoder
from model.prompts import Task
from train.corpora.manifest import Utterance
from train.learning.encoder_states import FrameStates
from train.learning.examples import Example
from train.model_sizes import known_config

_ENCODER = "microsoft/wavlm-base-plus"
_BATCH = 4


def run() -> list[str]:
    """Markdown lines; the ratio is to computing the states."""
    torch.manual_seed(0)
    config = known_config(_ENCODER)
    assert config is not None
    encoder = TransformersEncoder(WavLMModel(config), Wav2Vec2FeatureExtractor(do_normalize=False)).freeze()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        examples, seconds = _examples(folder)
        hearing = FrameStates(encoder, folder / "states")
        computed, kept = _epoch(hearing, examples), _epoch(hearing, examples)
        size = sum(file.stat().st_size for file in (folder / "states").rglob("*.safetensors"))
    return [
        f"## Encoder states kept on disk ({_ENCODER}, {len(examples)} segments, {seconds:.0f} s of speech)",
        "",
        "| states | seconds | ratio |",
        "|---|---|---|",
        f"| computed and kept | {computed:.2f} | 1.00 |",
        f"| read back | {kept:.3f} | {computed / kept:.0f} |",
        "",
        f"{size / seconds * 3600 / 2**30:.2f} GiB of disk for an hour of speech.",
    ]


def _examples(folder: Path) -> tuple[list[Example], float]:
    """The demo's segments as a corpus, and how long they are together."""
    examples, samples = [], 0
    for number, pcm in enumerate(demo_segments()):
        path = folder / f"{number}.wav"
        soundfile.write(path, pcm, SAMPLE_RATE)
        utterance = Utterance(path, "demo", "one", None, None, "", None, None, "CC BY-NC-SA 4.0")
        examples.append(Example(utterance, Task.ASR, 0, 0))
        samples += len(pcm)
    return examples, samples / SAMPLE_RATE


def _epoch(hearing: FrameStates, examples: list[Example]) -> float:
    begin = time.perf_counter()
    for first in range(0, len(examples), _BATCH):
        hearing.hear(examples[first : first + _BATCH])
    return time.perf_counter() - begin


if __name__ == "__main__":
    print("\n".join(run()))
