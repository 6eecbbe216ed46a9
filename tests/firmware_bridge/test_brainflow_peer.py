"""BrainFlow, which is independent of this project, reads our simulated boards sample for sample.

Its client runs in another process, because it is a native library with threads and logs.
"""

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bridge import cyton
from cpep_bridge.board_models import BoardModel, SimulatedCyton, SimulatedProfile
from cpep_bridge.board_profile import find_profile
from cpep_bridge.simulated_boards import SimulatedBoard

pytestmark = pytest.mark.skipif(
    find_spec("brainflow") is None or find_spec("pkg_resources") is None,
    reason="the extra peers is not installed: pip install 'cpep-edge[peers]'",
)

CLIENT = """
import json, sys, time
from brainflow.board_shim import BoardIds, BoardShim, BrainFlowInputParams
BoardShim.disable_board_logger()
board_id, port, wanted = BoardIds[sys.argv[1]].value, sys.argv[2], int(sys.argv[3])
params = BrainFlowInputParams()
params.serial_port = port
board = BoardShim(board_id, params)
board.prepare_session()
board.start_stream()
deadline = time.monotonic() + 20
while board.get_board_data_count() < wanted and time.monotonic() < deadline:
    time.sleep(0.02)
data = board.get_board_data(wanted)
board.stop_stream()
board.release_session()
print(json.dumps({
    "uv": data[BoardShim.get_exg_channels(board_id)].T.tolist(),
    "counters": data[BoardShim.get_package_num_channel(board_id)].tolist(),
    "rate": BoardShim.get_sampling_rate(board_id),
}))
"""


def read_by_brainflow(board_name: str, port: str, n_samples: int) -> dict[str, object]:
    command = [sys.executable, "-W", "ignore", "-c", CLIENT, board_name, port, str(n_samples)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def signal_for(model: BoardModel) -> NDArray[np.float32]:
    rng = np.random.default_rng(8)
    return rng.normal(0, 500, (2_000, model.n_channels)).astype(np.float32)


@pytest.mark.parametrize(("daisy", "board_name"), [(False, "CYTON_BOARD"), (True, "CYTON_DAISY_BOARD")])
def test_brainflows_cyton_clients_read_our_simulator_sample_for_sample(daisy, board_name):
    model = SimulatedCyton(daisy)
    emg_uv = signal_for(model)
    with SimulatedBoard(model, [emg_uv], speed=8.0, lossless=True) as board:
        answer = read_by_brainflow(board_name, board.port, 600)
    read_uv = np.array(answer["uv"])

    assert answer["rate"] == model.sample_rate_hz
    assert read_uv.shape == (600, model.n_channels)
    np.testing.assert_array_equal(np.rint(read_uv / cyton.UV_PER_COUNT), model.counts(emg_uv[:600]))
    np.testing.assert_allclose(read_uv, emg_uv[:600], atol=0.02)
    assert answer["counters"] == [(2 * n if daisy else n) % 256 for n in range(600)]


@pytest.mark.parametrize(
    ("device", "board_name"), [("neuropawn-knight", "NEUROPAWN_KNIGHT_BOARD"), ("freeeeg32", "FREEEEG32_BOARD")]
)
def test_brainflow_reads_boards_that_only_a_profile_describes(device, board_name):
    profile = find_profile(device)
    model = SimulatedProfile(profile)
    emg_uv = signal_for(model)
    with SimulatedBoard(model, [emg_uv], speed=4.0, lossless=True) as board:
        answer = read_by_brainflow(board_name, board.port, 300)
    counts = np.rint(np.array(answer["uv"]) / profile.uv_per_count)
    sent = model.counts(emg_uv)
    start = int(np.flatnonzero((sent == counts[0]).all(axis=1))[0])

    assert answer["rate"] == profile.sample_rate_hz
    np.testing.assert_array_equal(counts, np.roll(sent, -start, axis=0)[:300])
