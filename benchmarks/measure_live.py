"""What watching costs: `live --web` with a browser on it for minutes, the browser's work too; and pictures of the page.

    python benchmarks/measure_live.py my.cpep PROMPTED --out benchmarks/results/live-page

PROMPTED: a corpus of `cpep-edge data synth --prompted`. Its last person wears the simulated band, in real time, and is
calibrated first. The session repeats when it ends. Needs Chromium, chromedriver and the package selenium.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpep_bench.machine import this_machine
from cpep_edge.bundle import Bundle
from cpep_edge.errors import CpepError
from cpep_edge.files import write_file
from cpep_edge.versions import git_commit
from cpep_train.corpus import Corpus

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

CPEP_EDGE = (sys.executable, "-m", "cpep_edge")
PICTURE_AFTER_S = 20.0  # of signal, so that the page's history has something to show
SETTLED_S = 120.0  # the browser is measured from then on, when the page's history, a minute at most, is full
PICTURES = {  # width, height, device pixels per CSS pixel, colour scheme
    "light": (1280, 800, 1, "light"),
    "dark": (1280, 800, 1, "dark"),
    "full-hd": (1920, 1080, 1, "light"),
    "short-laptop": (1280, 560, 1, "light"),
    "zoomed-200-percent": (640, 400, 2, "light"),
    "phone": (390, 844, 2, "light"),
    "phone-across": (844, 390, 2, "dark"),
    "narrow": (360, 640, 2, "light"),
    "print": (794, 1123, 1, "print"),
}
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU time and memory of some processes at one moment."""

    time_s: float
    cpu_s: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Watched:
    """The measurements while a page was open: each second of `live`, of the page's renderer and of all of Chromium."""

    live: list[Sample]
    renderer: list[Sample]
    chromium: list[Sample]
    heap_mb: tuple[float, float]  # of the page's JavaScript after garbage collection, at the beginning and at the end
    settled_s: float  # time from which the browser is measured
    summary: dict  # printed by live at its end


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("prompted", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for live.md and the pictures")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True, help="take them anew")
    options = parser.parse_args()
    corpus = Corpus.open(options.prompted)
    wearer = corpus.rows[-1].user
    files = {row.stage: corpus.folder / f"{row.filename}.hdf5" for row in corpus.rows if row.user == wearer}
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.json"
        calibrate(options.bundle, files, profile)
        watched = watch(
            options.bundle, files["Prompted"], profile, options.minutes * 60, options.out if options.pictures else None
        )
    write_file(options.out / "live.md", report(options.bundle, watched))


def calibrate(bundle: Path, files: dict[str, Path], profile: Path) -> None:
    """Calibrate like a wearer: rest, then the movements that the bundle asks for."""
    stages = ["Rest", *Bundle(bundle).manifest.calibration]
    with simulated(*(files[stage] for stage in stages), "--once") as port:
        command = (*CPEP_EDGE, "calibrate", bundle, "--port", port, "--rest-seconds", "5", "--seconds", "10")
        subprocess.run([*map(str, command), "--out", str(profile)], check=True, stdout=subprocess.DEVNULL)


def watch(bundle: Path, session: Path, profile: Path, seconds: float, pictures: Path | None) -> Watched:
    """Run live with a browser on its page; pictures: folder for screenshots, or None."""
    command = (*CPEP_EDGE, "live", bundle, "--profile", profile, "--web", "--web-port", "0", "--json")
    with simulated(session) as port, tempfile.TemporaryFile("w+") as lines:
        arguments = [*map(str, command), "--port", port, "--seconds", str(seconds)]
        live = subprocess.Popen(arguments, stdout=lines, stderr=subprocess.PIPE, text=True)
        url = next(line.split()[1] for line in live.stderr or () if line.startswith("open http"))
        watched = Watched([], [], [], (0.0, 0.0), 0.0, {})
        with browser(url) as page:
            began_s, settled_s, heap_mb = time.monotonic(), None, []
            while live.poll() is None:
                watched.live.append(sample([live.pid]))
                chromium = processes_below(page.service.process.pid)
                watched.chromium.append(sample(list(chromium)))
                watched.renderer.append(sample([pid for pid, command in chromium.items() if shows_the_page(command)]))
                time.sleep(1)
                now_s = time.monotonic() - began_s
                if pictures is not None and now_s > PICTURE_AFTER_S:
                    take_pictures(page, pictures)
                    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
                    pictures = None
                if settled_s is None and now_s > min(SETTLED_S, seconds / 4):
                    heap_mb.append(heap_after_collection_mb(page))
                    settled_s = time.monotonic() - began_s
                if len(heap_mb) == 1 and now_s > seconds - 5:
                    heap_mb.append(heap_after_collection_mb(page))
        if live.returncode != 0:
            raise CpepError(f"live ended with status {live.returncode}")
        lines.seek(0)
        summary = json.loads(lines.readlines()[-1])
        return replace(watched, heap_mb=(heap_mb[0], heap_mb[-1]), settled_s=settled_s or 0.0, summary=summary)


def processes_below(pid: int) -> dict[int, str]:
    """The command lines of all descendants of a process, by process id."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(folder.name))
    found, waiting = {}, parents.get(pid, [])
    while waiting:
        one = waiting.pop()
        with suppress(OSError):
            found[one] = Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        waiting += parents.get(one, [])
    return found


def shows_the_page(command: str) -> bool:
    """Whether a process of Chromium is a renderer: one shows the page, another is an idle spare."""
    return "--type=renderer" in command


def heap_after_collection_mb(page: "WebDriver") -> float:
    """The memory that the page's JavaScript uses after garbage collection."""
    page.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    page.execute_cdp_cmd("Performance.enable", {})
    metrics = page.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(one["value"] for one in metrics if one["name"] == "JSHeapUsedSize") / 1e6


@contextmanager
def simulated(*arguments: Path | str) -> Iterator[str]:
    """A simulated band on a pty; yields its port."""
    band = subprocess.Popen([*CPEP_EDGE, "simulate", *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    try:
        yield next(iter(band.stdout or ())).strip()
    finally:
        band.terminate()
        band.wait()


@contextmanager
def browser(url: str) -> "Iterator[WebDriver]":
    """Headless Chromium, showing the page."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,800"):
        options.add_argument(argument)
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        page.get(url)
        yield page
    finally:
        page.quit()


def take_pictures(page: "WebDriver", out: Path) -> None:
    """Take screenshots of the page while a gesture is made: light, dark, on a phone, and the others of `PICTURES`."""
    out.mkdir(parents=True, exist_ok=True)
    patient_until_s = time.monotonic() + 60
    for name, (width, height, scale, scheme) in PICTURES.items():
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"media": "print"} if scheme == "print" else {"media": ""}
        features = [{"name": "prefers-color-scheme", "value": "dark" if scheme == "dark" else "light"}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", media | {"features": features})
        while page.execute_script("return document.getElementById('gesture').className"):
            if time.monotonic() > patient_until_s:
                break
            time.sleep(0.1)
        time.sleep(0.4)  # wait until the drawn hand has moved
        shot = page.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (out / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def sample(pids: list[int]) -> Sample:
    """CPU time and memory of processes by /proc; one that has ended counts as nothing."""
    cpu_ticks = rss_pages = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            rss_pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            cpu_ticks += sum(map(int, fields[11:13]))
    return Sample(time.monotonic(), cpu_ticks / _TICKS_A_SECOND, rss_pages * _PAGE_BYTES / 1e6)


def figures(what: str, samples: list[Sample], settled_s: float) -> list[tuple[str, str]]:
    """Rows of CPU and memory, of the samples from `settled_s` after the first on."""
    times = np.array([each.time_s for each in samples]) - samples[0].time_s
    settled = times >= settled_s
    times, chosen = times[settled], [each for each, counts in zip(samples, settled, strict=True) if counts]
    rss = np.array([each.rss_mb for each in chosen])
    share = (chosen[-1].cpu_s - chosen[0].cpu_s) / (times[-1] - times[0])
    growth = np.polyfit(times / 60, rss, 1)[0]
    return [
        (f"CPU of {what}", f"{100 * share:.1f} % of a core"),
        ("its resident memory, at first / at the end", f"{rss[0]:.0f} / {rss[-1]:.0f} MB"),
        ("its trend", f"{growth:+.3f} MB a minute"),
    ]


def report(bundle: Path, watched: Watched) -> str:
    """The figures as Markdown."""
    summary, minutes = watched.summary, (watched.live[-1].time_s - watched.live[0].time_s) / 60
    manifest, link, machine = Bundle(bundle).manifest, summary["link"], this_machine()
    rows = [
        *figures("`live --web`, all its threads", watched.live, min(60.0, 15 * minutes)),
        *figures("the page: Chromium's renderer", watched.renderer, watched.settled_s),
        *figures("all of Chromium, which draws without a GPU here", watched.chromium, watched.settled_s),
        ("the page's JavaScript heap, at first / at the end", "{:.2f} / {:.2f} MB".format(*watched.heap_mb)),
        ("delay p50 / p99, last byte to decision", f"{summary['delay_p50_ms']:.1f} / {summary['delay_p99_ms']:.1f} ms"),
        ("decisions; windows at rest, encoder asleep", f"{summary['n_decisions']}; {summary['rest_hops']}"),
        ("hops skipped", str(summary["skipped_hops"])),
        ("frames; lost", f"{link['frames']}; {link['lost_frames']}"),
    ]
    about = (
        f"`python benchmarks/measure_live.py {bundle.name} PROMPTED`, commit `{git_commit()[:12]}`; a **simulated** "
        f"person on a simulated band, {manifest.n_channels} channels, windows of {manifest.window_samples} samples; "
        f"{machine.n_cpus} cores, {machine.cpu}, load {machine.load_1min:.1f}. All panels are shown, at 1280x800; "
        f"Chromium counts from {watched.settled_s:.0f} s on."
    )
    return "\n".join(
        [
            f"# {minutes:.0f} minutes of `live --web` with a browser on it\n",
            about + "\n",
            "| what | figure |",
            "| --- | --: |",
            *(f"| {what} | {figure} |" for what, figure in rows),
            "",
            "".join(f'<img src="{name}.png" height="360" alt="the page, {name}">\n' for name in PICTURES),
        ]
    )


if __name__ == "__main__":
    main()
