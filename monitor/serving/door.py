"""The door of the server: every request comes through here before vLLM sees it, which makes it when told `--middleware` and its name.

It asks for a key, bounds what comes in, gives everyone a fair share, and hands on nothing but what ServerEngine asks for. What it answers
and counts has names of clients and numbers in it, never keys, nor anything that was asked.
"""

import os
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from prometheus_client import Counter

from model.bundle import resolve
from model.manifest import read_manifest
from model.speech_llm import stored_dtype
from monitor.serving.adapter_files import VERSION, AdapterFiles, erase
from monitor.serving.adapters import Adapters, NoSuchAdapter
from monitor.serving.clients import KnownClients
from monitor.serving.embeds import Embeds
from monitor.serving.fairness import FairShare, TooMany
from monitor.serving.http import App, Receive, Refused, Scope, Send, answer, ask_behind, header, pieces_of_body, refuse, with_body
from monitor.serving.question import TEXT_BYTES, body_for_vllm, read_question
from monitor.serving.settings import VARIABLE, DoorSettings

_BUSY_PAUSE_S = 1
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_ADAPTER = re.compile(r"/adapters/([^/]*)", re.ASCII)

_Handle = Callable[[Scope, Receive, Send, str], Awaitable[None]]


class Door:
    """An ASGI application around vLLM's."""

    def __init__(self, app: App) -> None:
        settings = DoorSettings.model_validate_json(os.environ[VARIABLE])
        manifest = read_manifest(settings.bundle)
        self._app = app
        self._clients = KnownClients(settings.clients)
        self._known = -1
        self._share = FairShare(settings.at_a_time, settings.of_each)
        self._files = AdapterFiles(settings.adapters, settings.bundle / "adapter", settings.rank)
        self._adapters = Adapters(self._files, manifest.version)
        self._arriving: set[str] = set()
        self._embeds = Embeds(manifest.mapper.queries, self._files.hidden, stored_dtype(resolve(settings.bundle, manifest.llm)))
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
        client = self._clients.named_by(header(scope, "authorization").removeprefix("Bearer "))
        counted = self._counted(client or "unknown", send)
        try:
            if client is None:
                raise Refused(401, "this key is not known here", {"www-authenticate": "Bearer", "connection": "close"})
            if self._known != self._clients.changes:
                self._known = self._clients.changes
                await self._adapters.keep_only(self._clients.names, lambda path, content: ask_behind(self._app, scope, path, content))
            await self._handler(scope)(scope, receive, counted, client)
        except Refused as refused:
            await refuse(counted, refused)
        except TooMany:
            busy = Refused(429, "too many requests of this client are open; ask again later", {"retry-after": str(_BUSY_PAUSE_S)})
            await refuse(counted, busy)

    def _handler(self, scope: Scope) -> _Handle:
        if scope["method"] == "PUT" and _ADAPTER.fullmatch(scope["path"]):
            return self._put_adapter
        handler = self._handlers.get((scope["method"], scope["path"]))
        if handler is None:
            raise Refused(404, "there is nothing here", {"connection": "close"})
        return handler

    def _counted(self, client: str, send: Send) -> Send:
        async def counting(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                self._answers.labels(client, str(message["status"])).inc()
            await send(message)

        return counting

    async def _metrics(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        if not self._clients.is_operator(client):
            raise Refused(403, "only an operator may read the metrics")
        await self._app(scope, receive, send)

    async def _models(self, _scope: Scope, _receive: Receive, send: Send, client: str) -> None:
        models = [{"id": version, "object": "model"} for version in self._adapters.of(client)]
        await answer(send, 200, {"object": "list", "data": models})

    async def _chat(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        request_id = header(scope, "x-request-id")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._share.admitted(client))
            body = b"".join([piece async for piece in pieces_of_body(receive, self._embeds.longest + TEXT_BYTES)])
            try:
                question = read_question(body, self._embeds)
            except ValueError as error:
                raise Refused(400, str(error)) from None
            await stack.enter_async_context(self._share.turn(client))
            try:
                name = await stack.enter_async_context(self._adapters.lent(client, question.model, self._asking(scope)))
            except NoSuchAdapter:
                raise Refused(404, f"the model {question.model} is not here; put its adapter at /adapters/{question.model}") from None
            told = body_for_vllm(question, name)
            known_id = request_id if _REQUEST_ID.fullmatch(request_id) else ""
            await self._app(*with_body(scope, receive, "POST", "/v1/chat/completions", told, known_id), send)

    async def _put_adapter(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        version = scope["path"].rpartition("/")[2]
        if not VERSION.fullmatch(version) or version in self._adapters.of(client)[:1]:
            raise Refused(409, "this is no name for an adapter, or that of the one that everyone uses")
        if client in self._arriving:
            raise TooMany
        self._arriving.add(client)
        arrived = self._files.new_file(client)
        try:
            with arrived.open("xb") as file:
                async for piece in pieces_of_body(receive, self._files.most_bytes):
                    file.write(piece)
            await self._adapters.add(arrived, client, version, self._asking(scope))
        except ValueError as error:
            raise Refused(422, f"the adapter is not taken: {error}") from None
        except OSError as error:
            raise Refused(507, f"the adapter cannot be stored: {error.strerror}") from None
        finally:
            self._arriving.discard(client)
            erase(arrived)
        await answer(send, 201, {"id": version})

    def _asking(self, scope: Scope) -> Callable[[str, dict[str, str]], Awaitable[tuple[int, str]]]:
        return lambda path, content: ask_behind(self._app, scope, path, content)
