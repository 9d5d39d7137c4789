"""Hostile or broken clients: `python -m bench.load.hostile_clients SPEC OUT`.

A flood of valid requests with a valid key, valid requests with a wrong key, oversized bodies and malformed ones. Counts the
answers to each.
"""

import asyncio
import base64
import copy
import io
import json
import ssl
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.harness import demo_segments
from model.audio import pcm16_to_float
from model.bundle import open_bundle
from model.bundle_format import find_bundle
from model.predictor import Predictor, SpeechInput
from monitor.inference.engines.server import ServerConnection, ServerEngine

_FLOOD_AT_ONCE, _OTHERS_AT_ONCE = 64, 2
_HUGE_BYTES = 64 * 2**20
_PATIENCE_S = 120.0
_PATH = "/v1/chat/completions"


class _BodyRecorder(ServerConnection):
    """Keeps the last body that was sent."""

    body: Mapping[str, Any] | None = None

    async def ask(self, method: str, path: str, json: Mapping[str, Any] | None = None, content: bytes | None = None) -> httpx.Response:
        self.body = json or self.body
        return await super().ask(method, path, json, content)


def good_request(server: str, key: str, ca_file: str) -> dict[str, Any]:
    """What a monitor really asks, of a real piece of speech."""
    bundle, connection = open_bundle(find_bundle("compact")), _BodyRecorder(server, key, ca_file, _PATIENCE_S)
    engine = ServerEngine(bundle, connection)
    Predictor(bundle, engine).predict([SpeechInput(pcm16_to_float(demo_segments()[0]))])
    engine.close()
    assert connection.body is not None
    return dict(connection.body)


def bad_bodies(good: Mapping[str, Any]) -> dict[str, bytes]:
    """What a broken or hostile client might send."""
    huge, other, evil = (io.BytesIO() for _ in range(3))
    torch.save(torch.zeros(200_000, 8), huge)
    torch.save(torch.zeros(32, 3, dtype=torch.int64), other)
    torch.save({"not": print}, evil)
    return {
        "no JSON": b"\x00\xff" * 500,
        "no messages": json.dumps({**good, "messages": []}).encode(),
        "speech of 200,000 rows": _with_speech(good, huge.getvalue()),
        "speech of another shape": _with_speech(good, other.getvalue()),
        "speech that is a program": _with_speech(good, evil.getvalue()),
        "a thousand answers": json.dumps({**good, "n": 1000}).encode(),
        "an answer without end": json.dumps({**good, "max_tokens": 10**6}).encode(),
    }


def _with_speech(good: Mapping[str, Any], saved: bytes) -> bytes:
    changed = copy.deepcopy(dict(good))
    for turn in changed["messages"]:
        for part in turn["content"] if isinstance(turn["content"], list) else ():
            if part["type"] == "prompt_embeds":
                part["data"] = base64.b64encode(saved).decode()
    return json.dumps(changed).encode()


async def _flood(server: str, key: str, ca_file: str, bodies: Mapping[str, bytes], at_once: int, until: float) -> Counter[str]:
    """Send them in turn, as many at once, until then; returns how often which was answered with which status."""
    answers: Counter[str] = Counter()
    trusted = ssl.create_default_context(cafile=ca_file)

    async def one(first: int) -> None:
        number = first
        async with httpx.AsyncClient(base_url=server, verify=trusted, timeout=30) as client:
            while time.time() < until:
                name = list(bodies)[number % len(bodies)]
                number += 1
                try:
                    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
                    reply = await client.post(_PATH, content=bodies[name], headers=headers)
                    answers[f"{name}: {reply.status_code}"] += 1
                except httpx.HTTPError as error:
                    answers[f"{name}: {type(error).__name__}"] += 1

    await asyncio.gather(*(one(number) for number in range(at_once)))
    return answers


async def _run_all(spec: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    server, ca_file, until = spec["server"], spec["ca_file"], spec["until"]
    good = await asyncio.to_thread(good_request, server, spec["broken"], ca_file)
    fine = {"a good request": json.dumps(good).encode()}
    told = await asyncio.gather(
        _flood(server, spec["flood"], ca_file, fine, _FLOOD_AT_ONCE, until),
        _flood(server, "a-key-that-is-none", ca_file, fine, _OTHERS_AT_ONCE, until),
        _flood(server, spec["broken"], ca_file, {"64 MiB": b" " * _HUGE_BYTES}, 1, until),
        _flood(server, spec["broken"], ca_file, bad_bodies(good), _OTHERS_AT_ONCE, until),
    )
    return dict(zip(("flood", "wrong key", "oversized", "malformed"), (dict(counter) for counter in told), strict=True))


def main() -> None:
    """Bother the server, and write what came of it."""
    spec, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    time.sleep(max(0.0, spec["from"] - time.time()))
    out.write_text(json.dumps(asyncio.run(_run_all(spec))))


if __name__ == "__main__":
    main()
