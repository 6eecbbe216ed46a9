"""A long run of the link under constant faults: a simulated band loses, damages, repeats and reorders frames, its clock
drifts, it stalls and is unplugged, and the reader stalls now and then.

Every sample that arrives is compared with the one that was played, and the host's counts with the band's own. At the
same time runs a simulated board that sends lines of text and has no boot_id. It is slower than its nominal rate, and
its counter restarts.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from cpep_bridge.band import Band
from cpep_bridge.board_models import SimulatedProfile
from cpep_bridge.board_profile import ProfiledBoard, find_profile
from cpep_bridge.boards import Board
from cpep_bridge.reopening import Reopener
from cpep_bridge.simulated import SentCounts
from cpep_bridge.simulated_boards import SimulatedBoard
from cpep_bridge.simulator import UV_PER_COUNT, SimulatedBand
from cpep_bridge.transports import BAUD
from cpep_edge.blocks import Block, LinkCounts
from cpep_edge.versions import code_version, installed_versions

RATE_HZ = 2_000.0
N_CHANNELS = 16

_PERIOD_SAMPLES = 20_011  # prime, so that the signal never repeats in step with frames or counters
_LINE_SAMPLES = 1_200  # two full ptys: one unread when the line breaks, one discarded when it is opened again
_GROWTH_LIMIT_MB = 8.0
_P99_LIMIT = 1.5  # the last third's p99 may be so many times the first third's, plus a millisecond
_BOARD = "csv-lines"
_BOARD_PERIOD = 997  # samples
_RATE_LIMIT = 0.01  # largest relative error of the measured rate
_ON_ITS_WAY = 1_000  # samples that a restart may lose: two seconds of the board's signal
_SEEN_AFTER_S = 2.0  # by then, a board that was reset sends again
_CALM_AFTER_S = 1.0  # after a stall or unplugging, delays are not measured for so long


@dataclass(frozen=True, slots=True)
class Harm:
    """The faults of the link, all at the same time."""

    loss: float = 0.002  # this and the next five: probability for each frame
    corrupt: float = 0.002
    cut: float = 0.002
    duplicate: float = 0.002
    reorder: float = 0.002
    noise: float = 0.002
    drift_ppm: float = 80.0
    unplug_every_s: float = 60.0
    unplugged_s: float = 0.7
    band_stall_every_s: float = 35.0
    band_stalled_s: float = 0.2
    silent_every_s: float = 150.0  # the silence is longer than the reader waits, so it reopens the line
    silent_s: float = 3.0
    reader_stall_every_s: float = 45.0
    reader_stalled_s: float = 0.4
    board_rate: float = 0.95  # the board's real rate, as a share of its nominal one
    board_reset_every_s: float = 100.0


@dataclass(frozen=True, slots=True)
class BoardReport:
    """The result for the board that runs at the same time as the band."""

    sent: SentCounts
    counts: LinkCounts
    received_samples: int
    wrong_samples: int
    resets: int  # of the board
    streams_begun_anew: int  # new streams that the host saw after the first
    true_hz: float


@dataclass(frozen=True, slots=True)
class Minute:
    """The figures of one stretch of the run, which is a minute by default."""

    start_s: float
    n_blocks: int
    delay_p50_ms: float  # from the last sample of a block to its arrival, without the time around stalls
    delay_p99_ms: float
    delay_max_ms: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class SoakReport:
    """The result of a soak run."""

    seconds: float  # of signal
    wall_s: float
    harm: Harm
    sent: SentCounts
    counts: LinkCounts
    board: BoardReport
    received_samples: int
    wrong_samples: int  # received, but different from those that were played
    unaccounted_samples: int  # played, but neither received nor counted as lost; negative if counted twice
    cpu_share: float  # of one core, band and reader together
    minutes: list[Minute]
    faults: list[str]  # violated requirements, in words; empty when the run passed
    seed: int
    code: str  # commit
    versions: dict[str, str]
    machine: str

    @property
    def passed(self) -> bool:
        """Whether the run found no fault of the link."""
        return not self.faults


@dataclass(slots=True)
class _Watch:
    """Counts and delays, collected during the run."""

    truth: NDArray[np.float32]
    received: int = 0
    wrong: int = 0
    delays_ms: list[float] = field(default_factory=list)
    minutes: list[Minute] = field(default_factory=list)

    def check(self, block: Block) -> None:
        place = (block.sample_index + np.arange(len(block.samples_uv))) % len(self.truth)
        self.received += len(place)
        self.wrong += int(np.count_nonzero((block.samples_uv != self.truth[place]).any(axis=1)))

    def close_minute(self, start_s: float) -> None:
        if self.delays_ms:
            p50, p99 = np.percentile(self.delays_ms, (50, 99))
            greatest = max(self.delays_ms)
            self.minutes.append(Minute(start_s, len(self.delays_ms), float(p50), float(p99), greatest, _rss_mb()))
        self.delays_ms.clear()


def soak(
    seconds: float,
    *,
    harm: Harm | None = None,
    speed: float = 1.0,
    seed: int = 0,
    minute_s: float = 60.0,
    machine: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SoakReport:
    """Run for so many seconds of signal.

    speed: how many times faster than real time, for tests; the times of `harm` are those of the signal
    minute_s: seconds of signal per `Minute` of the report
    machine: the description of the machine, for the report
    progress: is called with the seconds done and in all
    """
    harm = harm or Harm()
    truth = _signal(seed)
    n_periods, rest = divmod(round(seconds * RATE_HZ), len(truth))
    segments = [truth] * n_periods + ([truth[:rest]] if rest else [])
    watch = _Watch(truth)
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    with TemporaryDirectory() as folder:
        link = Path(folder) / "band"
        band = SimulatedBand(
            segments,
            RATE_HZ,
            link=link,
            speed=speed,
            loss=harm.loss,
            corrupt=harm.corrupt,
            cut=harm.cut,
            duplicate=harm.duplicate,
            reorder=harm.reorder,
            noise=harm.noise,
            drift_ppm=harm.drift_ppm,
            once=True,
            seed=seed,
        )
        aside = _BoardRun(harm, seed, seconds / speed)
        with aside, band, Band(Reopener(str(link), BAUD), reconnect_s=30.0) as reader:
            _read(reader, band, watch, harm, speed, minute_s, lambda done: progress(round(done), round(seconds)))
            counts = reader.counts
        sent = band.sent
    wall_s = time.monotonic() - started_s
    unaccounted = sent.samples - watch.received - counts.lost_samples
    return SoakReport(
        seconds=seconds,
        wall_s=wall_s,
        harm=harm,
        sent=sent,
        counts=counts,
        board=aside.report(),
        received_samples=watch.received,
        wrong_samples=watch.wrong,
        unaccounted_samples=unaccounted,
        cpu_share=(time.process_time() - started_cpu_s) / wall_s,
        minutes=watch.minutes,
        faults=[
            *_count_faults(watch, sent, counts, unaccounted),
            *_board_faults(aside.report()),
            *(_trend_faults(watch.minutes) if speed == 1 else ()),
        ],
        seed=seed,
        code=code_version("firmware_bridge/cpep_bridge"),
        versions=installed_versions(("numpy", "pyserial", "cobs")),
        machine=machine,
    )


def to_markdown(report: SoakReport) -> str:
    """The report as text."""
    sent, counts, minutes, board = report.sent, report.counts, report.minutes, report.board
    lines = [
        f"# Soak run: {report.seconds:g} s of signal, {'passed' if report.passed else 'FAILED'}",
        "",
        *(f"- FAULT: {fault}" for fault in report.faults),
        f"- {N_CHANNELS} channels at {RATE_HZ:g} Hz from a simulated band on a pty, in {report.wall_s:.0f} s of wall "
        f"clock; band, board and readers together took {report.cpu_share:.1%} of a core.",
        f"- {sent.samples} samples were made: {report.received_samples} received, {counts.lost_samples} counted as "
        f"lost, {report.unaccounted_samples} unaccounted for. {report.wrong_samples} of those received differ from "
        "what was played.",
        f"- A board beside it ({_BOARD}: no boot_id, no CRC) promised {board.true_hz / report.harm.board_rate:g} Hz "
        f"and sent {board.true_hz:g}: {board.counts.heard_hz:.1f} Hz were heard. Its counter began anew {board.resets} "
        f"times, the host began {board.streams_begun_anew} streams anew. Of {board.sent.samples} samples "
        f"{board.received_samples} were received, {board.wrong_samples} of them wrong; {board.counts.lost_samples} "
        f"were counted as lost, {board.sent.injected_losses} left out on purpose.",
        f"- Code {report.code}, seed {report.seed}, "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items())
        + f"; {report.machine or 'machine not named'}.",
        "",
        "| what was done to the link | frames | what the host counted | frames |",
        "| --- | --- | --- | --- |",
        f"| left out | {sent.injected_losses} | lost | {counts.lost_frames} |",
        f"| a bit flipped | {sent.corrupted} | of these by the band's account | {sent.lost_frames} |",
        f"| bytes cut out | {sent.cut} | damaged pieces seen | {counts.corrupt_frames} |",
        f"| sent twice | {sent.duplicated} | repeated | {counts.duplicate_frames} |",
        f"| sent after their successor | {sent.reordered} | late | {counts.late_frames} |",
        f"| sent behind noise and a battery of NaN | {sent.noisy} | damaged pieces, above: two each | |",
        f"| dropped, line full (stalls) | {sent.overruns} | reconnects | {counts.reconnects} |",
        f"| fell due while unplugged | {sent.unplugged} | gone with the line, or discarded on opening | "
        f"{counts.lost_frames - sent.lost_frames} |",
        "",
        f"Delay from a block's last sample to its arrival, away from stalls (within {_CALM_AFTER_S:g} s of which "
        "nothing is counted), by the clock that the link itself fits; memory is that of band and reader together.",
        "",
        "| from, s | blocks | p50 ms | p99 ms | max ms | RSS MB |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {m.start_s:.0f} | {m.n_blocks} | {m.delay_p50_ms:.2f} | {m.delay_p99_ms:.2f} | {m.delay_max_ms:.2f} | "
            f"{m.rss_mb:.1f} |"
            for m in minutes
        ),
    ]
    return "\n".join(lines) + "\n"


def as_json_object(report: SoakReport) -> dict[str, object]:
    """The report as JSON values."""
    return {"passed": report.passed, **asdict(report)}


def _read(
    reader: Band,
    band: SimulatedBand,
    watch: _Watch,
    harm: Harm,
    speed: float,
    minute_s: float,
    progress: Callable[[float], None],
) -> None:
    """Read the stream to its end, and cause the faults that are scheduled by the time of the signal."""
    periods_s = (harm.unplug_every_s, harm.band_stall_every_s, harm.reader_stall_every_s, harm.silent_every_s)
    unplug, stall, sleep, fall_silent = (_every(period_s) for period_s in periods_s)
    next_line_s = 0.0
    minute_start_s = calm_s = 0.0
    line = None
    for block in reader:
        watch.check(block)
        now_s = block.sample_index / RATE_HZ
        if now_s >= next_line_s:  # fitting the clock is too slow to be done for each block
            line, next_line_s = reader.clock.line, now_s + 1.0
            progress(now_s)
        if line is not None and now_s >= calm_s:
            end_s = block.device_t_s + len(block.samples_uv) / RATE_HZ
            watch.delays_ms.append((block.host_t_s - line.host_s(end_s)) * 1e3)
        if now_s - minute_start_s >= minute_s:
            watch.close_minute(minute_start_s)
            minute_start_s = now_s
        harmed = [unplug(now_s), stall(now_s), sleep(now_s), fall_silent(now_s)]
        if any(harmed):
            calm_s = now_s + _CALM_AFTER_S
        if harmed[0]:
            band.unplug(harm.unplugged_s / speed)
        elif harmed[1]:
            band.stall(harm.band_stalled_s / speed)
        elif harmed[2]:
            time.sleep(harm.reader_stalled_s / speed)
        elif harmed[3]:
            band.stall(harm.silent_s / speed)
    watch.close_minute(minute_start_s)


class _BoardRun:
    """A board and its reader, each in its own thread, in real time, while the `with` block runs."""

    def __init__(self, harm: Harm, seed: int, wall_s: float) -> None:
        profile = find_profile(_BOARD)
        assert profile is not None
        self._harm, self._truth = harm, np.random.default_rng(seed).integers(-4_000, 4_000, (_BOARD_PERIOD, 4))
        self._last_reset_s = wall_s - _SEEN_AFTER_S
        self._truth[:, 0] = np.arange(_BOARD_PERIOD)  # the row's number
        self.true_hz = profile.sample_rate_hz * harm.board_rate
        self._board = SimulatedBoard(
            SimulatedProfile(profile),
            [self._truth.astype(np.float32)],
            loss=harm.loss,
            duplicate=harm.duplicate,
            drift_ppm=(harm.board_rate - 1) * 1e6,
            seed=seed,
        )
        self._profile = profile
        self._thread = threading.Thread(target=self._read, name="soaked board", daemon=True)
        self._reader: Board | None = None
        self._received = self._wrong = self._resets = 0
        self._boot_ids: set[int] = set()

    def __enter__(self) -> "_BoardRun":
        self._board.start()
        self._reader = Board(Reopener(self._board.port, BAUD), ProfiledBoard(self._profile), boot_s=4.0)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._reader is not None:
            self._reader.stop()
        self._thread.join()
        self._board.stop()

    def report(self) -> BoardReport:
        """The result. Raises ValueError before it was run."""
        if self._reader is None:
            raise ValueError("the board was not run")
        return BoardReport(
            sent=self._board.sent,
            counts=self._reader.counts,
            received_samples=self._received,
            wrong_samples=self._wrong,
            resets=self._resets,
            streams_begun_anew=len(self._boot_ids) - 1,
            true_hz=self.true_hz,
        )

    def _read(self) -> None:
        assert self._reader is not None
        is_due = _every(self._harm.board_reset_every_s)
        started_s = time.monotonic()
        with self._reader as reader:
            for block in reader:
                rows = block.samples_uv.astype(np.int64)
                self._received += len(rows)
                self._boot_ids.add(block.boot_id)
                self._wrong += int(np.count_nonzero((rows != self._truth[rows[:, 0] % _BOARD_PERIOD]).any(axis=1)))
                now_s = time.monotonic() - started_s
                if now_s < self._last_reset_s and is_due(now_s):
                    self._board.reset()
                    self._resets += 1


def _board_faults(board: BoardReport) -> Iterator[str]:
    if board.wrong_samples:
        yield f"{board.wrong_samples} samples of the board are not those that were played"
    if board.streams_begun_anew != board.resets:
        yield f"the board's counter began anew {board.resets} times, the host saw it {board.streams_begun_anew} times"
    missing = board.sent.samples - board.received_samples - board.counts.lost_samples
    if not 0 <= missing <= _ON_ITS_WAY * (board.resets + 1):
        yield f"{missing} samples of the board are neither received nor counted as lost"
    heard_hz = board.counts.heard_hz
    if heard_hz and abs(heard_hz / board.true_hz - 1) > _RATE_LIMIT:
        yield f"the board's rate was heard as {heard_hz:.1f} Hz, and is {board.true_hz:g} Hz"


def _every(period_s: float) -> Callable[[float], bool]:
    """A function of the time that returns True once in every period."""
    due_s = period_s

    def is_due(now_s: float) -> bool:
        nonlocal due_s
        if now_s < due_s:
            return False
        due_s = now_s + period_s
        return True

    return is_due


def _signal(seed: int) -> NDArray[np.float32]:
    """Noise in whole counts, so that it arrives bit for bit equal; (_PERIOD_SAMPLES, N_CHANNELS), microvolts."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(-4_000, 4_000, (_PERIOD_SAMPLES, N_CHANNELS))
    return (counts * UV_PER_COUNT).astype(np.float32)


def _count_faults(watch: _Watch, sent: SentCounts, counts: LinkCounts, unaccounted: int) -> Iterator[str]:
    if unaccounted:
        yield f"{unaccounted} samples are neither received nor counted as lost"
    in_flight = counts.lost_samples - sent.lost_samples
    if not 0 <= in_flight <= counts.reconnects * _LINE_SAMPLES:
        yield (
            f"the host counted {counts.lost_samples} lost samples and {counts.reconnects} reconnects, "
            f"the band {sent.lost_samples} lost samples"
        )
    if watch.wrong:
        yield f"{watch.wrong} received samples are not those that were played"


def _trend_faults(minutes: list[Minute]) -> Iterator[str]:
    """Faults of a run in real time whose memory or delay grows."""
    if len(minutes) < 3:
        return
    third = max(1, len(minutes) // 3)
    growth_mb = minutes[-1].rss_mb - minutes[min(1, len(minutes) - 1)].rss_mb
    if growth_mb > _GROWTH_LIMIT_MB:
        yield f"memory grew by {growth_mb:.1f} MB"
    early = statistics.median(minute.delay_p99_ms for minute in minutes[:third])
    late = statistics.median(minute.delay_p99_ms for minute in minutes[-third:])
    if late > _P99_LIMIT * early + 1:
        yield f"p99 of the delay rose from {early:.2f} ms to {late:.2f} ms"


def _rss_mb() -> float:
    """The resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
