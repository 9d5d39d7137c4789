"""The JSON files of a bundle: bundle.json, confusion.json and decision.json, and the check of its files' checksums. No torch here.

A bundle is a folder: bundle.json, mapper.safetensors, adapter/ (PEFT), and encoder/ and llm/ unless those are hub names or other
folders. Weights are safetensors and everything else is JSON or text, so loading a bundle executes no code from it.

confusion.json says how far predictions lie from the emotions that were acted, and how much that differs between speakers and recordings;
older bundles hold counts of predictions by speaker, which are still read. decision.json is the promotion test of the night that made the
bundle; the training prints it and the monitor keeps it in its history. None of them holds words or audio.
"""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError, model_validator

from model.emotions import Emotion
from model.errors import BundleError
from model.paralinguistics import Terciles
from model.prompts import SHOTS, Strategy

MANIFEST_FILE = "bundle.json"
MODEL_CARD_FILE = "README.md"  # the model card, written once the figures are known; it describes the weights and changes nothing
REHEARSAL_SET_FILE = "public.safetensors"  # what nights of training rehearse and are measured with; it answers nothing
NORMALISER_FILE = "normaliser.safetensors"  # where the bundle normalises: the numbers of ReferenceSettings, see model/voice_reference.py
LEARNED_FROM_FILE = "learned_from.json"  # from which segments of a person, where it was trained on their machine
BUNDLE_FORMAT = 1
_ALLOWED_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".md", ""}
_BUILT_IN = Path(__file__).parent / "bundles"
_ALIASES = {"nano": "compact"}  # settings may still name the model that was built in before


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MapperSettings(_Record):
    """Sizes of the QPMapper."""

    queries: Annotated[int, Field(ge=1)]
    layers: Annotated[int, Field(ge=1)]
    heads: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"the mapper's width {self.width} is not divisible by its {self.heads} heads")
        return self


class Normalisation(_Record):
    """That the mapper expects states from which the reference of the speaker's voice was subtracted, and how that is shrunk.

    prior_segments: times as many segments as the normaliser says weigh as much as what is known of everybody.
    """

    prior_segments: Annotated[float, Field(gt=0)]


class GroupScore(_Record):
    """Figures on clips that have something in common.

    Attributes:
        by: What: `all`, `corpus`, `language`, `gender` or `age`.
        name: Which of these; "" for all clips.
        clips: How many.
        speakers: Of how many people.
        unweighted_accuracy: Over the emotions that occur among them.
        interval_95: Of the unweighted accuracy.
        chance: One over the number of these emotions.
        sure_share: Share of the answers that are not `unsure`.
        sure_unweighted_accuracy: Of those; None where there are none.
        calibration_error: The expected one, over 15 bins.
    """

    by: str
    name: str
    clips: int
    speakers: int
    unweighted_accuracy: float
    interval_95: tuple[float, float]
    chance: float
    sure_share: float | None = None
    sure_unweighted_accuracy: float | None = None
    calibration_error: float | None = None


class PeopleScore(_Record):
    """The lowest and the median unweighted accuracy of the people of one corpus, of those with clips enough to tell."""

    corpus: str
    people: int
    worst: float
    median: float


class PersonalScore(_Record):
    """Figures with a reference of each person's voice, on clips that are not part of it.

    Attributes:
        minutes: From how many minutes of a person's speech it was to be built.
        minutes_found: As many as there really were, on average.
        groups: All clips, and those of each corpus, language, gender and age.
        people: By corpus.
        emotional: By corpus of calm speech, the share of clips that were surely taken for anything but neutral.
    """

    minutes: float
    minutes_found: float
    groups: list[GroupScore] = []
    people: list[PeopleScore] = []
    emotional: dict[str, float] = {}


class Score(_Record):
    """Figures on speakers nothing was tuned on; unweighted accuracy is the mean of per-class recalls.

    genders: unweighted accuracy by gender. conditions: the same in noise, echo and so on. calibration_error: the expected one, over 15
    bins. sure_share, sure_unweighted_accuracy: of the answers that are not `unsure`. outliers: share of sure answers, by corpus, to
    recordings that no emotion was acted in; emotional: share of them that were surely taken for anything but neutral. groups, people:
    whom it recognises how well. personal: after so many minutes of a person's speech, where the bundle normalises.
    """

    split: str
    clips: int
    speakers: int
    unweighted_accuracy: float
    interval_95: tuple[float, float]
    interval_method: str
    chance: float
    recalls: dict[Emotion, float]
    genders: dict[str, float] = {}
    conditions: dict[str, float] = {}
    calibration_error: float | None = None
    sure_share: float | None = None
    sure_unweighted_accuracy: float | None = None
    outliers: dict[str, float] = {}
    emotional: dict[str, float] = {}
    groups: list[GroupScore] = []
    people: list[PeopleScore] = []
    personal: list[PersonalScore] = []


class BundleManifest(_Record):
    """Everything a monitor must know before it loads weights.

    encoder, llm: a folder inside the bundle, or where to find the weights otherwise (folder or hub name).
    pretrained: which weights of others are inside the bundle, each with its licence.
    strategy: how it is asked; one that needs transcripts is for monitors with a transcriber. prompt: which of the ten prompts. shots: how
    many examples of the output the instruction holds. features: where low, medium and high begin for the voice's description in the
    instruction; None without one. normalisation: how the reference of a voice is used; None where the bundle hears every voice alike.
    letters: those this bundle can answer with. temperature: divides the log-probabilities before they are shown. letter_bias: what is then
    added to those of letters, for the one person whom a night learned from (vector scaling, Guo et al., 2017); none in a released bundle.
    unsure_below: a highest probability under it makes a segment unsure, after the correction to the prior. training_prior: how often its
    training heard each letter, 0 to 1; None where that is not known, and then posteriors are not corrected.
    files: SHA-256 of every other file in the folder.
    """

    format: Literal[1] = 1
    name: str
    version: str
    created: str
    strategy: Strategy
    shots: Annotated[int, Field(ge=0, le=len(SHOTS))] = 0
    features: Terciles | None = None
    normalisation: Normalisation | None = None
    letters: Annotated[list[Emotion], Field(min_length=2)]
    letter_bias: dict[Emotion, FiniteFloat] = {}
    temperature: Annotated[float, Field(gt=0)]
    unsure_below: Annotated[float, Field(ge=0, le=1)]
    training_prior: dict[Emotion, Annotated[float, Field(gt=0, le=1)]] | None = None
    encoder: str
    llm: str
    pretrained: list[str] = []
    mapper: MapperSettings
    prompt: Annotated[int, Field(ge=0, le=9)]
    license: str
    trained_on: list[str]
    limits: list[str]
    scores: list[Score]
    files: dict[str, str]

    @model_validator(mode="after")
    def _of_its_letters(self) -> Self:
        if self.training_prior is not None and set(self.training_prior) != set(self.letters):
            raise ValueError("training_prior must name each of the letters, and no other")
        if foreign := self.letter_bias.keys() - set(self.letters):
            raise ValueError(f"letter_bias names {', '.join(sorted(foreign))}, which the bundle cannot answer")
        return self

    def part(self, source: str) -> dict[str, str] | str:
        """What tells the weights of a part (`encoder`, `llm`) from others: the digests of its files by name, or where else they are."""
        inside = {name.removeprefix(f"{source}/"): digest for name, digest in self.files.items() if name.startswith(f"{source}/")}
        return inside or source

    @property
    def voice_space(self) -> str | None:
        """Which sums of a voice belong together: those of the same encoder and normaliser. None where the bundle does not normalise."""
        if self.normalisation is None:
            return None
        parts = json.dumps([self.part(self.encoder), self.files.get(NORMALISER_FILE, "")], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()[:12]


def current_name(name: str) -> str:
    """The name of a bundle, or what is built in under a former name."""
    return _ALIASES.get(name, name)


def find_bundle(name: str) -> Path:
    """A bundle's folder: the name of a built-in one, or a path. Raises BundleError naming the built-in ones."""
    for folder in (_BUILT_IN / current_name(name), Path(name).expanduser()):
        if (folder / MANIFEST_FILE).is_file():
            return folder
    built_in = ", ".join(sorted(path.parent.name for path in _BUILT_IN.glob(f"*/{MANIFEST_FILE}")))
    raise BundleError(f"no bundle at {name!r}: expected a folder with {MANIFEST_FILE}, or one of the built-in: {built_in}")


def read_bundle_manifest(folder: Path) -> BundleManifest:
    """Read bundle.json without looking at the other files. Raises BundleError."""
    try:
        text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
        return BundleManifest.model_validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot read {folder / MANIFEST_FILE}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BundleError(f"{folder / MANIFEST_FILE} is not a bundle of format {BUNDLE_FORMAT}: {where}: {first['msg']}") from error


def verify_checksums(folder: Path, manifest: BundleManifest) -> None:
    """Compare every file with its SHA-256. Raises BundleError for a missing, changed or foreign file."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST_FILE}
    for name in sorted(present | manifest.files.keys()):
        path = folder / name
        if name not in present:
            raise BundleError(f"the bundle {folder} is incomplete: {name} is missing; copy or download it again")
        if name not in manifest.files or path.is_symlink() or path.suffix not in _ALLOWED_SUFFIXES:
            raise BundleError(f"the bundle {folder} holds {name}, which does not belong to it; remove that file if you trust the rest")
        if file_sha256(path) != manifest.files[name]:
            raise BundleError(f"the bundle {folder} is damaged: {name} is not the file it was released with; get the bundle again")


def file_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder` but bundle.json, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def compute_version(name: str, files: dict[str, str]) -> str:
    """A version that no other set of files has: the name and eight digits of what all hashes to that has a say in its answers."""
    weights = "\n".join(f"{path} {digest}" for path, digest in sorted(files.items()) if path not in (MODEL_CARD_FILE, REHEARSAL_SET_FILE))
    return f"{name}-{hashlib.sha256(weights.encode()).hexdigest()[:8]}"


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CONFUSION_FILE = "confusion.json"

_Probability = Annotated[float, Field(ge=0, le=1)]


class SpeakerConfusion(_Record):
    """One voice, in clips. sure: by the emotion that was acted, what was answered; unsure: by it, how often that was no answer."""

    sure: Mapping[Emotion, Mapping[Emotion, NonNegativeInt]]
    unsure: Mapping[Emotion, NonNegativeInt]


class SpeakerPosteriors(_Record):
    """One voice of a corpus: by the emotion that was acted, how many clips, and their mean posterior over the confusion's letters."""

    corpus: str
    clips: Mapping[Emotion, PositiveInt]
    posterior: Mapping[Emotion, tuple[_Probability, ...]]


class PosteriorConfusion(_Record):
    """Mean posteriors of voices that were left out, calibrated, and under an even prior.

    letters: those of the bundle, in the order of the posteriors. What a new person or recording may have that these voices have not, as
    much as it takes for intervals to hold: spread, how far their posteriors lean to some letters whatever is said, as the standard
    deviation of what is added to the logarithms; blur, up to which part of what sets the letters apart is lost.
    """

    format: Literal[2] = 2
    letters: Annotated[tuple[Emotion, ...], Field(min_length=2)]
    spread: Annotated[float, Field(ge=0, le=5)]
    blur: _Probability
    voices: Annotated[tuple[SpeakerPosteriors, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for voice in self.voices:
            if set(voice.clips) != set(voice.posterior) or not set(voice.clips) <= set(self.letters):
                raise ValueError("clips and posteriors of a voice must be of the same letters")
            if any(len(row) != len(self.letters) or sum(row) <= 0 for row in voice.posterior.values()):
                raise ValueError("a posterior must have one probability for each letter, not all of them 0")
        return self


_SpeakerList = TypeAdapter(list[SpeakerConfusion])


def read_confusion(folder: Path) -> PosteriorConfusion | list[SpeakerConfusion]:
    """What is known; an empty list where the bundle was not measured so. Raises BundleError for a damaged file."""
    path = folder / CONFUSION_FILE
    if not path.exists():
        return []
    try:
        text = path.read_bytes()
        return _SpeakerList.validate_json(text) if text.lstrip().startswith(b"[") else PosteriorConfusion.model_validate_json(text)
    except (OSError, ValidationError) as error:
        raise BundleError(f"{path} is damaged: {error}; get the bundle again") from error


def write_confusion(confusion: PosteriorConfusion, folder: Path) -> None:
    """Write what `read_confusion` reads."""
    (folder / CONFUSION_FILE).write_text(confusion.model_dump_json() + "\n", encoding="utf-8")


DECISION_FILE = "decision.json"


class PromotionVerdict(StrEnum):
    """promoted: shown to be better for the person. refused: not shown to be. too-little: nothing was trained."""

    PROMOTED = "promoted"
    REFUSED = "refused"
    TOO_LITTLE = "too-little"


class Stage(StrEnum):
    """What a night learned. biases: of the letters, with a temperature. weights: those of mapper and adapter too."""

    BIASES = "biases"
    WEIGHTS = "weights"


class LabelCounts(_Record):
    """What there is to learn from, in segments: by kind. trained: those that the new bundle learned from. stopping: those that only told it
    when to stop. held_out: those that it was tested on. left_out: those that cannot be used, by reason."""

    corrections: int
    confirmations: int
    checkins: int
    trained: int
    stopping: int = 0
    held_out: int
    left_out: dict[str, int] = {}


class PersonalTest(_Record):
    """The person's labels, each answered by a model that had not learned from it.

    right_before, right_after: answered as the person says, by the bundle in use and by the new one. gained, lost: by one of the two only.
    net_gain: gained less lost, a confirmation counting as many times as it is rarer than a correction; None in nights before it was used.
    p_no_better: chance that a bundle which is no better would fit the labels so much better. p_by_chance: chance that corrections which say
    nothing about the sound would go so well with what the new bundle hears. alpha: what both must not exceed.
    """

    segments: int
    right_before: int
    right_after: int
    gained: int
    lost: int
    net_gain: float | None = None
    p_no_better: float
    p_by_chance: float
    alpha: float


class RecallChange(_Record):
    """Recall of one emotion in the public set, 0 to 1: of the released bundle that all this began with, and of the new one."""

    clips: int
    before: float
    after: float


class RehearsalTest(_Record):
    """The rehearsal set that comes with the bundle: voices that this night did not learn from.

    uar: unweighted accuracy. change_at_least: one-sided 95 % lower bound of how it changed, which must not lie under -margin.
    class_margin: by so much a recall was allowed to fall; None: by any amount.
    """

    clips: int
    speakers: int
    uar_before: float
    uar_after: float
    change_at_least: float
    margin: float
    classes: dict[Emotion, RecallChange]
    class_margin: float | None = None


class Recalibration(_Record):
    """temperature and unsure_below, before and after; sure_share: of the public set's answers."""

    temperature_before: float
    temperature_after: float
    unsure_below_before: float
    unsure_below_after: float
    sure_share_before: float
    sure_share_after: float


class PromotionDecision(_Record):
    """verdict and reason, one sentence for people. parent: version it began with. version: of the new bundle, where there is one.

    stage: what was learned; None where nothing was. letter_bias: in log-odds, over what the language model answers. steps: optimizer steps
    of the kept weights. seconds: of the whole.
    """

    verdict: PromotionVerdict
    reason: str
    parent: str
    version: str | None = None
    learned: LabelCounts
    own: PersonalTest | None = None
    public: RehearsalTest | None = None
    calibration: Recalibration | None = None
    stage: Stage | None = None
    letter_bias: dict[Emotion, float] = {}
    steps: int = 0
    seconds: float = 0.0
