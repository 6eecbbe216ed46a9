"""What a page may do with a run: calibrate, teach, record, change how to decide, forget a gesture.

Each is the function that the command calls, fed by a tap of the run, so that the device stays open and the signal in
sight. One thing is done at a time, whoever asks; what cannot be done is refused in a sentence (`CpepError`), and what
was recorded stays in the folder beside the bundle.
"""

import io
import queue
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpep_edge.blocks import Block, LinkCounts, StreamInfo
from cpep_edge.bundle import Bundle, DecisionSpec, Manifest
from cpep_edge.decisions import Decider, Decision, with_gates
from cpep_edge.donning import Donning
from cpep_edge.errors import ConfigError, CpepError
from cpep_edge.hand import hand_poses_of
from cpep_edge.live_loop import Live
from cpep_edge.live_view import LiveView
from cpep_edge.pose_index import Vote
from cpep_edge.recogniser import Recogniser

if TYPE_CHECKING:
    from cpep_edge.enrolment import OpenBundle

KEPT_S = 180.0  # of votes, on which a change of the thresholds is shown
_QUEUED = 2_000  # blocks that an action may be behind
_LOOK_S = 0.25  # how often an action looks whether it is to end
_LONGEST_S = 600.0  # of a recording


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Calibrate(_Asked):
    """Rest, then movement."""

    rest_s: float = Field(default=5.0, ge=0, le=60)
    seconds: float = Field(default=20.0, ge=2, le=120)


class Teach(_Asked):
    """Gestures to teach, of a new bundle beside the one that runs."""

    gestures: tuple[str, ...] = Field(min_length=2, max_length=20)
    repetitions: int = Field(default=3, ge=1, le=20)


class Record(_Asked):
    """One gesture, for so long, after a countdown."""

    gesture: str
    seconds: float = Field(default=5.0, ge=1, le=_LONGEST_S)


class Gates(_Asked):
    """Thresholds; apply: from now on, else only what they would have done is told."""

    min_confidence: float | None = Field(default=None, ge=0, le=1)
    debounce_ms: float | None = Field(default=None, ge=0, le=5_000)
    refractory_ms: float | None = Field(default=None, ge=0, le=10_000)
    apply: bool = False


class Forget(_Asked):
    """A gesture's label."""

    gesture: str


class Rename(_Asked):
    """How a gesture, by its label, reads from now on."""

    gesture: str
    called: str


class Stop(_Asked):
    """Break off what is being done."""


@dataclass(frozen=True, slots=True)
class Doing:
    """What is being done, as everybody who looks is shown it."""

    what: str  # "calibrate", "teach" or "record"
    said: str = ""  # to the wearer
    gesture: str = ""  # to be made, by its label
    left_s: float = 0.0
    n_done: int = 0
    n_steps: int = 0


class TapSource:
    """The blocks of a run, for a function that takes a source. It ends when told to, or when the run does."""

    def __init__(self, loop: Live) -> None:
        self._loop, self._queue, self._ended = loop, queue.Queue[Block](_QUEUED), threading.Event()

    @property
    def info(self) -> StreamInfo:
        return self._loop.source.info

    @property
    def counts(self) -> LinkCounts:
        return self._loop.source.counts

    def __enter__(self) -> "TapSource":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __iter__(self) -> Iterator[Block]:
        while not self._ended.is_set():
            try:
                yield self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                if self._loop.stopped:
                    return

    def put(self, block: Block) -> None:
        """Take a block; one that nobody fetches in time is lost, and the gap is seen by whoever counts samples."""
        with suppress(queue.Full):
            self._queue.put_nowait(block)

    def stop(self) -> None:
        self._ended.set()

    @property
    def is_stopped(self) -> bool:
        """Whether somebody broke it off."""
        return self._ended.is_set()


class Acting:
    """The actions of one run. A tap of its loop; `act` may be called from any thread."""

    def __init__(self, bundle: Bundle, recogniser: Recogniser, view: LiveView) -> None:
        self._view, self._bundle, self._recogniser = view, bundle, recogniser
        self.folder = bundle.path.parent / f"{bundle.path.stem}-page"  # what was done from the page stays there
        self.doing: Doing | None = None
        self.told = ""  # how the last action ended
        self._lock = threading.Lock()
        self._source: TapSource | None = None
        self._worker: threading.Thread | None = None
        self._votes: deque[tuple[float, Vote | None]] = deque()
        self._actions: dict[str, tuple[type[_Asked], Callable[[Any], dict[str, object]]]] = {
            "calibrate": (Calibrate, self._calibrate),
            "teach": (Teach, self._teach),
            "record": (Record, self._record),
            "gates": (Gates, self._gates),
            "forget": (Forget, self._forget),
            "rename": (Rename, self._rename),
            "stop": (Stop, self._stop),
        }

    @property
    def _loop(self) -> Live:
        return self._view.loop

    def block(self, block: Block) -> None:
        """Hand samples on to what is being done."""
        source = self._source
        if source is not None:
            source.put(block)

    def decision(self, decision: Decision) -> None:
        """Keep the votes of the last minutes."""
        recognition = self._loop.engine.recognition
        now_s = time.monotonic()
        self._votes.append((now_s, None if recognition is None else recognition.vote))
        while self._votes and self._votes[0][0] < now_s - KEPT_S:
            self._votes.popleft()

    def state(self) -> dict[str, object]:
        """What a page shows of it."""
        doing = self.doing
        shape = None if doing is None or not doing.gesture else self._view.drawn(doing.gesture)
        return {
            "doing": None
            if doing is None
            else {
                "what": doing.what,
                "said": doing.said,
                "gesture": self._view.shown(doing.gesture) if doing.gesture else "",
                "left_s": round(doing.left_s, 1),
                "n_done": doing.n_done,
                "n_steps": doing.n_steps,
                "hand_rad": None if shape is None else [round(float(angle), 3) for angle in shape],
            },
            "told": self.told,
            "recordings": sorted(file.name for file in self.folder.glob("*.hdf5")) if self.folder.is_dir() else [],
        }

    def act(self, name: str, asked: Mapping[str, object]) -> dict[str, object]:
        """Do one thing, or begin it. Raises CpepError, saying why, when it cannot be done."""
        if name not in self._actions:
            raise ConfigError(f"a page cannot {name}; it can {', '.join(self._actions)}")
        kind, action = self._actions[name]
        try:
            wish = kind.model_validate(asked)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{name}: {'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}") from error
        return action(wish)

    def close(self) -> None:
        """Break off what is being done, and wait until it is put away."""
        self._end()

    def download(self, name: str) -> bytes:
        """A recording by its name, or the bundle as `bundle.zip`. Raises ConfigError when there is no such thing."""
        if name == "bundle.zip":
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(self._bundle.path.iterdir()):
                    archive.write(file, f"{self._bundle.path.name}/{file.name}")
            return content.getvalue()
        if name not in self.state()["recordings"]:  # type: ignore[operator]  # by name, never by path
            raise ConfigError(f"there is no recording {name}")
        return (self.folder / name).read_bytes()

    def _begin(self, what: str, run: Callable[[TapSource], str]) -> dict[str, object]:
        """Do something that takes a while, in a thread of its own."""
        with self._lock:
            self._require_idle()
            if self._loop.stopped:
                raise ConfigError("the run has ended: start cpep-edge live again")
            self.doing, self.told = Doing(what), ""
            source = self._source = TapSource(self._loop)
            self._worker = threading.Thread(target=self._work, args=(run, source), name=what, daemon=True)
            self._worker.start()
        return {}

    def _work(self, run: Callable[[TapSource], str], source: TapSource) -> None:
        try:
            told = run(source)
        except (CpepError, OSError) as error:
            told = str(error)
        self._source = None
        self.told, self.doing = told, None

    def _end(self) -> None:
        source, worker = self._source, self._worker
        if source is not None:
            source.stop()
        if worker is not None:
            worker.join(5.0)

    def _stop(self, wish: Stop) -> dict[str, object]:
        self._end()
        return {}

    def _calibrate(self, wish: Calibrate) -> dict[str, object]:
        from cpep_edge.calibration import calibrate, save_profile

        recogniser, manifest = self._recogniser, self._recogniser.manifest
        moves = ", then ".join(map(manifest.shown, manifest.calibration)) or "move the hand in many ways"
        told = ("rest the hand" if wish.rest_s else moves), moves

        def run(source: TapSource) -> str:
            counting = _Counting(source, lambda left_s: self._show(left_s))
            counting.begin(wish.rest_s or wish.seconds)
            self.doing = Doing("calibrate", told[0])

            def on_move() -> None:
                counting.begin(wish.seconds)
                self.doing = Doing("calibrate", told[1])

            profile = calibrate(counting, recogniser, wish.seconds, rest_seconds=wish.rest_s, on_move=on_move)
            if source.is_stopped:
                return "stopped: nothing was changed"
            self.folder.mkdir(parents=True, exist_ok=True)
            save_profile(profile, self.folder / "profile.json")
            spec = profile.decide(self._loop.engine.spec)
            self._replace(self._bundle, recogniser, profile.donning(manifest), spec)
            return f"calibrated; the profile is {self.folder / 'profile.json'}"

        return self._begin("calibrate", run)

    def _record(self, wish: Record) -> dict[str, object]:
        from cpep_bridge.recording import Wearer, record

        if not wish.gesture.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"{wish.gesture!r} goes into a file's name: use letters, figures, - and _")

        def run(source: TapSource) -> str:
            self.folder.mkdir(parents=True, exist_ok=True)
            numbers = (n for n in range(1, 10_000) if not (self.folder / f"{wish.gesture}-{n}.hdf5").exists())
            path = self.folder / f"{wish.gesture}-{next(numbers)}.hdf5"
            ready = _Counting(source, lambda left_s: self._show(left_s))
            self.doing = Doing("record", "get ready", wish.gesture)
            ready.pass_by(3.0)
            self.doing = Doing("record", "make it now", wish.gesture)
            ready.begin(wish.seconds)
            made = record(ready, path, Wearer("user", "page", "right"), wish.gesture, wish.seconds)
            return "nothing was recorded" if made is None else f"recorded {made.duration_s:.1f} s in {made.path}"

        return self._begin("record", run)

    def _teach(self, wish: Teach) -> dict[str, object]:
        from cpep_edge.lesson import Again
        from cpep_edge.teaching import Teaching, Wish

        path = self.folder / "taught.cpep"
        teaching = Teaching(path, self._loop.source.info, Wish(wish.gestures, wish.repetitions))

        def run(source: TapSource) -> str:
            said = ""
            for block in source:
                for event in teaching.feed(block):
                    said = f"once more: {event.reason}" if isinstance(event, Again) and not event.given_up else ""
                cue = teaching.cue
                if cue.phase == "done":
                    break
                words = {"rest": "rest", "ready": "rest; next comes", "make": "make it now"}[cue.phase]
                self.doing = Doing(
                    "teach",
                    said or words,
                    cue.gesture if cue.phase != "rest" else "",
                    cue.left_s,
                    cue.n_done,
                    cue.n_steps,
                )
            if teaching.cue.phase != "done":
                why = "the band ended its stream" if self._loop.stopped else "stopped"
                return f"{why}; {teaching.recordings.folder} keeps what was recorded, and teaching them again goes on"
            self.doing = Doing("teach", "fitting")
            taught, used = teaching.fit()
            teaching.write(taught, used)
            opened = Bundle.open(path)
            self._replace(opened, Recogniser(opened), None, opened.manifest.decision)
            found = taught.judgement
            reads = "" if found is None else f", {found.accuracy:.0%} right by leaving repetitions out"
            gestures = ", ".join(map(opened.manifest.shown, taught.gestures))
            return f"taught {gestures}{reads}; it runs now, and is kept in {path}"

        return self._begin("teach", run)

    def _gates(self, wish: Gates) -> dict[str, object]:
        engine = self._loop.engine
        spec = with_gates(
            engine.spec,
            min_confidence=wish.min_confidence,
            debounce_ms=wish.debounce_ms,
            refractory_ms=wish.refractory_ms,
        )
        votes, gestures = list(self._votes), tuple(gesture.name for gesture in self._recogniser.manifest.gestures)
        decider, changes = Decider(spec, gestures, engine.hop_ms), []
        for at_s, vote in votes:
            if decider.update(vote):
                changes.append({"gesture": decider.gesture, "ago_s": round(votes[-1][0] - at_s, 2)})
        if wish.apply:
            engine.decide_by(spec)
            self._view.renewed()
        return {"changes": changes, "seconds": round(votes[-1][0] - votes[0][0], 1) if votes else 0.0}

    def _forget(self, wish: Forget) -> dict[str, object]:
        from cpep_edge.enrolment import remove_gesture

        self._edit(lambda opened: remove_gesture(opened, wish.gesture))
        return {}

    def _rename(self, wish: Rename) -> dict[str, object]:
        from cpep_edge.enrolment import rename_gesture

        self._edit(lambda opened: rename_gesture(opened, wish.gesture, wish.called))
        return {}

    def _edit(self, change: "Callable[[OpenBundle], Manifest]") -> None:
        """Change the bundle that runs, on the disk, and go on with it."""
        from cpep_edge.enrolment import OpenBundle

        with self._lock:
            self._require_idle()
            manifest, path = self._bundle.manifest, self._bundle.path
            if manifest.signer is not None:
                raise ConfigError(
                    f"{manifest.name} is signed, and a page has no key to sign it anew: use cpep-edge gestures with "
                    "--sign"
                )
            with OpenBundle.to_edit(path) as opened:
                change(opened)
            bundle, engine = Bundle.open(path), self._loop.engine
            decision = bundle.manifest.decision
            spec = engine.spec if decision == manifest.decision else decision
            self._replace(bundle, Recogniser(bundle), engine.donning, spec)

    def _require_idle(self) -> None:
        """Refuse what would come in the way of what is being done. Called with the lock."""
        if self._worker is not None and self._worker.is_alive():
            raise ConfigError(
                f"busy: somebody lets the page {self.doing.what if self.doing else 'work'}; stop it first"
            )

    def _replace(self, bundle: Bundle, recogniser: Recogniser, donning: Donning | None, spec: DecisionSpec) -> None:
        """Go on with another bundle or calibration; the device stays open."""
        self._loop.renew(recogniser, donning, spec)
        self._recogniser, self._bundle = recogniser, bundle
        self._votes.clear()
        self._view.renewed(bundle.manifest, hand_poses_of(bundle))

    def _show(self, left_s: float) -> None:
        doing = self.doing
        if doing is not None:
            self.doing = Doing(doing.what, doing.said, doing.gesture, left_s)


class _Counting:
    """A source that counts down by its samples while somebody reads it."""

    def __init__(self, source: TapSource, show: Callable[[float], None]) -> None:
        self.info = source.info
        self._source, self._show, self._left_s = source, show, 0.0

    @property
    def counts(self) -> LinkCounts:
        return self._source.counts

    def __enter__(self) -> "_Counting":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def begin(self, seconds: float) -> None:
        self._left_s = seconds

    def pass_by(self, seconds: float) -> None:
        """Let so much signal go by."""
        self.begin(seconds)
        for _ in self:
            if self._left_s <= 0:
                return

    def __iter__(self) -> Iterator[Block]:
        for block in self._source:
            self._left_s = max(0.0, self._left_s - len(block.samples_uv) / self.info.sample_rate_hz)
            self._show(self._left_s)
            yield block

    def stop(self) -> None:
        self._source.stop()
