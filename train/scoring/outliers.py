"""What a bundle makes of recordings that no emotion was acted in: sounds that are no speech, commands, reading.

Of reading and commands it should say neutral or be unsure, of everything else it should be unsure.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from model.bundle import Bundle
from model.predictor import Style
from model.request import LanguageModel
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.scoring.evaluation import OutlierFigures, ReferenceFigures
from train.scoring.judging import judge
from train.scoring.results import Judged


def divided(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[Part]]:
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
            calm.append(Part(corpus, 1, labelled or its))
        else:
            acted += labelled
    return acted, calm


def judge_outliers(bundle: Bundle, llm: LanguageModel, parts: Sequence[Part], style: Style) -> list[OutlierFigures]:
    """The figures of each part; those without recordings are left out."""
    return [
        outlier_figures(part.corpus, judge(bundle, llm, part.utterances, style, part.corpus), bundle.manifest.letters)
        for part in map(worded, parts)
        if part.utterances
    ]


def worded(part: Part) -> Part:
    """The same with a transcript of every recording: where nobody wrote down any words there are none, or a transcriber would have to be
    right about them."""
    return replace(part, utterances=[replace(one, transcript=one.transcript or "") for one in part.utterances])


def outlier_figures(
    corpus: str, judged: Sequence[Judged], letters: Sequence[Emotion], *, repeats: int = 1, reference: ReferenceFigures | None = None
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
