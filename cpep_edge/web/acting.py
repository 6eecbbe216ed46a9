"""The actions of a page: choose a device, calibrate, teach, record, test, change the decisions, edit gestures.

Each action calls the same function as the command of that name, and feeds it with a tap of the run, so that the device
stays open and the signal stays visible. Only one action runs at a time, for all viewers together. An action that is not
possible is refused with a sentence (`CpepError`). Recordings stay in the folder beside the bundle.
"""

import io
import itertools
import json
import secrets
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cpep_edge.blocks import Block
from cpep_edge.bundle import Bundle
from cpep_edge.decisions import Decider, Decision, with_gates
from cpep_edge.donning import Donning
from cpep_edge.errors import ConfigError, CpepError
from cpep_edge.hand import hand_poses_of
from cpep_edge.lesson import Timing
from cpep_edge.live_loop import Live
from cpep_edge.live_view import LiveView
from cpep_edge.manifest import DecisionSpec, Manifest
from cpep_edge.names import UNKNOWN, check_gesture
from cpep_edge.pose_index import Vote
from cpep_edge.recogniser import Recogniser
from cpep_edge.target_test import Axis, Fitts, ReachAndHold, axes_of
from cpep_edge.web.asked import Asked, Calibrate, Connect, Devices, Forget, Gates, Record, Rename, Stop, Teach, Test
from cpep_edge.web.doing import Doing, playing
from cpep_edge.web.tap_source import CountingDown, TapSource

if TYPE_CHECKING:
    from cpep_bridge.chosen_port import ChosenPort
    from cpep_edge.enrolment import OpenBundle

KEPT_S = 180.0  # of votes, on which the page shows the effect of changed thresholds


class Acting:
    """The actions of one run. It is a tap of the run's loop; `act` may be called from any thread."""

    def __init__(
        self,
        bundle: Bundle,
        recogniser: Recogniser,
        view: LiveView,
        chosen: "ChosenPort | None" = None,
        *,
        is_recorded: bool = False,
        timing: Timing = Timing(),
    ) -> None:
        """chosen: the run's source, if its device may be exchanged
        is_recorded: the run is recorded for replay, which supports only one bundle, calibration and decision settings
        timing: of a lesson
        """
        self._view, self._bundle, self._recogniser = view, bundle, recogniser
        self._chosen, self._is_recorded, self._timing = chosen, is_recorded, timing
        self._worn_on: tuple[str, str] | None = None  # name and serial number of the calibrated device
        if chosen is not None and chosen.device is not None:
            self._worn_on = chosen.info.name, chosen.info.serial_number
        self.folder = bundle.path.parent / f"{bundle.path.stem}-page"  # for everything that the page's actions write
        self._corpus = self.folder / "recordings"
        self.doing: Doing | None = None
        self.told = ""  # how the last action ended
        self._lock = threading.Lock()
        self._source: TapSource | None = None
        self._worker: threading.Thread | None = None
        self._decided: deque[Decision] | None = None  # decisions for a running test
        self._votes: deque[tuple[float, Vote | None]] = deque()
        self._actions: dict[str, tuple[type[Asked], Callable[[Any], dict[str, object]]]] = {
            "calibrate": (Calibrate, self._calibrate),
            "teach": (Teach, self._teach),
            "record": (Record, self._record),
            "test": (Test, self._test),
            "gates": (Gates, self._gates),
            "forget": (Forget, self._forget),
            "rename": (Rename, self._rename),
            "devices": (Devices, self._devices),
            "connect": (Connect, self._connect),
            "stop": (Stop, self._stop),
        }

    @property
    def _loop(self) -> Live:
        return self._view.loop

    @property
    def is_playing(self) -> bool:
        """Whether a test is running, whose picture must be updated often."""
        return self._decided is not None

    def block(self, block: Block) -> None:
        """Pass samples on to the running action."""
        source = self._source
        if source is not None:
            source.put(block)

    def decision(self, decision: Decision) -> None:
        """Keep the votes of the last minutes, and pass the decision on to a running test."""
        if self._decided is not None:
            self._decided.append(decision)
        recognition = self._loop.engine.recognition
        now_s = time.monotonic()
        self._votes.append((now_s, None if recognition is None else recognition.vote))
        while self._votes and self._votes[0][0] < now_s - KEPT_S:
            self._votes.popleft()

    def state(self) -> dict[str, object]:
        """The state that a page shows."""
        doing = self.doing
        shape = None if doing is None or not doing.gesture else self._view.drawn(doing.gesture)
        return {
            "doing": None
            if doing is None
            else {
                **asdict(doing),
                "gesture": self._view.shown(doing.gesture) if doing.gesture else "",
                "left_s": round(doing.left_s, 1),
                "hand_rad": None if shape is None else [round(float(angle), 3) for angle in shape],
            },
            "told": self.told,
            "port": None if self._chosen is None else self._chosen.port,
            "lost": "" if self._chosen is None else self._chosen.problem,
            "axes": [[self._view.shown(name) for name in axis] for axis in self._axes()],
            "recordings": [file.name for file in self._recordings()],
        }

    def _recordings(self) -> list[Path]:
        found = self._corpus.iterdir() if self._corpus.is_dir() else ()
        return sorted(file for file in found if file.suffix in (".hdf5", ".csv") and not file.name.startswith("."))

    def act(self, name: str, asked: Mapping[str, object]) -> dict[str, object]:
        """Perform an action, or start one that takes a while. Raises CpepError, which says why, when that fails."""
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
        """Stop the running action, and wait until it has ended."""
        self._end()

    def download(self, name: str) -> bytes:
        """A recording by its name, or the bundle as `bundle.zip`. Raises ConfigError when there is no such thing."""
        if name == "bundle.zip":
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(self._bundle.path.iterdir()):
                    archive.write(file, f"{self._bundle.path.name}/{file.name}")
            return content.getvalue()
        found = [file for file in self._recordings() if file.name == name]  # compared by name, never opened by path
        if not found:
            raise ConfigError(f"there is no recording {name}")
        return found[0].read_bytes()

    def _begin(self, what: str, run: Callable[[TapSource], str]) -> dict[str, object]:
        """Start an action that takes a while in its own thread."""
        with self._lock:
            self._require_idle()
            if self._loop.stopped:
                raise ConfigError("the run has ended: start cpep-edge live again")
            if what != "connect" and self._is_gone():
                raise ConfigError("no device is connected: choose one first")
            self.doing, self.told = Doing(what), ""
            source = self._source = TapSource(self._loop, self._is_gone)
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

        self._require_unrecorded()
        recogniser, manifest = self._recogniser, self._recogniser.manifest
        moves = manifest.calibration_moves
        told = ("rest the hand" if wish.rest_s else moves), moves

        def run(source: TapSource) -> str:
            counting = CountingDown(source, self._show)
            counting.begin(wish.rest_s or wish.seconds)
            self.doing = Doing("calibrate", told[0])

            def on_move() -> None:
                counting.begin(wish.seconds)
                self.doing = Doing("calibrate", told[1], now=True)

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
        from cpep_bridge.prompts import Prompt, PromptList, record_prompts
        from cpep_bridge.recording import Wearer

        for name in wish.gestures:
            check_gesture(name)
        try:
            listed = [Prompt(stage=name, seconds=wish.seconds, repeat=wish.repetitions) for name in wish.gestures]
        except ValidationError as error:
            name = error.errors()[0]["input"]
            raise ConfigError(f"{name!r} is used in a file name: use letters, digits, - and _") from error
        prompts = PromptList(rest_s=wish.rest_s, prompt=listed)
        n_steps = len(prompts.steps())

        def run(source: TapSource) -> str:
            n_begun, was_resting = 0, False

            def show(prompt: Prompt, resting: bool, left_s: float) -> None:
                nonlocal n_begun, was_resting
                n_begun += was_resting and not resting
                was_resting = resting
                words = "rest; next comes" if resting else "make it now"
                n_done = n_begun if resting else n_begun - 1
                self.doing = Doing("record", words, prompt.stage, left_s, n_done, n_steps, now=not resting)

            self._corpus.mkdir(parents=True, exist_ok=True)
            made = record_prompts(source, self._corpus, Wearer("user", "page", "right"), prompts, show)
            ended = "" if len(made) == n_steps else self._why_ended()
            seconds = sum(one.duration_s for one in made)
            return f"{ended}recorded {len(made)} of {n_steps}, {seconds:.1f} s, in {self._corpus}"

        return self._begin("record", run)

    def _is_gone(self) -> bool:
        return self._loop.stopped or (self._chosen is not None and self._chosen.device is None)

    def _own(self) -> list[str]:
        """The bundle's gestures without rest and "unknown"."""
        idle = (self._loop.engine.spec.rest_gesture, UNKNOWN)
        return [one.name for one in self._bundle.manifest.gestures if one.name not in idle]

    def _axes(self) -> tuple[Axis, ...]:
        return axes_of(self._own(), self._view.shown)

    def _test(self, wish: Test) -> dict[str, object]:
        axes, seed = self._axes(), secrets.randbits(32)
        if wish.game == "targets" and len(axes) < 2:
            raise ConfigError(
                "two pairs of opposite gestures are needed, such as wrist flexion and extension, radial and ulnar "
                f"deviation, and this bundle has {len(axes)}"
            )
        game: ReachAndHold | Fitts
        if wish.game == "hold":
            game = ReachAndHold(self._own(), self._loop.engine.spec.rest_gesture, wish.rounds, seed)
        else:
            game = Fitts(axes, wish.rounds, seed)

        def run(source: TapSource) -> str:
            decided = self._decided = deque()
            try:
                for _ in source:
                    while decided and game.phase != "done":
                        decision = decided.popleft()
                        # each window steers the point: debounced decisions come too late and would overshoot
                        made = decision.window_gesture if isinstance(game, Fitts) else decision.gesture
                        game.feed(decision.device_t_s, made)
                    if game.phase == "done":
                        break
                    self.doing = playing(game)
            finally:
                self._decided = None
            ended = "" if game.phase == "done" else self._why_ended()
            with suppress(OSError):  # the score is shown even if it cannot be saved
                self.folder.mkdir(parents=True, exist_ok=True)
                with (self.folder / "tests.jsonl").open("a", encoding="utf-8") as file:
                    when = datetime.now(UTC).isoformat(timespec="seconds")
                    about = {"when": when, "bundle": self._bundle.manifest.name, "game": wish.game}
                    file.write(json.dumps({**about, **asdict(game.score)}) + "\n")
            return f"{ended}{game.score.said()}"

        return self._begin("test", run)

    def _why_ended(self) -> str:
        return "the device is gone; " if self._is_gone() else "stopped; "

    def _teach(self, wish: Teach) -> dict[str, object]:
        from cpep_edge.lesson import OTHER_MOVEMENTS, Again
        from cpep_edge.teaching import Teaching, Wish

        self._require_unrecorded()
        path = self._lesson_path(wish.gestures)
        asked = Wish(wish.gestures, wish.repetitions, others=True)
        teaching = Teaching(path, self._loop.source.info, asked, timing=self._timing)

        def run(source: TapSource) -> str:
            with closing(teaching):
                return lead(source)

        def lead(source: TapSource) -> str:
            said = ""
            for block in source:
                for event in teaching.feed(block):
                    said = f"once more: {event.reason}" if isinstance(event, Again) and not event.given_up else ""
                cue = teaching.cue
                if cue.phase == "done":
                    break
                words = {"rest": "rest", "ready": "rest; next comes", "make": "make it now"}[cue.phase]
                others = cue.gesture == UNKNOWN
                if others:
                    words = "rest; next comes anything else" if cue.phase == "ready" else OTHER_MOVEMENTS
                self.doing = Doing(
                    "teach",
                    said or words,
                    cue.gesture if cue.phase != "rest" and not others else "",
                    cue.left_s,
                    cue.n_done,
                    cue.n_steps,
                    now=cue.phase == "make",
                )
            if teaching.cue.phase != "done":
                kept = f"{teaching.recordings.folder} keeps what was recorded, and teaching them again goes on"
                return f"{self._why_ended()}{kept}"
            self.doing = Doing("teach", "fitting")
            taught, used = teaching.fit()
            teaching.write(taught, used)
            opened = Bundle.open(path)
            self._replace(opened, Recogniser(opened), None, opened.manifest.decision)
            found = taught.judgement
            reads = "" if found is None else f", {found.accuracy:.0%} right by leaving repetitions out"
            gestures = ", ".join(opened.manifest.shown(name) for name in taught.gestures if name != UNKNOWN)
            return f"taught {gestures}{reads}; it runs now, and is kept in {path}"

        try:
            return self._begin("teach", run)
        except CpepError:
            teaching.close()
            raise

    def _lesson_path(self, gestures: tuple[str, ...]) -> Path:
        """The bundle to teach these gestures in: that of an interrupted lesson in the same gestures, else a new one."""
        from cpep_edge.lesson import check_gestures
        from cpep_edge.manifest import MANIFEST_FILE
        from cpep_edge.taught_recordings import Recordings, recordings_of

        wanted = set(check_gestures(gestures))
        for number in itertools.count(1):
            path = self.folder / f"taught-{number}.cpep"
            if (path / MANIFEST_FILE).is_file():
                continue
            begun = Recordings.read(recordings_of(path))
            if begun is None or set(begun.notes.gestures) - {UNKNOWN} == wanted:
                return path
        raise AssertionError

    def _gates(self, wish: Gates) -> dict[str, object]:
        engine = self._loop.engine
        spec = with_gates(
            engine.spec,
            min_confidence=wish.min_confidence,
            debounce_ms=wish.debounce_ms,
            refractory_ms=wish.refractory_ms,
        )
        votes, gestures = list(self._votes), self._recogniser.manifest.gesture_names
        decider, changes = Decider(spec, gestures, engine.hop_ms), []
        for at_s, vote in votes:
            if decider.update(vote):
                changes.append({"gesture": decider.gesture, "ago_s": round(votes[-1][0] - at_s, 2)})
        if wish.apply:
            self._require_unrecorded()
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

    def _devices(self, wish: Devices) -> dict[str, object]:
        from cpep_bridge.ports import find_ports

        return {"devices": [asdict(one) for one in find_ports()]}

    def _connect(self, wish: Connect) -> dict[str, object]:
        chosen = self._chosen
        if chosen is None:
            raise ConfigError("the device of this run cannot be exchanged: start cpep-edge live --web")
        self._require_unrecorded()

        def run(source: TapSource) -> str:
            self.doing = Doing("connect", f"asking who is on {wish.port}")
            info = chosen.choose(wish.port, wish.device)
            device, before = (info.name, info.serial_number), self._worn_on
            self._worn_on = device
            engine, manifest = self._loop.engine, self._bundle.manifest
            same = before in (None, device)
            donning = engine.donning if same else manifest.usual_donning
            self._replace(self._bundle, self._recogniser, donning, engine.spec)
            anew = "" if same else ", which is another than before: calibrate it"
            return f"connected to {info.name} on {wish.port}{anew}"

        return self._begin("connect", run)

    def _require_unrecorded(self) -> None:
        if self._is_recorded:
            raise ConfigError(
                "this run is being recorded, and a replay could not follow that: start cpep-edge live without --record"
            )

    def _edit(self, change: "Callable[[OpenBundle], Manifest]") -> None:
        """Change the running bundle on disk, and continue the run with the changed one."""
        from cpep_edge.enrolment import OpenBundle

        with self._lock:
            self._require_idle()
            self._require_unrecorded()
            manifest, path = self._bundle.manifest, self._bundle.path
            if manifest.signer is not None:
                raise ConfigError(
                    f"{manifest.name} is signed, and a page has no key to sign it again: use cpep-edge gestures with "
                    "--sign"
                )
            with OpenBundle.to_edit(path) as opened:
                change(opened)
            bundle, engine = Bundle.open(path), self._loop.engine
            decision = bundle.manifest.decision
            spec = engine.spec if decision == manifest.decision else decision
            self._replace(bundle, Recogniser(bundle), engine.donning, spec)

    def _require_idle(self) -> None:
        """Raise ConfigError while another action is running. The caller holds the lock."""
        if self._worker is not None and self._worker.is_alive():
            raise ConfigError(
                f"busy: somebody lets the page {self.doing.what if self.doing else 'work'}; stop it first"
            )

    def _replace(self, bundle: Bundle, recogniser: Recogniser, donning: Donning | None, spec: DecisionSpec) -> None:
        """Continue the run with another bundle or calibration; the device stays open."""
        self._loop.renew(recogniser, donning, spec)
        self._recogniser, self._bundle = recogniser, bundle
        self._votes.clear()
        if self._chosen is not None:
            self._view.title = f"{bundle.path.name}  ·  {self._chosen.info.name} on {self._chosen.port}"
        self._view.renewed(bundle.manifest, hand_poses_of(bundle))

    def _show(self, left_s: float) -> None:
        doing = self.doing
        if doing is not None:
            self.doing = replace(doing, left_s=left_s)
