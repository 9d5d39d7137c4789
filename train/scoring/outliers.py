"""What a bundle makes of recordings that no emotion was acted in: sounds that are no speech, commands, reading. It should be unsure."""

from collections.abc import Sequence
from dataclasses import replace

from model.bundle import Bundle
from model.predictor import Style
from model.request import LanguageModel
from model.types import Emotion
from train.corpora.splits import Part
from train.scoring.evaluation import OutlierFigures
from train.scoring.judging import judge


def judge_outliers(bundle: Bundle, llm: LanguageModel, parts: Sequence[Part], style: Style) -> list[OutlierFigures]:
    """The figures of each part; those without recordings are left out."""
    return [_figures(bundle, llm, part, style) for part in parts if part.utterances]


def _figures(bundle: Bundle, llm: LanguageModel, part: Part, style: Style) -> OutlierFigures:
    # Where nobody wrote down any words there are none, or a transcriber would have to be right about them.
    sounds = [replace(utterance, transcript=utterance.transcript or "") for utterance in part.utterances]
    judged = judge(bundle, llm, sounds, style, part.corpus)
    sure = [one.emotion for one in judged if one.emotion is not None and not one.unsure]
    counts = {letter: sure.count(letter) for letter in bundle.manifest.letters if letter in sure}
    emotional = len(sure) - counts.get(Emotion.NEUTRAL, 0)
    return OutlierFigures(
        corpus=part.corpus, clips=len(judged), sure_share=len(sure) / len(judged), emotional_share=emotional / len(judged), sure=counts
    )
