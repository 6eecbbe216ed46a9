"""An evaluation as one HTML page, as JSON beside it, and as tables and figures for a paper."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from cpep_edge.folders import write_reports
from cpep_edge.json_text import to_json
from cpep_edge.report_page import Section, figure, folded, page, paragraph, table, to_pdf, to_svg
from cpep_edge.report_table import Table, to_csv, to_latex
from cpep_edge.spread import evenly_spread
from cpep_train import plots
from cpep_train.embedded_windows import EmbeddedWindows, ProtocolScores
from cpep_train.evaluate import USERS, Score
from cpep_train.protocols import Evaluation, Retrieval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE = "evaluation.html"
FIGURES_FILE = "evaluation.json"
CSV_FILE = "evaluation.csv"
LATEX_FILE = "evaluation.tex"

_OF_TEMPLATES = "Poses are templates, written by hand, not recorded: figures say how well EMG is told apart."
_MOST_DOTS = 3_000  # per kind, in the map of embeddings
_TITLES = {
    "zero-shot": "Zero-shot",
    "probe": "Linear probe",
    "enrolment": "Enrolment",
}


def write_report(found: Evaluation, embedded: EmbeddedWindows, out: Path) -> Path:
    """Write the page, JSON, CSV, LaTeX, and each figure as SVG and PDF into a folder; returns the path of the page."""
    drawn = _drawn(found, embedded)
    contents = {
        FIGURES_FILE: (to_json(_figures(found, embedded), indent=1) + "\n").encode(),
        PAGE_FILE: _page(found, embedded, drawn).encode(),
        CSV_FILE: to_csv(tables(found)).encode(),
        LATEX_FILE: to_latex(tables(found)).encode(),
    }
    for name, (shown, _) in drawn.items():
        contents |= {f"{name}.svg": to_svg(shown), f"{name}.pdf": to_pdf(shown)}
    write_reports(out, contents)
    return out / PAGE_FILE


def tables(found: Evaluation) -> list[Table]:
    """All figures of an evaluation, one table per reading."""
    shown = [_score_table(reading) for reading in found.readings]
    return [*shown, _retrieval_table(found.retrieval)] if found.retrieval else shown


def _page(found: Evaluation, embedded: EmbeddedWindows, drawn: "dict[str, tuple[Figure, str]]") -> str:
    checkpoint = embedded.checkpoint
    recipe, origin = checkpoint.recipe, checkpoint.provenance
    sections = []
    for protocol in dict.fromkeys(reading.protocol for reading in found.readings):
        first, *others = [reading for reading in found.readings if reading.protocol == protocol]
        body = table(_score_table(first))
        mine = {name: one for name, one in drawn.items() if name.startswith(protocol)}
        shown = [name for name in mine if name in (f"{protocol}-seen-confusion", f"{protocol}-unseen-confusion")]
        for name in shown:
            body += figure(*mine[name])
        more = [figure(*one) for name, one in mine.items() if name not in shown]
        if more:
            body += folded("Among all gestures, and person by person", Markup("").join(more))
        for reading in others:
            body += folded(f"Read another way: {reading.name}", table(_score_table(reading)))
        sections.append(Section(_TITLES.get(protocol, protocol.capitalize()), body))
    if found.retrieval:
        sections.append(Section("Retrieval and geometry", table(_retrieval_table(found.retrieval))))
    sections.append(Section("Map", figure(*drawn["map"])))
    sections.append(Section("How it was judged", _origin(embedded)))
    return page(
        "cpep-edge eval",
        f"Evaluation of {recipe.name}",
        _headline(found, origin.data),
        sections,
        cards=_cards(found),
        warnings=[] if embedded.checkpoint.recipe.pose.source == "recorded" else [_OF_TEMPLATES],
    )


def _headline(found: Evaluation, data: str) -> str:
    score = next((one for one in _scores(found) if (one.users, one.gestures) == ("held-out", "unseen")), None)
    if score is None:
        return f"Trained on {data}."
    apart = "are told apart" if score.low > score.chance else "are not clearly told apart"
    return (
        f"Trained on {data}: gestures that training never saw {apart} in people whom it never saw, "
        f"{score.balanced_accuracy:.2f} [{score.low:.2f}, {score.high:.2f}] where chance is {score.chance:.2f}."
    )


def _cards(found: Evaluation) -> list[tuple[str, str]]:
    of_bundle = next((one.scores for one in found.readings if one.penalty), ())  # the reading that exported bundles use
    penalised = {(one.users, one.gestures): one for one in of_bundle}
    scores = [
        penalised.get((one.users, one.gestures), one) for one in _scores(found) if one.users == _users(_scores(found))
    ]
    return [(f"{one.balanced_accuracy:.3f}", f"{one.gestures}, {one.users} people") for one in scores[:6]]


def _scores(found: Evaluation) -> Sequence[Score]:
    """The scores of the first reading, which the page shows first."""
    return found.readings[0].scores if found.readings else ()


def _users(scores: Sequence[Score]) -> str:
    """Held-out people, or known ones when none are held out."""
    return next((kind for kind in USERS if any(score.users == kind for score in scores)), "")


def _origin(embedded: EmbeddedWindows) -> Markup:
    recipe, origin = embedded.checkpoint.recipe, embedded.checkpoint.provenance
    return paragraph(
        f"Recipe {recipe.name}, seed {recipe.seed}, trained on {origin.data}, commit "
        f"{origin.git_commit[:10] or 'unknown'}. Accuracy is balanced over gestures; intervals are 95 %, by drawing "
        "people with replacement. No recording asked about was trained on: splits were audited by person, session and "
        "content. Whether people are real or simulated is the corpus' to say.",
        note=True,
    )


def _drawn(found: Evaluation, embedded: EmbeddedWindows) -> "dict[str, tuple[Figure, str]]":
    """Every figure with its caption, by file name."""
    drawn = {}
    for protocol in ("zero-shot", "probe"):
        reading = next((one for one in found.readings if one.protocol == protocol), None)
        for score in () if reading is None else reading.scores:
            if score.users != _users(reading.scores if reading else ()) or not score.confusion.any():
                continue
            what = f"{score.gestures} gestures, {score.users} people"
            name = f"{protocol}-{score.gestures.replace(' ', '-')}"
            drawn[f"{name}-confusion"] = plots.confusion_figure(score), f"Confusion, {what}"
            drawn[f"{name}-people"] = plots.people_figure(score), f"Accuracy of each person, {what}"
    return drawn | {"map": (_map(embedded), "Principal components of the poses, and EMG on the same axes")}


def _map(embedded: EmbeddedWindows) -> "Figure":
    examples = embedded.examples
    asked, looked_up = (evenly_spread(len(one), _MOST_DOTS) for one in (embedded.queries, embedded.references))
    return plots.pca_figure(
        embedded.queries[asked],
        examples.queries.gesture_index[asked],
        embedded.references[looked_up],
        examples.references.gesture_index[looked_up],
        examples.gestures,
        int(examples.seen.sum()),
    )


def _score_table(reading: ProtocolScores) -> Table:
    rows = [
        (
            f"{s.gestures}, {s.users} people",
            f"{s.balanced_accuracy:.3f}",
            f"{s.low:.3f} to {s.high:.3f}",
            f"{s.chance:.3f}",
            str(s.n_windows),
            str(s.n_users),
        )
        for s in reading.scores
    ]
    head = ("gestures and people", "balanced accuracy", "95 % interval", "chance", "windows", "people")
    return Table(head, tuple(rows), name=f"{reading.protocol}: {reading.name}")


def _retrieval_table(found: Sequence[Retrieval]) -> Table:
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
    return Table(("", *kinds), tuple(rows), name="retrieval, all gestures in the index")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _figures(found: Evaluation, embedded: EmbeddedWindows) -> dict[str, object]:
    checkpoint = embedded.checkpoint
    return {
        "recipe": checkpoint.recipe.name,
        "seed": checkpoint.recipe.seed,
        "pose_source": checkpoint.recipe.pose.source,
        "provenance": checkpoint.provenance.model_dump(),
        **asdict(found),
    }
