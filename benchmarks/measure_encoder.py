"""A trained encoder in every way to run it: ours, ONNX Runtime's, torch's; timed in turns, in one run.

    cpep-edge data synth simulated-people --users 24 --sessions-per-user 1 --seconds 6 --seed 0
    cpep-edge train demo+paper-size --data simulated-people --out run
    cpep-edge train demo+paper-size+streaming --data simulated-people --out streaming --set emg.block_patches=4
    python benchmarks/measure_encoder.py --run run --streaming-run streaming --data simulated-people \\
        --out benchmarks/results/encoder-paper-size.md

ONNX Runtime runs the module as trained and our rewritten graph, each in float32 and in both of its kinds of int8, with
our calibration windows. Accuracies and votes are those of an export's ladder, on windows of held-out people.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from cpep_bench.interleaving import STRETCH_RUNS, interleave
from cpep_bench.machine import Machine, this_machine
from cpep_bench.onnx_peer import OnnxKind, onnx_program
from cpep_bench.operators import profile_encoder
from cpep_edge.files import write_file
from cpep_edge.versions import git_commit, installed_versions
from cpep_export.fused import FusedEncoder
from cpep_export.ladder import Ladder
from cpep_export.lower import lower
from cpep_export.native import build_native, host_architecture
from cpep_export.quantise import Quantisation, quantise
from cpep_export.streaming_graph import StreamingStep
from cpep_export.training_windows import calibration_windows
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import EvaluationSet, embed_poses, evaluation_set
from encoder_variants import EAGER, RUN_LINK, WINDOWS_FILE, Variant, write_variants

OURS, STREAMING = "XNNPACK int8", "XNNPACK int8, one hop of a streaming encoder"
QUANTISATIONS: tuple[Quantisation, ...] = ("int8", "int8-dynamic", "fp32")
ONNX_KINDS: tuple[OnnxKind, ...] = ("int8-static", "int8-dynamic", "fp32")
THREADS = (1, 2)
_SMALLEST_SHARE = 0.01  # least share of the time for a row of its own
PACKAGES = ("torch", "torchao", "executorch", "onnxruntime", "numpy")

Times = dict[str, dict[str, float]]  # milliseconds, by variant


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint with its evaluation on its corpus."""

    checkpoint: Checkpoint
    evaluation: EvaluationSet
    ladder: Ladder

    @classmethod
    def open(cls, run: Path, corpus: Corpus) -> "Trained":
        checkpoint = load_checkpoint(run)
        evaluation = evaluation_set(checkpoint, corpus)
        return cls(checkpoint, evaluation, Ladder(evaluation, embed_poses(checkpoint.pose, evaluation.references)))

    def calibration(self) -> np.ndarray:
        return calibration_windows(self.evaluation, self.checkpoint.recipe.seed)


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="Folder of a finished training.")
    parser.add_argument("--streaming-run", type=Path, required=True, help="The same, of a streaming encoder.")
    parser.add_argument("--data", type=Path, required=True, help="Corpus of both.")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    parser.add_argument("--runs", type=int, default=400, help="Inferences of each variant.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine, corpus = this_machine(), Corpus.open(options.data)  # before measuring, so that the load is other work's
    whole, streaming = Trained.open(options.run, corpus), Trained.open(options.streaming_run, corpus)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / RUN_LINK).symlink_to(options.run.resolve())
        fused, variants = _prepare(folder, whole, streaming)
        times = [_times(folder, variants, n, options.runs) for n in THREADS]
        peaks = {variant.name: int(_output("peak", folder, variant.name)) for variant in variants}
        lines = [
            *_table(folder, variants, times, peaks, _judged(folder, variants, whole, streaming)),
            "",
            *_hop(folder, times[0], options.runs),
            "",
            *_limit(fused, times[0], _multiply_adds_a_second(folder)),
            "",
            *_profile(folder / Variant(OURS, ".pte", fused.d_embed).file),
            "",
        ]
    lines += _footer(machine, whole, options.runs)
    write_file(options.out, "\n".join(lines))


def _prepare(folder: Path, whole: Trained, streaming: Trained) -> tuple[FusedEncoder, list[Variant]]:
    module, calibration = whole.checkpoint.emg.eval(), whole.calibration()
    fused = FusedEncoder(module).eval()
    np.save(folder / WINDOWS_FILE, whole.ladder.evaluation.queries.emg())
    build_native(folder / "native", host_architecture())  # type: ignore[arg-type]
    variants = [Variant(EAGER, "", fused.d_embed)]
    for quantisation in QUANTISATIONS:
        program = lower(quantise(fused, quantisation, calibration), fused.n_channels, fused.window_samples)
        counts = (program.n_delegates, len(program.operators_outside), program.arena_bytes)
        variants.append(Variant(f"XNNPACK {quantisation}", ".pte", fused.d_embed, *counts))
        (folder / variants[-1].file).write_bytes(program.content)
    variants.append(_streaming(folder, streaming))
    for graph, encoder in (("", module), (", our graph", fused)):
        for kind in ONNX_KINDS:
            variants.append(Variant(f"ONNX Runtime {kind}{graph}", ".onnx", fused.d_embed))
            (folder / variants[-1].file).write_bytes(onnx_program(encoder, calibration, kind))
    write_variants(folder, variants)
    return fused, variants


def _streaming(folder: Path, trained: Trained) -> Variant:
    step = StreamingStep(trained.checkpoint.emg).eval()
    program = lower(
        quantise(step, "int8", trained.calibration()), step.n_channels, step.block_samples, step.fresh_state()
    )
    counts = (program.n_delegates, len(program.operators_outside), program.arena_bytes)
    variant = Variant(STREAMING, ".pte", step.d_embed, *counts, step.block_samples, step.n_blocks_seen)
    (folder / variant.file).write_bytes(program.content)
    return variant


def _times(folder: Path, variants: list[Variant], n_threads: int, n_runs: int) -> Times:
    """The times of all variants, measured in turns, each in its own process."""
    commands = {variant.name: _command("serve", folder, variant.name, n_threads) for variant in variants}
    measured = {}
    for name, turn in interleave(commands, n_runs).items():
        measured[name] = {"p50": turn.wall.p50_ms, "p95": turn.wall.p95_ms, "cpu": turn.thread.p50_ms}
    return measured


def _judged(folder: Path, variants: list[Variant], whole: Trained, streaming: Trained) -> dict[str, tuple[str, ...]]:
    """The cells for accuracy, votes kept and smallest cosine to the module, by variant."""
    expected = np.load(Variant(EAGER, "", 0).embeddings(folder))
    judged = {}
    for variant in variants:
        embedding, is_other = np.load(variant.embeddings(folder)), variant.block_samples is not None
        ladder = (streaming if is_other else whole).ladder
        ladder.climb_by_embedding(variant.name, embedding)
        step = ladder.steps[-1]
        cosine = np.sum(embedding * expected, axis=1).min()
        fidelity = ("-", "-") if is_other else (f"{step.vote_agreement:.1%}", f"{cosine:.4f}")
        judged[variant.name] = (f"{step.seen:.3f}", f"{step.unseen:.3f}", *fidelity)
    return judged


def _hop(folder: Path, warm: Times, n_runs: int) -> list[str]:
    """Sentences on the cost of a streaming encoder's hop, compared with a window of the other encoder."""
    cold = interleave({name: _command("cold", folder, name) for name in (OURS, STREAMING)}, n_runs)
    hop_ms, window_ms = (cold[name].thread.p50_ms for name in (STREAMING, OURS))
    return [
        f"A streaming hop costs {warm[STREAMING]['cpu'] / warm[OURS]['cpu']:.2f} of a window. Where other work took "
        f"the caches, so that all weights come from memory, it costs {hop_ms:.2f} ms beside {window_ms:.2f}: "
        f"{hop_ms / window_ms:.2f}."
    ]


def _command(*arguments: object) -> list[str]:
    script = Path(__file__).parent / "encoder_variants.py"
    return [sys.executable, "-W", "ignore", str(script), *map(str, arguments)]


def _output(*arguments: object) -> str:
    return subprocess.run(_command(*arguments), stdout=subprocess.PIPE, text=True, check=True).stdout


def _table(
    folder: Path,
    variants: list[Variant],
    times: list[Times],
    peaks: dict[str, int],
    judged: dict[str, tuple[str, ...]],
) -> list[str]:
    one, two = times
    best = min((name for name in one if name.startswith("ONNX") and "int8" in name), key=lambda name: one[name]["cpu"])
    lines = [
        "| variant | p50 ms | p95 | CPU ms | CPU / eager | CPU / best ONNX int8 | 2 threads p50 ms | MB | arena kB "
        "| peak RSS MB | delegates / outside | seen | unseen | votes kept | cosine |",
        "| --- " + "| --: " * 14 + "|",
    ]
    for variant in variants:
        row, size = one[variant.name], variant.size_bytes(folder)
        cells = [
            *(f"{row[key]:.2f}" for key in ("p50", "p95", "cpu")),
            *(f"{row['cpu'] / one[name]['cpu']:.2f}" for name in (EAGER, best)),
            f"{two[variant.name]['p50']:.2f}",
            "-" if size is None else f"{size * 1e-6:.2f}",
            "-" if variant.arena_bytes is None else f"{variant.arena_bytes * 1e-3:.0f}",
            f"{peaks[variant.name] * 1e-6:.0f}",
            "-" if variant.n_delegates is None else f"{variant.n_delegates} / {variant.n_operators_outside}",
            *judged[variant.name],
        ]
        lines.append(f"| {variant.name} | {' | '.join(cells)} |")
    lines += [
        "",
        "CPU is the median of what the one thread computed, which other work on the machine does not stretch; the rest "
        f"is time that passed. Best int8 of ONNX Runtime: {best}. The arena leaves out XNNPACK's own workspace, peak "
        "RSS has it. Votes are those that the module gives among all gestures; the cosine is the smallest to its "
        "embedding.",
    ]
    return lines


def _multiply_adds_a_second(folder: Path) -> float | None:
    """A core's peak int8 multiply-adds per second; None without a compiler or AVX512-VNNI."""
    compiler, cpuinfo = shutil.which("gcc"), Path("/proc/cpuinfo")
    if compiler is None or not cpuinfo.is_file() or "avx512_vnni" not in cpuinfo.read_text():
        return None
    source, program = Path(__file__).parent / "x86" / "multiply_adds.c", folder / "multiply_adds"
    subprocess.run([compiler, "-O2", "-mavx512f", "-mavx512vnni", "-o", program, source], check=True)
    return float(subprocess.run([program], capture_output=True, text=True, check=True).stdout)


def _limit(fused: FusedEncoder, times: Times, limit: float | None) -> list[str]:
    if limit is None:
        return ["The int8 limit of this machine was not measured: no compiler, or no AVX512-VNNI."]
    rows = _rows_of(fused)
    products = sum(n * layer.in_features * layer.out_features for layer, n in rows)
    took_ms = times[OURS]["cpu"]
    return [
        f"One core does at most {limit * 1e-9:.0f} G int8 multiply-adds a second (`benchmarks/x86/multiply_adds.c`, "
        f"64 a cycle at {limit / 64e9:.2f} GHz). The {products * 1e-6:.0f} M of the linear layers would take "
        f"{products / limit * 1e3:.2f} ms; {OURS} takes {took_ms:.2f} ms with its float32 attention, normalisation and "
        f"softmax: {products / limit * 1e3 / took_ms:.0%} of the limit."
    ]


def _rows_of(fused: FusedEncoder) -> list[tuple[torch.nn.Linear, int]]:
    """Every int8 layer with the number of tokens of its input."""
    seen: list[tuple[torch.nn.Linear, int]] = []
    layers = [module for module in fused.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [
        layer.register_forward_hook(lambda layer, given, _: seen.append((layer, given[0].shape[1]))) for layer in layers
    ]
    with torch.no_grad():
        fused(torch.zeros(1, fused.n_channels, fused.window_samples))
    for hook in hooks:
        hook.remove()
    return seen


def _profile(program: Path) -> list[str]:
    profile = profile_encoder(program.read_bytes())
    if profile is None:
        return []
    kinds = [operator for operator in profile.operators if operator.mean_us >= _SMALLEST_SHARE * profile.total_us]
    rows = [f"| {o.kind} | {o.n_calls} | {o.mean_us:.0f} | {o.mean_us / profile.total_us:.0%} |" for o in kinds]
    rest_us = profile.total_us - sum(operator.mean_us for operator in kinds)
    return [
        f"| operator of {OURS} | calls | us | share |",
        "| --- | --: | --: | --: |",
        *rows,
        f"| all others, and between operators | | {rest_us:.0f} | {rest_us / profile.total_us:.0%} |",
    ]


def _footer(machine: Machine, trained: Trained, n_runs: int) -> list[str]:
    size, recipe = trained.checkpoint.recipe.emg, trained.checkpoint.recipe
    versions = ", ".join(f"{name} {value}" for name, value in installed_versions(PACKAGES).items())
    crowded = " Other work took a core: two threads waited for it." if machine.is_crowded(max(THREADS)) else ""
    return [
        f"{size.n_layers} layers, width {size.width}, {recipe.signal.n_channels} channels, windows of "
        f"{recipe.windows.window_samples} samples, patches of {size.patch_samples}; trained as {recipe.name}, seed "
        f"{recipe.seed}, on {trained.checkpoint.provenance.data}; {len(trained.ladder.evaluation.queries)} windows of "
        f"held-out people; {n_runs} runs each, every variant in a process of its own, in turns of {STRETCH_RUNS} runs.",
        f"{machine.cpu}, {machine.n_cpus} CPUs, load before {machine.load_1min:.1f}.{crowded} {versions}. "
        f"Commit {git_commit()}.",
        "",
    ]


if __name__ == "__main__":
    main()
