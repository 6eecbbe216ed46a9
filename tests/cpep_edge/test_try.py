"""`cpep-edge try`: how the simulated wearer's signal is cut into repetitions, and the whole command."""

import numpy as np
import pytest

from cpep_edge.bundle import Bundle
from cpep_edge.cli.try_out import BUNDLE, GESTURES, REST, repetitions_of
from cpep_edge.donning import SETTLE_S
from cpep_edge.events import Label
from tests.processes import cpep_edge

RATE_HZ = 100.0


def test_gestures_and_the_rests_between_them_are_cut_out_round_by_round():
    emg_uv = np.arange(3000, dtype=np.float32)[:, None]  # the value of each sample is its index
    labels = (Label("Fist", 5.0, 8.0), Label("Open", 11.0, 14.0), Label("Fist", 17.0, 20.0))
    found = repetitions_of(emg_uv, labels, RATE_HZ)
    made = [one for one in found if one.gesture != REST]
    assert [(one.gesture, one.number) for one in made] == [("Fist", 1), ("Open", 1), ("Fist", 2)]
    for one, label in zip(made, labels, strict=True):
        first_s, last_s = one.samples[0, 0] / RATE_HZ, one.samples[-1, 0] / RATE_HZ
        assert label.start_s - SETTLE_S <= first_s
        assert last_s < label.end_s
    for one in found:
        if one.gesture == REST:
            middle_s = one.samples[len(one.samples) // 2, 0] / RATE_HZ
            assert not any(label.start_s <= middle_s <= label.end_s for label in labels)


@pytest.mark.slow
def test_one_command_leads_from_nothing_to_a_taught_bundle_that_runs(tmp_path):
    for module in ("mujoco", "myo_sim", "starlette", "uvicorn", "segno"):
        pytest.importorskip(module)
    words = ("try", "--no-open", "--seconds", "4", "--web-port", "0", "--out", tmp_path)
    ran = cpep_edge(*words, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert "open http://127.0.0.1:" in ran.stderr
    assert "cpep-edge teach MINE.cpep --port PORT" in ran.stderr
    names = {gesture.name for gesture in Bundle(tmp_path / BUNDLE).manifest.gestures}
    assert names == {REST, *GESTURES}
