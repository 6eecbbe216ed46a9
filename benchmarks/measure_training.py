"""Does reading keep up with training? Windows a second of loading alone, of training alone, and of both together.

    python benchmarks/measure_training.py

The recordings are noise in the layout of emg2pose, one minute each, four times as many as fit the cache; the speed of
reading does not depend on their content. They are read as files, from packed shards, and from shards over HTTP with the
delay of an object storage (`cpep_train.shards`). Training is the alignment: forward through both encoders, backward
through one. Writes training-RECIPE.md and .json to train/results.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from cpep_bench.machine import this_machine
from cpep_edge.files import write_file
from cpep_edge.session import N_JOINTS, SessionMeta, write_session
from cpep_edge.versions import git_commit, installed_versions
from cpep_train.align import info_nce
from cpep_train.batches import training_loader
from cpep_train.checkpoint import build_encoders
from cpep_train.corpus import Corpus, Row, write_metadata
from cpep_train.packing import pack_corpus
from cpep_train.recipe import Recipe, load_recipe
from cpep_train.windows import SessionStore, WindowBatch, WindowDataset, fit_statistics

_SECONDS = 60.0  # of one recording, as in emg2pose
_CACHE_SHARE = 4  # the cache holds one in so many recordings
_WARM_UP = 1  # steps that are not timed
_WORKERS = (0, 2, 4, 8)
_DELAY_S = 0.02  # of each answer over HTTP, as by a nearby object storage


@dataclass(frozen=True, slots=True)
class Rate:
    """One figure."""

    what: str
    how: str
    windows_per_s: float


def measure(recipe: Recipe, *, n_recordings: int, batch_size: int, n_steps: int, seed: int) -> list[Rate]:
    """Measure on a temporary corpus."""
    with TemporaryDirectory() as folder:
        corpus = _corpus(Path(folder) / "files", recipe, n_recordings, seed)
        pack_corpus(corpus.folder, Path(folder) / "packed")
        rates = []
        with _served(Path(folder) / "packed") as url:
            packed = Corpus.open(Path(folder) / "packed")
            assert packed.shards is not None
            remote = replace(packed, shards=replace(packed.shards, url=url, _opened={}))
            for where, of in (("files", corpus), ("shards", packed), ("shards over HTTP", remote)):
                dataset = _dataset(of, recipe)
                for n_workers in _WORKERS:
                    loader = training_loader(dataset, batch_size, seed, n_workers=n_workers)
                    how = (
                        f"{where}, {n_workers} reading processes" if n_workers else f"{where}, in the training process"
                    )
                    rates.append(Rate(f"reading {where} alone", how, _rate(loader, batch_size)))
        dataset = _dataset(corpus, recipe)
        batch = next(iter(training_loader(dataset, batch_size, seed, n_workers=0)))
        for how, step in _steps(recipe):
            rates.append(Rate("training alone", how, _rate((step(batch) for _ in range(n_steps)), batch_size)))
        _, step = next(_steps(recipe))
        loader = training_loader(dataset, batch_size, seed, n_workers=1)
        both = (step(batch) for batch in islice(loader, n_steps))
        rates.append(Rate("both together", "float32, 1 reading process", _rate(both, batch_size)))
    return rates


def main(
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("train/results"),
    recipe: Annotated[str, typer.Option(help="Whose sizes to measure.")] = "cpep",
    recordings: Annotated[int, typer.Option(help="Recordings of a minute each.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Windows a step.")] = 32,
    steps: Annotated[int, typer.Option(help="Steps of training that are timed.")] = 6,
    seed: int = 0,
) -> None:
    """Measure and write the report."""
    torch.set_num_threads(1)
    rates = measure(load_recipe(recipe), n_recordings=recordings, batch_size=batch_size, n_steps=steps, seed=seed)
    loading = max(rate.windows_per_s for rate in rates if rate.what.startswith("reading"))
    training = max(rate.windows_per_s for rate in rates if rate.what == "training alone")
    machine = this_machine()
    command = (
        f"python benchmarks/measure_training.py --recipe {recipe} --recordings {recordings} "
        f"--batch-size {batch_size} --steps {steps} --seed {seed}"
    )
    report = {
        "command": command,
        "git_commit": git_commit(),
        "machine": asdict(machine),
        "threads": torch.get_num_threads(),
        "versions": installed_versions(("torch", "h5py", "numpy", "scipy")),
        "rates": [asdict(rate) for rate in rates],
        "loading_over_training": loading / training,
    }
    lines = [
        f"# Reading and training, recipe {recipe}: windows a second",
        "",
        f"`{command}`, commit `{git_commit()[:12]}`, {machine.n_cpus} shared cores, {machine.cpu}, load "
        f"{machine.load_1min:.1f}, one thread a process. Noise in the layout of emg2pose, {recordings} recordings of a "
        f"minute, the cache holding one in {_CACHE_SHARE} of them.",
        "",
        "| what | how | windows/s |",
        "| --- | --- | --- |",
        *(f"| {rate.what} | {rate.how} | {rate.windows_per_s:.1f} |" for rate in rates),
        "",
        f"The fastest reading is {loading / training:.1f} times the fastest training.",
        "",
    ]
    for suffix, text in ((".json", json.dumps(report, indent=1) + "\n"), (".md", "\n".join(lines))):
        write_file(out / f"training-{recipe}{suffix}", text)
    typer.echo("\n".join(lines))


def _steps(recipe: Recipe) -> Iterator[tuple[str, "_Step"]]:
    for how, precision, compiled in (("float32", None, False), ("bfloat16", torch.bfloat16, False)):
        yield how, _Step(recipe, precision, compiled)
    yield "float32, compiled", _Step(recipe, None, True)


class _Step:
    """Forward, backward and update of the alignment."""

    def __init__(self, recipe: Recipe, precision: torch.dtype | None, compiled: bool) -> None:
        torch.manual_seed(recipe.seed)
        self.emg, self.pose = build_encoders(recipe)
        self.precision = precision
        self.optimiser = torch.optim.AdamW(self.emg.parameters(), lr=1e-4)
        if compiled:
            for block in (*self.emg.encoder.blocks, *self.pose.encoder.blocks):
                block.compile()

    def __call__(self, batch: WindowBatch) -> Tensor:
        with torch.autocast("cpu", self.precision, enabled=self.precision is not None):
            with torch.no_grad():
                pose = self.pose(batch.pose)
            loss = info_nce(self.emg(batch.emg), pose, torch.tensor(0.1), batch.stage_index)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss


def _rate(steps: Iterable[object], batch_size: int) -> float:
    """Windows per second over the steps, without the first `_WARM_UP`."""
    iterator = iter(steps)
    for _ in islice(iterator, _WARM_UP):
        pass
    started_s = time.perf_counter()
    n = sum(1 for _ in iterator)
    return n * batch_size / (time.perf_counter() - started_s)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder over HTTP on loopback, with ranges and a delay, like an object storage."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802 - the server's name for it
            time.sleep(_DELAY_S)
            start, stop = self.headers["Range"].removeprefix("bytes=").split("-")
            with (folder / Path(self.path).name).open("rb") as file:
                file.seek(int(start))
                content = file.read(int(stop) + 1 - int(start))
            self.send_response(206)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _corpus(folder: Path, recipe: Recipe, n_recordings: int, seed: int) -> Corpus:
    rng, rate_hz, n_channels = np.random.default_rng(seed), recipe.signal.sample_rate_hz, recipe.signal.n_channels
    n_samples = round(_SECONDS * rate_hz)
    time_s = np.arange(n_samples) / rate_hz
    folder.mkdir()
    rows = []
    for number in range(n_recordings):
        name, stage = f"noise-{number}", f"stage-{number % 2}"
        meta = SessionMeta(name, name, stage, "right", 0.0, float(time_s[-1]), n_channels, rate_hz, name)
        emg_uv = 20 * rng.standard_normal((n_samples, n_channels), dtype=np.float32)
        write_session(
            folder / f"{name}.hdf5", meta, time_s, emg_uv, rng.standard_normal((n_samples, N_JOINTS), dtype=np.float32)
        )
        rows.append(Row(name, name, stage, "right", "right", False, False, "train", "", name))
    write_metadata(folder, rows)
    return Corpus.open(folder)


def _dataset(corpus: Corpus, recipe: Recipe) -> WindowDataset:
    store = SessionStore(corpus, recipe, fit_statistics(corpus, recipe))
    store.cache_bytes = len(corpus.rows) * store.track_bytes(0) // _CACHE_SHARE
    return WindowDataset(store, range(len(corpus.rows)), with_pose=True)


if __name__ == "__main__":
    typer.run(main)
