"""The learning curves of a run as one picture, drawn from the `epochs.csv` of its stages."""

import csv
from pathlib import Path

from cpep_edge.files import write_file
from cpep_train.plots import png

CURVES_FILE = "curves.png"
_LOG_FILE = "epochs.csv"
_DRAWN = (("loss", "loss"), ("validation_loss", "loss"), ("top1", "share of windows that find their pose in a batch"))


def draw_curves(run: Path) -> Path:
    """Draw the curves of all stages trained so far into the run's folder."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    logs = {file.parent.name: _columns(file) for file in sorted(run.glob(f"*/{_LOG_FILE}"))}
    stages = [stage for stage in ("emg-mae", "pose-mae", "align") if stage in logs]
    figure = Figure(figsize=(4.4 * len(stages), 3.4), dpi=120, layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        columns, other = logs[stage], None
        for key, label in _DRAWN:
            epochs = [int(n) + 1 for n, value in zip(columns["epoch"], columns[key], strict=True) if value]
            values = [float(value) for value in columns[key] if value]
            if not values:
                continue
            if key == "top1":
                other = axes.twinx()
                other.plot(epochs, values, color="C2", marker=".", label=key)
                other.set_ylabel(label, fontsize=8, color="C2")
            else:
                axes.plot(epochs, values, marker=".", label=key.replace("_", " "))
        axes.set(title=stage, xlabel="epoch", ylabel="loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
    write_file(run / CURVES_FILE, png(figure))
    return run / CURVES_FILE


def _columns(file: Path) -> dict[str, list[str]]:
    with file.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else {})}
