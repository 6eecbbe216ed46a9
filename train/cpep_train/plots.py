"""Pictures of an evaluation."""

from pathlib import Path

import numpy as np

from cpep_edge.files import replacing
from cpep_train.evaluate import Score


def save_confusion(score: Score, path: Path) -> None:
    """Draw a confusion matrix as PNG: rows are the true gestures, each of which sums to 100 %."""
    from matplotlib.figure import Figure

    names, n = score.gesture_names, len(score.gesture_names)
    share = score.confusion / np.maximum(1, score.confusion.sum(axis=1, keepdims=True))
    figure = Figure(figsize=(2.6 + 0.42 * n, 2.2 + 0.42 * n), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(n):
        for column in range(n):
            if share[row, column] >= 0.05:
                colour = "white" if share[row, column] > 0.55 else "black"
                axes.text(column, row, f"{share[row, column]:.0%}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(n), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(n), names, fontsize=8)
    axes.set_xlabel("answered")
    axes.set_ylabel("performed")
    axes.set_title(
        f"{score.gestures} gestures, {score.users} people\nbalanced accuracy {score.balanced_accuracy:.2f} "
        f"[{score.low:.2f}, {score.high:.2f}], chance {score.chance:.2f}",
        fontsize=8,
    )
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of windows")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
