"""Keep the chatter of the export tool chain away from the user.

torchao, executorch and torch.export warn about libraries that are not there, deprecations of their own and the like;
nothing in it can be acted on. Importing executorch's XNNPACK parts also configures the root logger.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet_toolchain() -> Iterator[None]:
    """Silence warnings and log lines below an error, and leave logging as it was found. Errors still raise."""
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
    """Keep what native libraries and other people's Python print away from stdout, which is a command's answer."""
    saved = os.dup(1)
    with open(os.devnull, "w") as sink, redirect_stdout(sink):
        try:
            os.dup2(sink.fileno(), 1)
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)
