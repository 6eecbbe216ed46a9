"""`teach`: teach a wearer's own gestures on any band, from the user's wish to a bundle that runs.

A `Teaching` knows which repetitions are missing, writes each one as soon as it was made, and fits and writes the bundle
at the end. It is independent of the user interface, which feeds it blocks and shows its `cue`. No recording is lost: an
interrupted lesson continues, and every change of the gestures is a new fit to the recordings beside the bundle.
"""

import os
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.bundle import Bundle, require_bundle_or_nothing
from cpep_edge.errors import ConfigError, CpepError, DataError
from cpep_edge.files import check_writable, make_folder
from cpep_edge.folders import hold
from cpep_edge.lesson import DEFAULT_GESTURES, Cue, Event, Lesson, Step, Timing, check_gestures, rest_of
from cpep_edge.live_loop import check_stream
from cpep_edge.manifest import MANIFEST_FILE, Gesture, Manifest
from cpep_edge.names import UNKNOWN
from cpep_edge.personal import Repetition, design_reading
from cpep_edge.recogniser import Recogniser
from cpep_edge.taught import Base, Taught, fit_taught, write_taught
from cpep_edge.taught_recordings import NOTES_FILE, Recordings, recordings_of
from cpep_edge.trust import SigningKey

ALL = "all"  # instead of a gesture's name: every gesture, in a new wearing
REPETITIONS = 3
MOST_GESTURES = 100


@dataclass(frozen=True, slots=True)
class Wish:
    """What the wearer wants to teach."""

    gestures: tuple[str, ...] = ()  # of a new bundle; empty: the default ones
    repetitions: int = REPETITIONS  # of each gesture; of one in `again`, additional ones
    again: tuple[str, ...] = ()  # gestures to repeat
    added: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    others: bool = False  # a new bundle also learns other movements, to reject them

    @property
    def changes(self) -> bool:
        """Whether it changes a bundle that was taught before."""
        return bool(self.again or self.added or self.left_out)


class Teaching:
    """One sitting, in which repetitions are recorded and the bundle is fitted and written."""

    def __init__(
        self,
        path: Path,
        info: StreamInfo | None,
        wish: Wish = Wish(),
        trained: Bundle | None = None,
        timing: Timing = Timing(),
    ) -> None:
        """path: the bundle, which may not exist yet
        info: of the band; None when nothing is to be recorded
        trained: a bundle for the same band, whose encoder is tried too

        Raises ConfigError, which says what to do, when the wish cannot be met: a name is taken or unknown, the band is
        another, there is only one gesture, there is nothing to do, or a lesson is already running. Raises ArtifactError
        or CpepError when no bundle can be written there, DataError when the recordings are damaged.
        """
        if path.name in ("", ".."):
            raise ConfigError(f"{path} is not a name of a bundle: give one, such as mine.cpep")
        require_bundle_or_nothing(path)
        check_writable(path)
        check_writable(recordings_of(path) / NOTES_FILE)
        self.path = path
        kept = Recordings.read(recordings_of(path))
        if kept is None:
            kept = self._new(info, wish)
        elif info is not None:
            kept.check_band(info)
        self._repetitions = kept.repetitions() if kept.folder.is_dir() else []
        are_new = kept.are_new() if (path / MANIFEST_FILE).is_file() else [False] * len(self._repetitions)
        self._new_ones = [one for one, is_new in zip(self._repetitions, are_new, strict=True) if is_new]
        self._check_edits(kept)
        present = tuple(name for name in kept.notes.gestures if name not in self._removed())
        gestures = _wanted(present, kept.notes.rest, wish, path)
        self.wearing = self._wearing(wish, gestures)
        steps = self._steps(wish, gestures)
        unchanged = gestures == kept.notes.gestures and not steps and not self._new_ones
        if unchanged and (path / MANIFEST_FILE).is_file():
            raise ConfigError(
                f"{path} is taught already: add repetitions with --again NAME, a gesture with --with NAME, or leave "
                "one out with --without NAME"
            )
        if steps and info is None:
            raise ConfigError(f"{', '.join(sorted({step.gesture for step in steps}))} must be recorded: give --port")
        self.recordings = kept.with_gestures(gestures)
        self.reading = design_reading(kept.notes.n_channels, kept.notes.sample_rate_hz)
        self._base = self._find_base(trained, info)
        self.lesson = Lesson(self.reading, steps, rest=kept.notes.rest, wearing=self.wearing, timing=timing)
        self._let_go: Callable[[], object] = lambda: None
        if self.recordings.folder.is_dir():
            self._hold()
        self.n_kept = sum(one.gesture in gestures for one in self._repetitions)  # before this sitting

    @property
    def cue(self) -> Cue:
        """The cue to show now."""
        return self.lesson.cue

    def feed(self, block: Block) -> list[Event]:
        """Take samples. A completed repetition is on disk when this returns; raises CpepError when the disk refuses."""
        events = self.lesson.feed(block)
        for event in events:
            if isinstance(event, Repetition):
                if not self._repetitions:
                    self._hold()
                    self.recordings.save()
                self.recordings.add(event)
                self._repetitions.append(event)
        return events

    def fit(self) -> tuple[Taught, list[Repetition]]:
        """Fit to all repetitions of the bundle's gestures. Raises DataError when there are too few."""
        names = {*self.recordings.notes.gestures, self.recordings.notes.rest}
        used = [one for one in self._repetitions if one.gesture in names]
        if len({one.gesture for one in used} - {self.recordings.notes.rest, UNKNOWN}) < 2:
            raise DataError(
                f"fewer than two gestures were recorded: run cpep-edge teach {self.path} again, it continues from here"
            )
        return fit_taught(used, self.recordings.notes.rest, self.reading, self.recordings.notes.unit, self._base), used

    def write(self, taught: Taught, used: Sequence[Repetition], key: SigningKey | None = None) -> Manifest:
        """Write the bundle in place of an earlier one, and note the gestures that it has.

        Raises ConfigError when the earlier one has got a gesture in the meantime that would be lost.
        """
        self._check_edits(self.recordings)
        manifest = write_taught(self.path, taught, used, f"{len(used)} recordings of its wearer", key)
        self.recordings = self.recordings.all_fitted()
        self.recordings.save()
        self.close()
        return manifest

    def close(self) -> None:
        """Release the recordings, so that another lesson can record for this bundle."""
        self._let_go()

    def _check_edits(self, kept: Recordings) -> None:
        """Raise ConfigError when the bundle has a gesture that was never recorded: a new fit would lose it."""
        known = {*kept.notes.gestures, kept.notes.rest, *(one.gesture for one in self._repetitions)}
        strange = next((one.name for one in self._written() if not one.n_prototypes and one.name not in known), None)
        if strange is not None:
            raise ConfigError(
                f"{self.path} has {strange} from gestures add, and a lesson would lose it: first run cpep-edge "
                f"gestures remove {self.path} {strange}, then teach it with --with {strange}"
            )

    def _removed(self) -> set[str]:
        """Gestures that were recorded and fitted, and that `gestures remove` has since taken out of the bundle."""
        there = {one.name for one in self._written()}
        fitted = {one.gesture for one in self._repetitions} - {one.gesture for one in self._new_ones}
        return fitted - there if there else set()

    def _written(self) -> tuple[Gesture, ...]:
        return Bundle(self.path).manifest.gestures if (self.path / MANIFEST_FILE).is_file() else ()

    def _hold(self) -> None:
        """Keep other lessons out of the recordings until `close`."""
        folder = self.recordings.folder
        try:
            self._let_go()
            make_folder(folder)
            self._let_go = weakref.finalize(self, os.close, hold(folder))
        except BlockingIOError as error:
            raise ConfigError(
                f"another lesson is recording into {folder}: let it end, or teach a bundle of another name"
            ) from error
        except OSError as error:
            raise CpepError(f"cannot write {folder}: {error.strerror}") from error

    def _new(self, info: StreamInfo | None, wish: Wish) -> Recordings:
        if (self.path / MANIFEST_FILE).is_file():
            raise ConfigError(
                f"{self.path} was not taught, so there is nothing to go on from: choose another name, and give it as "
                "--from if its encoder is to help"
            )
        if wish.changes or info is None:
            raise ConfigError(f"nothing was taught for {self.path} yet: leave out --again, --with and --without")
        design_reading(info.n_channels, info.sample_rate_hz)  # raises ConfigError for a band that cannot be taught
        names = (*(wish.gestures or DEFAULT_GESTURES), *((UNKNOWN,) if wish.others else ()))
        return Recordings.begin(recordings_of(self.path), info, check_gestures(names), rest_of(names))

    def _wearing(self, wish: Wish, gestures: tuple[str, ...]) -> int:
        last = max((one.wearing for one in self._repetitions), default=0)
        known = len(self._repetitions) - len(self._new_ones)
        begun = bool(self._new_ones) and last > max((one.wearing for one in self._repetitions[:known]), default=0)
        return last + 1 if (set(wish.again) >= set(gestures) - {UNKNOWN} or ALL in wish.again) and not begun else last

    def _steps(self, wish: Wish, gestures: tuple[str, ...]) -> list[Step]:
        """The missing repetitions, in rounds through the list of gestures."""
        again = gestures if ALL in wish.again else wish.again
        had: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for one in self._repetitions:
            had[one.gesture].add((one.wearing, one.number))
        done = {name: sum(one.gesture == name for one in self._new_ones) for name in again}
        missing = {name: max(0, wish.repetitions - done.get(name, len(had[name]))) for name in gestures}
        first = {name: 1 + max((n for w, n in had[name] if w == self.wearing), default=0) for name in gestures}
        rounds = range(max(missing.values(), default=0))
        return [Step(name, first[name] + extra) for extra in rounds for name in gestures if extra < missing[name]]

    def _find_base(self, trained: Bundle | None, info: StreamInfo | None) -> Base | None:
        """The trained bundle to build on: the given one, else the taught bundle itself if it already has an encoder."""
        if trained is None and (self.path / MANIFEST_FILE).is_file():
            before = Bundle(self.path)
            trained = None if before.manifest.encoder is None else before
        if trained is None:
            return None
        trained.manifest.encoder_for("--from")
        if info is not None:
            check_stream(info, trained.manifest)
        taught_before = tuple(one.name for one in trained.manifest.gestures if not one.n_prototypes)
        return Base(trained, Recogniser(trained), taught_before)


def _wanted(present: tuple[str, ...], rest: str, wish: Wish, path: Path) -> tuple[str, ...]:
    """The gestures that the bundle is to have. Raises ConfigError when the wish does not fit those that it has."""
    if wish.gestures and set(wish.gestures) - {rest, UNKNOWN} != set(present) - {UNKNOWN}:
        raise ConfigError(
            f"{path} is being taught {', '.join(present)}: change the list with --with and --without, or choose "
            "another name"
        )
    for option, names in (("--again", wish.again), ("--without", wish.left_out)):
        unknown = [name for name in names if name not in present and (option, name) != ("--again", ALL)]
        if unknown:
            raise ConfigError(f"{option} {unknown[0]}: {path} has no such gesture, it has {', '.join(present)}")
    taken = [name for name in wish.added if name in (*present, rest)]
    if taken:
        raise ConfigError(f"--with {taken[0]}: {path} has a gesture of this name; repeat it with --again {taken[0]}")
    gestures = check_gestures((*(name for name in present if name not in wish.left_out), *wish.added))
    if len(gestures) > MOST_GESTURES:
        raise ConfigError(f"{len(gestures)} gestures are more than the {MOST_GESTURES} that can be taught")
    return gestures
