"""The report of `measure_decisions.py`, and its pictures."""

import io
import math

import numpy as np

_ABOUT = """`python benchmarks/measure_decisions.py --data DATA --out benchmarks/results/decisions`

*Right*, *wrong* and *missed* are shares of the events. An activation counts for an event until the gesture ends. Every
further activation is *extra*, also one that follows a first wrong one. *False an hour* counts activations in signal
without gestures (myo-wrist: a minute of small movements per session; simulated: free movement with knocks). *Delay* is
from the onset of EMG to the end of the deciding window. All methods get the same signal. Brackets are 95 % intervals
over people.

*CLER* is the classification error rate of events and counts misses. *Within 250 ms* computes it like Meta's code, *of
detected* as its paper describes it. For comparison, with new people, but other gestures and bands: .182 for the
released model on ten people, and .153 for TinyMyo.

![delays](delays.png)

![false activations against misses](tradeoff.png)
"""

_COLUMNS = 4  # of a picture


def report(figures: dict[str, dict]) -> str:
    """The figures as Markdown."""
    lines = ["# Decisions, event by event\n", _ABOUT]
    for protocol, ways in figures.items():
        lines += [
            f"## {protocol}\n",
            f"Commit `{ways['commit'][:12]}`.\n",
            "| way | people, events | right | wrong | missed | extra an hour | false an hour, ignored "
            "| delay p50 / p90 ms | CLER | within 250 ms | of detected |",
            "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
            *(_row(way, one) for way, one in ways.items() if way not in ("curves", "commit")),
            "",
        ]
    return "\n".join(lines)


def _row(way: str, one: dict) -> str:
    def share(name: str) -> str:
        return f"{one[name]:.3f}" if one.get(name) is not None else "-"

    def between(name: str, digits: int) -> str:
        if name not in one:
            return "-"
        low, high = one[f"{name}, interval"]
        return f"{one[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    extra = f"{one['extra an hour']:.0f}" if "extra an hour" in one else "-"
    delay = f"{one['p50 ms']:.0f} / {one['p90 ms']:.0f}" if one.get("p50 ms") else "-"
    return (
        f"| {way} | {one['people']}, {one.get('events', '-')} | {between('right', 3)} | {share('wrong')} "
        f"| {share('missed')} | {extra} | {between('false an hour', 0)} | {delay} | {share('CLER')} "
        f"| {share('CLER within 250 ms')} | {share('CLER of detected')} |"
    )


def pictures(figures: dict[str, dict]) -> dict[str, bytes]:
    """Distributions of delays, and false activations against misses."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"belief": "tab:blue", "counting": "tab:orange", "LibEMG": "tab:green"}
    found = {}
    for name in ("delays", "tradeoff"):
        n_rows = math.ceil(len(figures) / _COLUMNS)
        figure, axes = pyplot.subplots(n_rows, _COLUMNS, figsize=(5 * _COLUMNS, 4 * n_rows), squeeze=False)
        for spare in axes.flat[len(figures) :]:
            spare.set_axis_off()
        for axis, (protocol, ways) in zip(axes.flat, figures.items(), strict=False):
            for way, colour in colours.items():
                if name == "delays" and ways[way].get("delays ms"):
                    delays = np.sort(ways[way]["delays ms"])
                    axis.plot(delays, np.arange(1, 1 + len(delays)) / ways[way]["events"], color=colour, label=way)
                    axis.set(xlim=(-100, 1500), xlabel="ms after the onset of EMG", ylabel="events decided rightly")
                if name == "tradeoff":
                    points = ways["curves"][way]
                    rate = "extra an hour" if points[0]["false an hour"] is None else "false an hour"
                    x, y = [1 + point[rate] for point in points], [1 - point["right"] for point in points]
                    axis.plot(x, y, "o-", color=colour, label=way)
                    axis.set(xscale="log", xlim=(1, 1e4), xlabel=f"1 + {rate}", ylabel="events missed or wrong")
            axis.set_ylim(bottom=0)
            axis.set_title(protocol, fontsize=9)
            axis.legend(fontsize=8)
        figure.tight_layout()
        with io.BytesIO() as file:
            figure.savefig(file, format="png", dpi=80)
            found[f"{name}.png"] = file.getvalue()
        pyplot.close(figure)
    return found
