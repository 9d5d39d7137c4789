"""The gateway: the ASGI middleware that every request passes before vLLM sees it (`--middleware`).

It asks for a key, bounds what comes in, gives everyone a fair share, and hands on nothing but what ServerEngine asks for. Answers and
counters hold names of clients and numbers, never keys, nor anything that was asked. For the messages of ASGI see
https://asgi.readthedocs.io/en/stable/specs/www.html.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from prometheus_client import Counter

from model.bundle import weights_source
from model.bundle_format import read_bundle_manifest
from model.language_model import stored_dtype
from monitor.server.adapters import ADAPTER_VERSION, AdapterFiles, AdapterRegistry, NoSuchAdapter, remove_path
from monitor.server.clients import KnownClients
from monitor.server.limits import GATEWAY_VARIABLE, FairShare, GatewaySettings, TooManyRequests
from monitor.server.requests import MAX_TEXT_BYTES, SpeechEmbedsFilter, parse_chat_request, vllm_body

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY_TIMEOUT_S = 60.0


class RequestRefused(Exception):
    """The request is answered with this status and this text."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})


def header(scope: Scope, name: str) -> str:
    """A header of the request, empty where there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name.encode()), "")


async def read_body(receive: Receive, most: int) -> AsyncIterator[bytes]:
    """The body as it comes, as long as it is no longer than `most` bytes and comes in time. Raises Refused (413, 408, 400)."""
    length = 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise RequestRefused(400, "the request ended too early")
                piece = bytes(message.get("body", b""))
                length += len(piece)
                if length > most:
                    raise RequestRefused(413, f"the body is longer than {most} bytes", {"connection": "close"})
                yield piece
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        raise RequestRefused(408, f"the body did not come within {_BODY_TIMEOUT_S:.0f} s", {"connection": "close"}) from None


async def send_json(send: Send, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
    """Answer with JSON."""
    body = json.dumps(content).encode()
    told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in told.items()]})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, refused: RequestRefused) -> None:
    """Answer as OpenAI's servers tell errors."""
    await send_json(send, refused.status, {"error": {"message": refused.text, "code": refused.status}}, refused.headers)


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


async def post_to_vllm(app: App, scope: Scope, path: str, content: Mapping[str, Any]) -> tuple[int, str]:
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


_RETRY_AFTER_S = 1
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_ADAPTER_PATH = re.compile(r"/adapters/([^/]*)", re.ASCII)

_Handle = Callable[[Scope, Receive, Send, str], Awaitable[None]]


class Gateway:
    """An ASGI application around vLLM's."""

    def __init__(self, app: App) -> None:
        settings = GatewaySettings.model_validate_json(os.environ[GATEWAY_VARIABLE])
        manifest = read_bundle_manifest(settings.bundle)
        self._app = app
        self._clients = KnownClients(settings.clients)
        self._known = -1
        self._share = FairShare(settings.at_a_time, settings.of_each)
        self._files = AdapterFiles(settings.adapters, settings.bundle / "adapter", settings.rank)
        self._adapters = AdapterRegistry(self._files, manifest.version)
        self._arriving: set[str] = set()
        self._embeds = SpeechEmbedsFilter(
            manifest.mapper.queries, self._files.hidden, stored_dtype(weights_source(settings.bundle, manifest.llm))
        )
        self._handlers: dict[tuple[str, str], _Handle] = {
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._chat,
        }
        self._answers = Counter("emosllm_answers", "Answers by client and status.", ["client", "status"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request, or vLLM's start and end."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == "/health" and scope["method"] == "GET"):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._let_in(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._clients.authenticate(header(scope, "authorization").removeprefix("Bearer "))
        counted = self._counted(client or "unknown", send)
        try:
            if client is None:
                raise RequestRefused(401, "this key is not known here", {"www-authenticate": "Bearer", "connection": "close"})
            if self._known != self._clients.changes:
                self._known = self._clients.changes
                await self._adapters.retain_clients(
                    self._clients.names, lambda path, content: post_to_vllm(self._app, scope, path, content)
                )
            await self._handler(scope)(scope, receive, counted, client)
        except RequestRefused as refused:
            await send_error(counted, refused)
        except TooManyRequests:
            busy = RequestRefused(429, "too many requests of this client are open; ask again later", {"retry-after": str(_RETRY_AFTER_S)})
            await send_error(counted, busy)

    def _handler(self, scope: Scope) -> _Handle:
        if scope["method"] == "PUT" and _ADAPTER_PATH.fullmatch(scope["path"]):
            return self._put_adapter
        handler = self._handlers.get((scope["method"], scope["path"]))
        if handler is None:
            raise RequestRefused(404, "there is nothing here", {"connection": "close"})
        return handler

    def _counted(self, client: str, send: Send) -> Send:
        async def counting(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                self._answers.labels(client, str(message["status"])).inc()
            await send(message)

        return counting

    async def _metrics(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        if not self._clients.is_operator(client):
            raise RequestRefused(403, "only an operator may read the metrics")
        await self._app(scope, receive, send)

    async def _models(self, _scope: Scope, _receive: Receive, send: Send, client: str) -> None:
        models = [{"id": version, "object": "model"} for version in self._adapters.of(client)]
        await send_json(send, 200, {"object": "list", "data": models})

    async def _chat(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        request_id = header(scope, "x-request-id")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._share.admitted(client))
            body = b"".join([piece async for piece in read_body(receive, self._embeds.longest + MAX_TEXT_BYTES)])
            try:
                question = parse_chat_request(body, self._embeds)
            except ValueError as error:
                raise RequestRefused(400, str(error)) from None
            await stack.enter_async_context(self._share.turn(client))
            try:
                name = await stack.enter_async_context(self._adapters.leased(client, question.model, self._asking(scope)))
            except NoSuchAdapter:
                raise RequestRefused(
                    404, f"the model {question.model} is not here; put its adapter at /adapters/{question.model}"
                ) from None
            told = vllm_body(question, name)
            known_id = request_id if _REQUEST_ID.fullmatch(request_id) else ""
            await self._app(*with_body(scope, receive, "POST", "/v1/chat/completions", told, known_id), send)

    async def _put_adapter(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        version = scope["path"].rpartition("/")[2]
        if not ADAPTER_VERSION.fullmatch(version) or version in self._adapters.of(client)[:1]:
            raise RequestRefused(409, "this is no name for an adapter, or that of the one that everyone uses")
        if client in self._arriving:
            raise TooManyRequests
        self._arriving.add(client)
        arrived = self._files.new_file(client)
        try:
            with arrived.open("xb") as file:
                async for piece in read_body(receive, self._files.max_bytes):
                    file.write(piece)
            await self._adapters.add(arrived, client, version, self._asking(scope))
        except ValueError as error:
            raise RequestRefused(422, f"the adapter is not taken: {error}") from None
        except OSError as error:
            raise RequestRefused(507, f"the adapter cannot be stored: {error.strerror}") from None
        finally:
            self._arriving.discard(client)
            remove_path(arrived)
        await send_json(send, 201, {"id": version})

    def _asking(self, scope: Scope) -> Callable[[str, dict[str, str]], Awaitable[tuple[int, str]]]:
        return lambda path, content: post_to_vllm(self._app, scope, path, content)
