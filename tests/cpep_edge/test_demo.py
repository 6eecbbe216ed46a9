"""What `cpep-edge demo` keeps of an earlier start."""

from pathlib import Path

import pytest

from cpep_edge.cli import demo
from cpep_train.corpus import write_metadata
from cpep_train.simulation import metadata_row
from cpep_train.stages import STAGES


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    """The folder of the demo's people, their files empty."""
    rows = [
        metadata_row(user, session, stage, demo.USERS, demo.SESSIONS_PER_USER)
        for user in range(demo.USERS)
        for session in range(demo.SESSIONS_PER_USER)
        for stage in STAGES
    ]
    for row in rows:
        (tmp_path / f"{row.filename}.hdf5").touch()
    write_metadata(tmp_path, rows)
    return tmp_path


def test_people_that_were_simulated_are_not_simulated_again(simulated: Path) -> None:
    assert demo._is_simulated(simulated)


def test_other_people_or_missing_files_are_no_finished_simulation(simulated: Path, tmp_path: Path) -> None:
    next(simulated.glob("*.hdf5")).unlink()
    assert not demo._is_simulated(simulated)
    write_metadata(simulated, [metadata_row(0, 0, STAGES[0], 1, 1)])
    assert not demo._is_simulated(simulated)
    assert not demo._is_simulated(tmp_path / "nowhere")
