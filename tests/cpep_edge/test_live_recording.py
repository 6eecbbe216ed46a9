"""A replay of a recorded run must give the same decisions, also after losses, restarts and skipped windows."""

import itertools
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpep_bridge.recording import journal_of, recover
from cpep_edge.blocks import Block
from cpep_edge.decisions import Decision
from cpep_edge.donning import Donning
from cpep_edge.errors import DataError
from cpep_edge.live_loop import Live, LiveEngine
from cpep_edge.live_recording import LINES_FILE, SESSION_FILE, LiveRecording, is_of_bundle, replay
from cpep_edge.session import Session, SessionMeta, write_session
from tests.cpep_edge.fake_stream import HOP_MS, INFO, RATE_HZ, LevelRecogniser, ListSource, cut, play, without_delay
from tests.processes import files_of_at_most

DONNING = Donning(order=(1, 0), level_uv=np.array([1.25, 0.8], np.float32))


def record(folder: Path, blocks: list[Block], duration_s: float = 0.0) -> list[Decision]:
    recogniser, source = LevelRecogniser(duration_s), ListSource(blocks, pause_s=0.0005 if duration_s else 0.0)
    spec = recogniser.manifest.decision
    keeping = LiveRecording(folder, source, recogniser, hop_ms=HOP_MS, spec=spec, donning=DONNING)
    with closing(keeping) as tap:
        return list(Live(source, recogniser, hop_ms=HOP_MS, donning=DONNING, taps=[tap]))


def harmed(n_samples: int = 6000) -> list[Block]:
    """A noisy signal with a short loss, a long one, a restart, and clocks of microseconds."""
    rng = np.random.default_rng(3)
    signal = np.repeat(rng.integers(0, 2, n_samples // 100), 100) + rng.normal(0, 0.3, n_samples)
    blocks = [replace(block, device_t_s=block.device_t_s * 1.00003 + 17.0) for block in cut(signal, 7)]
    kept = [block for number, block in enumerate(blocks) if number % 97 and not 300 <= number < 320]
    return kept + cut(signal[:2000], 13, boot_id=9)


def test_a_replay_gives_the_same_decisions_bit_for_bit(tmp_path):
    live = record(tmp_path / "run", harmed(), duration_s=0.01)
    again = list(replay(tmp_path / "run", LevelRecogniser()))
    assert without_delay(again) == without_delay(live)
    assert any(decision.interpolated for decision in live)
    ends = [decision.sample_index for decision in live]
    assert max(later - earlier for earlier, later in itertools.pairwise(ends)) > HOP_MS  # some windows were skipped


def test_the_samples_are_an_ordinary_session_and_the_lines_tell_the_rest(tmp_path):
    decisions = record(tmp_path / "run", cut(np.ones(1000), 10))
    with Session(tmp_path / "run" / SESSION_FILE) as session:
        assert (session.n_samples, session.meta.stage, len(session.gaps())) == (1000, "live", 0)
    lines = [json.loads(line) for line in (tmp_path / "run" / LINES_FILE).read_text().splitlines()]
    assert [line["type"] for line in (lines[0], lines[-1])] == ["recording", "end"]
    assert sum(line["type"] == "block" for line in lines) == 100
    assert sum(line["type"] == "decision" for line in lines) == len(decisions)


def test_lines_that_a_kill_cut_short_are_replayed_as_far_as_they_go(tmp_path):
    live = record(tmp_path / "run", cut(np.ones(1000), 10))
    lines = tmp_path / "run" / LINES_FILE
    text = lines.read_text()
    lines.write_text(text[: text.rindex('{"type": "decision"') + 30])
    assert without_delay(replay(tmp_path / "run", LevelRecogniser())) == without_delay(live[:-1])


def test_a_plain_session_is_replayed_with_its_gaps(tmp_path):
    signal = np.repeat(np.arange(2000)[:, None] % 700 > 350, 2, axis=1).astype(np.float32)
    kept = np.r_[0:900, 905:2000]
    meta = SessionMeta("s", "u", "Fist", "left", 0.0, 2.0, 2, RATE_HZ, "plain")
    write_session(tmp_path / "plain.hdf5", meta, 100 + kept / RATE_HZ, signal[kept])
    blocks = (*cut(signal[:900, 0]), *cut(signal[905:, 0], first=905))
    expected = play(blocks, LiveEngine(LevelRecogniser(), INFO, hop_ms=HOP_MS))
    assert without_delay(replay(tmp_path / "plain.hdf5", LevelRecogniser())) == without_delay(expected)


def test_a_recording_knows_the_encoder_it_was_made_with(tmp_path):
    record(tmp_path / "run", cut(np.ones(400)))
    other = LevelRecogniser()
    assert is_of_bundle(tmp_path / "run", other)
    other.manifest.files["encoder.pte"].sha256 = "1" * 64
    assert not is_of_bundle(tmp_path / "run", other)


def test_a_folder_that_holds_a_recording_is_not_written_over(tmp_path):
    record(tmp_path / "run", cut(np.ones(400)))
    with pytest.raises(DataError, match="already holds a recording"):
        record(tmp_path / "run", cut(np.ones(400)))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text.replace('"type": "block"', '"type": "blo', 1), "line 2 is damaged"),
        (lambda text: text.replace('"schema": 2', '"schema": 9'), "of another version"),
        (lambda text: text.replace('"n": 10', '"n": "ten"', 1), "a whole number belongs"),
    ],
)
def test_a_damaged_recording_is_said(tmp_path, harm, said):
    record(tmp_path / "run", cut(np.ones(400), 10))
    lines = tmp_path / "run" / LINES_FILE
    lines.write_text(harm(lines.read_text()))
    with pytest.raises(DataError, match=said):
        list(replay(tmp_path / "run", LevelRecogniser()))


def test_a_disk_that_fills_is_a_sentence_and_the_signal_so_far_is_kept(tmp_path):
    said = "cannot .*writ.* File too large; .*record --recover"
    with files_of_at_most(20_000), pytest.raises(DataError, match=said):
        record(tmp_path / "run", cut(np.ones(6_000), 10))
    assert recover(journal_of(tmp_path / "run" / SESSION_FILE)).n_samples > 500
