"""Recipes: everything a training run depends on but the data itself, as TOML. Unknown keys are refused."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from model.bundle_format import MapperSettings
from model.emotions import Emotion
from model.errors import TrainingError
from model.prompts import SHOTS, Strategy, Task
from model.whisper_encoder import WhisperSettings

RECIPES_FOLDER = Path(__file__).parent / "recipes"

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Speed = Annotated[float, Field(gt=0, le=4)]
TrainablePart = Literal["mapper", "lora", "llm"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusRecipe(_Section):
    """One corpus and how it is divided: by its own splits, by speakers, or by patterns of file names (`esc10/*/1-*`).

    share: of a balanced batch. validation: for choosing and calibrating. folds: instead, groups of names of `train`; each group is
    judged by a training that left it out. test: never trained or tuned on. answer: for recordings without an emotion, what is as good an
    answer as any, as letters with their probabilities; what these leave is spread evenly (outlier exposure, Hendrycks et al., 2019).
    """

    name: str
    by: Literal["split", "speaker", "file"]
    share: Count = 1
    train: list[str] = []
    validation: list[str] = []
    folds: list[list[str]] = []
    test: list[str] = []
    answer: dict[Emotion, Share] | None = None

    @model_validator(mode="after")
    def _divided_once(self) -> "CorpusRecipe":
        if not self.train and not self.validation and not self.test:
            raise ValueError(f"{self.name} needs names under train, validation or test")
        if self.folds and self.validation:
            raise ValueError(f"{self.name} has validation and folds; the folds are its validation")
        left_out = [name for fold in self.folds for name in fold]
        if len(set(left_out)) < len(left_out) or not set(left_out) <= set(self.train):
            raise ValueError(f"the folds of {self.name} must hold names of train, none of them twice")
        if self.answer is not None and sum(self.answer.values()) > 1 + 1e-9:
            raise ValueError(f"the answer of {self.name} adds up to more than 1")
        return self


class NoiseRecipe(_Section):
    """Sounds that are laid under speech in training, by patterns of file names in a corpus; test: only to measure what noise costs.

    halves: training takes the first half of each recording, tests the second, so both may name the same one.
    """

    name: str
    corpus: str
    train: Annotated[list[str], Field(min_length=1)]
    test: list[str] = []
    halves: bool = False


class Pretrained(_Section):
    """Weights from a hub name or a folder."""

    source: str


class WhisperRecipe(WhisperSettings):
    """The first layers of a Whisper's encoder, frozen; the bundle carries them in float16 (WhisperSettings has the other keys).

    source: hub name or folder of a whole WhisperModel. license: of its weights, as the bundle tells it. origin: what the bundle calls the
    weights where `source` is a folder.

    Only with `statistics`, where a clip is one state, states are standardised, and a classifier on them teaches the mapper: speeds (the
    first is 1), rooms and room_share as in EncoderTraining; teacher_l2: penalty on the classifier's squared weights.
    """

    kind: Literal["whisper"]
    source: str
    license: str
    origin: str | None = None
    speeds: Annotated[tuple[Speed, ...], Field(min_length=1)] = (1.0,)
    rooms: Annotated[int, Field(ge=0)] = 0
    room_share: Share = 0.0
    teacher_l2: Annotated[float, Field(gt=0)] = 0.025

    @model_validator(mode="after")
    def _views_have_a_use(self) -> "WhisperRecipe":
        useless = sorted(self.model_fields_set & {"speeds", "rooms", "room_share", "teacher_l2"})
        if useless and not self.statistics:
            raise ValueError(f"{', '.join(useless)} of a Whisper need statistics = true: without it clips are heard as they are recorded")
        if self.speeds[0] != 1.0:
            raise ValueError("the first of speeds must be 1.0: states are standardised and voices modelled on clips as they are recorded")
        return self

    @property
    def views(self) -> int:
        """How many states of a clip there are to train on."""
        return len(self.speeds) + self.rooms

    @property
    def settings(self) -> WhisperSettings:
        """What the encoder is made with, and what its config.json says."""
        chosen = {name: getattr(self, name) for name in ("layers", "pool", "statistics", "level_dbfs", "license")}
        return WhisperSettings(**chosen, source=self.origin or self.source)


class CombinedRecipe(_Section):
    """Frozen encoders that hear the same sound, a state being what all of them say; the bundle carries them all.

    parts: Whispers, and encoders in folders, with as many states a second as each other.
    """

    kind: Literal["combined"]
    parts: Annotated[list[WhisperRecipe | Pretrained], Field(min_length=2, max_length=8)]

    @model_validator(mode="after")
    def _hear_the_same(self) -> "CombinedRecipe":
        if any(isinstance(part, WhisperRecipe) and part.views > 1 for part in self.parts):
            raise ValueError("encoders side by side hear clips as they are recorded: speeds and rooms are for a Whisper alone")
        return self


class EncoderTraining(_Section):
    """An encoder that starts from random weights and is trained as an emotion classifier, then frozen.

    kind: nano's own, or small ones of the architectures that the paper compares. speeds: playback rates at which every clip is used.
    rooms: how many times each clip is also put into a room that is drawn at random (noise, echo, telephone), room_share: how often such a
    view is taken. branches: how many of nano's own are trained, from different random weights, to hear side by side. channels, width: of
    each.
    """

    kind: Literal["nano", "wavlm", "wav2vec2"]
    speeds: Annotated[list[Speed], Field(min_length=1)] = [1.0]
    rooms: Annotated[int, Field(ge=0)] = 0
    room_share: Share = 0.0
    branches: Count = 1
    channels: list[Count] = [16, 32, 64, 96]
    width: Count = 128
    batch: Count = 16
    steps: Count
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    mixup: float
    average_decay: float
    dropout: Annotated[float, Field(ge=0, lt=1)]


def _encoder_kind(values: Any) -> str:
    """Which of the sections that `[encoder]` may be: told by its `kind`, which pre-trained weights have none of."""
    kind = values.get("kind") if isinstance(values, dict) else getattr(values, "kind", None)
    if kind is None:
        return "pretrained"
    return kind if kind in ("whisper", "combined") else "trained"


EncoderRecipe = Annotated[
    Annotated[Pretrained, Tag("pretrained")]
    | Annotated[WhisperRecipe, Tag("whisper")]
    | Annotated[CombinedRecipe, Tag("combined")]
    | Annotated[EncoderTraining, Tag("trained")],
    Discriminator(_encoder_kind),
]


class SmallLlm(_Section):
    """A language model that starts from random weights."""

    architecture: Literal["llama", "qwen3"]
    vocabulary: Count
    hidden: Count
    layers: Count
    heads: Count
    intermediate: Count

    @model_validator(mode="after")
    def _heads_fit(self) -> "SmallLlm":
        if self.hidden % self.heads:
            raise ValueError(f"the language model's hidden size {self.hidden} is not divisible by its {self.heads} heads")
        return self


class LoraRecipe(_Section):
    """Size of the adapter."""

    rank: Count
    alpha: Count


class NormalisationRecipe(_Section):
    """That the reference of a speaker's voice is subtracted from states before the mapper; prior_segments: see ReferenceSettings."""

    prior_segments: Annotated[float, Field(gt=0)] = 1.0


class LoopRecipe(_Section):
    """How the loop runs, whatever is trained.

    micro_batch: examples in memory at once; a batch is made of as many as it takes. sampling: `shuffle` goes through all utterances in
    a new order each epoch; `balanced` draws corpora by share and letters uniformly. cache_states: keep the frozen encoder's states on disk.
    """

    micro_batch: Count
    sampling: Literal["shuffle", "balanced"]
    precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    cache_states: bool = False
    checkpoint_steps: Count = 200
    gradient_norm: float = 1.0


class PhaseRecipe(_Section):
    """One phase of the curriculum (paper, A.2): which parts learn which tasks, for how long.

    corpora: which ones this phase uses, none named meaning all. epochs or steps: one of the two. input: speech, or noise in its place,
    from which only the form of an answer can be learned. shots, features: what the instruction holds beside the task (B.5, B.6).
    teacher_share: how much of a letter's target is what the encoder's own classifier hears. mixup: see Hearing; with the teacher alone.
    letter_weight: of the letter's token in the
    loss, against 1 for every other token of the answer. average_last: share of the steps, at the end, whose weights are averaged.
    """

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    trainable: Annotated[list[TrainablePart], Field(min_length=1)]
    tasks: Annotated[list[Task], Field(min_length=1)]
    corpora: list[str] = []
    input: Literal["speech", "noise"] = "speech"
    steps: Count | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    batch: Count
    learning_rate: float
    weight_decay: float
    warmup: Annotated[float, Field(ge=0, lt=1)]
    shots: Annotated[int, Field(ge=0, le=len(SHOTS))] = 0
    features: bool = False
    teacher_share: Share = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    letter_weight: Annotated[float, Field(gt=0)] = 1.0
    average_last: Share = 0.0

    @model_validator(mode="after")
    def _one_length(self) -> "PhaseRecipe":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"phase {self.name} needs steps or epochs, one of the two")
        if self.mixup and self.teacher_share < 1:
            raise ValueError(f"phase {self.name} blends examples, which then have no label: it needs teacher_share = 1")
        return self


class ReleaseRecipe(_Section):
    """How the bundle is asked, and what it promises.

    strategy: one that needs transcripts is calibrated and scored with the corpora's own, and is for monitors with a transcriber.
    trusted_accuracy: the threshold for `unsure` is the lowest at which the rest reaches this on validation speakers or folds.
    public_clips: how many encoded training clips go with it, for nights of training to rehearse and to be measured with; 0: none.
    """

    strategy: Strategy
    shots: Annotated[int, Field(ge=0, le=len(SHOTS))] = 0
    features: bool = False
    trusted_accuracy: Share
    public_clips: Annotated[int, Field(ge=0)] = 600


class Curriculum(_Section):
    """What the training loop needs to know: which letters there are, how it runs, and its phases."""

    letters: Annotated[list[Emotion], Field(min_length=2)]
    loop: LoopRecipe
    phases: Annotated[list[PhaseRecipe], Field(min_length=1)]


class Recipe(Curriculum):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    license: str
    limits: list[str]
    corpora: Annotated[list[CorpusRecipe], Field(min_length=1)]
    noises: list[NoiseRecipe] = []
    encoder: EncoderRecipe
    normalisation: NormalisationRecipe | None = None
    mapper: MapperSettings
    llm: Pretrained | SmallLlm
    lora: LoraRecipe
    release: ReleaseRecipe

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ValueError("two phases have the same name")
        in_views = isinstance(self.encoder, WhisperRecipe) and self.encoder.statistics
        heard = in_views or isinstance(self.encoder, EncoderTraining)
        if not heard and any(phase.teacher_share for phase in self.phases):
            raise ValueError("teacher_share needs an encoder that is trained here, or a Whisper's statistics; another has no classifier")
        if self.normalisation and not in_views:
            raise ValueError("normalisation needs a Whisper's statistics: nothing else models the voices that it is trained on")
        blends = in_views or (isinstance(self.encoder, EncoderTraining) and self.encoder.kind == "nano")
        if any(phase.mixup for phase in self.phases) and not blends:
            raise ValueError("mixup in a phase blends the views of nano's own encoder, or a Whisper's statistics; another encoder has none")
        known = {corpus.name for corpus in self.corpora}
        counts = {len(corpus.folds) for corpus in self.corpora if corpus.folds}
        if len(counts) > 1:
            raise ValueError("corpora must have as many folds as one another")
        if isinstance(self.encoder, EncoderTraining) and self.encoder.kind != "nano" and self.encoder.branches > 1:
            raise ValueError(f"branches are nano's; an encoder of the kind {self.encoder.kind} is one")
        if isinstance(self.encoder, EncoderTraining | WhisperRecipe) and (self.encoder.rooms == 0) != (self.encoder.room_share == 0):
            raise ValueError("rooms and room_share belong together: how many there are of each clip, and how often one is heard")
        for phase in self.phases:
            if not set(phase.corpora) <= known:
                raise ValueError(f"phase {phase.name} uses {', '.join(set(phase.corpora) - known)}, which is not under corpora")
            if phase.batch % self.loop.micro_batch:
                raise ValueError(f"phase {phase.name}: batch {phase.batch} is not made of whole micro-batches of {self.loop.micro_batch}")
            if "mapper" in phase.trainable and phase.input == "noise":
                raise ValueError(f"phase {phase.name} trains the mapper on noise, which never passes through it")
            if "llm" in phase.trainable and isinstance(self.llm, Pretrained):
                raise ValueError(f"phase {phase.name} trains the language model itself; a pre-trained one stays frozen, train lora")
        return self

    @property
    def sources(self) -> list[str]:
        """Hub names and folders of the pre-trained weights it starts from."""
        parts = self.encoder.parts if isinstance(self.encoder, CombinedRecipe) else [self.encoder]
        return [part.source for part in (*parts, self.llm) if isinstance(part, Pretrained | WhisperRecipe)]

    @property
    def folds(self) -> int:
        """How many trainings are judged on what they left out; 0 without cross-fitting."""
        return max(len(corpus.folds) for corpus in self.corpora)


def load_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or a TOML file by path. Raises TrainingError naming the key that is wrong."""
    return to_recipe(read_toml(name), name)


def read_toml(name: str) -> dict[str, Any]:
    """A shipped recipe's or a file's keys and values, unchecked. Raises TrainingError."""
    path = Path(name) if name.endswith(".toml") else RECIPES_FOLDER / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        shipped = ", ".join(sorted(file.stem for file in RECIPES_FOLDER.glob("*.toml")))
        raise TrainingError(f"no recipe {name!r}: name a .toml file or one of the shipped: {shipped}") from error
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"the recipe {path} is not usable: {error}") from error


def to_recipe(values: dict[str, Any], name: str) -> Recipe:
    """Checked values. Raises TrainingError that names every key which is wrong; `name` says whose they are."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        wrong = [f"{'.'.join(str(part) for part in one['loc']) or 'recipe'}: {one['msg']}" for one in error.errors()]
        raise TrainingError(f"the recipe {name} is not usable:\n  " + "\n  ".join(wrong)) from error
