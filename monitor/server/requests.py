"""The requests a client may send: exactly those of ServerEngine, within its bounds, with speech embeds that can do no harm.

Everything else is refused before vLLM sees it: long answers, many of them, streams. vLLM would unpickle whatever a client sends as
embeds: the numbers are taken out of the archive, a new archive is made of them, and the client's pickle is never read. Q queries,
H hidden size.
"""

import base64
import binascii
import io
import json
import zipfile
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.emotions import Emotion
from model.language_model import MAX_NEW_TOKENS
from model.prompts import TEMPLATE_SETTINGS

# What torch.save writes around the numbers.
_ARCHIVE_OVERHEAD_BYTES = 4096


class SpeechEmbedsFilter:
    """queries, hidden: the shape (Q, H) that speech embeds have here. dtype: their numbers, those that the language model is stored in."""

    def __init__(self, queries: int, hidden: int, dtype: torch.dtype) -> None:
        self._shape = (queries, hidden)
        self._dtype = dtype
        self._bytes = dtype.itemsize * queries * hidden

    @property
    def longest(self) -> int:
        """Characters of base64 that are enough for any honest client."""
        return (self._bytes + _ARCHIVE_OVERHEAD_BYTES) * 4 // 3 + 4

    def cleaned(self, data: str) -> str:
        """Base64 of a saved tensor (Q, H), contiguous and of the dtype, to base64 of the same saved here. Raises ValueError: it is none."""
        if len(data) > self.longest:
            raise ValueError("the speech embeds are larger than this model's")
        numbers = torch.frombuffer(bytearray(self._storage(data)), dtype=self._dtype).view(self._shape)
        # A NaN would stay in the memory that vLLM shares between requests.
        if not torch.isfinite(numbers).all():
            raise ValueError("the speech embeds hold something that is no number")
        buffer = io.BytesIO()
        torch.save(numbers.clone(), buffer)
        return base64.b64encode(buffer.getvalue()).decode()

    def _storage(self, data: str) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(base64.b64decode(data, validate=True))) as archive:
                (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
                # Nothing is unpacked: what is stored is as long as it says.
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != self._bytes:
                    numbers = str(self._dtype).removeprefix("torch.")
                    raise ValueError(f"the speech embeds are not {self._shape[0]} times {self._shape[1]} numbers in {numbers}")
                return archive.read(entry)
        except (binascii.Error, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
            raise ValueError(f"the speech embeds are no saved tensor ({type(error).__name__})") from error


MAX_TEXT_BYTES = 64 * 1024
"""Room for the words of a question: instruction, examples, a hint, the beginning of an answer."""

_LETTERS = len(Emotion)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Speech(_Part):
    type: Literal["prompt_embeds"]
    data: str


class _Text(_Part):
    type: Literal["text"]
    text: str


class _Message(_Part):
    role: Literal["system", "user", "assistant"]
    content: str | tuple[_Speech, _Text]


class _Template(_Part):
    enable_thinking: Literal[False]
    date_string: str


class ChatRequest(_Part):
    """A chat request of ServerEngine."""

    model: Annotated[str, Field(max_length=100)]
    messages: Annotated[list[_Message], Field(min_length=1, max_length=16)]
    add_generation_prompt: bool
    continue_final_message: bool
    chat_template_kwargs: _Template
    max_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)]
    temperature: Annotated[float, Field(ge=0, le=1)]
    top_p: Annotated[float, Field(ge=1, le=1)]
    top_k: Annotated[int, Field(ge=0, le=0)]
    min_p: Annotated[float, Field(ge=0, le=0)]
    repetition_penalty: Annotated[float, Field(ge=1, le=1)]
    allowed_token_ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=_LETTERS)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=_LETTERS)] = 0
    return_tokens_as_token_ids: bool = False
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=40)]], Field(max_length=4)] = []
    include_stop_str_in_output: bool = False


def parse_chat_request(body: bytes, embeds: SpeechEmbedsFilter) -> ChatRequest:
    """What a body asks, with speech embeds that can do no harm. Raises ValueError that says what is wrong, without quoting it."""
    try:
        asked = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}"[:300] if where else f"the request is no JSON object: {first['msg']}"[:300]) from None
    if asked.chat_template_kwargs.model_dump() != TEMPLATE_SETTINGS:
        raise ValueError("chat_template_kwargs: not those that this model was trained with")
    speeches = [message.content[0] for message in asked.messages if not isinstance(message.content, str)]
    if len(speeches) > 1:
        raise ValueError("messages: more than one holds speech embeds")
    for speech in speeches:
        speech.data = embeds.cleaned(speech.data)
    return asked


def vllm_body(question: ChatRequest, adapter: str) -> bytes:
    """The same question as vLLM gets it, to the adapter of this name."""
    told: dict[str, Any] = question.model_dump(exclude_none=True)
    if not question.logprobs:
        del told["top_logprobs"]
    return json.dumps({**told, "model": adapter}).encode()
