"""The manifest's description of a microcontroller program, and access to its C sources."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cpep_edge.errors import ArtifactError
from cpep_edge.manifest_part import FileName, Part

if TYPE_CHECKING:
    from cpep_edge.bundle import Bundle

_MAX_UNPACKED_BYTES = 1 << 28  # a weight takes about 4 bytes as C text


class ProcessorRun(Part):
    """A run of the golden inputs on one processor under QEMU, bit for bit as on the exporting machine.

    QEMU counts instructions, not cycles.
    """

    processor: Literal["cortex-m55", "cortex-m7"]
    instructions_a_window: int = Field(gt=0)
    patch_instructions: int = Field(default=0, ge=0)  # of those: cutting and embedding patches; 0: not counted apart
    search_instructions: int = Field(default=0, ge=0)  # of those: the nearest prototypes and their vote, or the head
    instructions_a_sample: int = Field(gt=0)  # all channels: filters, and products of electrodes
    token_instructions: int = Field(default=0, ge=0)  # per token: logarithms of its covariances; 0: no front end
    code_bytes: int = Field(gt=0)
    constant_bytes: int = Field(gt=0)  # weights, tables, prototypes
    ram_bytes: int = Field(gt=0)  # arena, kernels and stack


class CortexMSpec(Part):
    """C sources of engine and model, from samples to a vote; all in integers except a front end and its head."""

    kind: Literal["cortex-m"] = "cortex-m"
    file: FileName  # a zip that compiles without other files, with a README
    uv_per_count: float = Field(gt=0)  # of the converter whose counts the program takes
    weight_bytes: int = Field(gt=0)  # of encoder and head
    arena_bytes: int = Field(gt=0)
    multiply_adds: int = Field(gt=0)  # per window
    n_windows: int = Field(gt=0)  # compared with float32
    min_cosine: float  # of embeddings to float32; without an encoder, of mean tokens
    mean_cosine: float
    votes_kept: float = Field(ge=0, le=1)  # share of windows with the same vote as in float32
    token_error: float = Field(default=0.0, ge=0)  # largest error of any entry of a golden window's mean token
    runs: tuple[ProcessorRun, ...] = ()  # empty: QEMU or the compiler was not installed

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the bundle that belong to it."""
        return (self.file,)


class VelaEstimate(Part):
    """Estimates for the program by Arm's compiler Vela: modelled, not measured."""

    how: Literal["modelled (Vela)"] = "modelled (Vela)"
    accelerator: str
    clock_mhz: float = Field(gt=0)
    cycles: int = Field(gt=0)  # per window
    inference_ms: float = Field(gt=0)
    sram_bytes: int = Field(ge=0)
    flash_bytes: int = Field(ge=0)  # or DRAM: the memory that holds the weights
    multiply_adds: int = Field(gt=0)


class EthosUSpec(Part):
    """The encoder for Arm's Ethos-U. The NPU runs all of it; the processor runs filter, index and vote."""

    kind: Literal["ethos-u"] = "ethos-u"
    file: FileName  # ExecuTorch program with Vela's commands
    tosa_file: FileName  # the integer program before Vela, for the TOSA reference model
    vela: VelaEstimate
    level_samples: int = Field(default=1, gt=0)  # inputs are means of this many rectified samples; 1: the samples
    n_windows: int = Field(gt=0)  # golden windows that the TOSA reference model ran
    min_cosine: float  # of the reference model's embeddings to float32
    mean_cosine: float
    votes_kept: float = Field(ge=0, le=1)

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the bundle that belong to it."""
        return (self.file, self.tosa_file)


ChipSpec = Annotated[CortexMSpec | EthosUSpec, Field(discriminator="kind")]


def cortex_m_spec(bundle: "Bundle") -> CortexMSpec:
    """The description of a Cortex-M bundle's program. Raises ArtifactError for a bundle of another target."""
    chip = bundle.manifest.chip
    if not isinstance(chip, CortexMSpec):
        raise ArtifactError(f"{bundle.path} contains no C sources; export it with --target cortex-m")
    return chip


def unpack_sources(bundle: "Bundle", folder: Path) -> None:
    """Check and unpack the C sources of a Cortex-M bundle. Raises ArtifactError when they are missing or damaged."""
    content = bundle.read(cortex_m_spec(bundle).file)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED_BYTES:
                raise ArtifactError(f"{bundle.path}: its C sources would unpack to more than any export writes")
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError) as error:
        raise ArtifactError(f"{bundle.path}: its C sources cannot be unpacked: {error}") from error
