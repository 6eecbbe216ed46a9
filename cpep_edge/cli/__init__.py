"""The command line: one function per command, which parses options, calls one function of the packages, and prints.

The answer goes to stdout, progress and logs go to stderr. Exit status 0: done; 1: the work failed; 2: wrong usage.
Heavy packages are imported inside the commands, so that `--help` is fast and a device needs only the packages it uses.
"""

import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from cpep_edge import __version__
from cpep_edge.cli import (
    bench,
    bundle,
    data,
    demo,
    evaluation,
    gestures,
    link,
    live,
    recipes,
    teach,
    training,
    trust,
    try_out,
)
from cpep_edge.cli.output import LONGEST_SENTENCE
from cpep_edge.errors import CpepError
from cpep_edge.extras import missing_package
from cpep_edge.outside import printable

app = typer.Typer(
    name="cpep-edge",
    help="Read hand gestures from wrist EMG on the device: train, export, run live, measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Begin here": {"try": try_out.try_out, "demo": demo.demo},
    "From recordings to a model": {
        "train": training.train,
        "sweep": training.sweep,
        "eval": evaluation.evaluate,
        "robustness": evaluation.robustness,
    },
    "From a model to a bundle": {
        "export": bundle.export,
        "inspect": bundle.inspect,
        "verify": bundle.verify,
        "keygen": trust.keygen,
        "sign": trust.sign,
        "root": trust.root,
        "trust": trust.trust,
        "bench": bench.bench,
        "compare": bench.compare,
    },
    "With a wristband": {
        "teach": teach.teach,
        "calibrate": live.calibrate,
        "live": live.live,
        "replay": live.replay,
        "record": link.record,
        "devices": link.devices,
        "doctor": link.doctor,
        "simulate": link.simulate,
        "soak": link.soak,
    },
}
for _panel, _commands in _COMMANDS.items():
    for _name, _function in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_function)
app.add_typer(data.app, name="data", rich_help_panel="From recordings to a model")
app.add_typer(recipes.app, name="recipes", rich_help_panel="From recordings to a model")
app.add_typer(gestures.app, name="gestures", rich_help_panel="From a model to a bundle")


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
) -> None:
    """Read hand gestures from wrist EMG on the device: train, export, run live, measure."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if debug:
        os.environ["CPEP_DEBUG"] = "1"
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for library in ("websockets", "uvicorn"):  # their debug logs contain requests, and thus tokens
        logging.getLogger(library).setLevel(logging.WARNING)


_INTERRUPTED = 130  # exit status after Ctrl-C, as shells and typer use it


def main() -> NoReturn:
    """Run the command line. A `CpepError`, an OSError or a missing package ends in one sentence and exit status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # print ? for a character that the terminal lacks
    _stop_by_signal()
    try:
        app()
    except (CpepError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("CPEP_DEBUG"):
            raise
        told = missing_package(error, " ".join(sys.argv[1:2])) if isinstance(error, ModuleNotFoundError) else str(error)
        if isinstance(error, OSError) and error.strerror:  # str(error) would contain the error number
            told = f"{error.filename}: {error.strerror}" if error.filename else _without_a_file(error.strerror)
        lines = [printable(line, LONGEST_SENTENCE) for line in told.splitlines()]  # some suggest a config in more lines
        typer.echo("error: " + "\n".join(lines), err=True)
        sys.exit(1)
    except RuntimeError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11 wraps one raised while a class is created
            raise
        sys.exit(_INTERRUPTED)
    finally:
        gc.freeze()  # else the interpreter collects garbage in all modules at exit: half a second more after Ctrl-C
    sys.exit(0)


def _without_a_file(what: str) -> str:
    """Explain a system error without a file name: the working folder was removed, or stdin or stdout failed."""
    try:
        os.getcwd()
    except OSError:
        return "the folder that you are in was removed: change to another"
    return f"a file, or the answer, cannot be read or written: {what}"


def _stop_by_signal() -> None:
    """Let SIGTERM (kill, systemd, docker) and SIGHUP (the terminal was closed) end a command as Ctrl-C does.

    Only the first signal counts: a closing terminal sends several, and a further one must not interrupt the command's
    clean-up. A signal that was ignored at the start, as under nohup, stays ignored.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

    def stop(number: int, frame: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
