"""`python -m train`: makes a bundle from a recipe, or scores one. The monitor starts this as a process of its own."""

import argparse
import json
import logging
import sys
from pathlib import Path

from model.errors import EmosllmError
from model.manifest import Score, find_bundle
from model.manifest import read_manifest as read_bundle_manifest
from train.recipe import Recipe, load_recipe

logger = logging.getLogger("train")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 with one line on stderr when it could not."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        options.run(options)
    except EmosllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emosllm-monitor", description="Make a bundle from a recipe, or score one.")
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train a bundle and score it on its recipe's test speakers")
    train.set_defaults(run=_train)
    train.add_argument("--recipe", default="nano", help="a shipped recipe or a .toml file (default: nano)")
    train.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and the audio it names")
    train.add_argument("--out", type=Path, required=True, help="folder of the new bundle; must not exist")
    train.add_argument(
        "--work", type=Path, default=Path("work"), help="folder for features and what an interrupted run continues from (default: work)"
    )
    train.add_argument("--seed", type=int, default=0, help="seed of all randomness (default: 0)")
    evaluate = commands.add_parser("evaluate", help="score a bundle on the test speakers of a recipe")
    evaluate.set_defaults(run=_evaluate)
    evaluate.add_argument("--bundle", default="nano", help="a built-in bundle or a folder (default: nano)")
    evaluate.add_argument("--recipe", default="nano", help="the recipe whose test speakers are meant (default: nano)")
    evaluate.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and the audio it names")
    return parser


def _train(options: argparse.Namespace) -> None:
    # Here, because --help must not wait for torch.
    from train.dataset import FeatureStore
    from train.nano import Calibration, Corpora, fit_calibration, train_once
    from train.release import add_scores, refuse_existing, write_bundle

    recipe = load_recipe(options.recipe)
    refuse_existing(options.out)
    corpora = Corpora.load(recipe, options.data)
    everything = corpora.everything_but_test()
    store = FeatureStore(options.work, [clip for _, clips in everything for clip in clips], recipe.speeds)
    kept = options.work / f"calibration-{corpora.key(recipe, options.seed)}.json"
    calibration = Calibration.stored(kept)
    if calibration is None:
        logger.info("first training, without the validation speakers, for the calibration")
        calibration = fit_calibration(recipe, train_once(recipe, store, corpora.train, options.seed), store, corpora)
        calibration.store(kept)
    logger.info("second training, with them, for the weights")
    model = train_once(recipe, store, everything, options.seed)
    write_bundle(recipe, model, calibration, corpora, options.out, options.seed)
    scores = _test_scores(recipe, options.out, options.data)
    add_scores(options.out, scores)
    _print(options.out, scores)


def _evaluate(options: argparse.Namespace) -> None:
    recipe, folder = load_recipe(options.recipe), find_bundle(options.bundle)
    _print(folder, _test_scores(recipe, folder, options.data))


def _test_scores(recipe: Recipe, folder: Path, data: Path) -> list[Score]:
    from train.corpora import of_speakers, read_manifest
    from train.evaluate import judge, score

    utterances = read_manifest(data / "manifest.csv")
    scores = []
    for corpus in (corpus for corpus in recipe.corpora if corpus.test):
        clips = of_speakers(utterances, corpus.name, corpus.test)
        split = f"{corpus.name}, speakers {', '.join(corpus.test)}, never trained or tuned on"
        scores.append(score(judge(folder, clips), split))
    return scores


def _print(folder: Path, scores: list[Score]) -> None:
    print(json.dumps({"bundle": read_bundle_manifest(folder).version, "scores": [s.model_dump() for s in scores]}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
