"""What comes from outside: texts that devices, files and other programs say of themselves, and what a user has.

A device's name is neither markup nor an escape code. Every such text goes through `printable` where it comes in.
"""

import os
import unicodedata
from pathlib import Path

LONGEST_TEXT = 200  # letters; INFO allows 255 bytes

# Cc and Cs: control and half characters; Cf and the separators: what turns, hides or breaks a line.
_UNSEEN = ("Cc", "Cs", "Cf", "Cn", "Co", "Zl", "Zp")


def printable(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text on one line, with everything that is no visible letter or space replaced, and cut off if it is long."""
    if text.isascii() and text.isprintable():
        return text if len(text) <= longest else text[: longest - 1] + "…"
    seen = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in _UNSEEN else letter for letter in text
    )
    return seen if len(seen) <= longest else seen[: longest - 1] + "…"


def unreadable(error: Exception) -> str:
    """Why a text could not be read, as a user says it: no number of an error, no name of a codec."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start}); save it as UTF-8"
    return printable((isinstance(error, OSError) and error.strerror) or str(error))


def user_folder(variable: str, *usual: str) -> Path | None:
    """A folder of the user's: where `variable` (of the XDG kind) says, or usually; None for a user without a home."""
    if os.environ.get(variable):
        return Path(os.environ[variable])
    try:
        return Path.home().joinpath(*usual)
    except RuntimeError:
        return None
