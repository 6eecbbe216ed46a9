"""The whole loop on real EMG, if the 3DC recordings are present: import, train, export, replay into `live`."""

from pathlib import Path

import pytest

from measure_3dc import markdown, run_loop

SET = Path(__file__).parents[3] / "shared" / "data" / "3dc"


@pytest.mark.slow
@pytest.mark.skipif(not SET.is_dir(), reason="the 3DC recordings are not here")
def test_live_recognises_most_recordings_of_a_real_person_that_training_never_saw(tmp_path):
    loop = run_loop(SET, tmp_path, participants=[7], settings=["align.epochs=8"])

    hits, n = loop.recognised()
    assert n == 44  # repetitions 5-8 of eleven gestures
    assert hits >= 33
    assert loop.manifest.provenance.data.endswith("poses from templates")
    (replay,) = loop.replays.values()
    assert (replay.summary.link.lost_frames, replay.summary.link.corrupt_frames) == (0, 0)
    assert f"| recordings recognised in the replay | {hits} of {n} |" in markdown(loop, lda=0.8)
