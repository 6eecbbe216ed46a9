"""The plot of a recorded run shows the decisions and their times."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.donning import Donning
from cpep_edge.live_loop import Live
from cpep_edge.live_recording import LiveRecording
from examples.plot_recording import plot_recording
from tests.cpep_edge.fake_stream import HOP_MS, LevelRecogniser, ListSource, cut

UP_AND_DOWN = np.repeat([0.0, 1.0, 0.0, 1.0], 1000)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "run"
    recogniser = LevelRecogniser()
    source = ListSource(cut(UP_AND_DOWN), recogniser=recogniser)
    spec = recogniser.manifest.decision
    keeping = LiveRecording(folder, source, recogniser, hop_ms=HOP_MS, spec=spec, donning=Donning())
    with closing(keeping) as tap:
        list(Live(source, recogniser, hop_ms=HOP_MS, taps=[tap]))
    return folder


def test_the_plot_shows_each_gesture_where_it_stood(recording):
    (axes,) = plot_recording(recording).axes
    spans = {}
    for patch in axes.patches:
        spans.setdefault(patch.get_label(), []).append((patch.get_x(), patch.get_x() + patch.get_width()))
    assert [name for name, stood in spans.items() if len(stood) == 2] == ["Low", "High"]
    for start_s, end_s in spans["High"]:
        inside = UP_AND_DOWN[round(1000 * start_s) : round(1000 * end_s)]
        assert inside.mean() > 0.4  # decisions begin and end with a delay
