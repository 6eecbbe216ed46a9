"""The band's firmware, in C, as a process: built on first use, and run on a pty like `simulator.SimulatedBand`.

The process runs the same code as a board, with the clock, line and converter of `firmware/posix`. POSIX only; needs
make and a C compiler.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cpep_bridge.frames import SampleFormat
from cpep_bridge.playback import Playback, Segment
from cpep_bridge.simulated import SentCounts, Simulated
from cpep_bridge.simulator import SAMPLES_PER_FRAME, UV_PER_COUNT
from cpep_edge.bundle import Bundle
from cpep_edge.chip import cortex_m_spec, unpack_sources
from cpep_edge.errors import ArtifactError, ConfigError, LinkError
from cpep_edge.outside import user_folder

PROGRAM = "cpep-band"

_CHUNK_SAMPLES = 100
_END_WAIT_S = 5.0


def build_firmware(target: str = PROGRAM, build_dir: Path | None = None) -> Path:
    """Build a target of firmware/Makefile, unless it was built before from the same sources; returns its path.

    build_dir: where to build; by default a folder in the user's cache, one for each version of the sources
    Raises ArtifactError when the sources, make or a C compiler are missing, or the build fails.
    """
    folder = build_dir or _cache_dir() / _sources_digest()
    if build_dir is None and (folder / target).exists():
        return folder / target
    _make(target, folder)
    return folder / target


def build_recognising_firmware(bundle: Bundle, target: str = PROGRAM) -> Path:
    """Build the firmware with the engine of a bundle for Cortex-M; see `build_firmware`.

    Also raises ArtifactError when the bundle has no C sources, or is not trusted to run its code.
    """
    bundle.require_trust()  # make runs commands from the bundle
    folder = _cache_dir() / f"{_sources_digest()}-{bundle.manifest.files[cortex_m_spec(bundle).file].sha256[:16]}"
    if not (folder / target).exists():
        with tempfile.TemporaryDirectory(prefix="cpep-engine-") as engine:
            unpack_sources(bundle, Path(engine))
            _run_make("the engine", engine, "host")
            _make(target, folder, f"ENGINE={engine}")
    return folder / target


class FirmwareBand(Simulated):
    """A wristband that runs the firmware and plays `segments`. `with` starts it; a host opens it at the path `port`.

    The options are those of `SimulatedBand` that the firmware supports, and
    program: a build of the firmware to run instead of building it
    model: a bundle for Cortex-M, whose engine then runs in the band and sends PREDICTION

    Segments are written to a temporary file first, so errors in them are raised by start().
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        sample_rate_hz: float,
        *,
        link: Path | None = None,
        speed: float = 1.0,
        loss: float = 0.0,
        corrupt: float = 0.0,
        duplicate: float = 0.0,
        drift_ppm: float = 0.0,
        once: bool = False,
        lossless: bool = False,
        seed: int = 0,
        uv_per_count: float = UV_PER_COUNT,
        sample_format: SampleFormat = SampleFormat.I16,
        n_samples: int = SAMPLES_PER_FRAME,
        serial_number: str = "SIM-0001",
        program: Path | None = None,
        model: Bundle | None = None,
    ) -> None:
        if model is not None:
            uv_per_count = cortex_m_spec(model).uv_per_count
        self._playback = Playback(segments, sample_rate_hz)
        self._sample_format = SampleFormat(sample_format)
        self._uv_per_count = uv_per_count
        self._program = program
        self._model = model
        self._options = [
            *("--control", "--format", self._sample_format.name.lower(), "--channels", str(self._playback.n_channels)),
            *("--rate", repr(sample_rate_hz), "--uv-per-count", repr(uv_per_count), "--samples", str(n_samples)),
            *("--serial", serial_number, "--speed", repr(speed), "--drift-ppm", repr(drift_ppm), "--seed", str(seed)),
            *("--loss", repr(loss), "--corrupt", repr(corrupt), "--duplicate", repr(duplicate)),
            *(("--once",) if once else ()),
            *(("--lossless",) if lossless else ()),
            *(("--hop", str(_hop_samples(model, sample_rate_hz))) if model is not None else ()),
            *(("--link", str(link)) if link is not None else ()),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._port = ""
        self._sent = SentCounts()

    @property
    def port(self) -> str:
        if not self._port:
            raise ValueError("the band was not started")
        return self._port

    @property
    def sent(self) -> SentCounts:
        if self._process is not None:
            self._tell(self._process, b"s")
            self._note_report(self._line(self._process))
        return self._sent

    def start(self) -> None:
        """Build the firmware if necessary, and run it.

        Raises ArtifactError when it cannot be built, DataError when a segment is damaged, LinkError when the program
        refuses its options.
        """
        program = self._program or (
            build_firmware() if self._model is None else build_recognising_firmware(self._model)
        )
        self._folder = tempfile.TemporaryDirectory(prefix="cpep-band-")
        recording = Path(self._folder.name) / "recording"
        try:
            packets = self._playback.packets(_CHUNK_SAMPLES, self._sample_format, self._uv_per_count, repeat=False)
            with recording.open("wb") as file:
                for packet in packets:
                    file.write(packet.samples)
        except BaseException:
            self._folder.cleanup()
            raise
        words = [str(program), *self._options, "--input", str(recording)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe)
        self._port = self._line(self._process)
        if not self._port:
            self._finish(self._process)

    def stop(self) -> None:
        """Stop at once and hang up. Raises LinkError when the program failed."""
        if self._process is not None:
            self._finish(self._process)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until a band with `once` has finished; returns whether it has. Raises LinkError when it failed."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._finish(self._process)
        return True

    def reboot(self) -> None:
        """Restart like a band that lost power for a moment: forget the stream, draw a new boot_id, send INFO."""
        if self._process is not None:
            self._tell(self._process, b"r")

    def _tell(self, process: subprocess.Popen[bytes], letter: bytes) -> None:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has already finished; read its last report
                os.write(process.stdin.fileno(), letter)

    def _line(self, process: subprocess.Popen[bytes]) -> str:
        return "" if process.stdout is None else process.stdout.readline().decode().strip()

    def _note_report(self, line: str) -> None:
        if line:
            words = line.split()
            self._sent = SentCounts(**dict(zip(words[::2], map(int, words[1::2]), strict=True)))

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        """Close the program's input, which ends it, read its last report, and delete the temporary files."""
        self._process = None
        reports, complaint = process.communicate(timeout=_END_WAIT_S)
        if self._folder is not None:
            self._folder.cleanup()
        if process.returncode != 0:
            raise LinkError(complaint.decode(errors="replace").strip() or f"{process.args!r} failed")
        *_, last = ["", *reports.decode().splitlines()]
        self._note_report(last)


def firmware_sources() -> Path:
    """The folder of the C sources, in the wheel or a checkout. Raises ArtifactError when there is none."""
    here = Path(__file__).parent
    for folder in (here / "firmware_sources", here.parent / "firmware"):
        if (folder / "Makefile").is_file():
            return folder
    raise ArtifactError(f"the firmware's sources are not beside {here}: install cpep-edge again, or use a checkout")


def _hop_samples(model: Bundle, sample_rate_hz: float) -> int:
    trained_hz = model.manifest.preprocessing.sample_rate_hz
    if sample_rate_hz != trained_hz:
        raise ConfigError(f"{model.path} reads {trained_hz:g} Hz, and the session to be played has {sample_rate_hz:g}")
    return max(1, round(model.manifest.decision.hop_ms / 1e3 * trained_hz))


def _make(target: str, folder: Path, *options: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:  # simultaneous builds must not collide
        _run_make(
            f"the firmware's {target}", str(firmware_sources()), f"BUILD={scratch}", *options, f"{scratch}/{target}"
        )
        folder.mkdir(exist_ok=True)
        os.replace(Path(scratch) / target, folder / target)


def _run_make(what: str, folder: str, *words: str) -> None:
    for tool in ("make", "cc"):
        if shutil.which(tool) is None:
            raise ArtifactError(f"building the firmware needs {tool}: run 'sudo apt install build-essential'")
    made = subprocess.run(["make", "-C", folder, *words], capture_output=True, text=True)
    if made.returncode != 0:
        raise ArtifactError(f"{what} did not build: {made.stderr.strip()}")


def _cache_dir() -> Path:
    cache = user_folder("XDG_CACHE_HOME", ".cache")
    if cache is None:
        raise ArtifactError("there is no home folder to build the firmware in: set HOME or XDG_CACHE_HOME")
    return cache / "cpep-edge" / "firmware"


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(firmware_sources().rglob("*")):
        if path.suffix in (".c", ".h") or path.name == "Makefile":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
