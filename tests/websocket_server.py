"""A WebSocket server on this machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def websocket_server(serve: Callable[..., None]) -> Iterator[str]:
    """Run a server that calls `serve` with each connection; yields its address."""
    server_module = pytest.importorskip("websockets.sync.server")
    with server_module.serve(serve, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()
