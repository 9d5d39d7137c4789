"""Plots of an evaluation, as PNG. The only file that uses matplotlib; it computes no metric.

Nothing global is touched: every plot is a Figure of its own with the Agg canvas. Colours are of Okabe and Ito's palette or
one hue from light to dark, which colour-blind people can tell apart.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from model.errors import TrainingError
from train.evaluation.figures import Confidence, Evaluation

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_DPI = 150
_LABEL_GAP = 0.05
_LABEL_ASIDE = 0.015

ComparisonPoint = tuple[str, float, float, tuple[float, float] | None]


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """Clips by true emotion and answer; a cell's shade and per cent are its share of its row, the number below it counts clips."""
    labels, counts = evaluation.confusion.labels, np.array(evaluation.confusion.counts)
    columns = [*(emotion.word for emotion in labels), "none"]
    if counts[:, -1].sum() == 0:
        counts, columns = counts[:, :-1], columns[:-1]
    rows = np.flatnonzero(counts.sum(axis=1))
    counts = counts[rows]
    shares = counts / counts.sum(axis=1, keepdims=True)
    figure, axes = _canvas(1.8 + 0.85 * len(columns), 1.7 + 0.7 * len(rows))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{shares[row, column]:.0%}\n{count}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [f"{labels[row].word} ({counts[i].sum()})" for i, row in enumerate(rows)])
    axes.set(xlabel="answer", ylabel="emotion (clips)", title=_title("Confusion", evaluation, f"UAR {evaluation.uar.value:.3f}"))
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the emotion's clips", format=PercentFormatter(1.0))
    _save(figure, path)


def plot_reliability(evaluation: Evaluation, path: Path) -> None:
    """Accuracy by confidence, with the number of clips in every bin, against the diagonal of perfect calibration."""
    found = _confidence(evaluation)
    if found.ece is None:
        raise TrainingError("no clip was answered, so there is no reliability to draw; see why the answers could not be read")
    figure, axes = _canvas(6.4, 5.6)
    axes.plot([0, 1], [0, 1], "--", color=_GREY, label="perfectly calibrated")
    width = found.reliability[0].high - found.reliability[0].low
    for number, part in enumerate(found.reliability):
        axes.bar(
            part.low, part.accuracy, width, align="edge", color=_BLUE, alpha=0.75, edgecolor="white", label="accuracy" if not number else ""
        )
        axes.text((part.low + part.high) / 2, part.accuracy + 0.01, str(part.clips), ha="center", va="bottom", fontsize=8)
    axes.plot(
        [part.confidence for part in found.reliability],
        [part.accuracy for part in found.reliability],
        "D",
        color=_ORANGE,
        markersize=4,
        label="at the bin's mean confidence",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.08), xlabel="confidence", ylabel="accuracy")
    axes.set_title(_title("Reliability", evaluation, f"ECE {found.ece:.3f}; numbers are clips"))
    _finish(figure, axes)
    _save(figure, path)


def plot_risk_coverage(evaluation: Evaluation, path: Path) -> None:
    """Error rate among the most confident clips, by their share, against the error rate over all clips."""
    found = _confidence(evaluation)
    coverage = [point.coverage for point in found.risk_coverage]
    risk = [point.risk for point in found.risk_coverage]
    figure, axes = _canvas(6.4, 4.8)
    axes.axhline(risk[-1], linestyle="--", color=_GREY, label=f"all clips: {risk[-1]:.1%} wrong")
    axes.fill_between(coverage, risk, color=_BLUE, alpha=0.15)
    axes.plot(coverage, risk, color=_BLUE, marker="." if len(coverage) < 10 else "", label="the most confident clips")
    axes.axvline(evaluation.sure_share, linestyle=":", color=_ORANGE, label=f"sure: {evaluation.sure_share:.1%} of clips")
    axes.set(xlim=(0, 1.005), ylim=(0, max(0.05, 1.15 * max(risk))), xlabel="coverage: share of clips answered", ylabel="risk: share wrong")
    axes.set_title(_title("Risk and coverage", evaluation, f"AURC {found.aurc:.3f}"))
    _finish(figure, axes)
    _save(figure, path)


def plot_comparison(points: Sequence[ComparisonPoint], path: Path) -> None:
    """UAR against size, after the paper's figure 2: (name, billions of parameters, UAR 0..1, its 95 % interval or None) of each system."""
    if not points:
        raise TrainingError("no system to compare; evaluate one first")
    wrong = [name for name, size, _, _ in points if not size > 0]
    if wrong:
        raise TrainingError(f"{', '.join(wrong)} must have more than 0 parameters to stand on a logarithmic axis; give their number")
    figure, axes = _canvas(7.6, 5.0)
    for _, size, uar, interval in points:
        if interval:
            axes.vlines(size, *interval, color=_BLUE, alpha=0.5, linewidth=2)
        axes.plot(size, uar, "o", color=_BLUE, markersize=8)
    sizes = [size for _, size, _, _ in points]
    ends = [end for _, _, uar, interval in points for end in (uar, *(interval or ()))]
    axes.set(xscale="log", xlim=(min(sizes) / 4, max(sizes) * 4), ylim=(max(0.0, min(ends) - 0.05), min(1.02, max(ends) + 0.05)))
    axes.set(xlabel="parameters", ylabel="UAR (bar: 95 % interval)", title="Unweighted average recall by size")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda billions, _: _size(billions)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    _name_points(axes, points)
    _save(figure, path)


def _name_points(axes: Axes, points: Sequence[ComparisonPoint]) -> None:
    """Names beside their points, towards the middle; from below, moved up where a name of the same side is in the way."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    highest = {True: bottom, False: bottom}
    for name, size, uar, _ in sorted(points, key=lambda point: point[2]):
        smaller_half = size**2 <= left * right
        height = max(uar, highest[smaller_half] + _LABEL_GAP * (top - bottom))
        highest[smaller_half] = height
        aside = (right / left) ** (_LABEL_ASIDE if smaller_half else -_LABEL_ASIDE)
        axes.annotate(
            f"{name}  {uar:.1%}",
            (size, uar),
            (size * aside, height),
            va="center",
            ha="left" if smaller_half else "right",
            arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6} if height > uar else None,
        )


def _size(billions: float) -> str:
    return f"{billions:g} B" if billions >= 1 else f"{1000 * billions:g} M"


def _confidence(evaluation: Evaluation) -> Confidence:
    if evaluation.confidence is None:
        raise TrainingError(f"{evaluation.about.system} gave no probabilities, so nothing about its confidence can be drawn")
    return evaluation.confidence


def _title(what: str, evaluation: Evaluation, detail: str) -> str:
    return f"{what} of {evaluation.about.system}\n{evaluation.clips} clips, {evaluation.speakers} speakers, {detail}"


def _finish(figure: Figure, axes: Axes) -> None:
    """Both axes in per cent, a grid behind, the legend under the axes where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=_DPI, format="png")
