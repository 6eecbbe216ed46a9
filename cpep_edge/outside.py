"""Input from outside: texts from devices, files and other programs, and the user's folders.

Such a text, for example a device's name, must not act as markup or as an escape code. So every one passes through
`printable` as soon as it is received.
"""

import os
import unicodedata
from pathlib import Path

LONGEST_TEXT = 200  # characters; INFO allows 255 bytes

# Cc: control characters; Cs: surrogates; Cn and Co: unassigned and private; Cf, Zl and Zp: invisible characters and
# those that reverse or break a line.
_UNSEEN = ("Cc", "Cs", "Cf", "Cn", "Co", "Zl", "Zp")


def printable(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text on one line: characters that cannot be displayed are replaced, and a long text is cut off."""
    if text.isascii() and text.isprintable():
        return text if len(text) <= longest else text[: longest - 1] + "…"
    seen = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in _UNSEEN else letter for letter in text
    )
    return seen if len(seen) <= longest else seen[: longest - 1] + "…"


def unreadable(error: Exception) -> str:
    """Why a text could not be read, in words for a user: without error numbers or names of codecs."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start}); save it as UTF-8"
    return printable((isinstance(error, OSError) and error.strerror) or str(error))


def user_folder(variable: str, *usual: str) -> Path | None:
    """A folder of the user: that of an XDG environment variable, else the usual one; None for a user without a home."""
    if os.environ.get(variable):
        return Path(os.environ[variable])
    try:
        return Path.home().joinpath(*usual)
    except RuntimeError:
        return None
