"""What watching costs: `live --web` with a browser on it for minutes; CPU, memory, delay, and pictures of the page.

    python benchmarks/measure_live.py my.cpep PROMPTED --out benchmarks/results/live-page

PROMPTED: a corpus of `cpep-edge data synth --prompted`; its last person wears the simulated band, at its own pace, and
is calibrated first. The session begins anew when it ends. Needs Chromium, chromedriver and the package selenium.
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpep_bench.machine import this_machine
from cpep_edge.bundle import Bundle
from cpep_edge.checkout import git_commit
from cpep_edge.errors import CpepError
from cpep_edge.files import replacing
from cpep_train.corpus import Corpus

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

CPEP_EDGE = (sys.executable, "-m", "cpep_edge")
PICTURE_AFTER_S = 20.0  # of signal, so that the last minute has something to show
PICTURES = {  # width, height, pixels a pixel, colours
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
    """One process at one moment."""

    time_s: float
    cpu_s: float
    rss_mb: float


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("prompted", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for live.md and the pictures")
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    corpus = Corpus.open(options.prompted)
    wearer = corpus.rows[-1].user
    files = {row.stage: corpus.folder / f"{row.filename}.hdf5" for row in corpus.rows if row.user == wearer}
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.json"
        calibrate(options.bundle, files, profile)
        samples, summary = watch(options.bundle, files["Prompted"], profile, options.minutes * 60, options.out)
    with replacing(options.out / "live.md") as path:
        path.write_text(report(options.bundle, samples, summary))


def calibrate(bundle: Path, files: dict[str, Path], profile: Path) -> None:
    """What a wearer does first: rest, then the movements that the bundle asks for."""
    stages = ["Rest", *Bundle(bundle).manifest.calibration]
    with simulated(*(files[stage] for stage in stages), "--once") as port:
        command = (*CPEP_EDGE, "calibrate", bundle, "--port", port, "--rest-seconds", "5", "--seconds", "10")
        subprocess.run([*map(str, command), "--out", str(profile)], check=True, stdout=subprocess.DEVNULL)


def watch(bundle: Path, session: Path, profile: Path, seconds: float, out: Path) -> tuple[list[Sample], dict]:
    """Run live with a browser on its page; returns a sample each second, and the summary that live ends with."""
    command = (*CPEP_EDGE, "live", bundle, "--profile", profile, "--web", "--web-port", "0", "--json")
    with simulated(session) as port, tempfile.TemporaryFile("w+") as lines:
        arguments = [*map(str, command), "--port", port, "--seconds", str(seconds)]
        live = subprocess.Popen(arguments, stdout=lines, stderr=subprocess.PIPE, text=True)
        url = next(line.split()[1] for line in live.stderr or () if line.startswith("open http"))
        samples, pictured = [], False
        with browser(url) as page:
            while live.poll() is None:
                samples.append(sample(live.pid))
                time.sleep(1)
                if not pictured and samples[-1].time_s - samples[0].time_s > PICTURE_AFTER_S:
                    take_pictures(page, out)
                    pictured = True
        if live.returncode != 0:
            raise CpepError(f"live ended with status {live.returncode}")
        lines.seek(0)
        return samples[:-1], json.loads(lines.readlines()[-1])


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
    """Chromium without a screen, showing the page."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        page.get(url)
        yield page
    finally:
        page.quit()


def take_pictures(page: "WebDriver", out: Path) -> None:
    """The page while a gesture is made, by daylight, by night and on a phone."""
    out.mkdir(parents=True, exist_ok=True)
    for name, (width, height, scale, scheme) in PICTURES.items():
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"media": "print"} if scheme == "print" else {"media": ""}
        features = [{"name": "prefers-color-scheme", "value": "dark" if scheme == "dark" else "light"}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", media | {"features": features})
        end_s = time.monotonic() + 15
        while page.execute_script("return document.getElementById('gesture').className") and time.monotonic() < end_s:
            time.sleep(0.1)
        time.sleep(0.4)  # until the hand has moved
        shot = page.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (out / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def sample(pid: int) -> Sample:
    """A process as Linux sees it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    rss_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Sample(time.monotonic(), sum(map(int, fields[11:13])) / _TICKS_A_SECOND, rss_pages * _PAGE_BYTES / 1e6)


def report(bundle: Path, samples: list[Sample], summary: dict) -> str:
    """The figures as Markdown."""
    times = np.array([each.time_s for each in samples]) - samples[0].time_s
    rss = np.array([each.rss_mb for each in samples])
    settled = times > min(60.0, times[-1] / 4)
    share = (samples[-1].cpu_s - samples[0].cpu_s) / times[-1]
    growth = np.polyfit(times[settled] / 60, rss[settled], 1)[0]
    manifest, link, machine = Bundle(bundle).manifest, summary["link"], this_machine()
    rows = [
        ("CPU of `live --web`, all its threads", f"{100 * share:.1f} % of a core"),
        ("resident memory after a minute / at the end", f"{rss[settled][0]:.0f} / {rss[-1]:.0f} MB"),
        ("its trend after the first minute", f"{growth:+.3f} MB a minute"),
        ("delay p50 / p99, last byte to decision", f"{summary['delay_p50_ms']:.1f} / {summary['delay_p99_ms']:.1f} ms"),
        ("decisions; windows at rest, encoder asleep", f"{summary['n_decisions']}; {summary['rest_hops']}"),
        ("hops skipped", str(summary["skipped_hops"])),
        ("frames; lost", f"{link['frames']}; {link['lost_frames']}"),
    ]
    about = (
        f"`python benchmarks/measure_live.py {bundle.name} PROMPTED`, commit `{git_commit()[:12]}`; a **simulated** "
        f"person on a simulated band, {manifest.n_channels} channels, windows of {manifest.window_samples} samples; "
        f"{machine.n_cpus} cores, {machine.cpu}, load {machine.load_1min:.1f}. The browser's own work is not counted."
    )
    return "\n".join(
        [
            f"# {times[-1] / 60:.0f} minutes of `live --web` with a browser on it\n",
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
