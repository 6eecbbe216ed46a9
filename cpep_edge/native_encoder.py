"""Run the EMG encoder without torch, and the filter without scipy, by calling a bundle's C library through ctypes.

The library is code, so it is loaded from bytes whose hash was checked, never from a file that may have changed since.
Its source is in `export/native`. ExecuTorch's own libraries are loaded before it, in the order of their dependencies. A
process loads each of them only once, because two copies would share one registry of backends. Apart from them, this
module needs only numpy.
"""

import ctypes
import hashlib
import os
import platform
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import ArtifactError, CpepError
from cpep_edge.input_stream import Kernels
from cpep_edge.mpf import FLOOR, MpfSpec, MpfStream

if TYPE_CHECKING:
    from cpep_edge.bundle import Bundle
    from cpep_edge.manifest import EncoderSpec

_ABI_VERSION = 4  # CPEP_ABI_VERSION of encoder.h
_ERROR_BYTES = 512

_loading = threading.Lock()
_loaded: dict[str, ctypes.CDLL] = {}  # by SHA-256 of the bytes; a library is never unloaded
_kept_files: list[int] = []  # descriptors, kept open: the loader tells libraries apart by path, so none may recur


@dataclass(frozen=True, slots=True)
class NativeLibrary:
    """The libraries of a bundle, as bytes whose hash was checked."""

    architecture: str  # as Linux names it: x86_64, aarch64
    files: tuple[tuple[str, bytes], ...]  # name, content; in the order in which they are loaded

    def fits(self) -> bool:
        """Whether this machine can run it."""
        return _runs_here(self.architecture)


class _Shape(ctypes.Structure):
    """Sizes of an encoder's input and output: `cpep_shape` of encoder.h."""

    _fields_ = [
        ("n_channels", ctypes.c_int32),
        ("window_samples", ctypes.c_int32),
        ("d_embed", ctypes.c_int32),
        ("n_states", ctypes.c_int32),
    ]


class NativeEncoder:
    """An encoder program, run by the C library. Only one thread at a time may use it."""

    def __init__(self, library: NativeLibrary, program: bytes, spec: "EncoderSpec", n_threads: int = 1) -> None:
        """program: bytes whose hash was checked.

        Raises ArtifactError when the program cannot be loaded or its input or output is not as the spec says, and
        CpepError when the library is for another machine or conflicts with one in this process.
        """
        self._library = _bind(load_libraries(library))
        self._error = ctypes.create_string_buffer(_ERROR_BYTES)
        self._encoder = self._open(program, n_threads)
        self._shape = (spec.n_channels, spec.run_samples)
        self._d_embed = spec.d_embed
        found = self._library.cpep_shape_of(self._encoder)
        for side, given, said in (
            ("input", (found.n_channels, found.window_samples), self._shape),
            ("output", (found.d_embed,), (spec.d_embed,)),
        ):
            if given != said:
                raise ArtifactError(f"the encoder program's {side} is {given}, the manifest says {said} float32")
        if (found.n_states > 0) != (spec.stream is not None):
            raise ArtifactError("the encoder program and the manifest do not agree on whether it streams")

    def embed(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed one window.

        window: (n_channels, window_samples) float32, preprocessed
        returns: (d_embed,) float32, unit length
        Raises ValueError for another shape.
        """
        if window.shape != self._shape:
            raise ValueError(f"window has shape {window.shape}, this encoder takes {self._shape}")
        given = np.ascontiguousarray(window, dtype=np.float32)  # copies only if necessary
        embedding = np.empty(self._d_embed, dtype=np.float32)
        if self._library.cpep_run(self._encoder, given.ctypes.data, embedding.ctypes.data, self._error, _ERROR_BYTES):
            raise CpepError(f"the encoder failed: {self._text()}")
        return embedding

    def _open(self, program: bytes, n_threads: int) -> ctypes.c_void_p:
        if n_threads < 1:
            raise ValueError(f"n_threads must be at least 1, not {n_threads}")
        handle = self._library.cpep_open(program, len(program), n_threads, self._error, _ERROR_BYTES)
        if handle is None:
            raise ArtifactError(f"the encoder program cannot be loaded: {self._text()}")
        encoder = ctypes.c_void_p(handle)
        weakref.finalize(self, _close, self._library.cpep_close, encoder, program)
        return encoder

    def _text(self) -> str:
        return self._error.value.decode(errors="replace")


class _FrontEndSpec(ctypes.Structure):
    """`cpep_front_end_spec` of encoder.h."""

    _fields_ = [
        ("n_electrodes", ctypes.c_size_t),
        ("n_bands", ctypes.c_size_t),
        ("n_sections", ctypes.c_size_t),
        ("sections", ctypes.c_void_p),
        ("hop_samples", ctypes.c_size_t),
        ("span_samples", ctypes.c_size_t),
        ("shrinkage", ctypes.c_double),
        ("floor", ctypes.c_double),
        ("live", ctypes.c_void_p),
        ("centre", ctypes.c_void_p),
    ]


class NativeMpfStream(MpfStream):
    """The front end in the C library: one call for all samples of a hop."""

    def __init__(
        self,
        library: ctypes.CDLL,
        spec: MpfSpec,
        *,
        centre: NDArray[np.float32] | None = None,
        dead: Sequence[int] = (),
    ) -> None:
        self._handle: ctypes.c_void_p | None = None
        super().__init__(spec, centre=centre, dead=dead)
        sections = np.zeros((len(spec.bands), max(len(sos) for sos in self._sos), 6))
        sections[:, :, [0, 3]] = 1  # sections that stay unused pass the signal unchanged
        for band, sos in enumerate(self._sos):
            sections[band, : len(sos)] = sos
        live, offset = self._live.astype(np.uint8), np.ascontiguousarray(self._centre, np.float32)
        given = _FrontEndSpec(
            *(spec.n_electrodes, len(spec.bands), sections.shape[1], sections.ctypes.data),
            *(spec.hop_samples, spec.span_samples, spec.shrinkage, FLOOR, live.ctypes.data, offset.ctypes.data),
        )
        handle = library.cpep_front_end_open(ctypes.byref(given))
        if handle is None:
            raise CpepError("there is no memory for the front end's covariances")
        self._handle, self._library = ctypes.c_void_p(handle), library
        weakref.finalize(self, library.cpep_front_end_close, self._handle)

    def reset(self, sample_index: int = 0) -> None:
        """See MpfStream."""
        if self._handle is not None:
            self._library.cpep_front_end_reset(self._handle, sample_index)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """See MpfStream."""
        given = np.ascontiguousarray(samples, np.float32)
        if given.ndim != 2 or given.shape[1] != self.spec.n_electrodes:
            raise ValueError(f"samples have shape {given.shape}, this front end takes (n, {self.spec.n_electrodes})")
        tokens = np.empty((1 + len(given) // self.spec.hop_samples, self.spec.n_features), np.float32)
        return tokens[
            : self._library.cpep_front_end_run(self._handle, given.ctypes.data, len(given), tokens.ctypes.data)
        ]


def native_kernels(library: NativeLibrary) -> Kernels:
    """Filter and front end of the C library. The filter equals scipy's `sosfilt` exactly, tokens to single precision.

    Raises CpepError when the library is for another machine or conflicts with one in this process.
    """
    bound = _bind(load_libraries(library))
    filter_in_place = bound.cpep_filter

    def sosfilt(
        sos: NDArray[np.float64], samples: NDArray[np.float32], state: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        filtered, state = np.array(samples, np.float64, order="C"), np.array(state, np.float64, order="C")
        filter_in_place(sos.ctypes.data, len(sos), filtered.ctypes.data, *filtered.shape, state.ctypes.data)
        return filtered, state

    return Kernels(sosfilt, partial(NativeMpfStream, bound))


def carried_library(bundle: "Bundle") -> NativeLibrary | None:
    """The library in a bundle; None when it has none for this machine.

    Raises ArtifactError when a file does not match the manifest, or this device does not trust the bundle's code.
    """
    native = bundle.manifest.native
    if native is None or not _runs_here(native.architecture):
        return None
    bundle.require_trust()
    return NativeLibrary(native.architecture, tuple((name, bundle.read(name)) for name in native.libraries))


def load_libraries(library: NativeLibrary) -> ctypes.CDLL:
    """Load all of a bundle's libraries into this process and return the last, which has the C functions.

    Raises CpepError when they are for another kind of machine, or this process already runs another build of
    ExecuTorch.
    """
    if not library.fits():
        raise CpepError(
            f"this bundle's encoder library is for {library.architecture} Linux, this is {platform.machine()} "
            f"{platform.system()}; export it again with --target for this machine"
        )
    with _loading:
        *needed, (name, content) = library.files
        for needed_name, needed_content in needed:
            if not _in_process(needed_name, needed_content):
                _load(needed_name, needed_content)
        return _load(name, content)


def _runs_here(architecture: str) -> bool:
    return hasattr(os, "memfd_create") and platform.machine() == architecture


def _load(name: str, content: bytes) -> ctypes.CDLL:
    digest = hashlib.sha256(content).hexdigest()
    if digest not in _loaded:
        _loaded[digest] = _load_from_memory(name, content)
    return _loaded[digest]


def _load_from_memory(name: str, content: bytes) -> ctypes.CDLL:
    """Load a library from bytes, through an anonymous file that no other user can open or change."""
    try:
        file = os.memfd_create(name)
        _kept_files.append(file)
        with open(file, "wb", closefd=False) as stream:
            stream.write(content)
        return ctypes.CDLL(f"/proc/self/fd/{file}")
    except OSError as error:
        raise CpepError(f"the encoder library {name} cannot be loaded: {error}") from error


def _in_process(name: str, content: bytes) -> bool:
    """Whether ExecuTorch's own Python bindings have loaded a library of this name from a file.

    The loader then uses that one for the libraries that depend on it, so it must have the same content. Raises
    CpepError when it has not.
    """
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name == name and path.is_absolute():
            if path.read_bytes() != content:
                raise CpepError(f"this process already runs another build of ExecuTorch, {path}; start a new one")
            return True
    return False


def _bind(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the types of the C functions. Raises CpepError when the library has another ABI version."""
    version = library.cpep_abi_version
    version.restype = ctypes.c_uint32
    if version() != _ABI_VERSION:
        raise CpepError(
            f"the bundle's encoder library speaks version {version()}, this cpep-edge version {_ABI_VERSION}; "
            "export the bundle again"
        )
    error = (ctypes.c_char_p, ctypes.c_size_t)
    library.cpep_open.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32, *error)
    library.cpep_open.restype = ctypes.c_void_p
    library.cpep_shape_of.argtypes = (ctypes.c_void_p,)
    library.cpep_shape_of.restype = _Shape
    library.cpep_run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, *error)
    library.cpep_run.restype = ctypes.c_int
    array, size = ctypes.c_void_p, ctypes.c_size_t
    library.cpep_filter.argtypes = (array, size, array, size, size, array)
    library.cpep_filter.restype = None
    library.cpep_front_end_open.argtypes = (array,)
    library.cpep_front_end_open.restype = array
    library.cpep_front_end_reset.argtypes = (array, ctypes.c_uint64)
    library.cpep_front_end_reset.restype = None
    library.cpep_front_end_run.argtypes = (array, array, size, array)
    library.cpep_front_end_run.restype = size
    library.cpep_front_end_close.argtypes = (array,)
    library.cpep_front_end_close.restype = None
    library.cpep_close.argtypes = (ctypes.c_void_p,)
    library.cpep_close.restype = None
    return library


def _close(close: Callable[[ctypes.c_void_p], None], encoder: ctypes.c_void_p, _program: bytes) -> None:
    """Close an encoder. The argument keeps the program's bytes alive, because the library reads them in place."""
    close(encoder)
