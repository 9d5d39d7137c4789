"""HTTP as an ASGI application speaks it, as far as the door needs it: a bounded body, an answer, and a question to the application behind.

See https://asgi.readthedocs.io/en/stable/specs/www.html for the messages.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY_TIMEOUT_S = 60.0


class Refused(Exception):
    """The request is answered with this status and this text."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})


def header(scope: Scope, name: str) -> str:
    """A header of the request, empty where there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name.encode()), "")


async def pieces_of_body(receive: Receive, most: int) -> AsyncIterator[bytes]:
    """The body as it comes, as long as it is no longer than `most` bytes and comes in time. Raises Refused (413, 408, 400)."""
    length = 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "the request ended too early")
                piece = bytes(message.get("body", b""))
                length += len(piece)
                if length > most:
                    raise Refused(413, f"the body is longer than {most} bytes", {"connection": "close"})
                yield piece
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        raise Refused(408, f"the body did not come within {_BODY_TIMEOUT_S:.0f} s", {"connection": "close"}) from None


async def answer(send: Send, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
    """Answer with JSON."""
    body = json.dumps(content).encode()
    told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in told.items()]})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refused: Refused) -> None:
    """Answer as OpenAI's servers tell errors."""
    await answer(send, refused.status, {"error": {"message": refused.text, "code": refused.status}}, refused.headers)


def with_body(scope: Scope, receive: Receive, method: str, path: str, body: bytes, request_id: str = "") -> tuple[Scope, Receive]:
    """A request to the application behind, which sees nothing else of the client's; it learns from `receive` when the client goes."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"host", b"localhost")]
    if request_id:
        headers.append((b"x-request-id", request_id.encode()))
    told = False

    async def replay() -> dict[str, Any]:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    changed = {"method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    return {**scope, **changed}, replay


async def ask_behind(app: App, scope: Scope, path: str, content: Mapping[str, Any]) -> tuple[int, str]:
    """POST JSON to the application behind, for ourselves. Returns status and text."""
    status, text = 500, bytearray()

    async def nothing_more() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError  # it never gets here

    async def keep(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = int(message["status"])
        text.extend(message.get("body", b""))

    await app(*with_body(scope, nothing_more, "POST", path, json.dumps(content).encode()), keep)
    return status, text.decode(errors="replace")
