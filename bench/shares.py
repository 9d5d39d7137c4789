"""Where the time of a judged segment goes: alone and in a batch of 64, in processor time of one core; and what the served way adds.

Database is the whole of it: storing the segment with its sound, and later its judgement, each in a transaction of its own.
"""

import base64
import io
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import torch
from torch.nn.utils.rnn import pad_sequence

from bench.hot import Hot
from bench.tables import table
from bench.timing import best
from model.audio import SAMPLE_RATE, samples_to_s
from model.encoder import NanoEncoder
from model.features import analyse, normalise
from model.predictor import Sound, Style
from model.prompts import Task, emotion_prefix, render
from model.request import Request
from model.speech_encoder import length_groups
from monitor.judging.engine import mixed_prompt
from monitor.judging.served_engine import BLOCK_TOKENS
from monitor.judging.voice import measure
from monitor.store.keys import Keys
from monitor.store.records import Judgement
from monitor.store.timeline import Timeline

_SAMPLES = 640_000


def run(hot: Hot, quick: bool) -> tuple[list[str], dict[str, float]]:
    """Markdown lines, and figures by name."""
    rounds = 3 if quick else 9
    alone, batch = _parts(hot, 1, 3 * rounds), _parts(hot, 64, rounds)
    sums = [sum(part.values()) for part in (alone, batch)]
    rows = [[name, alone[name], alone[name] / sums[0], batch[name], batch[name] / sums[1]] for name in alone]
    rows.append(["together", sums[0], 1.0, sums[1], 1.0])
    hits, most = prefix_hits(hot)
    lines = ["## Where a segment's time goes", ""]
    lines += table(["CPU ms of a segment", "alone", "share", "of 64", "share"], rows)
    lines += [
        "",
        f"Of the tokens before the speech, {hits:.1%} came from the prefix cache ({most:.1%} are in whole blocks, which alone can).",
    ]
    lines += [f"The served way adds {_as_http(hot):.2f} ms on this side for putting a segment's speech embeds into a request."]
    return lines, {"prefix_hits": hits}


def prefix_hits(hot: Hot) -> tuple[float, float]:
    """Shares of the tokens before the speech: those that vLLM had read before, and those that stand in whole blocks."""
    from vllm import SamplingParams

    engine, requests = hot.engine, _requests(hot, hot.sounds(64))
    before = len(render(engine._tokenizer, requests[0].turns).before)
    prompts = [mixed_prompt(engine._tokenizer, request) for request in requests]
    outputs = engine._llm.generate(prompts, SamplingParams(max_tokens=1, temperature=0.0), use_tqdm=False)
    return sum(output.num_cached_tokens for output in outputs) / len(outputs) / before, before // BLOCK_TOKENS * BLOCK_TOKENS / before


def _parts(hot: Hot, size: int, rounds: int) -> dict[str, float]:
    """Milliseconds of processor time of a segment by part."""
    assert isinstance(hot.bundle.encoder, NanoEncoder)
    sounds, pcms = hot.sounds(size), (hot.pcms * size)[:size]
    clips = [torch.from_numpy(sound.audio) for sound in sounds]

    def cost(work: Callable[[], object]) -> float:
        with torch.inference_mode():
            return 1000 * best(work, rounds).cpu_s / size

    with torch.inference_mode():
        features = [normalise(analyse(clip)) for clip in clips]
        groups = [[features[i] for i in group] for group in length_groups([len(clip) for clip in clips], _SAMPLES)]
        padded = [(pad_sequence(group, batch_first=True), torch.tensor([len(one) for one in group])) for group in groups]
        states = [hot.bundle.encoder.states(*batch) for batch in padded]
    requests = _requests(hot, sounds)
    return {
        "level and pitch, for the summary": cost(lambda: [measure(pcm) for pcm in pcms]),
        "features": cost(lambda: [normalise(analyse(clip)) for clip in clips]),
        "encoder": cost(lambda: [hot.bundle.encoder.states(*batch) for batch in padded]),  # type: ignore[operator]
        "mapper": cost(lambda: [hot.bundle.mapper(*one) for one in states]),
        "language model (vLLM, embedded)": cost(lambda: hot.engine.letter_log_probs(_fresh(requests), hot.bundle.manifest.letters)),
        "database": _database(hot, sounds, rounds) / size,
    }


def _requests(hot: Hot, sounds: list[Sound]) -> list[Request]:
    embeds = [hot.bundle.speech_embeds([torch.from_numpy(sound.audio)])[0] for sound in sounds]
    style = Style.of(hot.bundle)
    return [Request(style.turns(sound, emotion_prefix(), Task.SER), one) for sound, one in zip(sounds, embeds, strict=True)]


def _fresh(requests: list[Request]) -> list[Request]:
    """The same but for the last digits of what was heard: the same ones would be in the prefix cache."""
    return [Request(request.turns, request.speech + 1e-6 * torch.rand(1)) for request in requests]


def _database(hot: Hot, sounds: list[Sound], rounds: int) -> float:
    """Milliseconds for all of them, judged together."""
    answers = [answer.prediction for answer in hot.predictor.predict(sounds)]
    judgements = [Judgement(answer, None, measure(hot.pcms[0])) for answer in answers if answer]
    with tempfile.TemporaryDirectory() as name, Timeline.open(Path(name) / "t.db", ZoneInfo("UTC"), Keys("file", Path(name))) as timeline:
        lengths, starts = [len(sound.audio) for sound in sounds], count(step=SAMPLE_RATE)

        def store() -> None:
            entries = [add_segment(timeline, next(starts), length) for length in lengths]
            timeline.judge(dict(zip(entries, judgements, strict=True)))

        return 1000 * best(store, rounds).cpu_s


def add_segment(timeline: Timeline, start: int, samples: int) -> int:
    """A waiting segment of noughts that ends now; its number. start: a sample at which no other begins."""
    now = datetime.now(UTC)
    return timeline.add_segment(
        start_sample=start,
        end_sample=start + samples,
        start_at=now - timedelta(seconds=samples_to_s(samples)),
        end_at=now,
        sound=bytes(2 * samples),
    )


def _as_http(hot: Hot) -> float:
    (request,) = _requests(hot, hot.sounds(1))

    def encode() -> bytes:
        buffer = io.BytesIO()
        torch.save(request.speech.clone(), buffer)
        return base64.b64encode(buffer.getvalue())

    return 1000 * best(encode, 50).cpu_s
