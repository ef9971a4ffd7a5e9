"""The page's server: three files, what there is to ask, and answers. Standard library only.

No other page can use it: a question has to be JSON from a page of this server's own address, which a browser does not
let another site send, and a name that leads here from outside is refused.
"""

from __future__ import annotations

import base64
import binascii
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from ..command.guard import described
from ..errors import ConfigError, SCRError
from ..files import json_text, parse_json, read_text
from ..pages.embedding import Shared, shared

MOST_BYTES = 48 * 2**20
"""Of a request: a picture of 36 MB, in base64."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Path → its type, what it has in common with the project's other pages, and its own file.
_FILES: dict[str, tuple[str, tuple[Shared, ...], str]] = {
    "/": ("text/html", (), "page.html"),
    "/page.css": ("text/css", ("look.css",), "page.css"),
    "/page.js": ("text/javascript", ("veil.js", "said.js"), "page.js"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Answers(Protocol):
    """What `scr.demo.answering.Answering` does, without its torch."""

    def offer(self) -> dict[str, Any]:
        """What can be asked."""

    def answer(self, picture: bytes, prompt: str, methods: list[str], strengths: dict[str, float]) -> dict[str, Any]:
        """The answers to a question."""


class Server(ThreadingHTTPServer):
    """Listens, and has what answers.

    Attributes:
        answering: what answers; set before it serves.
        hosts: what a request may call this server; None for anything.
    """

    daemon_threads = True
    answering: Answers
    hosts: frozenset[str] | None

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host!s}]' if ':' in str(host) else host!s}:{port}"


def bind(host: str, port: int) -> Server:
    """A server that listens, and does not serve yet.

    Args:
        host: an address, or the name of one.
        port: 0 for any that is free.

    Raises:
        ConfigError: for an address that is not this machine's, or a port that is taken.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        kind = type("Server", (Server,), {"address_family": family})
        server: Server = kind((place[0], port), _Handler)  # `place` has another port for one beyond the last
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen: got {host}, port {port} ({error}); expected an address of this machine and a port from 0 "
            "to 65535 that is free. Give another --host or --port."
        ) from error
    bound = server.server_address[1]
    server.hosts = None
    if host in _LOOPBACK:
        names = (*_LOOPBACK, "[::1]")
        server.hosts = frozenset({*names, *(f"{name}:{bound}" for name in names)})
    return server


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "scr.demo"
    sys_version = ""
    timeout = 60  # seconds that a sender may be silent

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path == "/offer":
            self._tell(HTTPStatus.OK, self.server.answering.offer())
        elif self.path in _FILES:
            kind, common, own = _FILES[self.path]
            text = read_text(Path(__file__).parent / "page" / own)
            self._send(HTTPStatus.OK, kind, shared(*common) + text)
        else:
            self._tell(HTTPStatus.NOT_FOUND, {"error": "no such page: / is the only one"})

    def do_POST(self) -> None:
        if not self._allowed():
            return
        if self.path != "/answer":
            self._tell(HTTPStatus.NOT_FOUND, {"error": "no such address: questions go to /answer"})
            return
        if self.headers.get_content_type() != "application/json":
            self._tell(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "a question is application/json"})
            return
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._tell(HTTPStatus.LENGTH_REQUIRED, {"error": "a question tells its length"})
            return
        if int(length) > MOST_BYTES:
            most = f"{MOST_BYTES * 3 // 4:,} bytes"
            self._tell(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"the picture is too large: expected at most {most}"}
            )
            return
        try:
            self._tell(HTTPStatus.OK, self.server.answering.answer(**_question(self.rfile.read(int(length)))))
        except SCRError as error:
            self._tell(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except ConnectionError:
            pass  # the page was closed
        except Exception as error:
            _, line = described(error)
            print(line, file=sys.stderr, flush=True)
            self._tell(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": line.removeprefix("error: ")})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: who asks what is nobody's business."""

    def _allowed(self) -> bool:
        hosts, own = self.server.hosts, self.headers.get("Host", "")
        origin = self.headers.get("Origin", f"http://{own}")
        if (hosts is None or own.lower() in hosts) and origin.partition("://")[2] == own:
            return True
        self._tell(HTTPStatus.FORBIDDEN, {"error": f"not from there: open {self.server.address}"})
        return False

    def _tell(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, "application/json", json_text(value))

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _question(content: bytes) -> dict[str, Any]:
    """The arguments of `Answers.answer` in a request.

    Raises:
        SCRError: for what is no question.
    """
    asked = parse_json(content.decode("utf-8", "replace"), "the question")
    fits = (
        isinstance(asked, dict)
        and asked.keys() == {"picture", "prompt", "methods", "strengths"}
        and isinstance(asked["picture"], str)
        and isinstance(asked["prompt"], str)
        and isinstance(asked["methods"], list)
        and all(isinstance(one, str) for one in asked["methods"])
        and isinstance(asked["strengths"], dict)
    )
    if not fits:
        raise ConfigError(
            "no question: got another form; expected an object of picture (base64), prompt, methods and strengths. "
            "Ask from the page."
        )
    try:
        picture = base64.b64decode(asked["picture"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(
            f"no picture: got text that is no base64 ({error}); expected base64. Ask from the page."
        ) from error
    return {**asked, "picture": picture}
