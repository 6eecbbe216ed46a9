"""Record a live run: EMG, decisions and link events, in one folder that can be replayed.

`session.hdf5` is an emg2pose session as `cpep-edge record` writes it, which survives a kill. `live.jsonl` holds the
rest, one line per event: `recording` (bundle, decision settings, calibration), `block` (which samples arrived
together), `link` (counts, when they change), `decision`, `end`. A replay feeds the same samples through the same engine
and skips the windows that were skipped in the run, so it gives the same decisions, bit for bit; only `delay_ms`
differs, because it is measured anew.

Plain session files can be replayed too; then every window is decided on.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from cpep_edge.blocks import Block, BlockSource, LinkCounts, StreamInfo
from cpep_edge.decisions import Decision
from cpep_edge.donning import Donning
from cpep_edge.errors import DataError
from cpep_edge.live_loop import LiveEngine
from cpep_edge.manifest import DecisionSpec, Manifest
from cpep_edge.names import MAX_NAME
from cpep_edge.outside import printable
from cpep_edge.recogniser import Recogniser
from cpep_edge.session import Session
from cpep_edge.session_trial import check_session

SESSION_FILE = "session.hdf5"
LINES_FILE = "live.jsonl"
_SCHEMA = 2
_FLUSH_S = 0.25
_PLAIN_BLOCK = 200  # samples per block when a plain session is replayed

_Value = str | int | float | None | list[float] | dict[str, str | int | float]
_Line = dict[str, _Value]


@dataclass(frozen=True, slots=True)
class _Header:
    """The first line: everything except the samples on which the decisions depend."""

    bundle: str
    encoder_sha256: str
    hop_ms: float
    spec: DecisionSpec
    donning: Donning
    info: StreamInfo


class LiveRecording:
    """Records one run; a `cpep_edge.live_loop.Tap`. `close` writes the session file."""

    def __init__(
        self,
        folder: Path,
        source: BlockSource,
        recogniser: Recogniser,
        *,
        hop_ms: float,
        spec: DecisionSpec,
        donning: Donning,
    ) -> None:
        """Raises DataError when the folder holds a recording already, or cannot be written to."""
        from cpep_bridge.recording import Recorder, Timeline, Wearer, session_meta

        if (folder / LINES_FILE).exists():
            raise DataError(f"{folder} already holds a recording; choose another folder for --record")
        path, info = folder / SESSION_FILE, source.info
        session = printable(folder.name, MAX_NAME).strip() or "live"
        meta = session_meta(info, path, Wearer("user", session, "right"), "live")
        self._recorder = Recorder(path, meta)
        self._timeline = Timeline(info.sample_rate_hz)
        self._source, self._counts = source, LinkCounts()
        self._lock = threading.Lock()  # blocks and decisions are written from two threads
        self._flushed_s = time.monotonic()
        self._lines: TextIO = (folder / LINES_FILE).open("x", encoding="utf-8")
        manifest = recogniser.manifest
        self._write(
            "recording",
            schema=_SCHEMA,
            bundle=manifest.name,
            encoder_sha256=_reader_sha256(manifest),
            hop_ms=hop_ms,
            spec=spec.model_dump(),
            donning=donning.to_json(),
            stream=asdict(info),
            started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def block(self, block: Block) -> None:
        """Record samples."""
        self._recorder.add(self._timeline.start_s(block), block.samples_uv)
        self._write(
            "block",
            n=len(block.samples_uv),
            index=block.sample_index,
            device_t_s=block.device_t_s,
            boot_id=block.boot_id,
            flags=block.flags,
        )

    def decision(self, decision: Decision) -> None:
        """Record a decision."""
        self._write("decision", **asdict(decision))

    def close(self) -> None:
        """Finish both files, the session even if the other fails. Raises DataError when a file cannot be written."""
        try:
            self._flushed_s = 0.0  # so that the last line is flushed at once
            self._write("end", link=asdict(self._source.counts))
        finally:
            with suppress(OSError):  # `_write` has reported it
                self._lines.close()
            self._recorder.finish()

    def _write(self, kind: str, **fields: object) -> None:
        try:
            with self._lock:
                self._lines.write(json.dumps({"type": kind, **fields}) + "\n")
                now_s = time.monotonic()
                if now_s - self._flushed_s < _FLUSH_S:
                    return
                self._flushed_s = now_s
                counts = self._source.counts
                if (counts.lost_frames, counts.reconnects) != (self._counts.lost_frames, self._counts.reconnects):
                    self._lines.write(json.dumps({"type": "link", **asdict(counts)}) + "\n")
                    self._counts = counts
                self._lines.flush()
        except OSError as error:
            raise DataError(f"cannot continue writing {self._lines.name}: {error.strerror}") from error


def replay(path: Path, recogniser: Recogniser) -> Iterator[Decision]:
    """The decisions of a recorded run or of a plain session file, in order.

    A run is replayed with its own thresholds and calibration; a session with the bundle's, uncalibrated.
    Raises DataError when `path` is neither, ConfigError when the bundle is not for such a signal.
    """
    if (path / LINES_FILE).is_file():
        check_session(path / SESSION_FILE)
        lines = _read_lines(path / LINES_FILE)
        header = _header(path / LINES_FILE, lines)
        engine = LiveEngine(
            recogniser,
            header.info,
            hop_ms=header.hop_ms,
            donning=header.donning,
            spec=header.spec,
        )
        decided = deque(_int(line["sample_index"]) for line in lines if line["type"] == "decision")
        yield from _play(engine, _recorded_blocks(path, lines), decided)
    else:
        check_session(path)
        with Session(path) as session:
            info = StreamInfo(path.name, session.meta.num_channels, session.meta.sample_rate)
            yield from _play(LiveEngine(recogniser, info), _session_blocks(session), None)


def is_of_bundle(path: Path, recogniser: Recogniser) -> bool:
    """Whether a recorded run was made with the encoder of this bundle; True for plain sessions."""
    if not (path / LINES_FILE).is_file():
        return True
    manifest = recogniser.manifest
    header = _header(path / LINES_FILE, _read_lines(path / LINES_FILE)[:1])
    return header.encoder_sha256 == _reader_sha256(manifest)


def _reader_sha256(manifest: Manifest) -> str:
    """The hash of the encoder, or of the head when there is no encoder."""
    reader = manifest.encoder or manifest.head
    return "" if reader is None else manifest.files[reader.file].sha256


def _play(engine: LiveEngine, blocks: Iterator[Block], decided: deque[int] | None) -> Iterator[Decision]:
    """decided: ends of the windows to decide on, in order; None: all windows"""
    for block in blocks:
        engine.ingest(block)
        while (due := engine.next_due) is not None:
            if decided is not None and (not decided or decided[0] != due):
                engine.skip()
                continue
            decision = engine.step(newest=False)
            if decided is not None:
                decided.popleft()
            if decision is not None:
                yield decision


def _recorded_blocks(path: Path, lines: list[_Line]) -> Iterator[Block]:
    with Session(path / SESSION_FILE) as session:
        at = 0
        for line in lines:
            if line["type"] != "block":
                continue
            n_samples = _int(line["n"])
            samples_uv = session.emg(at, at + n_samples)
            if len(samples_uv) < n_samples:
                raise DataError(f"{path / SESSION_FILE} is shorter than {LINES_FILE} says")
            at += n_samples
            yield Block(
                samples_uv=samples_uv,
                sample_index=_int(line["index"]),
                device_t_s=_float(line["device_t_s"]),
                host_t_s=time.monotonic(),
                boot_id=_int(line["boot_id"]),
                flags=_int(line["flags"]),
            )


def _session_blocks(session: Session) -> Iterator[Block]:
    """The blocks of a plain session; jumps in its time stamps count as lost samples."""
    rate_hz = session.meta.sample_rate
    start_s = float(session.time_s(0, 1)[0])
    for start in range(0, session.n_samples, _PLAIN_BLOCK):
        time_s = session.time_s(start, start + _PLAIN_BLOCK)
        index = np.rint((time_s - start_s) * rate_hz).astype(np.int64)
        emg_uv = session.emg(start, start + _PLAIN_BLOCK)
        for part in np.split(np.arange(len(index)), np.flatnonzero(np.diff(index) != 1) + 1):
            first = int(index[part[0]])
            yield Block(emg_uv[part], first, first / rate_hz, time.monotonic())


def _read_lines(path: Path) -> list[_Line]:
    """The lines of a recording; a damaged last line is ignored, because a kill may have cut it short."""
    wanted = {
        "block": ("n", "index", "device_t_s", "boot_id", "flags"),
        "decision": ("sample_index",),
        "recording": ("schema", "hop_ms", "spec", "donning", "stream", "bundle", "encoder_sha256"),
    }
    lines: list[_Line] = []
    texts = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            complete = isinstance(line, dict) and all(key in line for key in wanted.get(line.get("type", "-"), ()))
        except ValueError:
            complete = False
        if complete and "type" in line:
            lines.append(line)
        elif number < len(texts):
            raise DataError(f"{path}: line {number} is damaged")
    return lines


def _header(path: Path, lines: list[_Line]) -> _Header:
    first: _Line = lines[0] if lines else {}
    if first.get("type") != "recording" or first.get("schema") != _SCHEMA:
        raise DataError(f"{path}: is not a recording of cpep-edge live, or of another version")
    try:
        info = StreamInfo(**first["stream"])  # type: ignore[arg-type]
        if not all(isinstance(channel, int) and 0 <= channel < info.n_channels for channel in info.missing):
            raise ValueError("channels that cannot be missing")
        return _Header(
            bundle=str(first["bundle"]),
            encoder_sha256=str(first["encoder_sha256"]),
            hop_ms=_float(first["hop_ms"]),
            spec=DecisionSpec.model_validate_json(json.dumps(first["spec"])),
            donning=Donning.from_json(first["donning"]),
            info=replace(info, missing=tuple(info.missing)),
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: line 1 is damaged") from error


def _int(value: _Value) -> int:
    if not isinstance(value, int):
        raise DataError(f"{LINES_FILE}: {value!r} stands where a whole number belongs")
    return value


def _float(value: _Value) -> float:
    if not isinstance(value, int | float):
        raise DataError(f"{LINES_FILE}: {value!r} stands where a number belongs")
    return float(value)
