"""Turn gestures into key presses.

    python examples/keys.py my.cpep /dev/ttyACM0 --profile profile.json FistClench=space WristFlexion=left

It only says which key it would press; with `--press` it presses, through pynput (`pip install pynput`), in whatever
window has the focus.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import cpep_edge
from cpep_edge.bundle import Bundle
from cpep_edge.decisions import Decision
from cpep_edge.errors import ConfigError, CpepError


def press_on_change(decisions: Iterable[Decision], keys: dict[str, str], press: Callable[[str], None]) -> None:
    """Press a gesture's key once, when it is decided on; what has no key does nothing."""
    for decision in decisions:
        if decision.changed and decision.gesture in keys:
            press(keys[decision.gesture])


def parse_keys(assignments: list[str], gestures: set[str]) -> dict[str, str]:
    """`GESTURE=KEY` lines as a map. Raises ConfigError for a gesture that the bundle does not know."""
    keys = {}
    for assignment in assignments:
        gesture, equals, key = assignment.partition("=")
        if not (equals and key):
            raise ConfigError(f"{assignment!r} is no assignment: write GESTURE=KEY")
        if gesture not in gestures:
            raise ConfigError(f"the bundle knows no gesture {gesture!r}, but {', '.join(sorted(gestures))}")
        keys[gesture] = key
    return keys


def keyboard() -> Callable[[str], None]:
    """What presses a key by its name, `space`, `left` or a letter. Raises ConfigError where pynput cannot."""
    try:
        from pynput.keyboard import Controller, Key
    except ImportError as error:  # also where there is no display
        raise ConfigError(f"pressing keys needs pynput and a display: pip install pynput ({error})") from error
    controller = Controller()
    return lambda name: controller.tap(getattr(Key, name, name))


def main() -> None:
    """Parse the command line and run until the band ends its stream."""
    parser = argparse.ArgumentParser(description="Gestures as key presses.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("port")
    parser.add_argument("keys", nargs="+", metavar="GESTURE=KEY")
    parser.add_argument("--profile", type=Path, help="this session's calibration, from cpep-edge calibrate")
    parser.add_argument("--press", action="store_true", help="press the keys, do not only say so")
    arguments = parser.parse_args()
    try:
        keys = parse_keys(arguments.keys, {gesture.name for gesture in Bundle.open(arguments.bundle).manifest.gestures})
        press = keyboard() if arguments.press else print
        press_on_change(cpep_edge.live(arguments.bundle, arguments.port, profile=arguments.profile), keys, press)
    except CpepError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
