"""`measure_teaching` never tests on recordings that it taught or calibrated with."""

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("myo_sim")

from cpep_edge.blocks import StreamInfo
from cpep_edge.personal import Repetition
from measure_teaching import Person, figures_of


@pytest.mark.parametrize(("data", "n_wearings", "n_figures"), [("3dc", 1, 3), ("simulated", 2, 4), ("myo-wrist", 3, 5)])
def test_no_recording_is_asked_that_taught_or_calibrated(data, n_wearings, n_figures):
    wearings = tuple(
        tuple(
            Repetition(gesture, number, np.full((1, 2), 100 * wearing + number, np.float32), wearing)
            for gesture in ("Rest", "Fist")
            for number in range(1, 9)
        )
        for wearing in range(n_wearings)
    )
    cases = []

    def ask(
        taught: Sequence[Repetition], calibration: Sequence[Repetition], asked: Sequence[Repetition]
    ) -> tuple[float, None]:
        heard, wanted = ({float(one.samples[0, 0]) for one in part} for part in ([*taught, *calibration], asked))
        cases.append((heard, wanted, bool(calibration)))
        return 1.0, None

    person = Person("one", StreamInfo("band", 2, 200.0), wearings)
    figures = list(figures_of(data, person, {"way": ask}))
    assert len(figures) == len(cases) == n_figures
    for figure, (heard, wanted, is_calibrated) in zip(figures, cases, strict=True):
        assert wanted
        assert not heard & wanted
        assert is_calibrated == (figure.protocol == "next wearing")
        if is_calibrated:  # only the first repetitions of the new wearing are used before
            assert {one for one in heard if one >= 100 * (n_wearings - 1)} == {100 * (n_wearings - 1) + 1}
