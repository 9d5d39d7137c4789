"""What a recipe would take without its data and weights: parameters, steps, tokens, memory and disk, by formula."""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, Wav2Vec2FeatureExtractor, WhisperConfig

from model.audio import SAMPLE_RATE
from model.emotions import Emotion
from model.encoders import CombinedEncoder, TransformersEncoder, is_project_encoder, load_encoder
from model.errors import TrainingError
from model.paralinguistics import VOICE_FEATURES, FeatureLevel, describe_voice
from model.prompts import AUDIO_PLACEHOLDER, SHOTS, Task, chat_messages, format_answer, render_prompt
from model.speech_encoder import SpeechEncoder
from model.whisper_encoder import WhisperEncoder, WhisperSettings
from train.learning.small_models import build_small_llm, build_tokenizer, untrained_encoder
from train.model_sizes import Memory, PartSize, count_parts, known_config, memory_estimate, text_table
from train.recipe import CombinedRecipe, EncoderRecipe, EncoderTraining, PhaseRecipe, Pretrained, Recipe, SmallLlm, WhisperRecipe

logger = logging.getLogger(__name__)

# LibriSpeech's transcripts hold 9.4 million words in 960 hours.
_WORDS_PER_SECOND = 2.7
# Of Llama 3's tokenizer over this project's requests and answers; what its chat template adds; both counted once with that tokenizer.
_TOKENS_PER_WORD, _TEMPLATE_TOKENS = 1.4, 35
# Where a recipe's corpora are not known.
_USUAL_SECONDS = 5.0
_ADAMW_BYTES = 8


@dataclass(frozen=True, slots=True)
class CorpusSize:
    """A corpus's train splits. emotions: whether its utterances are labelled; all are taken to have transcripts."""

    corpus: str
    hours: float
    utterances: int
    emotions: bool


PAPER_SPEECH = (
    # Panayotov et al., 2015, table 1; utterances are the lines of the train splits' transcripts.
    CorpusSize("LibriSpeech", 960.9, 281_241, emotions=False),
    # Version 1.11, the corpus's page at the MSP Lab, UT Dallas. It gives hours for all 151,654 turns together (237 h 56 min), so
    # those of the train split are its share. The paper does not say which version it used.
    CorpusSize("MSP-Podcast", 131.8, 84_030, emotions=True),
)


@dataclass(frozen=True, slots=True)
class RequestSize:
    """One request with its answer, in tokens. before, after: of the speech embeds' place; speech: the embeds; answer: with its end.

    has_letter: whether the answer names an emotion.
    """

    before: int
    speech: int
    after: int
    answer: int
    has_letter: bool

    @property
    def total(self) -> int:
        """The sequence length."""
        return self.before + self.speech + self.after + self.answer


class DryPlan:
    """A recipe, the sizes of its models and of its corpora, and what follows from them."""

    def __init__(self, recipe: Recipe, speech: Sequence[CorpusSize]) -> None:
        self.recipe, self.speech = recipe, speech
        self.tokenizer = _tokenizer(recipe)
        self.own_encoder = _own_encoder(recipe.encoder)
        self.llm = build_small_llm(recipe.llm, self.tokenizer).config if isinstance(recipe.llm, SmallLlm) else _config(recipe.llm.source)
        self.parts = {phase.name: self._parts(phase) for phase in recipe.phases}

    @property
    def views(self) -> int | None:
        """Of each utterance, where all its states are made before the first phase; None where the encoder hears in every step."""
        encoder = self.recipe.encoder
        return encoder.views if isinstance(encoder, WhisperRecipe) and encoder.statistics else None

    @property
    def encoder(self) -> PretrainedConfig:
        """Of an encoder of this project's classes, only the width is true: its parameters are counted on itself."""
        if self.own_encoder is not None:
            return AutoConfig.for_model("wavlm", hidden_size=self.own_encoder.width, num_attention_heads=1, num_hidden_layers=1)
        assert isinstance(self.recipe.encoder, Pretrained)
        return _config(self.recipe.encoder.source)

    def _parts(self, phase: PhaseRecipe) -> list[PartSize]:
        encoder, *rest = count_parts(self.encoder, self.llm, self.recipe.mapper, phase.trainable, rank=self.recipe.lora.rank)
        if self.own_encoder is not None:
            encoder = replace(encoder, total=sum(parameter.numel() for parameter in self.own_encoder.parameters()))
        return [encoder, *rest]

    def heard(self, phase: PhaseRecipe) -> list[CorpusSize]:
        """The corpora that can teach any of the phase's tasks."""
        return [one for one in self.speech if one.emotions or Task.ASR in phase.tasks]

    def steps(self, phase: PhaseRecipe) -> int | None:
        """Optimizer steps; None where they hang on corpora of unknown size."""
        utterances = sum(one.utterances for one in self.heard(phase))
        if phase.epochs is None:
            return phase.steps
        return max(1, math.ceil(phase.epochs * utterances / phase.batch)) if utterances else None

    def seconds(self, phase: PhaseRecipe) -> float:
        """Of the mean utterance."""
        heard = self.heard(phase)
        return 3600 * sum(one.hours for one in heard) / sum(one.utterances for one in heard) if heard else _USUAL_SECONDS

    def request(self, phase: PhaseRecipe, task: Task, seconds: float) -> RequestSize:
        """A request about `seconds` of speech, and its answer."""
        features = describe_voice(dict.fromkeys(VOICE_FEATURES, FeatureLevel.MEDIUM), "female") if phase.features else ""
        turns = chat_messages(task, features=features, shots=SHOTS[: phase.shots])
        said = " ".join(
            itertools.islice(itertools.cycle(" ".join(shot.words for shot in SHOTS).split()), round(seconds * _WORDS_PER_SECOND))
        )
        answer = format_answer(None if task is Task.ASR else Emotion.NEUTRAL, None if task is Task.SER else said)
        queries, letter = self.recipe.mapper.queries, task is not Task.ASR
        if self.tokenizer is not None:
            rendered = render_prompt(self.tokenizer, turns)
            ids = self.tokenizer.encode(answer, add_special_tokens=False)
            return RequestSize(len(rendered.before), queries, len(rendered.after), len(ids) + 1, letter)
        before, after = (
            _TEMPLATE_TOKENS + _estimated_tokens(turns[0]["content"]),
            _estimated_tokens(turns[1]["content"].replace(AUDIO_PLACEHOLDER, "")),
        )
        return RequestSize(before, queries, after, _estimated_tokens(answer) + 1, letter)

    def longest(self, phase: PhaseRecipe, seconds: float) -> tuple[Task, RequestSize]:
        """The longest of the phase's tasks: a micro-batch is padded to it."""
        return max(((task, self.request(phase, task, seconds)) for task in phase.tasks), key=lambda one: one[1].total)

    def memory(self, phase: PhaseRecipe, micro_batch: int, tokens: int, *, checkpointing: bool) -> Memory:
        """One device's. The encoder is float32 whatever the precision is."""
        encoder, *rest = self.parts[phase.name]
        found = memory_estimate(
            rest,
            weight_bytes=2 if self.recipe.loop.precision == "bf16" else 4,
            optimizer_bytes_per_trainable=_ADAMW_BYTES,
            micro_batch=micro_batch,
            sequence_length=tokens,
            layers=self.llm.num_hidden_layers,
            hidden=self.llm.hidden_size,
            vocabulary=self.llm.vocab_size,
            gradient_checkpointing=checkpointing,
        )
        return replace(found, weights=found.weights + 4 * encoder.total)

    def parameters(self) -> str:
        """Per part and per phase."""
        parts = self.parts[self.recipe.phases[0].name]
        rows = [["part", "parameters", *self.parts]]
        for i, part in enumerate(parts):
            rows.append([part.name, f"{part.total:,}", *("learns" if found[i].trainable else "frozen" for found in self.parts.values())])
        total = sum(part.total for part in parts)
        rows.append(["together", f"{total:,}", *(f"{sum(part.trainable for part in found):,}" for found in self.parts.values())])
        note = f"{total / 1e9:.3g} B together. The paper's 3.2 B is the language model alone, here {parts[2].total / 1e9:.3g} B."
        return text_table(f"Parameters of {self.recipe.name}", rows, note)

    def steps_table(self) -> str:
        """Per phase, for the corpora whose sizes are known."""
        rows = [["phase", "utterances", "hours", "mean s", "epochs", "batch", "steps"]]
        for phase in self.recipe.phases:
            heard = self.heard(phase)
            size = [f"{sum(one.utterances for one in heard):,}", f"{sum(one.hours for one in heard):,.0f}"] if heard else ["?", "?"]
            epochs, steps = "-" if phase.epochs is None else f"{phase.epochs:g}", self.steps(phase)
            rows.append([phase.name, *size, f"{self.seconds(phase):.1f}", epochs, f"{phase.batch}", "?" if steps is None else f"{steps:,}"])
        known = "; ".join(f"{one.corpus} {one.hours:,.1f} h, {one.utterances:,} utterances" for one in self.speech)
        unknown = f"the sizes of this recipe's corpora are not all known; utterances are taken to last {_USUAL_SECONDS:g} s"
        return text_table("Optimizer steps", rows, f"Train splits: {known or unknown}.")

    def requests_table(self) -> str:
        """Of the last phase, per task."""
        phase = self.recipe.phases[-1]
        seconds = self.seconds(phase)
        rows = [["task", "before", "speech", "after", "answer", "together"]]
        for task in phase.tasks:
            found = self.request(phase, task, seconds)
            rows.append([task, *(f"{n}" for n in (found.before, found.speech, found.after, found.answer, found.total))])
        exact = "counted with the language model's tokenizer and chat template"
        guess = f"its tokenizer is not at hand: {_TOKENS_PER_WORD} a word, and {_TEMPLATE_TOKENS} for the chat template"
        how = guess if self.tokenizer is None else exact
        return text_table(
            f"Tokens of a request in {phase.name}", rows, f"{seconds:.1f} s of speech at {_WORDS_PER_SECOND} words a second; {how}."
        )

    def memory_table(self) -> str:
        """Per phase, with and without gradient checkpointing."""
        rows = [["phase", "checkpointing", "weights", "gradients", "optimizer", "activations", "logits", "together"]]
        size = self.recipe.loop.micro_batch
        for phase in self.recipe.phases:
            tokens = self.longest(phase, self.seconds(phase))[1].total
            for checkpointing in (True, False):
                m = self.memory(phase, size, tokens, checkpointing=checkpointing)
                each = (m.weights, m.gradients, m.optimizer, m.activations, m.logits, m.total)
                rows.append([phase.name, "on" if checkpointing else "off", *(f"{n / 1e9:.2f}" for n in each)])
        note = f"GB on one device, estimated for micro-batches of {size}, all of the mean length; this recipe has checkpointing "
        return text_table("Memory", rows, note + ("on." if self.recipe.loop.gradient_checkpointing else "off."))

    def disk(self) -> str:
        """Checkpoints, and encoder states where they can be kept."""
        ever = {part for phase in self.recipe.phases for part in phase.trainable}
        weights = 4 * sum(part.total for part in self.parts[self.recipe.phases[0].name] if part.name in ever)
        learning = [(phase, sum(part.trainable for part in self.parts[phase.name])) for phase in self.recipe.phases]
        largest = max(weights + count * (_ADAMW_BYTES + (4 if phase.average_last else 0)) for phase, count in learning)
        rows = [["what", "GB"], ["one checkpoint", f"{largest / 1e9:.2f}"], ["two kept and one being written", f"{3 * largest / 1e9:.2f}"]]
        if isinstance(self.recipe.encoder, EncoderTraining):
            return text_table("Disk", rows, "The encoder is trained here and small; what is kept of its corpora is not counted.")
        width = self.encoder.hidden_size
        if self.views is not None:
            each = self.views * width * 2
            size = f"{sum(one.utterances for one in self.speech) * each / 1e9:,.1f}" if self.speech else "?"
            rows.append([f"states of {self.views} views of every utterance", size])
            note = f"States: one a view, {width} values of 2 bytes, {each / 1e3:.1f} kB an utterance; made before the first phase and kept."
            return text_table("Disk", rows, note)
        per_second = self.own_encoder.states_per_s if self.own_encoder else SAMPLE_RATE / math.prod(self.encoder.conv_stride)
        an_hour = 3600 * per_second * width * 2
        hours = sum(one.hours for one in self.speech)
        known = (f"{hours:,.0f}", f"{hours * an_hour / 1e9:,.1f}") if self.speech else ("?", "?")
        rows.append([f"encoder states of {known[0]} h, with cache_states", known[1]])
        note = f"States: {per_second:g} a second, {width} values of 2 bytes, {an_hour / 1e9:.3f} GB an hour."
        return text_table("Disk", rows, note)


def _own_encoder(recipe: EncoderRecipe) -> SpeechEncoder | None:
    """An encoder of this project's classes, with random weights where it is trained here or would have to be fetched; else None."""
    if isinstance(recipe, EncoderTraining):
        return untrained_encoder(recipe, 0, recipe.branches)
    if isinstance(recipe, WhisperRecipe):
        return WhisperEncoder.untrained(_config(recipe.source), recipe.settings)
    if isinstance(recipe, CombinedRecipe):
        return CombinedEncoder([_own_encoder(part) or random_encoder(_config(part.source)) for part in recipe.parts])
    if is_project_encoder(recipe.source):
        return load_encoder(recipe.source)
    config = _config(recipe.source)
    return WhisperEncoder.untrained(config, WhisperSettings()) if isinstance(config, WhisperConfig) else None


def random_encoder(config: PretrainedConfig) -> SpeechEncoder:
    """A frozen encoder of raw speech, such as WavLM, of the sizes in `config`."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    return TransformersEncoder(AutoModel.from_config(config, dtype=torch.float32), extractor).freeze()


def _config(source: str) -> PretrainedConfig:
    """Of a folder or of weights that were downloaded, their own; else one of the known; nothing is fetched."""
    try:
        return AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        known = known_config(source)
        if known is None:
            raise TrainingError(
                f"how large {source} is cannot be told: it is no folder, was not downloaded and is not known here"
            ) from error
        return known


def _tokenizer(recipe: Recipe) -> Any | None:
    """None where the language model's own is not on this machine."""
    if isinstance(recipe.llm, SmallLlm):
        return build_tokenizer(recipe.llm)
    try:
        tokenizer = AutoTokenizer.from_pretrained(recipe.llm.source, local_files_only=True)
    except (OSError, ValueError):
        return None
    return tokenizer if tokenizer.chat_template else None


def _estimated_tokens(text: str) -> int:
    return round(_TOKENS_PER_WORD * len(text.split()))
