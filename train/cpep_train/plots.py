"""Figures of an evaluation, in the colours of `cpep_edge.report_page`."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from cpep_edge.names import shown_name
from cpep_edge.report_page import INK, PAPER, SERIES
from cpep_train.evaluate import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cpep_train.robustness import Robustness

_COLOURS: dict[Any, str] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
}
_LABELLED_SHARE = 0.05  # cells with a smaller share of their row get no number in a confusion matrix
_FEWER_LABELS = 13  # with more gestures than this, cells show the number without a sign


_Drawing = ParamSpec("_Drawing")


def _in_page_colours(draw: Callable[_Drawing, "Figure"]) -> Callable[_Drawing, "Figure"]:
    @wraps(draw)
    def drawn(*given: _Drawing.args, **named: _Drawing.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(_COLOURS):
            return draw(*given, **named)

    return drawn


@_in_page_colours
def confusion_figure(score: Score) -> "Figure":
    """A confusion matrix: rows are the true gestures, columns all gestures that could be answered."""
    from matplotlib.patches import Rectangle

    asked = np.flatnonzero(score.confusion.sum(axis=1))
    names = [shown_name(name) for name in score.gesture_names]
    n_rows, n_columns = len(asked), len(names)
    share = score.confusion[asked] / score.confusion[asked].sum(axis=1, keepdims=True)
    figure = _figure(2.2 + 0.34 * n_columns, 1.9 + 0.34 * n_rows)
    axes = figure.add_subplot()
    for row, column in zip(*np.nonzero(share), strict=True):
        value = float(share[row, column])
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=SERIES[0], alpha=value, linewidth=0))
        if value >= _LABELLED_SHARE:
            text = f"{value:.0%}" if n_columns < _FEWER_LABELS else f"{100 * value:.0f}"
            colour = PAPER if value > 0.55 else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlim(-0.5, n_columns - 0.5)
    axes.set_ylim(n_rows - 0.5, -0.5)
    axes.set_xticks(range(n_columns), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(n_rows), [names[g] for g in asked], fontsize=8)
    axes.set_xlabel("answered")
    axes.set_ylabel("performed")
    axes.set_title(
        f"{score.gestures} gestures, {score.users} people\nbalanced accuracy {score.balanced_accuracy:.2f} "
        f"[{score.low:.2f}, {score.high:.2f}], chance {score.chance:.2f}",
        fontsize=8,
    )
    return figure


@_in_page_colours
def pca_figure(
    emg: NDArray[np.float32],
    emg_gesture: NDArray[np.int64],
    pose: NDArray[np.float32],
    pose_gesture: NDArray[np.int64],
    names: tuple[str, ...],
    n_seen: int,
) -> "Figure":
    """EMG and pose embeddings on the first two principal components of the poses, one colour per gesture.

    Each side has its own scale, because contrastive training leaves EMG in a small patch of the sphere (Liang et al.
    2022).
    emg: (Q, D), pose: (R, D); gestures from `n_seen` on were held out of training and are drawn as crosses
    """
    from matplotlib import colormaps

    centre = pose.mean(axis=0)
    _, spread, axes_of_pose = np.linalg.svd(pose - centre, full_matrices=False)
    plane = axes_of_pose[:2].T
    share = spread[:2] ** 2 / np.sum(spread**2)
    figure = _figure(10.0, 4.8)
    sides = figure.subplots(1, 2)
    colours = colormaps["tab20"](np.arange(len(names)) % 20)
    for axes, rows, gesture, title in (
        (sides[0], pose, pose_gesture, "poses in the index"),
        (sides[1], emg, emg_gesture, "EMG windows asked about, on the same axes at another scale"),
    ):
        for number, name in enumerate(names):
            points = (rows[gesture == number] - centre) @ plane
            marker = "." if number < n_seen else "x"
            label = shown_name(name) if number < n_seen else f"{shown_name(name)} (held out)"
            axes.scatter(
                points[:, 0], points[:, 1], s=14, alpha=0.5, marker=marker, color=colours[number], label=label,
                rasterized=True,
            )  # fmt: skip
        axes.set_title(title, fontsize=8)
        axes.set_xlabel(f"first component of the poses, {share[0]:.0%} of their variance", fontsize=8)
    sides[0].set_ylabel(f"second, {share[1]:.0%}", fontsize=8)
    handles, labels = sides[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7, markerscale=1.6, frameon=False)
    return figure


@_in_page_colours
def people_figure(score: Score) -> "Figure":
    """One bar per person, with the interval over people and the chance level."""
    names = sorted(score.by_user, key=lambda name: score.by_user[name])
    figure = _figure(max(4.0, 1.6 + 0.34 * len(names)), 3.0)
    axes = figure.add_subplot()
    axes.bar(range(len(names)), [score.by_user[name] for name in names], color=SERIES[0])
    axes.axhline(score.chance, color=SERIES[1], linewidth=1, linestyle="--", label="chance")
    axes.axhspan(score.low, score.high, color=SERIES[0], alpha=0.15, linewidth=0, label="95 % interval of the mean")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_ylim(0, 1)
    axes.set_ylabel("balanced accuracy", fontsize=8)
    axes.set_title(f"{score.gestures} gestures, {score.users} people", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return figure


@_in_page_colours
def robustness_figure(found: "Robustness") -> "Figure":
    """One panel per disturbance: accuracy and its interval by strength, with the undisturbed accuracy as a line."""
    undisturbed, *points = found.points
    names = list(dict.fromkeys(point.disturbance for point in points))
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    figure = _figure(4.0 * n_columns, 2.9 * n_rows + 0.4)
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
    for panel in panels[len(names) :]:
        panel.remove()
    for panel, name in zip(panels, names, strict=False):
        mine = [point for point in points if point.disturbance == name]
        places = range(len(mine))
        for number, clean in enumerate(undisturbed.scores):
            colour = SERIES[number % len(SERIES)]
            scores = [next((s for s in p.scores if s.gestures == clean.gestures), None) for p in mine]
            shown = [(place, s) for place, s in zip(places, scores, strict=True) if s is not None]
            middle = [s.balanced_accuracy for _, s in shown]
            spread = [[s.balanced_accuracy - s.low for _, s in shown], [s.high - s.balanced_accuracy for _, s in shown]]
            label = f"{clean.gestures}, {clean.users} people"
            panel.errorbar([x for x, _ in shown], middle, spread, color=colour, marker="o", capsize=2, label=label)
            panel.axhline(clean.balanced_accuracy, color=colour, linewidth=0.8, linestyle="--")
            panel.axhline(clean.chance, color=colour, linewidth=0.8, linestyle=":")
        panel.set_xticks(places, [f"{point.value:g}" for point in mine], fontsize=8)
        panel.set_title(f"{name}, {mine[0].strength.split(' ', 1)[1]}", fontsize=9)
        panel.set_ylim(0, 1)
    for row in range(n_rows):
        panels[row * n_columns].set_ylabel("balanced accuracy", fontsize=8)
    panels[0].legend(fontsize=7)
    figure.supxlabel("dashed: undisturbed; dotted: chance; bars: 95 % over people", fontsize=8)
    return figure


@_in_page_colours
def interval_figure(kinds: Mapping[str, Sequence[tuple[str, float, float, float, float]]], title: str) -> "Figure":
    """One panel per kind of query: each item compared, with its mean, its interval and the chance level.

    kinds: name, mean, low, high, chance
    """
    n_rows = max(len(rows) for rows in kinds.values())
    figure = _figure(2.2 + 2.4 * len(kinds), 1.1 + 0.28 * n_rows)
    panels = figure.subplots(1, len(kinds), sharey=False, squeeze=False).ravel()
    for panel, (kind, rows) in zip(panels, kinds.items(), strict=True):
        places = range(len(rows))
        spread = [[mean - low for _, mean, low, _, _ in rows], [high - mean for _, mean, _, high, _ in rows]]
        panel.errorbar([row[1] for row in rows], places, xerr=spread, fmt="o", color=SERIES[0], capsize=2)
        panel.scatter([row[4] for row in rows], places, marker="|", color=SERIES[1], label="chance")
        panel.set_yticks(places, [row[0] for row in rows] if panel is panels[0] else [""] * len(rows), fontsize=8)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_xlim(0, 1)
        panel.set_title(kind, fontsize=8)
    panels[0].legend(fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return figure


def png(figure: "Figure") -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")
