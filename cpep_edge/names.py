"""What a gesture, a person or a session may be called: names that a bundle, a file and a screen can all hold."""

MAX_NAME = 100  # characters


def check_name(text: str) -> str:
    """The name itself; raises ValueError, saying what is wrong with it."""
    if not text or len(text) > MAX_NAME:
        raise ValueError(f"a name has 1 to {MAX_NAME} characters")
    if text != text.strip():
        raise ValueError("a name has no spaces around it")
    odd = next((character for character in text if not character.isprintable()), None)
    if odd is not None:
        raise ValueError(f"a name is made of printable characters, and U+{ord(odd):04X} is none")
    return text
