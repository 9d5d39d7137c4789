"""Real servers on free ports, for tests and benchmarks: vLLM alone, or `emosllm-monitor serve` with keys and TLS.

Benchmarks use SharedServer too.
"""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from model.bundle import Bundle, weights_source
from monitor.inference.engines.server import ServerConnection, ServerEngine
from monitor.server.clients import add_client
from monitor.server.launch import VLLM_MODULE, server_arguments
from tests.support.clinic import make_certificate
from tests.support.commands import COMMAND

NOBODY = "http://127.0.0.1:9"
"""Where no server is."""


@dataclass(frozen=True)
class Server:
    """A running vLLM server. ca_file: what signs its certificate; empty where it has none."""

    url: str
    key: str
    ca_file: str = ""

    def engine(self, bundle: Bundle, patience_s: float = 10.0) -> ServerEngine:
        """One that asks this server."""
        return ServerEngine(bundle, ServerConnection(self.url, self.key, self.ca_file, patience_s))

    def client(self, key: str | None = None, **options: object) -> httpx.Client:
        """For requests of any kind, with the server's key or another."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        trusted: ssl.SSLContext | bool = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else True
        return httpx.Client(base_url=self.url, headers=headers, verify=trusted, timeout=60, **options)  # type: ignore[arg-type]


class SharedServer:
    """`emosllm-monitor serve` with a certificate for 127.0.0.1 and a client `first`; everything it keeps is in `folder`.

    Nothing runs before `start`, or outside of `with`. arguments: further ones, such as "--max-adapters", "2".
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self.port = free_port()
        self.log = folder / "server.log"
        self.clients = folder / "clients.json"
        self.adapters = folder / "adapters"
        make_certificate(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self.server = self.as_client("first")

    def as_client(self, name: str, *, operator: bool = False) -> Server:
        """The server as a new client sees it, who is known at once while it runs."""
        key = add_client(self.clients, name, operator=operator)
        return Server(f"https://127.0.0.1:{self.port}", key, str(self._folder / "cert.pem"))

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it is ready to answer."""
        command = [COMMAND, "serve", "--port", str(self.port), "--clients", str(self.clients), "--adapters", str(self.adapters)]
        command += ["--tls-cert", str(self._folder / "cert.pem"), "--tls-key", str(self._folder / "key.pem"), *self._arguments]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Raises RuntimeError with the end of the log when it ends instead."""
        assert self._process is not None
        with self.server.client() as client:
            _wait_until_ready(self._process, client, self.log)

    @property
    def process_id(self) -> int:
        """Of what runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As a machine does that loses its power."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In good order."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, how)
            self._process.wait(60)
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()


@contextmanager
def vllm_server(arguments: Sequence[str], log: Path) -> Iterator[Server]:
    """vLLM's own server, started with these arguments and a key, and ready to answer."""
    server = Server(f"http://127.0.0.1:{free_port()}", "secret")
    here = ["--host", "127.0.0.1", "--port", server.url.rpartition(":")[2], "--api-key", "secret", "--dtype", "float32", "--enforce-eager"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", VLLM_MODULE, *arguments, *here],
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        with server.client() as client:
            _wait_until_ready(process, client, log)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def serving(bundle: Bundle, log: Path) -> Iterator[Server]:
    """vLLM's own server for a bundle, as the monitor wants it."""
    with vllm_server(
        server_arguments(bundle.folder, weights_source(bundle.folder, bundle.manifest.llm), bundle.manifest.version), log
    ) as running:
        yield running


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: "subprocess.Popen[bytes]", client: httpx.Client, log: Path) -> None:
    for _ in range(1200):
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-3000:]}")
