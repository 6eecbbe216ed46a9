"""How often to read a stream: rarely enough to be cheap, often enough that nothing waits for long."""

READ_EVERY_S = 0.010  # frames that fall due within it are read together; the newest of them never waits

_EARLY_FRAMES = 0.3  # to be listening when the last frame of a read comes


def gather_s(frame_s: float) -> float:
    """How long after a read to begin the next one, so that it ends with the last frame due within READ_EVERY_S."""
    return (max(1, int(READ_EVERY_S / frame_s + 0.01)) - _EARLY_FRAMES) * frame_s
