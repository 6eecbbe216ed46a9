"""Compile an emitted folder, for this machine or for a Cortex-M, and run its golden check, here or under QEMU.

The Makefile in the folder does the work; this module calls it and parses its output.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cpep_edge.errors import ArtifactError, ConfigError

Build = Literal["library", "host", "sanitized", "m55", "m7"]
Processor = Literal["m55", "m7"]
Kernels = Literal["own", "plain"]

CHECK_TIMEOUT_S = 600
_PACKAGES = {
    "make": "make",
    "gcc": "gcc",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """The result of one golden stretch."""

    difference: int  # largest over embedding and mean token, in units of the last place
    gesture_index: int


@dataclass(frozen=True, slots=True)
class CheckRun:
    """What the check program of one build printed. Instruction counts are zero where they cannot be measured."""

    golden: tuple[GoldenResult, ...]
    n_wrong: int
    patch_instructions: int  # of one window: cutting it into tokens
    encoder_instructions: int  # ... and the rest of the encoder
    vote_instructions: int  # ... and search or head
    sample_instructions: int  # of one sample of all channels: filters, and products of electrodes
    token_instructions: int  # of one token: logarithms
    arena_bytes: int
    stack_bytes: int

    @property
    def window_instructions(self) -> int:
        """Instructions from a window in the ring to a vote."""
        return self.patch_instructions + self.encoder_instructions + self.vote_instructions


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a program, from arm-none-eabi-size."""

    code_bytes: int  # of the whole check program: engine, start-up, library
    constant_bytes: int  # of the engine: weights, positions, tables, prototypes
    ram_bytes: int  # static: the arena and the kernels' buffers


def missing_tool(processor: Processor | None) -> str | None:
    """The first tool that is not installed, or None; with a processor also those that build and run for it."""
    tools = ("make", "gcc") if processor is None else tuple(_PACKAGES)
    return next((tool for tool in tools if shutil.which(tool) is None), None)


def compile_for(folder: Path, build: Build, objects: Path, kernels: Kernels = "own") -> None:
    """Compile; objects: where to build.

    Raises ConfigError with the line that installs a missing tool, ArtifactError when the compiler refuses.
    """
    tool = missing_tool(build if build in ("m55", "m7") else None)
    if tool is not None:
        raise ConfigError(f"cortex-m: {tool} is missing; install it with: apt-get install {_PACKAGES[tool]}")
    done = _make(folder, build, objects, kernels)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:] or [""]
        raise ArtifactError(f"cortex-m: the sources do not compile for {build}: {lines[0].strip()}")


def run_check(folder: Path, build: Build, objects: Path, kernels: Kernels = "own") -> CheckRun:
    """Run the golden stretches on a build. Raises ArtifactError when the program does not reach its end."""
    if build in ("m55", "m7"):
        done = _make(folder, f"check-{build}", objects, kernels)
    else:
        done = subprocess.run([objects / build / "check"], capture_output=True, text=True, timeout=CHECK_TIMEOUT_S)
    return _read_check(build, done.stdout + done.stderr)  # QEMU writes semihosting text to the latter


def sizes_of(objects: Path, processor: Processor) -> Sizes:
    """Sizes of a compiled check program and of the engine in it."""
    program = _sections(objects / processor / "check.elf")
    engine = _sections(objects / processor / "libcpep.a")
    return Sizes(
        code_bytes=sum(size for name, size in program if name in (".text", ".vectors")),
        constant_bytes=sum(size for name, size in engine if name.startswith(".rodata")),
        ram_bytes=sum(size for name, size in program if name in (".data", ".bss")),
    )


def _make(folder: Path, target: str, objects: Path, kernels: Kernels) -> subprocess.CompletedProcess[str]:
    options = [f"BUILD={objects}", *(["KERNELS=plain"] if kernels == "plain" else [])]
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        ["make", "-C", str(folder), target, *options],
        capture_output=True,
        text=True,
        timeout=CHECK_TIMEOUT_S,
        env=environment,
    )


def _read_check(build: Build, output: str) -> CheckRun:
    lines = [line.split() for line in output.splitlines()]
    rows: dict[str, list[list[int]]] = {}
    for word, *numbers in (line for line in lines if len(line) == 4 and all(map(_is_integer, line[1:]))):
        rows.setdefault(word, []).append([int(number) for number in numbers])
    if "done" not in rows:
        last = output.strip().splitlines()[-1:] or ["it printed nothing"]
        raise ArtifactError(f"cortex-m: the check built for {build} did not finish: {last[0]}")
    patch, encoder, vote = rows["instructions"][-1]
    return CheckRun(
        golden=tuple(GoldenResult(difference, gesture) for _, difference, gesture in rows["golden"]),
        n_wrong=rows["done"][0][1],
        patch_instructions=patch,
        encoder_instructions=encoder,
        vote_instructions=vote,
        sample_instructions=rows["sample_instructions"][-1][0],
        token_instructions=rows["sample_instructions"][-1][1],
        arena_bytes=rows["memory"][0][0],
        stack_bytes=rows["memory"][0][1],
    )


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def _sections(file: Path) -> list[tuple[str, int]]:
    """Sections of a program, or of all members of a library, with their bytes."""
    printed = subprocess.run(["arm-none-eabi-size", "-A", str(file)], capture_output=True, text=True, check=True)
    words = [line.split() for line in printed.stdout.splitlines()]
    return [(w[0], int(w[1])) for w in words if len(w) == 3 and w[0].startswith(".") and w[1].isdigit()]
