"""`python -m train`: corpora, training and evaluation on the command line. The monitor starts this as a process of its own."""

import argparse
import errno
import signal
import sys
from pathlib import Path

from model.errors import EmosllmError
from model.extras import missing_extra
from train.corpora import prepare
from train.workers import log_to_stderr

_DESCRIPTION = "Make a bundle from recipes and corpora, or score one."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 with a message on stderr when it could not."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    try:
        try:
            options.run(options)
        except ModuleNotFoundError as error:
            raise missing_extra(error) from error
    except EmosllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(
            f"error: the disk is full ({error}); free some and run the same command again, which goes on from what is kept", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emosllm-monitor", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True)
    corpus = commands.add_parser("corpus", help="make a manifest of a corpus in its official layout")
    prepare.add_prepare_arguments(corpus.add_subparsers(required=True).add_parser("prepare", help="check every file and write a manifest"))
    _add_train(commands.add_parser("train", help="train a bundle, or the paper's tables at a recipe's scale"))
    _add_nightly(commands.add_parser("nightly", help="learn from what one person said of their speech; evidence on standard input"))
    _add_evaluate(commands.add_parser("evaluate", help="score a bundle, or another audio LLM behind a server"))
    _add_compare(commands.add_parser("compare", help="evaluations of several systems side by side (the paper's Figure 2)"))
    return parser


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_compare)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what `evaluate --out FOLDER` wrote, of the same clips")
    parser.add_argument("--out", type=Path, help="PNG of accuracy against parameters (default: print only)")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    parser.add_argument("what", nargs="?", choices=["bundle", "tables"], default="bundle", help="default: bundle")
    parser.add_argument("--recipe", default="compact", help="a shipped recipe (compact, nano, paper) or a .toml file (default: compact)")
    parser.add_argument("--manifest", type=Path, action="append", help="a manifest of `corpus prepare` or your own; may be repeated")
    parser.add_argument("--out", type=Path, help="the new bundle's folder, which must not exist (tables: the Markdown file)")
    parser.add_argument("--phase", default="all", help="stop after this phase of the recipe (default: all, and release a bundle)")
    parser.add_argument(
        "--work", type=Path, default=Path("work"), help="folder for features, checkpoints and TensorBoard; a stopped run goes on from it"
    )
    parser.add_argument("--seed", type=_not_negative, default=0, help="seed of all randomness (default: 0)")
    parser.add_argument("--dry-run", action="store_true", help="no data, random weights: sizes, steps, memory, and the time of real steps")


def _add_nightly(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_nightly)
    parser.add_argument("--bundle", required=True, help="the bundle in use: a built-in one or a folder")
    parser.add_argument("--out", type=Path, required=True, help="the new bundle's folder, written only if it may be used")
    parser.add_argument("--work", type=Path, required=True, help="folder for weights, from which a stopped night goes on")
    parser.add_argument("--seed", type=_not_negative, default=0, help="seed of all randomness (default: 0)")
    parser.add_argument("--threads", type=_not_negative, default=1, help="processor cores to use (default: 1)")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_evaluate)
    parser.add_argument("--manifest", type=Path, required=True, help="what to score on")
    which = parser.add_argument_group("which utterances (all, unless told; corpora without an emotion, or with neutral alone, apart)")
    which.add_argument("--split", help="those of one split of the manifest, such as test1")
    which.add_argument("--corpus", help="those of some corpora, with commas between")
    which.add_argument("--speakers", help="those of some speakers, with commas between")
    which.add_argument("--recipe", help="those that this recipe never trains or tunes on; with others chosen here, refused where it does")
    which.add_argument(
        "--conditions",
        action="store_true",
        help="also the same clips in noise, in a room, over a telephone and quietly (with --recipe)",
    )
    person = parser.add_argument_group("how well the bundle gets to know each person")
    person.add_argument(
        "--person-minutes",
        type=_minutes,
        metavar="0,1,10,60",
        help="also judge everybody's clips after so many minutes of their own speech, for a bundle with personal normalisation",
    )
    person.add_argument("--draws", type=_positive, default=5, help="how often the clips of those minutes are drawn (default: 5)")
    person.add_argument("--seed", type=_not_negative, default=0, help="seed of the draws (default: 0)")
    system = parser.add_argument_group("what is scored")
    system.add_argument("--bundle", default="compact", help="a built-in bundle or a folder (default: compact)")
    system.add_argument("--server", metavar="URL", help="instead: an OpenAI-compatible server of any audio LLM, asked without training")
    system.add_argument("--model", metavar="NAME", help="the model's name on that server")
    system.add_argument("--key-file", default="", help="file with the server's key (or the variable EMOSLLM_API_KEY)")
    system.add_argument("--parameters", type=float, help="how many parameters that model has, for the comparison")
    style = parser.add_argument_group("how a bundle is asked (as it was released, unless told)")
    style.add_argument("--strategy", choices=["ser", "prompt-hint", "transcript-prefix", "joint"], help="the paper's Table 3")
    style.add_argument("--shots", type=int, choices=[0, 1, 2], help="examples of the output in the instruction")
    style.add_argument("--features", action=argparse.BooleanOptionalAction, help="loudness, pitch, jitter, shimmer and gender in words")
    style.add_argument(
        "--prior",
        choices=["everyday", "balanced"],
        help="correct posteriors to it, as [engine] prior does; unless told they stay under that of the training, about balanced",
    )
    style.add_argument("--asr", action="store_true", help="also ask for the words, for the word error rate")
    parser.add_argument("--out", type=Path, help="folder for evaluation.json, evaluation.md and the plots (default: print only)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _minutes(text: str) -> list[float]:
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not 0 <= found[0] <= found[-1] < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} are no minutes of speech; write numbers from 0 on with commas between, as 0,1,10,60")
    return found


def _train(options: argparse.Namespace) -> None:
    # Here, because --help must not wait for torch.
    from train import commands

    if options.dry_run:
        commands.dry_run(options)
    elif options.what == "tables":
        commands.tables(options)
    else:
        commands.train(options)


def _nightly(options: argparse.Namespace) -> None:
    from train import commands

    # The monitor ends it so; whatever was saved is whole.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    commands.nightly(options)


def _evaluate(options: argparse.Namespace) -> None:
    from train import commands

    commands.evaluate(options)


def _compare(options: argparse.Namespace) -> None:
    from train.evaluation import page

    evaluations = page.read_evaluations(options.folders)
    if options.out:
        page.draw_comparison(evaluations, options.out)
    print(page.comparison_markdown(evaluations), end="")


if __name__ == "__main__":
    sys.exit(main())
