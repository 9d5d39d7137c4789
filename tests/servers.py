"""Real vLLM OpenAI servers for tests, each with a key and on a free port of this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from model.bundle import Bundle, resolve
from monitor.judging.served_engine import server_arguments


@dataclass(frozen=True)
class Server:
    """A running vLLM server."""

    url: str
    key: str


@contextmanager
def vllm_server(arguments: Sequence[str], log: Path) -> Iterator[Server]:
    """A server that is started with these arguments and ready to answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = ["--host", "127.0.0.1", "--port", str(port), "--api-key", "secret", "--dtype", "float32", "--enforce-eager"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments, *here],
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}", log)
        yield Server(f"http://127.0.0.1:{port}", "secret")
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def serving(bundle: Bundle, log: Path) -> Iterator[Server]:
    """A server for a bundle, as the monitor wants it."""
    with vllm_server(server_arguments(bundle.folder, resolve(bundle.folder, bundle.manifest.llm), bundle.manifest.version), log) as running:
        yield running


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            break
        time.sleep(1)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
