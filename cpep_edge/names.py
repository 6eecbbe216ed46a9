"""What a gesture, a person or a session may be called: labels that a bundle and a file can hold, and names to read.

A label is for programs and never changes: it is what a corpus, a manifest, a sink and `--json` carry. People read
`shown_name` of it, everywhere.
"""

import re

from cpep_edge.errors import ConfigError
from cpep_edge.outside import printable

MAX_NAME = 100  # characters
FREE_MOVEMENT = "FreeMovement"  # the stage of recordings that show no gesture by name

# Stages of emg2pose that are named after all the movements in them; here, after the gesture that they stand for.
UNKNOWN = "unknown"  # the decision that no gesture is made, and the class of movements that are taught to be none
_SHOWN = {
    "CountingUpDownFingerWigglingSpreading": "Counting",
    "FingerAbductionSeries": "Spread fingers",
    "FingerPinchesSingleFingerPinchesMultiple": "Two-finger pinch",
    "FingerTouchPalmClapmrburns": "Flat fingers bent",
    "GraspPunchCloseFar": "Fist",
    "HandClawGraspFlicks": "Claw",
    "IndexPinchesMiddlePinchesThumbswipes": "Pinch",
    "PokePinchCloseFar": "Point",
    "ThumbsSwipesWholeHand": "Thumb across",
    "ThumbsUpDownThumbRotationsCWCCWP": "Thumb up",
    "WristFlexionAbduction": "Bent wrist",
    "ILoveYou": "I love you",
    UNKNOWN: "no gesture",
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\WA-Z_]+|[^\W_]+")


def check_name(text: str) -> str:
    """The name itself; raises ValueError, saying what is wrong with it."""
    if not text or len(text) > MAX_NAME:
        raise ValueError(f"a name has 1 to {MAX_NAME} characters")
    if text != text.strip():
        raise ValueError("a name has no spaces around it")
    odd = next((character for character in text if not character.isprintable()), None)
    if odd is not None:
        raise ValueError(f"a name is made of printable characters, and U+{ord(odd):04X} is not printable")
    return text


def check_gesture(name: str) -> str:
    """The name of a gesture itself; raises ConfigError, saying what is wrong with it."""
    try:
        return check_label(name)
    except ValueError as error:
        raise ConfigError(f"{printable(name, MAX_NAME)!r} is not a name for a gesture: {error}") from error


def check_label(name: str) -> str:
    """The label of a gesture itself; raises ValueError, saying what is wrong with it."""
    if name == UNKNOWN:
        raise ValueError("that is what no gesture is called")
    return check_name(name)


def shown_name(label: str) -> str:
    """A label as people read it: "PowerGrip" is "Power grip", and `unknown` is "no gesture"."""
    if label in _SHOWN:
        return _SHOWN[label]
    words = _WORD.findall(label) if label.isascii() else []  # letters of other scripts stay as they are
    if not words or not re.fullmatch(r"[\w-]+", label):
        return label
    text = " ".join(word if len(word) > 1 and word.isupper() else word.lower() for word in words)
    return text[0].upper() + text[1:]
