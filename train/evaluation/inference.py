"""Runs a bundle on a corpus's utterances through the monitor's own code: as recorded, in other conditions, and on outliers.

Conditions are the same clips as they would sound in a room, over a telephone or with noise. Outliers are recordings in
which no emotion was acted: sounds that are no speech, commands, reading.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.audio import Float32, read_audio, s_to_samples
from model.bundle import Bundle
from model.emotions import Emotion
from model.errors import TrainingError
from model.language_model import LanguageModel
from model.predictor import Predictor, PredictorOutput, PromptStyle, SpeechInput
from model.prompts import Strategy
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart, NoiseSet
from train.evaluation.figures import ConditionFigures, OutlierFigures, ReferenceFigures
from train.evaluation.results import UtterancePrediction, condition_figures
from train.learning.augmentation import add_noise, random_excerpt, reverberate, telephone_line
from train.workers import Progress

_AT_ONCE = 16


def speech_input(utterance: Utterance) -> SpeechInput:
    """An utterance with everything that its manifest tells. Raises FormatError."""
    return SpeechInput(read_audio(utterance.path), utterance.transcript, utterance.gender)


def predict_utterances(
    bundle: Bundle,
    llm: LanguageModel,
    utterances: Sequence[Utterance],
    style: PromptStyle,
    name: str = "judging",
    *,
    sound: Callable[[Utterance], SpeechInput] = speech_input,
) -> list[UtterancePrediction]:
    """Answers for all utterances. sound: how an utterance is heard.

    Raises TrainingError where the strategy needs a transcript that is not there; FormatError.
    """
    require_transcripts(utterances, style.strategy)
    predictor = Predictor(bundle, llm, style)
    judged: list[UtterancePrediction] = []
    with Progress(name, len(utterances)) as progress:
        for first in range(0, len(utterances), _AT_ONCE):
            batch = utterances[first : first + _AT_ONCE]
            answers = predictor.predict([sound(utterance) for utterance in batch])
            judged += [utterance_prediction(utterance, answer) for utterance, answer in zip(batch, answers, strict=True)]
            progress.advance(len(judged) - 1)
    return judged


def transcribe_utterances(bundle: Bundle, llm: LanguageModel, utterances: Sequence[Utterance], style: PromptStyle) -> list[str]:
    """What the model writes when asked for the words alone."""
    predictor = Predictor(bundle, llm, style)
    texts: list[str] = []
    with Progress("transcribing", len(utterances)) as progress:
        for first in range(0, len(utterances), _AT_ONCE):
            texts += predictor.transcribe([speech_input(utterance) for utterance in utterances[first : first + _AT_ONCE]])
            progress.advance(len(texts) - 1)
    return texts


def utterance_prediction(utterance: Utterance, answer: PredictorOutput) -> UtterancePrediction:
    """An utterance with its answer."""
    if answer.prediction is None:
        return UtterancePrediction(utterance, None, None, unsure=True)
    return UtterancePrediction(utterance, answer.prediction.posterior, answer.transcript, answer.prediction.unsure)


def require_transcripts(utterances: Sequence[Utterance], strategy: Strategy) -> None:
    """Raises TrainingError where the strategy needs a transcript that is not there."""
    without = [u for u in utterances if u.transcript is None]
    if strategy.needs_transcript and without:
        raise TrainingError(
            f"the strategy {strategy} needs transcripts, and {len(without)} of {len(utterances)} utterances have none, for example"
            f" {without[0].path}; take --strategy ser or joint, or a manifest with transcripts"
        )


SNR_DB = 10.0
T60_S = 0.35
QUIETER_DB = 20.0
SHORT_S = 1.0

Change = Callable[[Float32, np.random.Generator], Float32]


def acoustic_conditions(noises: Sequence[NoiseSet]) -> dict[str, Change]:
    """The conditions by name: each of the noises, a small room, a telephone line, a quiet voice, the shortest segment there is."""
    found: dict[str, Change] = {f"{noise.name}, {SNR_DB:.0f} dB SNR": _noisy(noise) for noise in noises}
    found[f"small room, {T60_S} s reverberation"] = lambda audio, rng: reverberate(audio, T60_S, rng)
    found["telephone"] = lambda audio, rng: telephone_line(audio)
    found[f"{QUIETER_DB:.0f} dB quieter"] = lambda audio, rng: audio * np.float32(10 ** (-QUIETER_DB / 20))
    found[f"the loudest {SHORT_S:.0f} s alone"] = lambda audio, rng: _loudest(audio, s_to_samples(SHORT_S))
    return found


def predict_in_conditions(
    bundle: Bundle,
    llm: LanguageModel,
    utterances: Sequence[Utterance],
    style: PromptStyle,
    clean: Sequence[UtterancePrediction],
    noises: Sequence[NoiseSet],
) -> list[ConditionFigures]:
    """The clips that `clean` judged as they are, judged in every condition."""
    letters = bundle.manifest.letters
    found = []
    for name, change in acoustic_conditions(noises).items():
        judged = predict_utterances(bundle, llm, utterances, style, name, sound=lambda u, change=change: _changed(u, change))  # type: ignore[misc]
        found.append(condition_figures(name, clean, judged, letters))
    return found


def _noisy(noise: NoiseSet) -> Change:
    recordings = [_half(read_audio(path), noise.second_half) for path in noise.paths]
    audible = [recording for recording in recordings if len(recording) and float(np.square(recording).mean()) > 0]
    if not audible:
        raise TrainingError(f"the recordings of the noise {noise.name} hold nothing but silence; name others under its test")

    def change(audio: Float32, rng: np.random.Generator) -> Float32:
        return add_noise(audio, random_excerpt(audible[int(rng.integers(len(audible)))], len(audio), rng), SNR_DB)

    return change


def _loudest(audio: Float32, size: int) -> Float32:
    """The stretch (size,) with the most energy, or all of a shorter clip."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    start = int(np.argmax(energy[size:] - energy[:-size])) if len(audio) > size else 0
    return audio[start : start + size]


def _half(recording: Float32, second: bool | None) -> Float32:
    middle = len(recording) // 2
    return recording if second is None else recording[middle:] if second else recording[:middle]


def _changed(utterance: Utterance, change: Change) -> SpeechInput:
    sound = speech_input(utterance)
    return replace(sound, audio=change(sound.audio, np.random.default_rng(list(Path(utterance.path).name.encode()))))


def split_outliers(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[CorpusPart]]:
    """The utterances with an emotion to recognise, and by corpus those of people who act none.

    A corpus is calm where none of its utterances has an emotion, or the only one is neutral; then its unlabelled ones tell nothing.
    """
    corpora: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        corpora[utterance.corpus].append(utterance)
    acted, calm = [], []
    for corpus, its in sorted(corpora.items()):
        labelled = [u for u in its if u.emotion is not None]
        if {u.emotion for u in labelled} <= {Emotion.NEUTRAL}:
            calm.append(CorpusPart(corpus, 1, labelled or its))
        else:
            acted += labelled
    return acted, calm


def predict_outliers(bundle: Bundle, llm: LanguageModel, parts: Sequence[CorpusPart], style: PromptStyle) -> list[OutlierFigures]:
    """The figures of each part; those without recordings are left out."""
    return [
        outlier_figures(part.corpus, predict_utterances(bundle, llm, part.utterances, style, part.corpus), bundle.manifest.letters)
        for part in map(with_transcripts, parts)
        if part.utterances
    ]


def with_transcripts(part: CorpusPart) -> CorpusPart:
    """The same with a transcript of every recording: where nobody wrote down any words there are none, or a transcriber would have to be
    right about them."""
    return replace(part, utterances=[replace(one, transcript=one.transcript or "") for one in part.utterances])


def outlier_figures(
    corpus: str,
    judged: Sequence[UtterancePrediction],
    letters: Sequence[Emotion],
    *,
    repeats: int = 1,
    reference: ReferenceFigures | None = None,
) -> OutlierFigures:
    """The figures of one corpus. repeats: how often about the same clips are among them; counts are of an average repetition."""
    sure = [one.emotion for one in judged if one.emotion is not None and not one.unsure]
    emotional = sum(emotion is not Emotion.NEUTRAL for emotion in sure)
    return OutlierFigures(
        corpus=corpus,
        clips=len(judged) // repeats,
        sure_share=len(sure) / len(judged),
        emotional_share=emotional / len(judged),
        sure={letter: round(sure.count(letter) / repeats) for letter in letters if letter in sure},
        reference=reference,
    )
