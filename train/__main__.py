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

_DESCRIPTION = "Train and evaluate bundles."


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
        print(f"error: the disk is full ({error}); free some space and run the same command again to resume", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emosllm-monitor", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True)
    corpus = commands.add_parser("corpus", help="prepare a corpus in its official layout")
    prepare.add_prepare_arguments(corpus.add_subparsers(required=True).add_parser("prepare", help="check every file and write a manifest"))
    _add_train(commands.add_parser("train", help="train a bundle, or the paper's tables at a recipe's scale"))
    _add_nightly(commands.add_parser("nightly", help="retrain on one person's labels, given on standard input"))
    _add_evaluate(commands.add_parser("evaluate", help="evaluate a bundle, or another audio LLM behind a server"))
    _add_compare(commands.add_parser("compare", help="compare evaluations of several systems (the paper's Figure 2)"))
    return parser


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_compare)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="folders written by `evaluate --out FOLDER`, for the same clips"
    )
    parser.add_argument("--out", type=Path, help="PNG plot of accuracy against parameters (default: print only)")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    parser.add_argument("what", nargs="?", choices=["bundle", "tables"], default="bundle", help="default: bundle")
    parser.add_argument("--recipe", default="compact", help="built-in recipe (compact, nano, paper) or a .toml file (default: compact)")
    parser.add_argument("--manifest", type=Path, action="append", help="manifest from `corpus prepare` or your own; may be repeated")
    parser.add_argument("--out", type=Path, help="folder for the new bundle, which must not exist (tables: the Markdown file)")
    parser.add_argument("--phase", default="all", help="stop after this phase of the recipe (default: run all and write a bundle)")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("work"),
        help="folder for features, checkpoints and TensorBoard logs; a stopped run resumes from it",
    )
    parser.add_argument("--seed", type=_not_negative, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--dry-run", action="store_true", help="report sizes, steps, memory and step times, with random weights and no data"
    )


def _add_nightly(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_nightly)
    parser.add_argument("--bundle", required=True, help="the bundle in use: a built-in bundle or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new bundle, written only if it passes the promotion test")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints; a stopped run resumes from it")
    parser.add_argument("--seed", type=_not_negative, default=0, help="random seed (default: 0)")
    parser.add_argument("--threads", type=_not_negative, default=1, help="number of CPU cores (default: 1)")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_evaluate)
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to evaluate on")
    which = parser.add_argument_group("utterances (default: all; corpora without emotions, or with neutral only, are reported separately)")
    which.add_argument("--split", help="only this split of the manifest, such as test1")
    which.add_argument("--corpus", help="only these corpora, separated by commas")
    which.add_argument("--speakers", help="only these speakers, separated by commas")
    which.add_argument(
        "--recipe", help="only utterances this recipe never trains or tunes on; fails if other selections include such utterances"
    )
    which.add_argument(
        "--conditions",
        action="store_true",
        help="also evaluate the clips in noise, in a room, over a telephone and at low volume (with --recipe)",
    )
    person = parser.add_argument_group("personal normalisation")
    person.add_argument(
        "--person-minutes",
        type=_minutes,
        metavar="0,1,10,60",
        help="also evaluate after so many minutes of each speaker's own speech, for bundles with personal normalisation",
    )
    person.add_argument("--draws", type=_positive, default=5, help="number of random draws of those minutes (default: 5)")
    person.add_argument("--seed", type=_not_negative, default=0, help="random seed of the draws (default: 0)")
    system = parser.add_argument_group("system")
    system.add_argument("--bundle", default="compact", help="built-in bundle or folder (default: compact)")
    system.add_argument(
        "--server", metavar="URL", help="instead of a bundle: an OpenAI-compatible server with any audio LLM, evaluated zero-shot"
    )
    system.add_argument("--model", metavar="NAME", help="model name on that server")
    system.add_argument("--key-file", default="", help="file with the server's API key (or set EMOSLLM_API_KEY)")
    system.add_argument("--parameters", type=float, help="number of parameters of that model, for `compare`")
    style = parser.add_argument_group("prompting (default: as the bundle was released)")
    style.add_argument("--strategy", choices=["ser", "prompt-hint", "transcript-prefix", "joint"], help="the paper's Table 3")
    style.add_argument("--shots", type=int, choices=[0, 1, 2], help="number of output examples in the instruction")
    style.add_argument(
        "--features", action=argparse.BooleanOptionalAction, help="describe loudness, pitch, jitter, shimmer and gender in the prompt"
    )
    style.add_argument(
        "--prior",
        choices=["everyday", "balanced"],
        help="correct posteriors to this prior, as [engine] prior does (default: the training prior, about balanced)",
    )
    style.add_argument("--asr", action="store_true", help="also request a transcript, for the word error rate")
    parser.add_argument("--out", type=Path, help="folder for evaluation.json, evaluation.md and plots (default: print only)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _minutes(text: str) -> list[float]:
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not 0 <= found[0] <= found[-1] < float("inf"):
        raise argparse.ArgumentTypeError(f"invalid minutes {text!r}; use numbers separated by commas, such as 0,1,10,60")
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
