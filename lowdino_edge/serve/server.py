"""The socket, and uvicorn on it in a thread of its own."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
import threading
import time
from types import TracebackType

from lowdino_edge import console
from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.serve import lan, site

__all__ = ["Server", "Site", "files"]

PORT = 8150
_TRIED = 50  # ports after the usual one
_START_S = 30.0

try:
    import uvicorn

    from lowdino_edge.serve.app import Site, build
    from lowdino_edge.serve.guard import Door, Guard
    from lowdino_edge.serve.protocol import Protocol
except ImportError as e:  # starlette too
    raise missing_extra(e.name or "starlette", "serve") from None


class Server:
    """Serves while the `with` block runs.

    Args:
        offered: what is served; `offered.lan` decides whether on loopback or on the network, by https and a token.
        port: exactly this one; None takes 8150 or the next that is free; 0 any.
        landing: the page to open, such as "/?auto=1".
        several: whether another device may come in after the first (--lan).

    Raises:
        UserError: the port is taken, no network, a library that is not installed.
    """

    def __init__(self, offered: Site, *, port: int | None = None, landing: str = "/", several: bool = True) -> None:
        self.landing, self.lan = landing, offered.lan
        host = lan.address() if offered.lan else "127.0.0.1"
        context = lan.tls(host) if offered.lan else None
        self.door = Door(self._paired if several else lambda: None) if offered.lan else None
        self.socket = _bind(host, port)
        self.port = int(self.socket.getsockname()[1])
        scheme, names = ("https", [host]) if offered.lan else ("http", [host, "localhost"])
        self.origin = f"{scheme}://{_netloc(host, self.port, scheme)}"
        hosts = [_netloc(name, self.port, scheme) for name in names]
        guarded = Guard(build(offered), scheme, hosts, self.door, landing)
        self._uvicorn = uvicorn.Server(_config(guarded, context))
        # not Thread.join: interrupted by Ctrl-C it takes the thread for ended (Python 3.11)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="lowdino-serve", daemon=True)

    @property
    def url(self) -> str:
        """To be opened; with --lan it holds the token that lets one device in."""
        return f"{self.origin}{self.landing}" if self.door is None else f"{self.origin}/?token={self.door.token}"

    def announce(self) -> None:
        """Says where to go, on stderr and also with --quiet; the QR code where a phone can reach it."""
        if self.lan:
            _tell(
                f"{lan.qr(self.url)}\nopen on the phone, in the same Wi-Fi: {self.url}\n"
                "The browser will warn: no authority has signed the certificate, for it was made just now, for this "
                "address.\nGo on past the warning; without https the browser gives no camera. The address lets one "
                "device in, once."
            )
        else:
            _tell(f"open {self.url}\nOn this machine only; `--lan` is for a phone.")

    def _paired(self) -> None:
        assert self.door is not None
        _tell(f"a device came in; for another one: {self.url}\n{lan.qr(self.url)}")

    def _serve(self) -> None:
        try:
            self._uvicorn.run(sockets=[self.socket])
        finally:
            self._ended.set()

    def __enter__(self) -> Server:
        self._thread.start()
        end = time.monotonic() + _START_S
        while not self._uvicorn.started:
            if self._ended.is_set() or time.monotonic() > end:
                self.__exit__(None, None, None)
                raise UserError(f"the server on {self.origin} did not start", "try another --port")
            time.sleep(0.01)
        return self

    def wait(self) -> None:
        """Until Ctrl-C."""
        try:
            while not self._ended.wait(0.5):
                pass
        except KeyboardInterrupt:
            console.say("stopped")
            return
        raise UserError(f"the server on {self.origin} ended by itself", "start it again")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uvicorn.should_exit = True
        self._ended.wait(10)
        self.socket.close()


def files() -> dict[str, site.Asset]:
    """The built web app."""
    return site.read(site.locate())


def _config(guarded: Guard, context: ssl.SSLContext | None) -> uvicorn.Config:
    return uvicorn.Config(
        guarded, http=Protocol, ws="none", loop="asyncio", lifespan="off", log_config=None, log_level="critical",
        access_log=False, proxy_headers=False, server_header=False, timeout_graceful_shutdown=2,
        ssl_context_factory=None if context is None else lambda config, default: context,
    )  # fmt: skip


def _bind(host: str, port: int | None) -> socket.socket:
    if port is not None and not 0 <= port < 2**16:
        raise UserError(f"there is no port {port}", "choose one from 1024 to 65535 with --port")
    for wanted in range(PORT, PORT + _TRIED) if port is None else [port]:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere the option would let two programs share the port
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, wanted))
            s.listen(128)
            return s
        except OSError as e:
            s.close()
            if port is not None or e.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise UserError(f"cannot listen on {host}:{wanted}: {e.strerror}", "choose another --port") from None
    raise UserError(f"ports {PORT} to {PORT + _TRIED - 1} are all taken", "choose one with --port")


def _netloc(host: str, port: int, scheme: str) -> str:
    """As browsers write it in Host and Origin: without the scheme's own port."""
    return host if port == {"http": 80, "https": 443}[scheme] else f"{host}:{port}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
