"""What the commands of `python -m train` do, once their options are read. Everything heavy is imported here."""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from model.bundle_format import file_sha256, find_bundle, read_bundle_manifest
from model.errors import TrainingError
from model.labelled_segment import read_all
from model.prompts import Strategy
from model.remote import read_api_key
from train.corpora.manifest import Utterance, require_disjoint
from train.corpora.manifest import read_corpus_manifest as read_utterances
from train.corpora.splits import CorpusSplits, all_utterances
from train.evaluation import page as evaluation_page
from train.evaluation.evaluate import Enrolment, EvaluatedBundle, RobustnessSets, evaluate_bundle, evaluate_outliers, evaluate_served
from train.evaluation.figures import Evaluation, OutlierEvaluation
from train.evaluation.inference import split_outliers, transcribe_utterances
from train.evaluation.metrics import word_error_rate
from train.evaluation.served_models import ServedModel
from train.pipeline import train_and_release as train_recipe
from train.recipe import load_recipe
from train.release import refuse_existing

# Bars for weights that load in a second, and remarks that are for the developers of transformers.
disable_progress_bar()
set_verbosity_error()
warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")


def train(options: argparse.Namespace) -> None:
    """Train, release, score; prints the scores."""
    recipe = load_recipe(options.recipe)
    if options.out is None and options.phase == "all":
        raise TrainingError("name the new bundle's folder with --out")
    manifests = _manifests(options)
    phase = None if options.phase == "all" else options.phase
    evaluations = train_recipe(recipe, manifests, options.out or Path("unused"), options.work, options.seed, phase)
    if phase is None and evaluations:
        print(f"{options.out}: {read_bundle_manifest(options.out).version}\n")
    for evaluation in evaluations:
        print(evaluation_page.page_markdown(evaluation))


def evaluate(options: argparse.Namespace) -> None:
    """Score a bundle or a served model on chosen utterances; prints, and writes where asked."""
    if options.person_minutes and options.server:
        raise TrainingError("--person-minutes needs a bundle; a served model gets to know nobody")
    utterances, split, surroundings = _chosen(options)
    if options.asr and utterances and not split_outliers(utterances)[0]:
        _word_errors(options, utterances, split)
        return
    digest = file_sha256(options.manifest)
    evaluation: Evaluation | OutlierEvaluation
    if options.server:
        evaluation = _served(options, utterances, split, digest)
    else:
        strategy = Strategy(options.strategy) if options.strategy else None
        asked = (
            EvaluatedBundle.of_bundle(find_bundle(options.bundle))
            .with_style(strategy, options.shots, options.features)
            .under(options.prior)
        )
        enrolment = Enrolment(options.person_minutes, options.draws, options.seed) if options.person_minutes else None
        if utterances:
            asr = options.asr
            evaluation = evaluate_bundle(asked, utterances, split, digest, asr=asr, surroundings=surroundings, enrolment=enrolment)
        else:
            evaluation = evaluate_outliers(asked, surroundings.outliers, split, digest, enrolment=enrolment)
    if options.out:
        evaluation_page.write_evaluation(options.out, evaluation)
    print(evaluation.model_dump_json(indent=2) if options.json else evaluation_page.page_markdown(evaluation))


def _word_errors(options: argparse.Namespace, utterances: Sequence[Utterance], split: str) -> None:
    """What a corpus without emotions can tell: how well the bundle writes down what is said."""
    asked = EvaluatedBundle.of_bundle(find_bundle(options.bundle)).with_style(None, options.shots, options.features)
    texts = transcribe_utterances(asked.bundle, asked.llm, utterances, asked.style)
    rate, words = word_error_rate([u.transcript or "" for u in utterances], texts)
    found = {"system": asked.bundle.manifest.version, "split": split, "utterances": len(texts), "words": words, "word_error_rate": rate}
    print(
        json.dumps(found, indent=2)
        if options.json
        else f"{split}: word error rate {rate:.3f}, {words:,} words in {len(texts):,} utterances"
    )


def nightly(options: argparse.Namespace) -> None:
    """One night, from labelled segments on standard input to a decision as JSON on standard output."""
    from train.nightly.night import NightlyRetraining

    torch.set_num_threads(max(1, options.threads))
    refuse_existing(options.out)
    heard_with, pieces = read_all(sys.stdin.buffer)
    decision = NightlyRetraining(find_bundle(options.bundle), options.work, options.seed, heard_with=heard_with).learn(pieces, options.out)
    print(decision.model_dump_json(), flush=True)


def tables(options: argparse.Namespace) -> None:
    """Train and measure every cell of the paper's tables at a recipe's scale."""
    from train.paper_tables import PaperTables

    out = options.out or Path("RESULTS.md")
    if not out.parent.is_dir():
        raise TrainingError(f"the folder of {out} does not exist; name the page with --out")
    PaperTables.load(f"{options.recipe}-tables", _manifests(options), options.work, options.seed).run(out)


def dry_run(options: argparse.Namespace) -> None:
    """Sizes, steps, memory and the time of real steps at a recipe's size, without data or weights."""
    from train.dry_run import dry_run as run

    print(run(load_recipe(options.recipe)))


def _manifests(options: argparse.Namespace) -> Sequence[Path]:
    if not options.manifest:
        raise TrainingError("name the data with --manifest FILE; `emosllm-monitor corpus prepare` makes one from a corpus")
    found: list[Path] = options.manifest
    return found


def _chosen(options: argparse.Namespace) -> tuple[list[Utterance], str, RobustnessSets]:
    """The labelled utterances that were asked for, in words which those are, and what to hear beside them.

    With --asr, where nothing is labelled, those with a transcript; without it none, if there are recordings without an emotion.
    """
    if options.conditions and (not options.recipe or options.server):
        raise TrainingError("--conditions needs --recipe, which names the noises, and a bundle")
    if options.recipe:
        return _never_trained_on(options)
    utterances, split = _filtered(options)
    acted, calm = split_outliers(utterances)
    if not acted and options.asr:
        spoken = [u for u in utterances if u.transcript is not None]
        if not spoken:
            raise TrainingError(f"{options.manifest} has no emotions and no transcripts there; --asr needs the column transcript")
        return spoken, split, RobustnessSets()
    if not acted and options.server:
        raise TrainingError(f"{options.manifest} has no labelled utterance there; a served model is scored on the column emotion")
    return acted, split, RobustnessSets(calm)


def _filtered(options: argparse.Namespace) -> tuple[list[Utterance], str]:
    """The utterances of the corpora, split and speakers that were asked for, and in words which those are."""
    utterances, words = read_utterances(options.manifest), []
    for name, wanted in (("corpus", options.corpus), ("split", options.split), ("speaker", options.speakers)):
        if wanted:
            utterances = _having(utterances, name, wanted.split(","))
            words.append(f"{name} {wanted}")
    return utterances, f"{options.manifest.name}, {', '.join(words) or 'all utterances'}"


def _having(utterances: Sequence[Utterance], field: str, wanted: Sequence[str]) -> list[Utterance]:
    there = {getattr(u, field) for u in utterances}
    absent = [value for value in wanted if value not in there]
    if absent:
        some = ", ".join(sorted(str(value) for value in there if value)[:12]) or "none"
        raise TrainingError(f"no utterance of the {field} {', '.join(absent)} in this manifest; it has {some}")
    return [u for u in utterances if getattr(u, field) in wanted]


def _never_trained_on(options: argparse.Namespace) -> tuple[list[Utterance], str, RobustnessSets]:
    """The recipe's test part, or what was asked for, if the recipe trains on none of these speakers."""
    recipe = load_recipe(options.recipe)
    corpora = CorpusSplits.load(recipe, [options.manifest])
    surroundings = RobustnessSets.of(corpora, conditions=options.conditions)
    never = f"never trained or tuned on by the recipe {recipe.name}"
    if options.corpus or options.split or options.speakers:
        utterances, split = _filtered(options)
        require_disjoint(all_utterances([*corpora.train, *corpora.validation]), utterances)
        acted, calm = split_outliers(utterances)
        return acted, f"{split}, {never}", replace(surroundings, outliers=calm)
    labelled = [u for part in corpora.test for u in part.utterances if u.emotion is not None]
    names = [f"{c.name}, {c.by} {', '.join(c.test)}" for c in recipe.corpora if c.test and c.answer is None]
    return labelled, f"{'; '.join(names)}, {never}", surroundings


def _served(options: argparse.Namespace, utterances: Sequence[Utterance], split: str, digest: str) -> Evaluation:
    if not options.model:
        raise TrainingError("--server needs --model NAME, as the server calls it")
    key = read_api_key(options.key_file)
    progress = options.out / "answers.jsonl" if options.out else None
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    model = ServedModel(options.server, options.model, key)
    return evaluate_served(model, options.model, options.parameters, utterances, split, digest, progress)
