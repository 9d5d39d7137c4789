"""Asks a model about a corpus's utterances, through the same code that the monitor asks with."""

from collections.abc import Callable, Sequence

from model.audio import read_audio
from model.bundle import Bundle
from model.errors import TrainingError
from model.predictor import Answered, Predictor, Sound, Style
from model.prompts import Strategy
from model.request import LanguageModel
from train.corpora.manifest import Utterance
from train.progress import Progress
from train.scoring.results import Judged

_AT_ONCE = 16


def sound_of(utterance: Utterance) -> Sound:
    """An utterance with everything that its manifest tells. Raises FormatError."""
    return Sound(read_audio(utterance.path), utterance.transcript, utterance.gender)


def judge(
    bundle: Bundle,
    llm: LanguageModel,
    utterances: Sequence[Utterance],
    style: Style,
    name: str = "judging",
    *,
    sound: Callable[[Utterance], Sound] = sound_of,
) -> list[Judged]:
    """Answers for all utterances. sound: how an utterance is heard.

    Raises TrainingError where the strategy needs a transcript that is not there; FormatError.
    """
    require_transcripts(utterances, style.strategy)
    predictor = Predictor(bundle, llm, style)
    judged: list[Judged] = []
    with Progress(name, len(utterances)) as progress:
        for first in range(0, len(utterances), _AT_ONCE):
            batch = utterances[first : first + _AT_ONCE]
            answers = predictor.predict([sound(utterance) for utterance in batch])
            judged += [judged_as(utterance, answer) for utterance, answer in zip(batch, answers, strict=True)]
            progress.advance(len(judged) - 1)
    return judged


def transcribe(bundle: Bundle, llm: LanguageModel, utterances: Sequence[Utterance], style: Style) -> list[str]:
    """What the model writes when asked for the words alone."""
    predictor = Predictor(bundle, llm, style)
    texts: list[str] = []
    with Progress("transcribing", len(utterances)) as progress:
        for first in range(0, len(utterances), _AT_ONCE):
            texts += predictor.transcribe([sound_of(utterance) for utterance in utterances[first : first + _AT_ONCE]])
            progress.advance(len(texts) - 1)
    return texts


def judged_as(utterance: Utterance, answer: Answered) -> Judged:
    """An utterance with its answer."""
    if answer.prediction is None:
        return Judged(utterance, None, None, unsure=True)
    return Judged(utterance, answer.prediction.posterior, answer.transcript, answer.prediction.unsure)


def require_transcripts(utterances: Sequence[Utterance], strategy: Strategy) -> None:
    """Raises TrainingError where the strategy needs a transcript that is not there."""
    without = [u for u in utterances if u.transcript is None]
    if strategy.needs_transcript and without:
        raise TrainingError(
            f"the strategy {strategy} needs transcripts, and {len(without)} of {len(utterances)} utterances have none, for example"
            f" {without[0].path}; take --strategy ser or joint, or a manifest with transcripts"
        )
