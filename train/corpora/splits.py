"""A recipe's corpora, divided as it says: who is trained on, who calibrates, who is never touched."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import TrainingError
from model.types import Emotion
from train.corpora.manifest import Utterance, read_manifest, require_disjoint
from train.recipe import CorpusRecipe, Recipe


@dataclass(frozen=True, slots=True)
class Part:
    """One corpus's utterances of one split, and its share of a balanced batch."""

    corpus: str
    share: int
    utterances: list[Utterance]


@dataclass(frozen=True, slots=True)
class Corpora:
    """The utterances of each split of a recipe's corpora."""

    train: list[Part]
    validation: list[Part]
    test: list[Part]

    @classmethod
    def load(cls, recipe: Recipe, manifests: Sequence[Path]) -> "Corpora":
        """Read all manifests and divide them as the recipe says.

        Raises TrainingError for a corpus, split or speaker that is not there, a split that is empty, a letter without a training
        example, and, where the recipe divides by speaker, a speaker on two sides.
        """
        utterances = [utterance for manifest in manifests for utterance in read_manifest(manifest)]
        train = [_part(corpus, corpus.train, utterances) for corpus in recipe.corpora]
        validation = [_part(corpus, corpus.validation, utterances) for corpus in recipe.corpora]
        test = [_part(corpus, corpus.test, utterances) for corpus in recipe.corpora]
        for corpus, sides in zip(recipe.corpora, zip(train, validation, test, strict=True), strict=True):
            if corpus.by == "speaker":
                _require_apart([side.utterances for side in sides])
        absent = set(recipe.letters) - {u.emotion for u in everyone(train)}
        if absent and any(task.value != "asr" for phase in recipe.phases for task in phase.tasks):
            letters = ", ".join(f"{letter} ({Emotion(letter).word})" for letter in sorted(absent))
            raise TrainingError(f"no training utterance for {letters} of the recipe {recipe.name}: add some, or take it out of letters")
        return cls(train, validation, test)

    def with_validation(self) -> list[Part]:
        """Training and validation speakers together."""
        pairs = zip(self.train, self.validation, strict=True)
        return [Part(a.corpus, a.share, [*a.utterances, *b.utterances]) for a, b in pairs]


def everyone(parts: Iterable[Part]) -> list[Utterance]:
    """The utterances of all parts."""
    return [utterance for part in parts for utterance in part.utterances]


def content_hash(parts: Iterable[Part]) -> str:
    """Sixteen digits that change with which utterances are in which part, their labels, transcripts and file sizes."""
    rows = [
        (part.corpus, part.share, u.path.name, u.path.stat().st_size, u.speaker, u.emotion, u.transcript)
        for part in parts
        for u in part.utterances
    ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _part(corpus: CorpusRecipe, names: list[str], utterances: Sequence[Utterance]) -> Part:
    own = [u for u in utterances if u.corpus == corpus.name]
    if not own:
        found = ", ".join(sorted({u.corpus for u in utterances})) or "nothing"
        raise TrainingError(f"the recipe wants the corpus {corpus.name}, but the manifests hold {found}; add its --manifest")
    chosen = [u for u in own if (u.split if corpus.by == "split" else u.speaker) in names]
    present = {u.split if corpus.by == "split" else u.speaker for u in chosen}
    absent = [name for name in names if name not in present]
    if absent:
        raise TrainingError(f"{corpus.name} has no utterance of the {corpus.by} {', '.join(absent)} in these manifests")
    return Part(corpus.name, corpus.share, chosen)


def _require_apart(sides: list[list[Utterance]]) -> None:
    train, validation, test = sides
    require_disjoint(train, [*validation, *test])
    require_disjoint(validation, test)
