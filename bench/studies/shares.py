"""How well a day's shares are estimated, and which prior fits days best, by posteriors of voices that trainings left out.

    python -m bench.studies.shares TABLE.npz [...]

A table is what `train.calibration.LeftOutPredictions.save` writes: for each clip its corpus, speaker, the letter that was acted, and
log-probabilities at temperature 1 of a training that left its whole corpus out. Everything of a corpus (temperature, what an unknown voice
may be like, the voices behind the intervals) comes from the other corpora. Trainings are taken to have heard all letters alike.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from model.emotions import EVERYDAY, Emotion, balanced
from train.calibration import Calibration, LeftOutPredictions
from train.simulated_days import (
    DAY_KINDS,
    SEGMENTS_PER_DAY,
    EstimatedDay,
    PosteriorTable,
    estimate_days,
    other_corpora,
    posterior_confusion,
)

_DAYS = 120
_TRUSTED = 0.7
_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def shares_study(left_out: LeftOutPredictions, days: int = _DAYS) -> list[str]:
    """Markdown lines. days: simulated of each corpus."""
    voices = len(set(zip(left_out.corpus.tolist(), left_out.speaker.tolist(), strict=True)))
    calibration = Calibration.fit(left_out, balanced(left_out.letters), _TRUSTED)
    return [
        f"{len(left_out.acted)} clips of {voices} voices in {len(left_out.corpora)} corpora. Of all: temperature"
        f" {calibration.temperature:.2f}, unsure below {calibration.unsure_below:.2f} (right in {_TRUSTED:.0%}).",
        "",
        *_priors(left_out),
        "",
        *_shares(left_out, days),
    ]


def _priors(left_out: LeftOutPredictions) -> list[str]:
    """What each part of everyday counts in the prior costs on days of each kind, whole corpora left out."""
    letters, even = left_out.letters, balanced(left_out.letters)
    counted = EVERYDAY.counted(letters)
    kinds = {
        "everyday": counted,
        "even": even,
        "low": {letter: 0.5 * counted[letter] + 0.5 * (letter is Emotion.SAD) for letter in letters},
    }
    temperatures = {name: _temperature(left_out, name) for name in left_out.corpora}
    lines = [f"| part of everyday counts in the prior | {' | '.join(f'{kind}: bits, right, heard as neutral' for kind in kinds)} |"]
    lines.append("|---" * (len(kinds) + 1) + "|")
    for part in _PARTS:
        prior = {letter: part * counted[letter] + (1 - part) * even[letter] for letter in letters}
        cells = []
        for of_kind in kinds.values():
            figures = [_figures(left_out.where(left_out.corpus == name), t, prior, of_kind) for name, t in temperatures.items()]
            bits, right, neutral = np.mean(figures, axis=0)
            cells.append(f"{bits:.2f}, {right:.2f}, {neutral:.2f}")
        lines.append(f"| {part:.2f} | {' | '.join(cells)} |")
    return lines


def _temperature(left_out: LeftOutPredictions, name: str) -> float:
    """What the other corpora tell."""
    rest = left_out.where(np.isin(left_out.corpus, other_corpora(left_out, name)))
    return Calibration.fit(rest, balanced(left_out.letters), _TRUSTED).temperature


def _figures(
    clips: LeftOutPredictions, temperature: float, prior: Mapping[Emotion, float], of_kind: Mapping[Emotion, float]
) -> tuple[float, float, float]:
    """Surprise in bits, accuracy, and the part heard as neutral, where letters are as frequent as a kind of day has them."""
    posteriors, weights = clips.posteriors(temperature, balanced(clips.letters), prior), clips.weights(of_kind)
    heard = posteriors.argmax(axis=1)
    bits = -np.log2(posteriors[np.arange(len(heard)), clips.acted])
    neutral = heard == clips.letters.index(Emotion.NEUTRAL)
    return (
        float(np.average(bits, weights=weights)),
        float(np.average(heard == clips.acted, weights=weights)),
        float(np.average(neutral, weights=weights)),
    )


def _shares(left_out: LeftOutPredictions, days: int) -> list[str]:
    """Coverage, width and errors, by corpus, kind of day and number of segments."""
    neutral, checked, lines = left_out.letters.index(Emotion.NEUTRAL), list[EstimatedDay](), list[str]()
    for name in left_out.corpora:
        table = PosteriorTable.of(left_out, _temperature(left_out, name), balanced(left_out.letters))
        confusion = posterior_confusion(table.corpora(other_corpora(left_out, name)))
        found = list(estimate_days(table.corpora([name]), confusion, days))
        lines.append(_row(f"{name} (spread {confusion.spread}, blur {confusion.blur})", found, neutral))
        checked += found
    lines += [_row(kind, [one for one in checked if one.day.kind == kind], neutral) for kind in DAY_KINDS]
    lines += [_row(f"{count} segments", [one for one in checked if len(one.day.clips) == count], neutral) for count in SEGMENTS_PER_DAY]
    return [
        "| days | intervals hold | width | error: estimated | counted, even prior | counted as shown | bias of neutral: the same three |",
        "|---" * 7 + "|",
        _row("all", checked, neutral),
        *lines,
    ]


def _row(title: str, checked: Sequence[EstimatedDay], neutral: int) -> str:
    """neutral: its place among the letters."""
    if not checked:
        return f"| {title} | no days |"
    held, width = np.mean([one.held for one in checked]), np.mean([one.width for one in checked])
    errors, biases = [], []
    for how in ("estimated", "counted", "shown"):
        apart = [getattr(one, how) - one.day.shares for one in checked]
        errors.append(np.mean([np.abs(of_day[one.day.known]).mean() for one, of_day in zip(checked, apart, strict=True)]))
        biases.append(np.mean([of_day[neutral] for of_day in apart]))
    return f"| {title} | {held:.3f} | {width:.2f} | {' | '.join(f'{e:.3f}' for e in errors)} | {', '.join(f'{b:+.2f}' for b in biases)} |"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print("\n".join([f"## {Path(argument).name}", "", *shares_study(LeftOutPredictions.load(Path(argument))), ""]), flush=True)
