"""`python -m bench.studies.faults [--quick] [FAULT ...]`: what is lost when a monitor is killed, or its disk fails, in one Markdown table.

Only the project's own demo is heard, and everything lives in a temporary folder. About twenty minutes; --quick under two.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from bench.studies import disks, kills
from bench.studies.watched import Outcome

_HEAD = [
    "| what was done | times | segments closed | lost | doubled | seconds of coverage wrong | listening again |",
    "|---|---|---|---|---|---|---|",
]

# Each is told whether it is to be quick.
FAULTS: dict[str, Callable[[bool], Outcome]] = {
    "monitor-kills": lambda quick: kills.monitor_kills(6, 1) if quick else kills.monitor_kills(100, 20),
    "engine-kills": lambda quick: kills.engine_kills(1 if quick else 20),
    "full-disk": lambda _quick: disks.full_disk(),
    "locked": lambda _quick: disks.locked(),
    "read-only-start": lambda _quick: disks.read_only_at_the_start(),
    "read-only-running": lambda _quick: disks.read_only_while_it_runs(),
    "damaged": lambda quick: disks.damaged(3 if quick else 12),
}
_QUICK = ("monitor-kills", "engine-kills", "read-only-start", "damaged")


def run(names: Sequence[str] = _QUICK, quick: bool = True) -> list[str]:
    """Markdown lines. Raises AssertionError where a monitor does what it never may, beyond what the table counts."""
    return ["## Faults", "", *_HEAD, *(FAULTS[name](quick).row() for name in names)]


def main() -> None:
    """Print the table, each line as it is known."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.faults", description=__doc__)
    parser.add_argument("fault", nargs="*", metavar="FAULT", help=f"{', '.join(FAULTS)}; default: all, with --quick {', '.join(_QUICK)}")
    parser.add_argument("--quick", action="store_true", help="fewer kills")
    asked = parser.parse_args()
    if unknown := set(asked.fault) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(unknown)}")
    print("\n".join(_HEAD), flush=True)
    for name in asked.fault or (_QUICK if asked.quick else FAULTS):
        print(FAULTS[name](asked.quick).row(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
