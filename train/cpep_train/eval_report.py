"""An evaluation as one HTML page that needs nothing else, and as JSON beside it."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpep_edge.folders import write_reports
from cpep_edge.json_text import to_json
from cpep_train import plots
from cpep_train.evaluate import USERS, Score
from cpep_train.material import Material, Reading
from cpep_train.protocols import Evaluation, Retrieval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE = "evaluation.html"
FIGURES_FILE = "evaluation.json"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.4rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 0.6rem 0 1.4rem; } caption { text-align: left; font-weight: 600; }
th, td { padding: 0.15rem 0.7rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; } img { max-width: 100%; }
.pictures { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem; } .pictures img { max-width: 46rem; }
"""


def write_report(found: Evaluation, material: Material, out: Path) -> Path:
    """Write evaluation.html and evaluation.json into a folder; returns the path of the page."""
    figures = to_json(_figures(found, material), indent=1) + "\n"
    write_reports(out, {FIGURES_FILE: figures.encode(), PAGE_FILE: _page(found, material).encode()})
    return out / PAGE_FILE


def _page(found: Evaluation, material: Material) -> str:
    checkpoint = material.checkpoint
    recipe, origin = checkpoint.recipe, checkpoint.provenance
    parts = [
        f"<h1>Evaluation of {escape(recipe.name)}</h1>",
        f"<p>Recipe <b>{escape(recipe.name)}</b>, seed {recipe.seed}, trained on <b>{escape(origin.data)}</b>, commit "
        f"<code>{escape(origin.git_commit[:10] or 'unknown')}</code>. {_what_the_data_is(material)} Accuracy is "
        "balanced over gestures; intervals are 95 %, by drawing people with replacement. No recording asked about was "
        "trained on: splits were audited by person, session and content.</p>",
    ]
    for protocol in dict.fromkeys(reading.protocol for reading in found.readings):
        readings = [reading for reading in found.readings if reading.protocol == protocol]
        parts.append(f"<h2>{protocol.capitalize()}</h2>")
        parts += [_score_table(reading) for reading in readings]
        if protocol in ("zero-shot", "probe"):
            parts.append(_pictures(readings[0].scores))
    if found.retrieval:
        parts += ["<h2>Retrieval and geometry</h2>", _retrieval_table(found.retrieval)]
    parts += ["<h2>Map</h2>", _image(plots.png(_map(material)), "principal components of the poses")]
    body = "\n".join(parts)
    title = escape(f"evaluation of {recipe.name}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _what_the_data_is(material: Material) -> str:
    if material.checkpoint.recipe.pose.source != "recorded":
        return "Poses are <b>templates</b>, written by hand, not recorded: figures say how well EMG is told apart."
    return "Whether people are real or simulated is the corpus' to say."


def _pictures(scores: Sequence[Score]) -> str:
    """Confusion and people of every kind of question to held-out people, or to known ones where none are held out."""
    users = next(kind for kind in USERS if any(score.users == kind for score in scores))
    images = []
    for score in (score for score in scores if score.users == users):
        what = f"{score.gestures} gestures, {score.users} people"
        confusion = _image(plots.png(plots.confusion_figure(score)), f"confusion, {what}")
        images.append(confusion + _image(plots.png(plots.people_figure(score)), f"accuracy of each person, {what}"))
    return "\n".join(f'<div class="pictures">{pair}</div>' for pair in images)


def _map(material: Material, n_most: int = 3_000) -> "Figure":
    examples = material.examples
    asked = _spread(len(material.queries), n_most)
    looked_up = _spread(len(material.references), n_most)
    return plots.pca_figure(
        material.one_vector(material.queries[asked]),
        examples.queries.gesture_index[asked],
        material.references[looked_up],
        examples.references.gesture_index[looked_up],
        examples.gestures,
        int(examples.seen.sum()),
    )


def _spread(n: int, n_most: int) -> NDArray[np.intp]:
    places: NDArray[np.intp] = np.linspace(0, n - 1, min(n, n_most)).astype(np.intp)
    return places


def _score_table(reading: Reading) -> str:
    header = ("people", "gestures", "balanced accuracy", "95 % interval", "chance", "windows", "people asked")
    rows = [
        (
            s.users,
            s.gestures,
            f"{s.balanced_accuracy:.3f}",
            f"{s.low:.3f} to {s.high:.3f}",
            f"{s.chance:.3f}",
            str(s.n_windows),
            str(s.n_users),
        )
        for s in reading.scores
    ]
    return _table(reading.name, header, rows)


def _retrieval_table(found: Sequence[Retrieval]) -> str:
    kinds = [f"{kind.users}, {kind.gestures}" for kind in found]
    rows = [("windows", *(str(kind.n_windows) for kind in found))]
    for k in found[0].recall:
        rows.append((f"pose of the gesture among {k}", *(f"{x.recall[k]:.3f}" for x in found)))
        rows.append((f"the same by chance, {k}", *(f"{x.chance[k]:.3f}" for x in found)))
    for k in found[0].recall:
        rows.append((f"own moment's pose among {k}", *(_number((x.own_pose_recall or {}).get(k)) for x in found)))
    names = () if found[0].quality is None else tuple(asdict(found[0].quality))
    for name in names:
        values = (None if x.quality is None else getattr(x.quality, name) for x in found)
        rows.append((name.replace("_", " "), *(_number(value) for value in values)))
    return _table("all gestures in the index", ("", *kinds), rows)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>\n{body}</table>"


def _image(content: bytes, what: str) -> str:
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _figures(found: Evaluation, material: Material) -> dict[str, object]:
    checkpoint = material.checkpoint
    return {
        "recipe": checkpoint.recipe.name,
        "seed": checkpoint.recipe.seed,
        "pose_source": checkpoint.recipe.pose.source,
        "provenance": checkpoint.provenance.model_dump(),
        **asdict(found),
    }
