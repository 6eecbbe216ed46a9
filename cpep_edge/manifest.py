"""The content of a bundle's `manifest.json` as immutable models that validate themselves, and how it is read."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from cpep_edge.chip import ChipSpec
from cpep_edge.donning import Donning, placements
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.manifest_part import FileName, parse_json
from cpep_edge.manifest_part import Part as _Part
from cpep_edge.mpf import MpfSpec
from cpep_edge.names import FREE_MOVEMENT, MAX_NAME, UNKNOWN, check_name, shown_name
from cpep_edge.preprocess import Preprocessing
from cpep_edge.trust import MAX_VERSION

SCHEMA_VERSION: Literal[4] = 4
MANIFEST_FILE = "manifest.json"
_MAX_FILE_BYTES = 1 << 28  # a limit, so that a false manifest cannot make us allocate any amount
_MAX_NUMBERS = 1 << 24  # values of a window or of an embedding
_MAX_SECTIONS = 64  # second-order sections of the filter
_MAX_LOG_LEVEL = 30.0  # logarithm of a channel's level in microvolts
_LARGEST = 1e9  # far above any real quantity, and values derived from it still fit a float32


Target = Literal["linux", "linux-aarch64", "cortex-m", "ethos-u55", "ethos-u85"]  # the first is x86-64
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(check_name)]
Size = Annotated[int, Field(gt=0, le=1 << 24)]  # of an array, along one axis
Hops = Annotated[int, Field(le=1 << 16)]


def harmonic_mean(seen: float, unseen: float) -> float:
    """The harmonic mean of two accuracies; it is low when either is, and 0 when both are 0."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


class FileEntry(_Part):
    """The hash and size of a file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0, le=_MAX_FILE_BYTES)


class StreamSpec(_Part):
    """The blocks in which a streaming program takes the signal: `cpep_edge.streaming`."""

    block_samples: Size  # samples that one run takes
    n_blocks: Size  # an embedding depends on this many of the newest blocks


class EncoderSpec(_Part):
    """The EMG encoder: one window in, one embedding out.

    Its input has `n_channels` rows and `window_samples` columns; behind a front end these are features and tokens.
    """

    file: FileName
    runtime: Literal["executorch-xnnpack"]
    quantisation: Literal["int8", "int8-dynamic", "fp32"]
    n_channels: Size
    window_samples: Size
    d_embed: Size
    n_queries: Literal[1] = Field(default=1, exclude=True)  # only in manifests of earlier versions
    n_parameters: int = Field(gt=0)
    n_delegates: int = Field(ge=0)  # sub-graphs that the backend runs
    n_operators_outside: int = Field(ge=0)  # operators left to the portable kernels
    stream: StreamSpec | None = None  # None: the program takes whole windows

    @model_validator(mode="after")
    def _fits_into_memory(self) -> "EncoderSpec":
        if self.n_channels * self.window_samples > _MAX_NUMBERS or self.d_embed > _MAX_NUMBERS:
            raise ValueError(f"a window or an embedding has more than {_MAX_NUMBERS:,} numbers")
        return self

    @property
    def run_samples(self) -> int:
        """Samples that the program takes at once."""
        return self.window_samples if self.stream is None else self.stream.block_samples

    @model_validator(mode="after")
    def _blocks_fit(self) -> "EncoderSpec":
        if self.stream is not None and self.stream.n_blocks * self.stream.block_samples > self.window_samples:
            raise ValueError("the blocks that decide an embedding are longer than the window")
        return self


class PlacementSpec(_Part):
    """The placements of the band on the arm that a calibration tries."""

    max_turn: int = Field(default=2, ge=0, le=64)  # electrodes to either side
    mirrored: bool = False  # whether the ring of electrodes may also be mirrored

    def orders(self, n_electrodes: int) -> list[tuple[int, ...]]:
        """The placements of `cpep_edge.donning.placements`."""
        return placements(n_electrodes, self.max_turn, self.mirrored)


class WornSpec(_Part):
    """How the band sat when the wearer taught the bundle. It is assumed to sit so until the next calibration."""

    order: tuple[int, ...] = ()  # the band's electrode for each of the model's; empty: the same order
    level_uv: tuple[Annotated[float, Field(gt=0, le=1e9)], ...] = Field(min_length=1)  # each channel is divided by it
    dead: tuple[Annotated[int, Field(ge=0)], ...] = ()  # the model's electrodes without a signal
    centre: tuple[float, ...] = ()  # the mean token, subtracted from every token; empty: that of the front end


class HeadSpec(_Part):
    """A regularised discriminant over gestures of which there was EMG to train on: `cpep_edge.head`."""

    file: FileName
    reads: Literal["tokens", "embedding", "both"]  # a window's mean token, the encoder's output, or both in this order
    gestures: tuple[int, ...] = Field(min_length=2)  # numbers of the bundle's gestures, in the head's order
    min_typicality: float = Field(default=0.0, ge=0, le=1)  # below: a gesture that only the index has may win
    answers: bool = True  # False: it only helps to find the band's placement, and the index votes
    validation: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}  # balanced accuracy of each head it was chosen from


class GraphSpec(_Part):
    """How hnswlib's graph was built and is searched."""

    m: Size  # links of a node
    ef_construction: Size  # candidates while building
    ef: Size  # candidates of a search


Search = Literal["auto", "hnsw", "exact"]


class PenaltyPoint(_Part):
    """Accuracies under one penalty on trained gestures: people of the validation split, all gestures in the index."""

    seen_penalty: float = Field(ge=0, le=2)
    seen: float = Field(ge=0, le=1)  # balanced accuracy on trained gestures
    unseen: float = Field(ge=0, le=1)  # balanced accuracy on gestures that are in neither training nor test

    @property
    def harmonic_mean(self) -> float:
        """The harmonic mean of the two."""
        return harmonic_mean(self.seen, self.unseen)


class IndexSpec(_Part):
    """The pose index: unit vectors, compared by inner product."""

    file: FileName
    n_prototypes: Size
    graph: GraphSpec | None = None  # None: every prototype is compared
    search: Search = "auto"  # as chosen at export; kept when gestures are added
    seen_penalty: float = Field(default=0.0, ge=0, le=2)  # subtracted from cosines of trained gestures: `pose_index`
    penalty_curve: tuple[PenaltyPoint, ...] = ()  # what the penalty was chosen from; empty: no gestures were held out

    def penalties(self, gestures: "Sequence[Gesture]") -> tuple[float, ...]:
        """The penalty of each gesture; a gesture that a user added counts as untrained."""
        return tuple(self.seen_penalty if gesture.trained else 0.0 for gesture in gestures)


class Gesture(_Part):
    """One gesture; its position in the list is the gesture's number."""

    name: Name
    n_prototypes: Annotated[int, Field(ge=0, le=1 << 24)]  # 0: only the head knows it
    trained: bool  # False: no EMG of it was in training, only its poses are in the index
    origin: Literal["corpus", "pose file", "session"] = "corpus"  # where its prototypes come from
    called: Name | None = None  # the name to show to people; None: derived from `name` by `shown_name`


class PoseSpec(_Part):
    """The pose encoder, with which a gesture can be enrolled by its joint angles.

    It is described by the same fields as the EMG encoder.
    """

    encoder: EncoderSpec  # here a channel is a joint and a sample is a pose
    joints: tuple[Name, ...] = Field(min_length=1)
    rate_hz: float = Field(gt=0, le=1e6)  # poses a second
    mean_rad: tuple[float, ...]  # of each joint in the training data
    std_rad: tuple[Annotated[float, Field(gt=0)], ...]
    spread_rad: tuple[Annotated[float, Field(ge=0)], ...]  # SD between people making the same gesture

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "PoseSpec":
        if {len(self.mean_rad), len(self.std_rad), len(self.spread_rad), self.encoder.n_channels} != {len(self.joints)}:
            raise ValueError("the joints, their statistics and the channels of the encoder differ in number")
        return self


class OperatingPoint(_Part):
    """Rejection thresholds, and their effect on held-out windows, measured at export."""

    min_vote_share: float = Field(ge=0, le=1)
    min_similarity: float = Field(ge=-1, le=1)
    coverage: float = Field(ge=0, le=1)  # share of windows that are accepted
    risk: float = Field(ge=0, le=1)  # share of accepted windows whose vote is wrong


class DecisionSpec(_Part):
    """How votes become decisions; `cpep_edge.decisions` explains each number."""

    k: Hops = Field(default=10, gt=0)  # neighbours that vote
    min_vote_share: float = Field(default=0.0, ge=0, le=1)  # below: no gesture begins
    min_similarity: float = Field(default=-1.0, ge=-1, le=1)  # of the winner's nearest prototype; below: none begins
    hop_ms: float = Field(default=100.0, ge=5, le=60_000)  # between two windows
    evidence_ms: float = Field(default=100.0, gt=0, le=60_000)  # signal that counts as one independent observation
    min_belief: float = Field(default=0.9, gt=0.5, lt=1)  # that a gesture needs to become the decision
    release_ms: float = Field(default=700.0, ge=0, le=60_000)  # after a gesture stood as long, until another may begin
    wake_gesture: str = ""  # made twice, it lets other gestures count for a while; empty: they always count
    adapt: bool = False  # whether the head's means follow the wearer (`cpep_edge.head.Drift`)
    rest_gesture: str = ""  # the gesture that stands for rest; empty: there is none
    rest_level: float = Field(default=0.0, ge=0)  # RMS, in units of the scale, below which muscles rest; 0: never
    rejection: tuple[OperatingPoint, ...] = ()  # the best thresholds, by falling coverage; empty: not calibrated


class NativeSpec(_Part):
    """The C library that runs the encoder without torch. It is code, so trust its bundle as you would a program."""

    architecture: Literal["x86_64", "aarch64"]
    libraries: tuple[FileName, ...] = Field(min_length=1)  # in the order in which they are loaded
    runner: FileName  # a program that runs the bundle without Python


class LadderStep(_Part):
    """Zero-shot balanced accuracy at one step between the trained module and the deployed bundle.

    Every step is measured on the same windows.
    """

    step: str
    seen: float | None  # None: the data has no such windows
    unseen: float | None
    seen_among_all: float | None = None  # the same, with all gestures in the index
    unseen_among_all: float | None = None
    vote_agreement: float  # share of windows whose vote is that of the first step

    @property
    def harmonic_mean(self) -> float | None:
        """Harmonic mean of seen and unseen gestures among all (generalised zero-shot learning: Xian et al. 2019)."""
        seen, unseen = self.seen_among_all, self.unseen_among_all
        return None if seen is None or unseen is None else harmonic_mean(seen, unseen)

    def cells(self) -> tuple[str, ...]:
        """A row of a table: the step, its accuracies (seen, then unseen), their harmonic mean, the vote agreement."""
        shares = (self.seen, self.unseen, self.seen_among_all, self.unseen_among_all, self.harmonic_mean)
        return (self.step, *("-" if one is None else f"{one:.3f}" for one in shares), f"{self.vote_agreement:.1%}")


class Provenance(_Part):
    """Where the bundle comes from."""

    recipe: str
    seed: int
    data: str  # name of the corpus, and whether it is simulated
    git_commit: str
    versions: dict[str, str]
    created_utc: str


class Manifest(_Part):
    """The whole content of `manifest.json`."""

    schema_version: Literal[4] = SCHEMA_VERSION
    name: Name
    version: int = Field(default=1, gt=0, lt=MAX_VERSION)  # rises with every new bundle of this name
    signer: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")  # fingerprint of the key; None: not signed
    target: Target | Literal["any"]  # any: it holds no compiled program
    files: dict[FileName, FileEntry]
    golden_file: FileName
    hand_file: FileName | None = None  # poses to display (`cpep_edge.hand`); None: viewers draw no hand
    n_channels: Size  # of the band
    unit: Literal["uV", "count"] = "uV"  # of the samples; with count, every level in microvolts is in counts
    window_samples: Size  # EMG samples of a window
    preprocessing: Preprocessing
    front_end: MpfSpec | None = None  # None: the encoder takes the preprocessed signal itself
    calibration: tuple[str, ...] = ()  # movements of a calibration, in order; empty: it needs no calibration
    placement: PlacementSpec = PlacementSpec()
    masked_channels: tuple[int, ...] = ()  # of the band, from 0; they were dead in training, so they are not read
    level_pattern: tuple[float, ...] = ()  # logarithms of the usual channel levels in a calibration; empty: not known
    worn: WornSpec | None = None  # None: without a calibration, the corpus' scale divides the signal
    encoder: EncoderSpec | None = None  # None: there is only a head, on the front end's tokens
    head: HeadSpec | None = None  # None: only the index votes
    native: NativeSpec | None = None  # None: the device needs torch and executorch
    chip: ChipSpec | None = None  # None: for Linux only
    pose: PoseSpec | None = None  # None: no gesture can be enrolled by its pose
    index: IndexSpec | None = None  # None: the head knows every gesture
    gestures: tuple[Gesture, ...] = Field(min_length=1)
    decision: DecisionSpec
    ladder: tuple[LadderStep, ...] = ()
    forced: tuple[str, ...] = ()  # reasons to refuse the export that the user overrode
    passed_over: tuple[str, ...] = ()  # quantisations that export tried and rejected, with the reasons
    provenance: Provenance

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Manifest":
        carried = () if self.native is None else (*self.native.libraries, self.native.runner)
        pose = () if self.pose is None else (self.pose.encoder.file,)
        hand = () if self.hand_file is None else (self.hand_file,)
        chip = () if self.chip is None else self.chip.files
        parts = [part.file for part in (self.encoder, self.index, self.head) if part is not None]
        for name in (*parts, self.golden_file, *hand, *pose, *carried, *chip):
            if name not in self.files:
                raise ValueError(f"{name} is used but not listed under files")
        if len(set(self.gesture_names)) != len(self.gestures):
            raise ValueError("two gestures have the same name")
        if sum(gesture.n_prototypes for gesture in self.gestures) != (self.index.n_prototypes if self.index else 0):
            raise ValueError("the prototypes of the gestures do not add up to those of the index")
        in_head = () if self.head is None else self.head.gestures
        if any(not gesture.n_prototypes and number not in in_head for number, gesture in enumerate(self.gestures)):
            raise ValueError("a gesture is known to neither the index nor the head")
        if self.head is not None and not 0 <= min(self.head.gestures) <= max(self.head.gestures) < len(self.gestures):
            raise ValueError("the head knows a gesture that the bundle does not have")
        if self.front_end is not None and self.front_end.n_electrodes != self.n_channels:
            raise ValueError("the front end and the band differ in channels")
        if self.front_end is not None:
            top_hz, half_hz = max(band.high_hz for band in self.front_end.bands), self.preprocessing.sample_rate_hz / 2
            if top_hz >= half_hz:
                raise ValueError(f"a band of the front end ends at {top_hz:g} Hz, not below {half_hz:g}, half the rate")
        if self.encoder is None:
            self._check_without_encoder()
        elif (self.encoder.n_channels, self.encoder.window_samples) != self.input_shape:
            raise ValueError("the encoder does not take what the front end gives")
        if self.index is None and not (self.head is not None and self.head.answers):
            raise ValueError("there is neither an index nor a head that answers")
        self._check_worn()
        if any(abs(level) > _MAX_LOG_LEVEL for level in self.level_pattern):
            raise ValueError("level_pattern holds a logarithm that no signal has")
        if not all(0 <= channel < self.n_channels for channel in self.masked_channels):
            raise ValueError("masked_channels names a channel that the band does not have")
        if len(self.level_pattern) not in (0, self.n_channels):
            raise ValueError("level_pattern is not of as many channels as the band has")
        if self.n_channels * self.window_samples > _MAX_NUMBERS:
            raise ValueError(f"a window has more than {_MAX_NUMBERS:,} numbers")
        _check_filter(self.preprocessing)
        return self

    @property
    def gesture_names(self) -> tuple[str, ...]:
        """Labels of the gestures, by number."""
        return tuple(gesture.name for gesture in self.gestures)

    def _check_worn(self) -> None:
        worn, n = self.worn, self.n_channels
        if worn is None:
            return
        if len(worn.level_uv) != n or any(place >= n for place in worn.dead):
            raise ValueError("worn is not of as many channels as the band has")
        if worn.order and sorted(worn.order) != list(range(n)):
            raise ValueError("worn has an order that is not an order of the electrodes")
        if worn.centre and (self.front_end is None or len(worn.centre) != self.front_end.n_features):
            raise ValueError("worn has a centre that is not a token")

    def _check_without_encoder(self) -> None:
        if self.front_end is None or self.head is None or self.head.reads != "tokens":
            raise ValueError("without an encoder only a head on a front end's tokens can answer")
        if self.front_end.n_tokens(self.window_samples) == 0:
            raise ValueError("a window is shorter than a token's span")
        if self.index is not None or self.pose is not None or self.hand_file is not None:
            raise ValueError("poses are compared with what an encoder gives, and there is none")

    @property
    def usual_donning(self) -> Donning:
        """The assumed placement and levels of a band that was not calibrated."""
        if self.worn is None:
            return Donning()
        return Donning(
            order=self.worn.order,
            level_uv=np.array(self.worn.level_uv, np.float32),
            dead=self.worn.dead,
            centre=np.array(self.worn.centre, np.float32) if self.worn.centre else None,
        )

    @property
    def other_movements(self) -> int | None:
        """The head's class of movements that are no gesture; None: it has none. A calibration does not include it."""
        names = [] if self.head is None else [self.gestures[number].name for number in self.head.gestures]
        return names.index(UNKNOWN) if UNKNOWN in names else None

    def shown(self, label: str) -> str:
        """The name of a gesture to show to people."""
        return next((one.called for one in self.gestures if one.name == label and one.called), shown_name(label))

    @property
    def calibration_moves(self) -> str:
        """The movements for a calibration, in words."""
        freely = "move the hand in many ways"
        return ", then ".join(freely if one == FREE_MOVEMENT else self.shown(one) for one in self.calibration) or freely

    @property
    def d_embed(self) -> int:
        """Length of an embedding. Without an encoder, the mean token scaled to unit length serves as the embedding."""
        return self.input_shape[0] if self.encoder is None else self.encoder.d_embed

    def encoder_for(self, purpose: str) -> EncoderSpec:
        """The encoder's part of the manifest. Raises ConfigError, which names the purpose, when the bundle has none."""
        if self.encoder is None:
            raise ConfigError(f"{self.name} was taught by its wearer and has no encoder, which {purpose} needs")
        return self.encoder

    def index_for(self, purpose: str) -> IndexSpec:
        """The index' part of the manifest. Raises ConfigError, which names the purpose, when the bundle has none."""
        if self.index is None:
            raise ConfigError(f"{self.name} was taught by its wearer and has no poses, which {purpose} needs")
        return self.index

    @property
    def input_shape(self) -> tuple[int, int]:
        """Shape of the encoder's input for one window: channels and samples, or features and tokens."""
        if self.front_end is None:
            return self.n_channels, self.window_samples
        return self.front_end.n_features, self.front_end.n_tokens(self.window_samples)


def parse_manifest(path: Path, content: bytes) -> Manifest:
    """Read `manifest.json` of the bundle at `path`, which only errors name. Raises ArtifactError when it is invalid."""
    try:
        fields = parse_json(content)
        _check_numbers(fields)
        schema = fields.get("schema_version") if isinstance(fields, dict) else None
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise ArtifactError(
                f"{path}: its schema_version is {schema} and this cpep-edge reads {SCHEMA_VERSION}; "
                "update with: pip install --upgrade cpep-edge"
            )
        if isinstance(schema, int) and schema < SCHEMA_VERSION:
            raise ArtifactError(
                f"{path}: its schema_version is {schema}, from an older cpep-edge; export the bundle again"
            )
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ArtifactError(f"{path}: {MANIFEST_FILE} is not valid at {where}: {first['msg']}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{path}: {MANIFEST_FILE} is not valid: {error}") from error


def _check_numbers(fields: object) -> None:
    """Raise ValueError for a number anywhere in the manifest that no export writes."""
    match fields:
        case dict():
            for value in fields.values():
                _check_numbers(value)
        case list():
            for value in fields:
                _check_numbers(value)
        case float() if abs(fields) > _LARGEST:
            raise ValueError(f"{fields:g} is larger than any number of a bundle")
        case int() if abs(fields) >= 1 << 53:
            raise ValueError("a whole number in it has more digits than a float64 holds")


def _check_filter(spec: Preprocessing) -> None:
    numbers = [spec.sample_rate_hz, spec.scale_uv, spec.clip, *(value for section in spec.sos for value in section)]
    if not spec.sos or any(len(section) != 6 for section in spec.sos):
        raise ValueError("preprocessing.sos is not a list of second-order sections of six numbers")
    if any(section[3] != 1 for section in spec.sos):
        raise ValueError("preprocessing.sos has a section whose a0 is not 1")
    if not all(math.isfinite(number) for number in numbers) or min(numbers[:3]) < 1 / _LARGEST:
        raise ValueError("preprocessing holds a number that is infinite, no number, or not above zero where it must be")
    if not all(
        abs(a2) < 1 and abs(a1) < 1 + a2 for *_, a1, a2 in spec.sos
    ):  # Jury's test: both poles inside the circle
        raise ValueError("preprocessing.sos has an unstable section")
    if len(spec.sos) > _MAX_SECTIONS:
        raise ValueError(f"preprocessing.sos has {len(spec.sos)} sections, {_MAX_SECTIONS} at the most")
