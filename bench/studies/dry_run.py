"""The paper's recipe without data and weights: sizes, steps, memory, and the time of real steps on this machine.

On a GPU some minutes; on a CPU one step of one example, which takes minutes and about 10 GB, and is left out where memory does not do.
"""

from train.dry_run import dry_run
from train.recipe import load_recipe


def run() -> list[str]:
    """Markdown lines."""
    return ["## The paper's size, dry", "", "```text", *dry_run(load_recipe("paper")).splitlines(), "```"]


if __name__ == "__main__":
    print("\n".join(run()))
