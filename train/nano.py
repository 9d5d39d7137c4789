"""The making of nano, from a folder of speech to a released bundle.

Two trainings. The first leaves the validation speakers out and yields temperature and threshold; the second uses them too and yields the
weights. Test speakers are looked at once, by `evaluate`, after everything is fixed.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from model.errors import TrainingError
from model.features import normalise
from model.mapper import QPMapper
from model.prompts import Task, emotion_prefix, messages, render
from model.speech_llm import SpeechLLM
from train.corpora import Utterance, of_speakers, read_manifest, require_disjoint
from train.dataset import FeatureStore, Sampler
from train.metrics import Floats, Ints, calibrate, fit_temperature, threshold_for, unweighted_accuracy
from train.nano_encoder import Classifier, train_classifier
from train.nano_llm import build_llm, build_tokenizer
from train.recipe import Recipe
from train.trainer import EmotionTask, run_phase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A model in memory and what belongs to it."""

    teacher: Classifier
    mapper: QPMapper
    llm: SpeechLLM


@dataclass(frozen=True)
class Calibration:
    """Fitted on validation speakers: temperature, threshold, and the figures seen there."""

    temperature: float
    unsure_below: float
    scores: dict[str, float]

    @classmethod
    def stored(cls, path: Path) -> "Calibration | None":
        """What an earlier, interrupted run left in `path`, if anything."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def store(self, path: Path) -> None:
        """Keep it for a later run."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Corpora:
    """The utterances of each split of a recipe's corpora."""

    train: list[tuple[int, list[Utterance]]]
    validation: list[tuple[int, list[Utterance]]]
    test: list[Utterance]

    @classmethod
    def load(cls, recipe: Recipe, data: Path) -> "Corpora":
        """Read `data`/manifest.csv and split it by speaker as the recipe says. Raises TrainingError."""
        utterances = read_manifest(data / "manifest.csv")
        train = [(c.share, of_speakers(utterances, c.name, c.train)) for c in recipe.corpora]
        validation = [(c.share, of_speakers(utterances, c.name, c.validation)) for c in recipe.corpora]
        test = [u for c in recipe.corpora for u in of_speakers(utterances, c.name, c.test)]
        held_out = [u for _, part in validation for u in part]
        require_disjoint([u for _, part in train for u in part], [*held_out, *test])
        require_disjoint(held_out, test)
        absent = set(recipe.letters) - {u.emotion for _, part in train for u in part}
        if absent:
            raise TrainingError(f"no training clip for the letters {', '.join(sorted(absent))} of the recipe {recipe.name}")
        return cls(train, validation, test)

    def key(self, recipe: Recipe, seed: int) -> str:
        """Twelve digits that change with the recipe, the seed, or which clips are in which split."""
        clips = [[str(u.path) for u in part] for _, part in (*self.train, *self.validation)]
        return hashlib.sha256(repr((recipe, seed, clips)).encode()).hexdigest()[:12]

    def everything_but_test(self) -> list[tuple[int, list[Utterance]]]:
        """Training and validation speakers together."""
        return [(share, [*a, *b]) for (share, a), (_, b) in zip(self.train, self.validation, strict=True)]


def train_once(recipe: Recipe, store: FeatureStore, parts: Sequence[tuple[int, Sequence[Utterance]]], seed: int) -> Trained:
    """Encoder, then every phase of the recipe, from random weights."""
    torch.manual_seed(seed)
    sampler = Sampler(store, parts, recipe.letters, seed)
    teacher = train_classifier(sampler, len(recipe.letters), recipe.encoder)
    tokenizer = build_tokenizer(recipe.llm)
    llm = SpeechLLM(build_llm(recipe.llm, tokenizer), tokenizer)
    mapper = QPMapper(teacher.encoder.width, llm.hidden_size, **recipe.mapper.model_dump())
    task = EmotionTask(tokenizer, recipe.letters)
    for number, phase in enumerate(recipe.phases):
        if "lora" in phase.trainable and not hasattr(llm.llm, "peft_config"):
            llm.add_lora()
        run_phase(phase, sampler, teacher, mapper, llm, task, seed + number)
    return Trained(teacher, mapper, llm)


@torch.inference_mode()
def letter_log_probs(recipe: Recipe, model: Trained, store: FeatureStore, clips: Sequence[Utterance]) -> Floats:
    """Log-probabilities (n, letters) of clips as recorded, through the language model."""
    prompt = render(model.llm.tokenizer, messages(Task.SER, 0, emotion_prefix()))
    task = EmotionTask(model.llm.tokenizer, recipe.letters)
    rows = []
    for clip in clips:
        features = normalise(store.raw(clip))[None]
        states, mask = model.teacher.encoder.states(features, torch.tensor([features.shape[1]]))
        rows.append(model.llm.letter_log_probs(model.mapper(states, mask), [prompt], task.letters)[0].double().numpy())
    return np.stack(rows)


def labels_of(recipe: Recipe, clips: Sequence[Utterance]) -> Ints:
    """Class numbers (n,) in the order of the recipe's letters."""
    return np.array([recipe.letters.index(clip.emotion) for clip in clips if clip.emotion is not None], dtype=np.int64)


def fit_calibration(recipe: Recipe, model: Trained, store: FeatureStore, corpora: Corpora) -> Calibration:
    """Temperature and threshold from the validation speakers, every corpus counting the same."""
    scores: dict[str, float] = {}
    all_logs, all_true = [], []
    for corpus, (_, clips) in zip(recipe.corpora, corpora.validation, strict=True):
        logs, true = letter_log_probs(recipe, model, store, clips), labels_of(recipe, clips)
        scores[corpus.name] = unweighted_accuracy(true, logs.argmax(axis=1), len(recipe.letters))
        logger.info("validation %s: unweighted accuracy %.3f over %d clips", corpus.name, scores[corpus.name], len(clips))
        keep = np.random.default_rng(0).permutation(len(true))[: min(len(part) for _, part in corpora.validation)]
        all_logs.append(logs[keep])
        all_true.append(true[keep])
    logs, true = np.concatenate(all_logs), np.concatenate(all_true)
    temperature = fit_temperature(logs, true)
    probabilities = calibrate(logs, temperature)
    corrects = probabilities.argmax(axis=1) == true
    threshold = threshold_for(probabilities.max(axis=1), corrects, recipe.trusted_accuracy)
    scores["sure_share"] = float((probabilities.max(axis=1) >= threshold).mean())
    logger.info("temperature %.3f, unsure below %.3f, sure %.2f", temperature, threshold, scores["sure_share"])
    return Calibration(temperature, threshold, scores)
