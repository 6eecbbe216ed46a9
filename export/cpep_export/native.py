"""Build the torch-free encoder of `export/native` from executorch's wheel, for this machine or another processor.

The wheel contains the C++ headers and libraries it was built with. Three of its libraries, our C library on top of them
and a small runner are all that a device needs to run an encoder; they are part of the bundle.
"""

import logging
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from cpep_edge.errors import CpepError
from cpep_edge.folders import output_folder
from cpep_edge.manifest import Target

Architecture = Literal["x86_64", "aarch64"]
_log = logging.getLogger(__name__)

TARGETS: dict[Architecture, Target] = {"x86_64": "linux", "aarch64": "linux-aarch64"}

LIBRARY = "libcpep_encoder.so"
RUNNER = "cpep-encode"
LICENCE = "LICENSE.executorch"
SDK_LIBRARIES = ("libexecutorch.so", "libexecutorch_threadpool.so", "libexecutorch_backend_xnnpack.so")

EXECUTORCH_VERSION = "1.5.1"  # the one that compiles the programs
_SDK_WHEEL_PYTHON = "311"  # the wheel to take the libraries from; they do not depend on Python
_SDK_WHEEL_SHA256: dict[Architecture, str] = {
    "aarch64": "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a",
}
_SDK_PARTS = ("executorch/include/", "executorch/lib/", "executorch/share/cmake/")

_DOWNLOAD_TIMEOUT_S = 600.0
_BUILD_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class NativeBuild:
    """The finished files, all in one folder, which may be moved anywhere as long as they stay together."""

    architecture: Architecture
    libraries: tuple[Path, ...]  # in the order in which they are loaded: the last is the one with the C functions
    runner: Path
    licence: Path  # of the wheel's libraries, which must be distributed with them

    @property
    def files(self) -> tuple[Path, ...]:
        """All files for a bundle."""
        return (*self.libraries, self.runner, self.licence)

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.stat().st_size for file in self.files)


def build_native(out: Path, architecture: Architecture) -> NativeBuild:
    """Build library and runner into the folder `out`, whole or not at all.

    Raises CpepError, saying what to install, when cmake, a compiler or the wheel is not there, or the build fails.
    """
    cmake, compiler = _cmake(), _compiler(architecture)
    with TemporaryDirectory(prefix="cpep-native-") as scratch:
        sdk, licence = _sdk(architecture, Path(scratch) / "sdk")
        build = Path(scratch) / "build"
        _run(_configuration(cmake, compiler, architecture, sdk, build), "configuring the native encoder", scratch)
        _run((cmake, "--build", str(build)), "building the native encoder", scratch)
        with output_folder(out, "the build of the native encoder") as folder:
            for name in SDK_LIBRARIES:
                shutil.copy(sdk / "lib" / name, folder)
            for name in (LIBRARY, RUNNER):
                shutil.copy(build / name, folder)
            for file in folder.iterdir():
                file.chmod(0o755)
            shutil.copyfile(licence, folder / LICENCE)
    libraries = tuple(out / name for name in (*SDK_LIBRARIES, LIBRARY))
    return NativeBuild(architecture, libraries, out / RUNNER, out / LICENCE)


def build_for_target(target: Target, out: Path) -> NativeBuild | None:
    """Build the native files of a bundle for `target` into the folder `out`.

    If the build fails for machines like this one, the bundle does without these files: it then needs torch, and a
    warning says so. For another processor they are required, so CpepError is raised.
    """
    architecture = next(known for known, its_target in TARGETS.items() if its_target == target)
    try:
        return build_native(out, architecture)
    except CpepError as error:
        if architecture != host_architecture():
            raise
        _log.warning("the bundle will need torch on the device: %s", error)
        return None


def host_target() -> Target:
    """The target for this machine."""
    return "linux-aarch64" if host_architecture() == "aarch64" else "linux"


def host_architecture() -> str:
    """The processor of this machine, as Linux names it."""
    return platform.machine()


def native_sources() -> Path:
    """Where the C++ sources lie: inside the wheel, or in a checkout."""
    here = Path(__file__).parent
    return next(folder for folder in (here / "native_sources", here.parent / "native") if folder.is_dir())


def _configuration(cmake: str, compiler: str, architecture: Architecture, sdk: Path, build: Path) -> tuple[str, ...]:
    options = [
        f"-DCMAKE_CXX_COMPILER={compiler}",
        f"-DCMAKE_C_COMPILER={compiler.removesuffix('g++')}gcc",  # which comes with it
        f"-Dexecutorch_DIR={sdk / 'share' / 'cmake'}",
        "-DCMAKE_BUILD_TYPE=MinSizeRel",
    ]
    if architecture != host_architecture():
        options += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={architecture}"]
    return (cmake, "-S", str(native_sources()), "-B", str(build), *options)


def _cmake() -> str:
    """CMake from PyPI, because a distribution's is often too old."""
    try:
        import cmake
    except ImportError as error:
        raise CpepError(
            "building the native encoder needs CMake 3.28 or newer; install it with: pip install 'cpep-edge[export]'"
        ) from error
    return str(Path(cmake.CMAKE_BIN_DIR) / "cmake")


def _compiler(architecture: Architecture) -> str:
    at_home = architecture == host_architecture()
    name = "g++" if at_home else f"{architecture}-linux-gnu-g++"
    package = "g++" if at_home else f"g++-{architecture.replace('_', '-')}-linux-gnu"
    found = shutil.which(name)
    if found is None or shutil.which("make") is None:
        raise CpepError(
            f"building the encoder for {architecture} needs {name} and make; install them with: "
            f"sudo apt-get install {package} make"
        )
    return found


def _sdk(architecture: Architecture, folder: Path) -> tuple[Path, Path]:
    """The folder `executorch` of the wheel's C++ SDK, and its licence."""
    if architecture == host_architecture():
        return _installed_sdk()
    with zipfile.ZipFile(_download_wheel(architecture, folder)) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(_SDK_PARTS)])
        archive.extractall(folder, [name for name in archive.namelist() if "dist-info/licenses/" in name])
    return folder / "executorch", _licence(next(folder.glob("executorch-*.dist-info")))


def _installed_sdk() -> tuple[Path, Path]:
    try:
        installed = distribution("executorch")
    except PackageNotFoundError as error:
        raise CpepError(
            "the native encoder is built from the executorch package; install it with: pip install 'cpep-edge[export]'"
        ) from error
    if installed.version != EXECUTORCH_VERSION:
        raise CpepError(f"executorch is {installed.version} here; install the one that fits: {EXECUTORCH_VERSION}")
    root = Path(str(installed.locate_file("executorch")))
    return root, _licence(root.parent / f"executorch-{EXECUTORCH_VERSION}.dist-info")


def _licence(info: Path) -> Path:
    return info / "licenses" / "LICENSE"


def _download_wheel(architecture: Architecture, folder: Path) -> Path:
    """Fetch the wheel of another processor through pip, which checks its hash; pip's cache keeps it for next time."""
    folder.mkdir()
    if architecture not in _SDK_WHEEL_SHA256:
        raise CpepError(f"building for {architecture} works on {architecture} machines only")
    requirement = folder / "requirement.txt"
    requirement.write_text(f"executorch=={EXECUTORCH_VERSION} --hash=sha256:{_SDK_WHEEL_SHA256[architecture]}\n")
    options = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet", "--disable-pip-version-check")
    which = ("--platform", f"manylinux_2_28_{architecture}", "--python-version", _SDK_WHEEL_PYTHON)
    _run(
        (sys.executable, "-m", "pip", "download", *options, *which, "-d", str(folder), "-r", str(requirement)),
        f"fetching executorch for {architecture}",
        str(folder),
        timeout_s=_DOWNLOAD_TIMEOUT_S,
    )
    return next(folder.glob("*.whl"))


def _run(command: Sequence[str], what: str, scratch: str, timeout_s: float = _BUILD_TIMEOUT_S) -> None:
    environment = {**os.environ, "TMPDIR": scratch}  # so a killed compiler leaves its files in our folder
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True, env=environment)
    except subprocess.TimeoutExpired as error:
        raise CpepError(f"{what} did not end in {timeout_s:g} s") from error
    except subprocess.CalledProcessError as error:
        raise CpepError(f"{what} failed: {_first_error(error.stdout + error.stderr)}") from error


def _first_error(output: str) -> str:
    """The first line with an error in the output of a build."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it said nothing")
