"""`python -m bench.paper_size [--small]`: the paper's model size on a GPU, with random weights; accuracy means nothing here.

Segments per second with 64 waiting; how many monitors one device serves with 95 % of the predictions within two seconds; the least time
that operations and bytes allow; beside it a plain transformers loop, and Qwen2-Audio-7B's shapes under the same engine. --small does all of
it with tiny models on any machine, to show that it runs. Weights take 7 GB of disk while it runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")

import numpy as np
import torch

from bench import random_models
from bench.baselines import (
    ComputeWork,
    DevicePeaks,
    LlmShape,
    PlainLoop,
    arrivals,
    convolutions_work,
    delays,
    frames_work,
    llm_work,
    most_monitors,
    percentile_95,
)
from bench.harness import best_time, markdown_table
from model.audio import SAMPLE_RATE
from model.bundle import Bundle
from model.predictor import Predictor, PromptStyle, SpeechInput
from model.prompts import Task, emotion_prefix, render_prompt
from monitor.config import Precision
from monitor.inference.engines.server import BLOCK_TOKENS
from monitor.inference.engines.vllm import EmbeddedEngine
from tests.support.tiny_audio_models import qwen_audio, without_weights

_WAITING, _LIMIT_S, _FRAMES_S = 64, 2.0, 50
_OURS, _PLAIN, _QWEN = "ours: vLLM, prompt embeds", "plain transformers loop", "Qwen2-Audio-7B's shapes, vLLM"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.paper_size", description=__doc__)
    parser.add_argument("--small", action="store_true", help="hardly any weights, on the processor if need be")
    parser.add_argument("--segment", type=float, default=4.0, metavar="S", help="seconds of speech in a segment (4)")
    parser.add_argument("--every", type=float, default=4.0, metavar="S", help="seconds from one segment of a monitor to its next (4)")
    parser.add_argument("--trial", type=float, metavar="S", help="seconds for which monitors are tried (20, small 2)")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto", help="numbers of our language model's weights (auto)")
    parser.add_argument("--peak-tflops", type=float, help="the device's, as its maker states it; otherwise a product of matrices is timed")
    parser.add_argument("--bandwidth-gbs", type=float, help="likewise; otherwise a copy is timed")
    parser.add_argument("--qwen", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not asked.small and not torch.cuda.is_available():
        parser.error("there is no GPU here; --small shows that it would run")
    asked.trial = asked.trial or (2.0 if asked.small else 20.0)
    print(json.dumps(_qwen(asked)) if asked.qwen else "\n".join(_compared(asked)), flush=True)


def _compared(asked: argparse.Namespace) -> list[str]:
    size = random_models.tiny_model() if asked.small else random_models.paper_model()
    device = _device(asked)
    with tempfile.TemporaryDirectory() as folder:
        bundle = random_models.build_random_bundle(size, Path(folder))
        sounds = _sounds(asked.segment)
        floor_s = device.least_s(_work(bundle, size, sounds[0], asked.precision)) / _WAITING
        plain_s = _plain(bundle, size, sounds)
        ours = _ours(bundle, sounds, asked)
    qwen = _in_a_process_of_its_own()
    head = [f"with {_WAITING} waiting", "segments per second", "ratio to the plain loop", f"monitors at p95 under {_LIMIT_S:g} s"]
    rows = [
        [_OURS, ours["per_s"], ours["per_s"] * plain_s, int(ours["monitors"])],
        [_QWEN, qwen["per_s"], qwen["per_s"] * plain_s, int(qwen["monitors"])],
        [_PLAIN, 1 / plain_s, 1.0, ""],
        ["the least that operations and bytes allow ours", 1 / floor_s, plain_s / floor_s, ""],
    ]
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return [
        f"## {size.name} from random weights ({name}; segments of {asked.segment:g} s, one each {asked.every:g} s of a monitor)",
        "",
        *markdown_table(head, rows),
        "",
        f"The floor: {device.operations_s / 1e12:.2f} TFLOP/s, {device.bytes_s / 1e9:.0f} GB/s.",
    ]


def _ours(bundle: Bundle, sounds: list[SpeechInput], asked: argparse.Namespace) -> dict[str, float]:
    _to_the_gpu(bundle)
    engine = EmbeddedEngine(bundle, 64 if asked.small else 8192, asked.precision)
    predictor = Predictor(bundle, engine)
    found = _paces(lambda count: predictor.predict(sounds[:count]), asked)
    engine.close()
    return found


def _plain(bundle: Bundle, size: random_models.ModelSize, sounds: list[SpeechInput]) -> float:
    """Seconds of a segment."""
    loop = PlainLoop(bundle, "cuda" if torch.cuda.is_available() else "cpu", size.dtype)
    loop.answer(sounds[0])
    return best_time(lambda: [loop.answer(sound) for sound in sounds[:4]], 2).wall_s / 4


def _qwen(asked: argparse.Namespace) -> dict[str, float]:
    """Sound in the prompt, as vLLM takes it for this model; one letter out."""
    from vllm import LLM, SamplingParams

    sounds = [sound.audio for sound in _sounds(asked.segment)]
    with tempfile.TemporaryDirectory() as folder:
        source = qwen_audio(Path(folder)) if asked.small else without_weights(Path(folder))
        llm = LLM(
            str(source),
            load_format="dummy",
            dtype="float32" if asked.small else "bfloat16",
            max_model_len=2048,
            limit_mm_per_prompt={"audio": 1},
            mm_processor_cache_gb=0,  # every segment is new
            enforce_eager=asked.small,
            distributed_executor_backend="uni",
            **({"kv_cache_memory_bytes": 64 * 2**20} if asked.small else {}),
        )
    prompt = (
        "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>Name the emotion in the speaker's voice.<|im_end|>\n<|im_start|>assistant\n"
    )
    letter = SamplingParams(max_tokens=1, temperature=0.0)

    def judge(count: int) -> object:
        prompts: Any = [{"prompt": prompt, "multi_modal_data": {"audio": [(audio, SAMPLE_RATE)]}} for audio in sounds[:count]]
        return llm.generate(prompts, letter, use_tqdm=False)

    return _paces(judge, asked)


def _paces(judge: Callable[[int], object], asked: argparse.Namespace) -> dict[str, float]:
    for count in (1, 4, _WAITING):
        judge(count)
    whole_s = best_time(lambda: judge(_WAITING), 3).wall_s

    def p95_s(monitors: int) -> float:
        return percentile_95(delays(judge, arrivals(monitors, asked.every, asked.trial), _WAITING))

    # From half of what the backlog's pace allows: under it nobody waits.
    likely = max(1, int(asked.every * _WAITING / whole_s / 2))
    return {"per_s": _WAITING / whole_s, "monitors": float(most_monitors(p95_s, _LIMIT_S, likely))}


def _in_a_process_of_its_own() -> dict[str, float]:
    """Two engines in one process would share the device's memory."""
    done = subprocess.run([sys.executable, "-m", "bench.paper_size", *sys.argv[1:], "--qwen"], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _sounds(seconds: float) -> list[SpeechInput]:
    generator = np.random.default_rng(0)
    return [SpeechInput((0.05 * generator.standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)) for _ in range(_WAITING)]


def _to_the_gpu(bundle: Bundle) -> None:
    if torch.cuda.is_available():
        bundle.encoder.to("cuda")
        bundle.mapper.to("cuda")


def _work(bundle: Bundle, size: random_models.ModelSize, sound: SpeechInput, precision: Precision) -> ComputeWork:
    """Of a batch of 64 in which what stands before the speech was read before."""
    from transformers import AutoTokenizer

    rendered = render_prompt(
        AutoTokenizer.from_pretrained(bundle.manifest.llm), PromptStyle.of(bundle).turns(sound, emotion_prefix(), Task.SER)
    )
    queries, frames = size.mapper.queries, int(len(sound.audio) / SAMPLE_RATE * _FRAMES_S)
    context = len(rendered.before) + queries + len(rendered.after)
    computed = context - len(rendered.before) // BLOCK_TOKENS * BLOCK_TOKENS
    config, encoder = size.llm, size.encoder
    with torch.device("meta"):
        weights = sum(one.numel() for one in random_models.AutoModelForCausalLM.from_config(config).parameters())
    heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    number_bytes = {"float32": 4, "bfloat16": 2, "fp8": 1}[size.dtype if precision == "auto" else precision]
    llm = LlmShape(weights, config.num_hidden_layers, config.hidden_size, heads, number_bytes)
    layers = sum(one.numel() for name, one in bundle.encoder.named_parameters() if "feature_extractor" not in name)
    mapper = sum(one.numel() for one in bundle.mapper.parameters())
    return (
        llm_work(llm, _WAITING, computed, context)
        + frames_work(layers, frames, _WAITING, 4)
        + frames_work(mapper, frames + queries, _WAITING, 4)
        + convolutions_work(encoder.conv_dim, encoder.conv_kernel, encoder.conv_stride, len(sound.audio), _WAITING)
    )


def _device(asked: argparse.Namespace) -> DevicePeaks:
    """Peaks as they were given, or else the best of a few products of large matrices and of a few copies."""
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    side = 8192 if gpu else 1024
    matrix, long = torch.randn(side, side, device=device, dtype=dtype), torch.zeros((2**30 if gpu else 2**26) // 4, device=device)

    def timed(work: Callable[[], object]) -> float:
        def whole() -> None:
            work()
            if gpu:
                torch.cuda.synchronize()

        return best_time(whole, 5).wall_s

    operations = asked.peak_tflops * 1e12 if asked.peak_tflops else 2 * side**3 / timed(lambda: matrix @ matrix)
    moved = asked.bandwidth_gbs * 1e9 if asked.bandwidth_gbs else 2 * long.nbytes / timed(lambda: long.clone())
    return DevicePeaks(operations, moved)


if __name__ == "__main__":
    main()
    os._exit(0)  # vLLM leaves threads behind
