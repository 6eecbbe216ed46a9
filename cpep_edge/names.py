"""Names of gestures, people and sessions: which labels are allowed, and how a label is shown to people.

A label is for programs and never changes: corpora, manifests, sinks and `--json` use it. Everywhere else, people read
the `shown_name` of a label.
"""

import re

from cpep_edge.errors import ConfigError
from cpep_edge.outside import printable

MAX_NAME = 100  # characters
FREE_MOVEMENT = "FreeMovement"  # the stage of recordings that show no named gesture

# emg2pose names some stages after all the movements in them; `_SHOWN` names the one gesture that each stands for.
UNKNOWN = "unknown"  # the decision that no gesture is made, and the class of movements taught as no gesture
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
    """Return the name if it is allowed; raises ValueError, which says what is wrong with it."""
    if not text or len(text) > MAX_NAME:
        raise ValueError(f"a name has 1 to {MAX_NAME} characters")
    if text != text.strip():
        raise ValueError("a name has no spaces around it")
    odd = next((character for character in text if not character.isprintable()), None)
    if odd is not None:
        raise ValueError(f"a name is made of printable characters, and U+{ord(odd):04X} is not printable")
    return text


def check_gesture(name: str) -> str:
    """Return a gesture's name if it is allowed; raises ConfigError, which says what is wrong with it."""
    try:
        return check_label(name)
    except ValueError as error:
        raise ConfigError(f"{printable(name, MAX_NAME)!r} is not a name for a gesture: {error}") from error


def check_label(name: str) -> str:
    """Return a gesture's label if it is allowed; raises ValueError, which says what is wrong with it."""
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
