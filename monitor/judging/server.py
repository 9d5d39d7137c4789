"""A vLLM server elsewhere as one connection: asked over HTTP, patiently for a while, by a key. This file owns HTTP.

Every request may be sent again: none changes anything at the server but which adapters it has. Who is told to wait waits as long as the
server says; who gets no answer waits longer each time, by chance, so that many monitors do not come back all at once.
"""

import asyncio
import random
import ssl
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from model.errors import AccessRefused, EngineRejected, EngineUnavailable
from model.server_key import KEY_VARIABLE

CONNECTIONS = 32
"""Requests of one monitor that are open at once."""

_REQUEST_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 10.0
_PATIENCE_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
# The server is busy or broken, or something in front of it is; what was asked may be asked again.
_PASSING = {408, 429, 500, 502, 503, 504}


class ServerConnection:
    """url: https, or http on this machine. ca_file: certificates that sign the server's, in PEM; empty: those that this machine trusts.

    patience_s: for how long a request is tried again before EngineUnavailable says so. Raises EngineRejected: the file cannot be read.
    """

    def __init__(self, url: str, key: str | None, ca_file: str = "", patience_s: float = _PATIENCE_S) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_REQUEST_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            verify=_trusting(ca_file) if ca_file else True,
        )

    async def ask(self, method: str, path: str, json: Mapping[str, Any] | None = None, content: bytes | None = None) -> httpx.Response:
        """An answer that is not a passing fault. Raises EngineUnavailable once patience is over, AccessRefused where we are not let in."""
        until, pause_s = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        # The same for every try, so that the logs of both sides can be held together.
        headers = {"X-Request-Id": uuid.uuid4().hex}
        while True:
            asked_to_wait_s = 0.0
            try:
                reply = await self._client.request(method, path, json=json, content=content, headers=headers)
            except httpx.HTTPError as error:
                self._refuse_certificate(error)
                reason = f"no answer from the vLLM server at {self.url} ({type(error).__name__})"
            else:
                if reply.status_code not in _PASSING:
                    return self._let_in(reply)
                reason = f"the vLLM server at {self.url} answered with status {reply.status_code}"
                asked_to_wait_s = _seconds(reply.headers.get("Retry-After", ""))
            wait_s = asked_to_wait_s + random.uniform(0, pause_s)
            if time.monotonic() + wait_s > until:
                raise EngineUnavailable(reason)
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _let_in(self, reply: httpx.Response) -> httpx.Response:
        if reply.status_code in (401, 403):
            raise AccessRefused(f"the server at {self.url} refused the key; set [engine] key_file or the variable {KEY_VARIABLE}")
        return reply

    def _refuse_certificate(self, error: BaseException) -> None:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                advice = "set [engine] ca_file to the certificate that signs it, and [engine] url to the name in it"
                raise AccessRefused(f"the certificate of {self.url} is not trusted ({cause.verify_message}); {advice}") from error
            cause = cause.__cause__ or cause.__context__


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(Path(ca_file).expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise EngineRejected(f"[engine] ca_file: {ca_file} cannot be read as certificates in PEM ({type(error).__name__})") from error


def _seconds(text: str) -> float:
    """What Retry-After says in seconds; it may also hold a date, which vLLM and our door never send."""
    return float(text) if text.isascii() and text.isdigit() else 0.0
