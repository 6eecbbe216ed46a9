"""What BrainFlow's own client says and reads of our simulated Cyton: a transcript, for people.

    python -m cpep_bench.brainflow_transcript [--out FILE.md]

The test `tests/firmware_bridge/test_brainflow_peer.py` checks that it reads every sample. Needs the extra `peers`.
"""

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cpep_bridge import cyton
from cpep_bridge.board_models import SimulatedCyton
from cpep_bridge.simulated_boards import SimulatedBoard
from cpep_edge.versions import code_version

SECONDS = 2.0
N_SHOWN = 6

_CLIENT = f"""
import sys, time
from brainflow.board_shim import BoardIds, BoardShim, BrainFlowInputParams
BoardShim.enable_dev_board_logger()
parameters = BrainFlowInputParams()
parameters.serial_port = sys.argv[1]
board = BoardShim(BoardIds.CYTON_BOARD.value, parameters)
board.prepare_session()
board.start_stream()
time.sleep({SECONDS})
data = board.get_board_data()
board.stop_stream()
board.release_session()
numbers = data[BoardShim.get_package_num_channel(BoardIds.CYTON_BOARD.value)].astype(int).tolist()
channel = data[BoardShim.get_exg_channels(BoardIds.CYTON_BOARD.value)[0]]
gaps = sum((after - before) % 256 != 1 for before, after in zip(numbers, numbers[1:]))
print("samples", len(numbers), "package numbers", numbers[:5], "...", numbers[-2:])
print("gaps in package numbers", gaps)
print("channel 1, uV", [round(value, 3) for value in channel[:{N_SHOWN}].tolist()])
"""


def main() -> None:
    """Run the client and print the transcript."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    text = transcript()
    sys.stdout.write(text)
    if out:
        out.write_text(text)


def transcript() -> str:
    """The transcript as Markdown. Raises CalledProcessError when the client fails."""
    emg_uv = np.random.default_rng(0).normal(0, 100, (1_000, cyton.N_CHANNELS)).astype(np.float32)
    with TemporaryDirectory() as folder:
        link = Path(folder) / "cyton"
        with SimulatedBoard(SimulatedCyton(), [emg_uv], link=link):
            command = [sys.executable, "-W", "ignore", "-c", _CLIENT, str(link)]
            ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    counts = np.rint(emg_uv[:N_SHOWN, 0] / cyton.UV_PER_COUNT)
    sent = [round(float(count) * cyton.UV_PER_COUNT, 3) for count in counts]
    code = code_version("firmware_bridge/cpep_bridge", "benchmarks/cpep_bench/brainflow_transcript.py")
    lines = [
        f"# BrainFlow {version('brainflow')} reads the simulated Cyton",
        "",
        f"Written by `python -m cpep_bench.brainflow_transcript`, code {code}, seed 0. BrainFlow's own client, for",
        f"{SECONDS:g} s, its developer log switched on: `prepare_session`, `start_stream`, `get_board_data`,",
        "`stop_stream`. The last line is what the simulator sent.",
        "",
        "```",
        *ran.stdout.replace(str(link), "/tmp/cyton").splitlines(),
        f"sent on channel 1, uV {sent}",
        "```",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
