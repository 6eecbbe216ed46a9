"""Serve the page of a live run, and stream the run to every browser that shows it.

By default only browsers on this machine can connect, without a token. Their Host header must name this machine, which
keeps out pages whose domain name was pointed at 127.0.0.1 (DNS rebinding), and their Origin must be this page, which
keeps out scripts of other pages. Other machines can connect only if the user asked for it, and only with the token.

A browser receives WebSocket messages: `about` once, then `health` twice a second, `decision` for each new one, and the
signal strips as bytes: u32 number of the first stroke, then [stroke][channel][least, greatest] as i8. Messages are not
queued, so a browser that cannot keep up gets the newest data, less often.
"""

import asyncio
import errno
import hmac
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpep_edge.errors import ConfigError, CpepError
from cpep_edge.live_view import STRIP_LIMIT, LiveView
from cpep_edge.manifest_part import parse_json
from cpep_edge.outside import printable

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from cpep_edge.web.acting import Acting

PAGE = Path(__file__).parent / "page"
TICK_S = 0.05
HEALTH_TICKS = 10  # about twice a second
STATE_TICKS = 5  # often enough for the countdown of an action
MOST_VIEWERS = 8
PORTS_TRIED = 20  # upwards from the requested port
STRIPS_TICKS = 2  # at least, between two messages of signal: for each, a browser redraws everything
_MOST_STROKES = 200  # in one message
_TOKEN_BYTES = 16
_MOST_ASKED = 1 << 14  # bytes of a request to act
_LONGEST_ERROR = 2_000
_MOST_FROM_A_VIEWER = 1024  # bytes of a WebSocket message; browsers send none
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z.-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_LOCAL = ("127.0.0.1", "localhost", "::1")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = frozenset(file.name for file in PAGE.iterdir() if file.suffix in _TYPES)
_POLICY = "default-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"


class ViewServer:
    """The server of one run: `with` starts and ends it."""

    def __init__(
        self,
        view: LiveView,
        host: str = "127.0.0.1",
        port: int = 8765,
        token: str | None = None,
        acting: "Acting | None" = None,
    ) -> None:
        """port: the first to try; if it is taken, the next free one is used; 0: any free port
        token: that a browser must give; None: no token for this machine only, a new one if other machines may connect
        acting: performs the page's actions; None: the page can only show the run

        Raises ConfigError without the extra `[web]`, CpepError when the server cannot listen on the address.
        """
        self._view, self._acting = view, acting
        self._act_token = secrets.token_urlsafe(_TOKEN_BYTES)  # sent to admitted viewers only; no other page knows it
        self._is_local = host in _LOCAL
        self.token = token or (None if self._is_local else secrets.token_urlsafe(_TOKEN_BYTES))
        self.n_viewers = 0
        self._socket = _listen(host, port)
        self._host = host
        self._server = _uvicorn_server(self)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="web", daemon=True)

    def __enter__(self) -> "ViewServer":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """The address of the page."""
        host = "127.0.0.1" if self._is_local else _own_address() if self._host in ("0.0.0.0", "::") else self._host
        query = f"?token={self.token}" if self.token else ""
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{query}"

    @cached_property
    def code(self) -> str:
        """The address as a QR code of half blocks, light on dark; empty when only this machine can connect."""
        if self._is_local:
            return ""
        import segno

        rows = [[0] * 2 + list(row) + [0] * 2 for row in segno.make(self.url, error="l").matrix]
        rows = [[0] * len(rows[0])] + rows + [[0] * len(rows[0])] * (1 + len(rows) % 2)
        pairs = zip(rows[::2], rows[1::2], strict=True)
        return "".join(
            "".join(" ▄▀█"[2 * (not a) + (not b)] for a, b in zip(*pair, strict=True)) + "\n" for pair in pairs
        )

    def admits(self, connection: "HTTPConnection") -> bool:
        """Whether a connection may see the run."""
        if self.token is not None:
            return hmac.compare_digest(connection.query_params.get("token", "").encode(), self.token.encode())
        named = _HOST.fullmatch(" ".join(connection.headers.getlist("host")))  # two Hosts are refused
        return named is not None and named[1].strip("[]") in _LOCAL and int(named[2] or 0) < 1 << 16

    async def file(self, request: "Request") -> "Response":
        """Send one of the page's files. Only index.html is guarded, because the others hold nothing about the run."""
        from starlette.responses import PlainTextResponse, Response

        name = request.path_params.get("name", "index.html")
        if name not in _FILES:
            return PlainTextResponse("there is no such page\n", 404)
        path = PAGE / name
        if not self.admits(request) and name == "index.html":
            return PlainTextResponse("open the address that cpep-edge live printed, with its token\n", 403)
        headers = {"content-security-policy": _POLICY, "cache-control": "no-store", "referrer-policy": "no-referrer"}
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix], headers=headers)

    async def act(self, request: "Request") -> "Response":
        """Perform an action for the page, which proves itself with this run's act token.

        The token comes in a header that pages of another origin cannot send.
        """
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        origin, told = request.headers.get("origin"), request.headers.get("x-cpep-act", "")
        same_origin = origin is not None and origin.partition("://")[2] == request.headers.get("host")
        is_ours = hmac.compare_digest(told.encode(), self._act_token.encode())
        if self._acting is None or not (same_origin and is_ours and self.admits(request)):
            return JSONResponse({"error": "only the page that this run serves may do that"}, 403)
        try:
            content = b""
            async for part in request.stream():
                content += part
                if len(content) > _MOST_ASKED:
                    raise ConfigError("the request is too long")
            asked = parse_json(content or b"{}")
            if not isinstance(asked, dict):
                raise ConfigError("the request is not a JSON object")
            answer = await run_in_threadpool(self._acting.act, request.path_params["name"], asked)
        except (CpepError, ValueError, OSError) as error:
            return JSONResponse({"error": printable(str(error), _LONGEST_ERROR)}, 409)
        return JSONResponse(answer)

    async def download(self, request: "Request") -> "Response":
        """Send a recording or the bundle."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse, Response

        told, name = request.query_params.get("act", ""), request.path_params["name"]
        if self._acting is None or not (
            hmac.compare_digest(told.encode(), self._act_token.encode()) and self.admits(request)
        ):
            return PlainTextResponse("only the page that this run serves may do that\n", 403)
        try:
            content = await run_in_threadpool(self._acting.download, name)
        except (CpepError, OSError) as error:
            return PlainTextResponse(f"{error}\n", 404)
        return Response(content, media_type="application/octet-stream", headers={"cache-control": "no-store"})

    async def stream(self, browser: "WebSocket") -> None:
        """Stream the run to one browser until it disconnects."""
        origin = browser.headers.get("origin")
        same_origin = origin is None or origin.partition("://")[2] == browser.headers.get("host")
        if not (same_origin and self.admits(browser)) or self.n_viewers >= MOST_VIEWERS:
            await browser.close(1008)
            return
        self.n_viewers += 1  # before the first await, so that no other browser is admitted in between
        try:
            await browser.accept()
            await self._send_until_gone(browser)
        finally:
            self.n_viewers -= 1

    async def _send_until_gone(self, browser: "WebSocket") -> None:
        from starlette.websockets import WebSocketDisconnect

        async def send() -> None:
            with suppress(WebSocketDisconnect, RuntimeError):  # it disconnected during a send
                async for message in self._messages():
                    await (browser.send_bytes(message) if isinstance(message, bytes) else browser.send_text(message))

        async def listen() -> None:
            while (await browser.receive())["type"] != "websocket.disconnect":
                pass

        tasks = [asyncio.create_task(send()), asyncio.create_task(listen())]
        _, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _messages(self) -> AsyncIterator[str | bytes]:
        """Yield the messages for one browser, tick by tick."""
        view = self._view
        next_stroke = n_changes = tick = signal_tick = 0
        last_index: int | None = None
        generation = -1
        shown_state = ""
        while True:
            if generation != view.generation:
                generation, next_stroke = view.generation, 0
                act_token = None if self._acting is None else self._act_token
                yield json.dumps({"type": "about", **view.about(), "act_token": act_token})
            if self._acting is not None and (tick % STATE_TICKS == 0 or self._acting.is_playing):
                state = json.dumps({"type": "state", **self._acting.state()})
                if state != shown_state:
                    yield (shown_state := state)
            if tick % HEALTH_TICKS == 0:
                yield json.dumps({"type": "health", **view.health()})
            last = view.stats.last
            decided = last is not None and last.sample_index != last_index
            if last is not None and decided:
                last_index = last.sample_index
                n_changes, changes = view.changes_after(n_changes)
                hand_rad = view.hand_rad(last)
                yield json.dumps(
                    {
                        "type": "decision",
                        **asdict(last),
                        "run_s": round(view.stats.run_s, 3),
                        "shares": [round(share, 3) for share in view.shares()],
                        "changes": [asdict(change) for change in changes],
                        "hand_rad": None if hand_rad is None else [round(float(angle), 4) for angle in hand_rad],
                    }
                )
            if tick - signal_tick >= (STRIPS_TICKS if decided else STRIPS_TICKS + 1):  # with a decision, if one comes
                signal_tick = tick
                first, strokes = view.strips(next_stroke, _MOST_STROKES)
                if len(strokes):
                    next_stroke = first + len(strokes)
                    counts = np.clip(np.rint(strokes * (127 / STRIP_LIMIT)), -127, 127).astype(np.int8)
                    yield np.uint32(first).tobytes() + counts.tobytes()
                elif next_stroke > first:
                    next_stroke = 0  # the stream restarted
            tick += 1
            await asyncio.sleep(TICK_S)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        for tried in range(port, min(port + PORTS_TRIED, 1 << 16) if port else 1):
            try:
                return socket.create_server((host, tried), family=family)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"it and the {PORTS_TRIED - 1} after it are taken")
    except OSError as error:
        raise CpepError(
            f"the page cannot be served on {host} port {port}: {error.strerror or error}; choose another --web-port"
        ) from error


def _own_address() -> str:
    """This machine's address in its network, found without sending anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # an address reserved for documentation
            return str(asked.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _uvicorn_server(server: ViewServer):  # type: ignore[no-untyped-def]  # uvicorn is an extra
    try:
        import segno  # noqa: F401 - needed later; if it is missing, fail now
        import uvicorn
        from starlette.applications import Starlette
        from starlette.routing import Route, WebSocketRoute

        from cpep_edge.web.connections import HEADER_BYTES, MOST_CONNECTIONS, BoundedConnection
    except ImportError as error:
        server._socket.close()
        raise ConfigError("the page needs more packages: run pip install 'cpep-edge[web]'") from error
    routes = [
        Route("/", server.file),
        Route("/{name}", server.file),
        Route("/act/{name}", server.act, methods=["POST"]),
        Route("/download/{name}", server.download),
        WebSocketRoute("/live", server.stream),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes),
        log_level="error"
        if os.environ.get("CPEP_DEBUG")
        else "critical",  # on "error", uvicorn logs a traceback for bytes that are not UTF-8
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=_MOST_FROM_A_VIEWER,
        http=BoundedConnection,
        h11_max_incomplete_event_size=HEADER_BYTES,
        backlog=MOST_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
