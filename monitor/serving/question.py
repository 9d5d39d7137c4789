"""What a client may ask: exactly what ServerEngine asks, within its bounds. Everything else is refused before vLLM sees it.

So nobody gets long answers, many of them, streams, or whatever else vLLM can do for people with other needs. Knows no HTTP.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.prompts import TEMPLATE_SETTINGS
from model.request import MAX_WRITTEN_TOKENS
from model.types import Emotion
from monitor.serving.embeds import Embeds

TEXT_BYTES = 64 * 1024
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


class Question(_Part):
    """A chat request of ServerEngine."""

    model: Annotated[str, Field(max_length=100)]
    messages: Annotated[list[_Message], Field(min_length=1, max_length=16)]
    add_generation_prompt: bool
    continue_final_message: bool
    chat_template_kwargs: _Template
    max_tokens: Annotated[int, Field(ge=1, le=MAX_WRITTEN_TOKENS)]
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


def read_question(body: bytes, embeds: Embeds) -> Question:
    """What a body asks, with speech embeds that can do no harm. Raises ValueError that says what is wrong, without quoting it."""
    try:
        asked = Question.model_validate_json(body)
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


def body_for_vllm(question: Question, adapter: str) -> bytes:
    """The same question as vLLM gets it, to the adapter of this name."""
    told: dict[str, Any] = question.model_dump(exclude_none=True)
    if not question.logprobs:
        del told["top_logprobs"]
    return json.dumps({**told, "model": adapter}).encode()
