"""Silence the export tool chain's messages.

torchao, executorch and torch.export warn about missing libraries, their own deprecations and the like, and the user
cannot act on any of it. Importing executorch's XNNPACK parts also configures the root logger.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet_toolchain() -> Iterator[None]:
    """Silence warnings and log lines below an error, and restore logging afterwards. Errors are still raised."""
    disabled = logging.root.manager.disable
    handlers = list(logging.root.handlers)
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Keep prints of native libraries and third-party Python off stdout, which is reserved for a command's answer."""
    saved = os.dup(1)
    with open(os.devnull, "w") as sink, redirect_stdout(sink):
        try:
            os.dup2(sink.fileno(), 1)
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)
