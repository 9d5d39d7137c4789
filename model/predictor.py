"""Sound to predictions with one bundle: how a strategy asks, written once for training's checks, evaluation and the daemon.

B utterances, N samples. It knows no files, corpora or timelines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model.audio import Float32, samples_to_s
from model.bundle import Bundle
from model.emotions import Emotion, Prediction
from model.language_model import LanguageModel, LanguageModelRequest
from model.paralinguistics import VOICE_FEATURES, Terciles, VoiceMeasurement, describe_voice, measure_voice
from model.prompts import Message, Strategy, Task, chat_messages, emotion_prefix, shots_for, written_transcript
from model.speech_encoder import group_by_length
from model.voice_reference import VoiceSums

# Sound encoded at once, 40 s: beyond it a batch only costs memory.
_MAX_BATCH_SAMPLES = 640_000
# What the joint answer is written up to; the letter after it is then asked for with its probabilities.
_UP_TO_EMOTION = "| Emotion:"


@dataclass(frozen=True, slots=True)
class SpeechInput:
    """One utterance: audio float32 (N,) in [-1, 1) at SAMPLE_RATE, and what else somebody knows about it.

    measured: of its voice; where it is None it is measured, if the bundle wants it.
    """

    audio: Float32
    transcript: str | None = None
    gender: str | None = None
    measured: VoiceMeasurement | None = None


@dataclass(frozen=True, slots=True)
class PredictorOutput:
    """prediction: None when the model's own answer was not in the grammar. transcript: what the model wrote, where it was asked to.

    sums: what the utterance adds to the reference of its speaker's voice; None where the bundle does not normalise.
    """

    prediction: Prediction | None
    transcript: str | None = None
    sums: VoiceSums | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _EncodedSpeech:
    """embeds (Q, H); state (D,): the mean state, before the reference is subtracted; distance: to training speech."""

    embeds: Tensor
    state: Tensor
    distance: float


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a bundle is asked: strategy, which of the ten prompts, how many examples, and the voice's description, if any.

    letters: those that the bundle can answer with; an example shows no other.
    """

    strategy: Strategy
    prompt: int = 0
    shots: int = 0
    features: Terciles | None = None
    letters: tuple[Emotion, ...] = tuple(Emotion)

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The style that a bundle was released with."""
        manifest = bundle.manifest
        return cls(Strategy(manifest.strategy), manifest.prompt, manifest.shots, manifest.features, tuple(manifest.letters))

    def turns(self, sound: SpeechInput, prefix: str | None, task: Task) -> tuple[Message, ...]:
        """The messages about one utterance; `prefix` begins the answer."""
        hint = sound.transcript if self.strategy is Strategy.PROMPT_HINT else None
        shots = shots_for(self.letters)[: self.shots]
        return tuple(chat_messages(task, self.prompt, prefix, features=self.description(sound), shots=shots, hint=hint))

    def description(self, sound: SpeechInput) -> str:
        """The voice's features in words; empty without terciles."""
        if self.features is None:
            return ""
        return describe_voice(self.features.levels(sound.measured or measure_voice(sound.audio)), sound.gender, 0, VOICE_FEATURES)


class Predictor:
    """One bundle and the language model that answers for it, in the bundle's style unless another is given."""

    def __init__(self, bundle: Bundle, llm: LanguageModel, style: PromptStyle | None = None) -> None:
        self._bundle = bundle
        self._llm = llm
        self._style = style or PromptStyle.of(bundle)

    def predict(self, sounds: Sequence[SpeechInput], shift: Float32 | None = None) -> list[PredictorOutput]:
        """B utterances of one speaker to B answers.

        shift: float32 (D,), the reference of the speaker's voice, from `voice_shift`; None for a stranger, or where the bundle does not
        normalise. Raises ValueError when the strategy needs a transcript that is not there; EngineError.
        """
        if not sounds:
            return []
        if self._style.strategy.needs_transcript and any(sound.transcript is None for sound in sounds):
            raise ValueError(f"the strategy {self._style.strategy} needs the transcript of every utterance")
        heard = self._hear(sounds, shift)
        answers = self.answer(sounds, [one.embeds for one in heard], [one.distance for one in heard])
        return [self._with_sums(answer, one.state, sound) for answer, one, sound in zip(answers, heard, sounds, strict=True)]

    def answer(self, sounds: Sequence[SpeechInput], speech: Sequence[Tensor], distances: Sequence[float]) -> list[PredictorOutput]:
        """As `predict`, of utterances whose speech embeds (Q, H) and distances are at hand, see `judge`; without sums."""
        if self._style.strategy is Strategy.JOINT:
            return self._write_then_judge(sounds, speech, distances)
        return [PredictorOutput(prediction) for prediction in self.judge(sounds, speech, distances)]

    def unknown(self) -> Prediction:
        """What is known where the model's answer was not in the grammar: nothing beyond the prior, and so it is unsure."""
        return replace(self._bundle.prediction([0.0] * len(self._bundle.manifest.letters)), unsure=True)

    def transcribe(self, sounds: Sequence[SpeechInput]) -> list[str]:
        """B utterances to what the model writes when asked for the words alone (ASR), the grammar's bars removed."""
        plain = replace(self._style, strategy=Strategy.SER)
        heard = self._hear(sounds, None)
        requests = [LanguageModelRequest(plain.turns(sound, None, Task.ASR), one.embeds) for sound, one in zip(sounds, heard, strict=True)]
        return [text.strip().removeprefix("| ASR:").split("|")[0].strip() for text in self._llm.write(requests, " |")]

    def judge(self, sounds: Sequence[SpeechInput], speech: Sequence[Tensor], distances: Sequence[float]) -> list[Prediction]:
        """Predictions for utterances whose speech embeds (Q, H) are at hand, and whose words, if the strategy uses them, are known.

        distances: see Bundle.distances. Of the sounds, audio is not looked at unless a voice that was not measured has to be.
        """
        requests = [LanguageModelRequest(self._closing_turns(sound), embeds) for sound, embeds in zip(sounds, speech, strict=True)]
        answers = self._llm.letter_log_probs(requests, self._bundle.manifest.letters)
        return [self._bundle.prediction(answer, distance) for answer, distance in zip(answers, distances, strict=True)]

    def _closing_turns(self, sound: SpeechInput) -> tuple[Message, ...]:
        if self._style.strategy in (Strategy.TRANSCRIPT_PREFIX, Strategy.JOINT):
            return self._style.turns(sound, emotion_prefix(sound.transcript), Task.JOINT)
        return self._style.turns(sound, emotion_prefix(), Task.SER)

    def _write_then_judge(
        self, sounds: Sequence[SpeechInput], speech: Sequence[Tensor], distances: Sequence[float]
    ) -> list[PredictorOutput]:
        """The model writes the transcript; where what it wrote is in the grammar, the letter follows with its probabilities."""
        requests = [
            LanguageModelRequest(self._style.turns(sound, None, Task.JOINT), embeds) for sound, embeds in zip(sounds, speech, strict=True)
        ]
        written = [written_transcript(text) for text in self._llm.write(requests, _UP_TO_EMOTION)]
        usable = [i for i, transcript in enumerate(written) if transcript is not None]
        worded = [replace(sounds[i], transcript=written[i]) for i in usable]
        answers = [PredictorOutput(None)] * len(sounds)
        predictions = self.judge(worded, [speech[i] for i in usable], [distances[i] for i in usable]) if usable else []
        for i, prediction in zip(usable, predictions, strict=True):
            answers[i] = PredictorOutput(prediction, written[i])
        return answers

    def _hear(self, sounds: Sequence[SpeechInput], shift: Float32 | None) -> list[_EncodedSpeech]:
        """Padding costs time, so sounds of like length are encoded together; what was heard comes back in the order asked."""
        placed: dict[int, _EncodedSpeech] = {}
        for group in group_by_length([len(sound.audio) for sound in sounds], _MAX_BATCH_SAMPLES):
            states, mask = self._bundle.states([torch.from_numpy(sounds[i].audio) for i in group])
            embeds, distances = self._bundle.embed_states(states, mask, shift), self._bundle.distances(states, mask, shift)
            for place, i in enumerate(group):
                placed[i] = _EncodedSpeech(embeds[place], states[place][mask[place]].mean(dim=0), distances[place])
        return [placed[i] for i in range(len(sounds))]

    def _with_sums(self, answer: PredictorOutput, state: Tensor, sound: SpeechInput) -> PredictorOutput:
        """With what goes into the reference of the voice: where the bundle normalises, an answer was given, and it was a frame of sound."""
        settings = self._bundle.reference_settings
        if settings is None or answer.prediction is None or not torch.isfinite(state).all():
            return answer
        letters = self._bundle.manifest.letters
        posterior = [answer.prediction.posterior[letter] for letter in letters]
        neutral = letters.index(Emotion.NEUTRAL) if Emotion.NEUTRAL in letters else None
        return replace(answer, sums=settings.sums_of(state.float().cpu().numpy(), posterior, samples_to_s(len(sound.audio)), neutral))
