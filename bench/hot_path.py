"""The hot path: segments per second with 1, 8 and 64 waiting, and where the time of one segment goes.

vLLM embedded and served, batched and one at a time, and the plain loop. Processor time is that of one core. The built-in
bundle, one embedded engine and the demo's segments are made once and shared (`HotPath`).
"""

import base64
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import torch

from bench.baselines import PlainLoop
from bench.harness import Timing, best_time, demo_segments, markdown_table, time_side_by_side
from bench.processes import tree_memory
from model.audio import SAMPLE_RATE, Int16, pcm16_to_float, s_to_samples, samples_to_s
from model.bundle import Bundle, open_bundle
from model.bundle_format import find_bundle
from model.language_model import LanguageModelRequest
from model.predictor import Predictor, PromptStyle, SpeechInput
from model.prompts import Task, emotion_prefix, render_prompt
from model.speech_encoder import group_by_length
from monitor.config import EngineConfig, Precision
from monitor.inference.engines.server import BLOCK_TOKENS
from monitor.inference.engines.vllm import EmbeddedEngine, mixed_prompt
from monitor.inference.prosody import measure_prosody
from monitor.storage.keys import KeyStore
from monitor.storage.records import InferenceResult
from monitor.storage.writer import TimelineWriter
from tests.support.servers import SharedServer

# A sound that was heard before is in vLLM's prefix cache, speech and all, as no real one ever is: each begins a few samples later.
_SHIFTS = 1600


@dataclass(frozen=True)
class HotPath:
    """pcms: the demo's own segments, each once. drawn: counts the segments that were handed out."""

    bundle: Bundle
    engine: EmbeddedEngine
    predictor: Predictor
    pcms: list[Int16]
    drawn: Iterator[int] = field(default_factory=itertools.count)

    def sounds(self, size: int) -> list[SpeechInput]:
        """That many segments: the demo's, over and over, but none twice alike."""
        return [SpeechInput(pcm16_to_float(self._fresh(self.pcms[number % len(self.pcms)]))) for number in range(size)]

    def sound(self, seconds: float) -> SpeechInput:
        """One segment of that length, like no other."""
        return SpeechInput(pcm16_to_float(self._fresh(np.concatenate(self.pcms))[: s_to_samples(seconds)]))

    def _fresh(self, pcm: Int16) -> Int16:
        return pcm[next(self.drawn) % _SHIFTS :]

    @property
    def average_s(self) -> float:
        """Length of a segment."""
        return sum(map(len, self.pcms)) / len(self.pcms) / SAMPLE_RATE


@contextmanager
def load_hot_path(precision: Precision = "auto") -> Iterator[HotPath]:
    """Loaded and warm."""
    bundle = open_bundle(find_bundle("compact"))
    engine = EmbeddedEngine(bundle, EngineConfig().kv_cache_mib, precision)
    ready = HotPath(bundle, engine, Predictor(bundle, engine), demo_segments())
    ready.predictor.predict(ready.sounds(64))
    yield ready
    engine.close()


_SAMPLES = 640_000


def breakdown_section(hot: HotPath, quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name."""
    rounds = 3 if quick else 9
    alone, batch = _time_by_step(hot, 1, 3 * rounds), _time_by_step(hot, 64, rounds)
    sums = [sum(part.values()) for part in (alone, batch)]
    rows = [[name, alone[name], alone[name] / sums[0], batch[name], batch[name] / sums[1]] for name in alone]
    rows.append(["together", sums[0], 1.0, sums[1], 1.0])
    hits, most = prefix_hits(hot)
    lines = ["## Where a segment's time goes", ""]
    lines += markdown_table(["CPU ms of a segment", "alone", "share", "of 64", "share"], rows)
    lines += [
        "",
        f"Of the tokens before the speech, {hits:.1%} came from the prefix cache ({most:.1%} are in whole blocks, which alone can).",
    ]
    lines += [f"The served way adds {_as_http(hot):.2f} ms on this side for putting a segment's speech embeds into a request."]
    return lines, {"prefix_hits": hits}


def prefix_hits(hot: HotPath) -> tuple[float, float]:
    """Shares of the tokens before the speech: those that vLLM had read before, and those that stand in whole blocks."""
    from vllm import SamplingParams

    engine, requests = hot.engine, _requests(hot, hot.sounds(64))
    before = len(render_prompt(engine._tokenizer, requests[0].turns).before)
    prompts = [mixed_prompt(engine._tokenizer, request) for request in requests]
    outputs = engine._llm.generate(prompts, SamplingParams(max_tokens=1, temperature=0.0), use_tqdm=False)
    return sum(output.num_cached_tokens for output in outputs) / len(outputs) / before, before // BLOCK_TOKENS * BLOCK_TOKENS / before


def _time_by_step(hot: HotPath, size: int, rounds: int) -> dict[str, float]:
    """Milliseconds of processor time of a segment by part."""
    sounds, pcms = hot.sounds(size), (hot.pcms * size)[:size]
    clips = [torch.from_numpy(sound.audio) for sound in sounds]

    def cost(work: Callable[[], object]) -> float:
        with torch.inference_mode():
            return 1000 * best_time(work, rounds).cpu_s / size

    with torch.inference_mode():
        groups = [[clips[i] for i in group] for group in group_by_length([len(clip) for clip in clips], _SAMPLES)]
        states = [hot.bundle.states(group) for group in groups]
    requests = _requests(hot, sounds)
    return {
        "level and pitch, for the summary": cost(lambda: [measure_prosody(pcm) for pcm in pcms]),
        "encoder": cost(lambda: [hot.bundle.states(group) for group in groups]),
        "mapper": cost(lambda: [hot.bundle.embed_states(*one) for one in states]),
        "language model (vLLM, embedded)": cost(lambda: hot.engine.letter_log_probs(_fresh(requests), hot.bundle.manifest.letters)),
        "database": _database(hot, sounds, rounds) / size,
    }


def _requests(hot: HotPath, sounds: list[SpeechInput]) -> list[LanguageModelRequest]:
    embeds = [hot.bundle.speech_embeds([torch.from_numpy(sound.audio)])[0] for sound in sounds]
    style = PromptStyle.of(hot.bundle)
    return [LanguageModelRequest(style.turns(sound, emotion_prefix(), Task.SER), one) for sound, one in zip(sounds, embeds, strict=True)]


def _fresh(requests: list[LanguageModelRequest]) -> list[LanguageModelRequest]:
    """The same but for the last digits of what was heard: the same ones would be in the prefix cache."""
    return [LanguageModelRequest(request.turns, request.speech + 1e-6 * torch.rand(1)) for request in requests]


def _database(hot: HotPath, sounds: list[SpeechInput], rounds: int) -> float:
    """Milliseconds for all of them, judged together."""
    answers = [answer.prediction for answer in hot.predictor.predict(sounds)]
    results = [InferenceResult(answer, None, measure_prosody(hot.pcms[0])) for answer in answers if answer]
    with (
        tempfile.TemporaryDirectory() as name,
        TimelineWriter.open(Path(name) / "t.db", ZoneInfo("UTC"), KeyStore("file", Path(name))) as timeline,
    ):
        lengths, starts = [len(sound.audio) for sound in sounds], count(step=SAMPLE_RATE)

        def store() -> None:
            entries = [add_segment(timeline, next(starts), length) for length in lengths]
            timeline.judge(dict(zip(entries, results, strict=True)))

        return 1000 * best_time(store, rounds).cpu_s


def add_segment(timeline: TimelineWriter, start: int, samples: int) -> int:
    """A waiting segment of noughts that ends now; its number. start: a sample at which no other begins."""
    now = datetime.now(UTC)
    return timeline.add_segment(
        start_sample=start,
        end_sample=start + samples,
        start_at=now - timedelta(seconds=samples_to_s(samples)),
        end_at=now,
        sound=bytes(2 * samples),
    )


def _as_http(hot: HotPath) -> float:
    (request,) = _requests(hot, hot.sounds(1))

    def encode() -> bytes:
        buffer = io.BytesIO()
        torch.save(request.speech.clone(), buffer)
        return base64.b64encode(buffer.getvalue())

    return 1000 * best_time(encode, 50).cpu_s


WAITING = (1, 8, 64)
_EMBEDDED, _SERVED, _ALONE, _PLAIN = (
    "vLLM embedded, batched",
    "vLLM served (`serve`, TLS), batched",
    "vLLM embedded, one at a time",
    "plain transformers loop",
)
# The plain loop keeps nothing between two segments, so its pace does not depend on how many wait.
_PLAIN_SEGMENTS = 8

_Predict = Callable[[list[SpeechInput]], object]


def throughput_section(hot: HotPath, quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name. Raises AssertionError where the ways do not agree."""
    plain = PlainLoop(hot.bundle)
    _agree(hot, plain)
    with tempfile.TemporaryDirectory() as folder, SharedServer(Path(folder)) as shared:
        engine = shared.server.engine(hot.bundle)
        served = Predictor(hot.bundle, engine)
        ways: dict[str, _Predict] = {
            _EMBEDDED: hot.predictor.predict,
            _SERVED: served.predict,
            _ALONE: lambda sounds: [hot.predictor.predict([sound]) for sound in sounds],
            _PLAIN: lambda sounds: [plain.answer(sound) for sound in sounds[:_PLAIN_SEGMENTS]],
        }
        found = {waiting: _measured(hot, ways, waiting, 2 if quick else 5) for waiting in WAITING}
        memory = tree_memory(shared.process_id)
        engine.close()
    return _table_lines(hot, found), _figures(found) | {"server_mb": memory}


def _agree(hot: HotPath, plain: PlainLoop) -> None:
    """The yardstick does the same work: the letter it writes is the one that is most probable here."""
    sounds = hot.sounds(len(hot.pcms))
    ours = [answer.prediction.emotion for answer in hot.predictor.predict(sounds) if answer.prediction]
    theirs = [plain.answer(sound) for sound in sounds]
    assert ours == theirs, f"the plain loop says {theirs}, we say {ours}"


def _measured(hot: HotPath, ways: dict[str, _Predict], waiting: int, rounds: int) -> dict[str, Timing]:
    """By segment."""
    whole = time_side_by_side({name: lambda way=way: way(hot.sounds(waiting)) for name, way in ways.items()}, rounds)
    counts = {name: min(waiting, _PLAIN_SEGMENTS) if name == _PLAIN else waiting for name in ways}
    return {name: Timing(one.wall_s / counts[name], one.cpu_s / counts[name]) for name, one in whole.items()}


def _table_lines(hot: HotPath, found: dict[int, dict[str, Timing]]) -> list[str]:
    rows = [
        [
            name,
            *(1 / found[waiting][name].wall_s for waiting in WAITING),
            *(found[waiting][_PLAIN].wall_s / found[waiting][name].wall_s for waiting in WAITING),
            "" if name == _SERVED else 1000 * found[64][name].cpu_s,
        ]
        for name in found[64]
    ]
    head = ["segments per second with so many waiting", "1", "8", "64", "ratio to the plain loop: 1", "8", "64", "CPU ms a segment, 64"]
    return [f"## Throughput (segments of {hot.average_s:.1f} s on average)", "", *markdown_table(head, rows)]


def _figures(found: dict[int, dict[str, Timing]]) -> dict[str, float]:
    most = found[64]
    return {
        "backlog_per_s": 1 / most[_EMBEDDED].wall_s,
        "backlog_ratio": most[_PLAIN].wall_s / most[_EMBEDDED].wall_s,
        "backlog_cpu_ms": 1000 * most[_EMBEDDED].cpu_s,
        "alone_cpu_ms": 1000 * found[1][_EMBEDDED].cpu_s,
        "plain_cpu_ms": 1000 * most[_PLAIN].cpu_s,
        "served_ms": 1000 * found[1][_SERVED].wall_s,
        "embedded_ms": 1000 * found[1][_EMBEDDED].wall_s,
    }
