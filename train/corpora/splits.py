"""A recipe's corpora, divided as it says: who is trained on, who calibrates, who is never touched."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.emotions import Emotion
from model.errors import TrainingError
from train.corpora.manifest import Utterance, read_corpus_manifest, require_disjoint
from train.recipe import CorpusRecipe, NoiseRecipe, Recipe


@dataclass(frozen=True, slots=True)
class CorpusPart:
    """One corpus's utterances of one split, and its share of a balanced batch.

    answer: what is as good an answer as any to recordings without an emotion, see CorpusRecipe; None for labelled speech.
    """

    corpus: str
    share: int
    utterances: list[Utterance]
    answer: Mapping[Emotion, float] | None = None

    def soft_answer(self, letters: Sequence[Emotion]) -> list[float] | None:
        """The answer as probabilities of `letters`, which sum to 1; None for labelled speech."""
        if self.answer is None:
            return None
        rest = (1 - sum(self.answer.values())) / len(letters)
        return [self.answer.get(letter, 0.0) + rest for letter in letters]


@dataclass(frozen=True, slots=True)
class NoiseSet:
    """Sounds to lay under speech. second_half: only the second half of each recording is meant, or only the first; None: all of it."""

    name: str
    corpus: str
    license: str
    paths: list[Path]
    second_half: bool | None = None


@dataclass(frozen=True, slots=True)
class CorpusSplits:
    """The utterances of each split of a recipe's corpora, and its noises. folds: parts of `train` that are left out in turn."""

    train: list[CorpusPart]
    validation: list[CorpusPart]
    test: list[CorpusPart]
    folds: list[list[CorpusPart]]
    noises: list[NoiseSet]
    test_noises: list[NoiseSet]

    @classmethod
    def load(cls, recipe: Recipe, manifests: Sequence[Path]) -> "CorpusSplits":
        """Read all manifests and divide them as the recipe says.

        Raises TrainingError for a corpus, split, speaker or file that is not there, a split that is empty, a letter without a training
        example, and a speaker or file on two sides.
        """
        utterances = [utterance for manifest in manifests for utterance in read_corpus_manifest(manifest)]
        train = [_part(corpus, corpus.train, utterances) for corpus in recipe.corpora]
        validation = [_part(corpus, corpus.validation, utterances) for corpus in recipe.corpora]
        test = [_part(corpus, corpus.test, utterances) for corpus in recipe.corpora]
        for corpus, sides in zip(recipe.corpora, zip(train, validation, test, strict=True), strict=True):
            _require_apart(corpus, [side.utterances for side in sides])
        absent = set(recipe.letters) - {u.emotion for u in all_utterances(train)}
        if absent and any(task.value != "asr" for phase in recipe.phases for task in phase.tasks):
            letters = ", ".join(f"{letter} ({Emotion(letter).word})" for letter in sorted(absent))
            raise TrainingError(f"no training utterance for {letters} of the recipe {recipe.name}: add some, or take it out of letters")
        folds = [
            [_part(corpus, corpus.folds[number], utterances) for corpus in recipe.corpora if corpus.folds] for number in range(recipe.folds)
        ]
        noises = [_noise(noise, noise.train, utterances, second_half=False) for noise in recipe.noises]
        tests = [_noise(noise, noise.test, utterances, second_half=True) for noise in recipe.noises if noise.test]
        _require_noises_apart(noises, tests)
        return cls([part for part in train if part.utterances], validation, test, folds, noises, tests)

    def without(self, fold: int) -> list[CorpusPart]:
        """The training parts without the utterances of a fold."""
        left_out = {u.path for u in all_utterances(self.folds[fold])}
        return [replace(part, utterances=[u for u in part.utterances if u.path not in left_out]) for part in self.train]


def all_utterances(parts: Iterable[CorpusPart]) -> list[Utterance]:
    """The utterances of all parts."""
    return [utterance for part in parts for utterance in part.utterances]


def content_hash(parts: Iterable[CorpusPart]) -> str:
    """Sixteen digits that change with which utterances are in which part, their labels or answer, transcripts and file sizes."""
    rows = [
        (part.corpus, part.share, part.answer, u.path.name, u.path.stat().st_size, u.speaker, u.emotion, u.transcript)
        for part in parts
        for u in part.utterances
    ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _part(corpus: CorpusRecipe, names: list[str], utterances: Sequence[Utterance]) -> CorpusPart:
    own = _of_corpus(corpus.name, utterances)
    chosen = [u for u in own if any(_is_meant(corpus.by, u, name) for name in names)]
    absent = [name for name in names if not any(_is_meant(corpus.by, u, name) for u in chosen)]
    if absent:
        raise TrainingError(f"{corpus.name} has no utterance of the {corpus.by} {', '.join(absent)} in these manifests")
    return CorpusPart(corpus.name, corpus.share, chosen, corpus.answer)


def _noise(noise: NoiseRecipe, patterns: list[str], utterances: Sequence[Utterance], *, second_half: bool) -> NoiseSet:
    chosen = [u for u in _of_corpus(noise.corpus, utterances) if any(_is_meant("file", u, pattern) for pattern in patterns)]
    if not chosen:
        raise TrainingError(f"{noise.corpus} has no file {' or '.join(patterns)} for the noise {noise.name} in these manifests")
    return NoiseSet(noise.name, noise.corpus, chosen[0].license, [u.path for u in chosen], second_half if noise.halves else None)


def _of_corpus(name: str, utterances: Sequence[Utterance]) -> list[Utterance]:
    own = [u for u in utterances if u.corpus == name]
    if not own:
        found = ", ".join(sorted({u.corpus for u in utterances})) or "nothing"
        raise TrainingError(f"the recipe wants the corpus {name}, but the manifests hold {found}; add its --manifest")
    return own


def _is_meant(by: str, utterance: Utterance, name: str) -> bool:
    if by == "file":
        return utterance.path.match(name)
    return (utterance.split if by == "split" else utterance.speaker) == name


def _require_apart(corpus: CorpusRecipe, sides: list[list[Utterance]]) -> None:
    train, validation, test = sides
    if corpus.by == "speaker":
        require_disjoint(train, [*validation, *test])
        require_disjoint(validation, test)
    if corpus.by == "file" and (both := {u.path for u in train} & {u.path for u in [*validation, *test]}):
        raise TrainingError(f"{corpus.name}: {min(both)} is both trained on and held out; the patterns of files overlap")


def _require_noises_apart(train: Sequence[NoiseSet], test: Sequence[NoiseSet]) -> None:
    whole = {path for noise in train if noise.second_half is None for path in noise.paths}
    both = whole & {path for noise in test for path in noise.paths}
    if both:
        raise TrainingError(f"the noise {min(both)} is both trained with and measured with; the patterns of files overlap")
