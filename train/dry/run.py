"""What a recipe would take, without its data and without weights: parameters, steps, memory, disk, and the time of real steps.

Counts come from sizes.py and from the corpora's published sizes. Real steps run the classes that are trained, at the recipe's size,
with random weights, on noise and random token ids: they say how long a step takes and what it needs, and nothing about accuracy.
"""

from collections.abc import Sequence

from train.dry.plan import PAPER_SPEECH, DryPlan, Speech
from train.dry.real_steps import run_real_steps
from train.recipe import Recipe


def dry_run(recipe: Recipe, speech: Sequence[Speech] = PAPER_SPEECH, *, real_steps: bool = True) -> str:
    """Everything as plain text. speech: the sizes of the recipe's corpora; where one is not among them, steps of epochs stay unknown.

    real_steps: also build the model with random weights and train for a moment: a few steps of every phase on a GPU, one step of the
    last phase with one short example on a CPU whose memory allows it. Raises TrainingError for models whose sizes are not known.
    """
    sizes = {one.corpus: one for one in speech}
    names = [corpus.name for corpus in recipe.corpora]
    plan = DryPlan(recipe, [sizes[name] for name in names] if sizes.keys() >= set(names) else [])
    sections = [plan.parameters(), plan.steps_table(), plan.requests_table(), plan.memory_table(), plan.disk()]
    return "\n\n".join([*sections, *([run_real_steps(plan)] if real_steps else [])])
