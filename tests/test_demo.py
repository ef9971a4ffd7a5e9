"""The page to try methods on: what its server lets through, and real questions to a real model by HTTP."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from scr import ConfigError, get_method, list_methods
from scr.demo import build_parser, main
from scr.demo.answering import strength
from scr.demo.serving import MOST_BYTES, bind

ROOT = Path(__file__).parent.parent
JSON = {"Content-Type": "application/json"}


def png(size: tuple[int, int] = (96, 96)) -> bytes:
    stream = io.BytesIO()
    Image.effect_mandelbrot(size, (-2, -1, 1, 1), 60).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def question(**changed: object) -> str:
    asked = {"picture": base64.b64encode(png()).decode(), "prompt": "What is it?", "methods": [], "strengths": {}}
    return json.dumps({**asked, **changed})


class Asked:
    """A server, asked as a browser does."""

    def __init__(self, address: str) -> None:
        self.address, self.place = address, urlsplit(address)

    def request(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None):
        connection = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def ask(self, **changed: object):
        status, _, text = self.request("POST", "/answer", question(**changed), JSON)
        return status, json.loads(text)


class Parrot:
    """Answers with what it was asked."""

    def offer(self):
        return {"model": "parrot", "prompt": "?", "methods": []}

    def answer(self, picture, prompt, methods, strengths):
        if prompt == "refuse":
            raise ConfigError("no: got that; expected less. Ask less.")
        if prompt == "break":
            raise ZeroDivisionError("inside")
        return {"bytes": len(picture), "prompt": prompt, "methods": methods, "strengths": strengths}


@contextlib.contextmanager
def serving(host="127.0.0.1"):
    with bind(host, 0) as server:
        server.answering = Parrot()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Asked(server.address)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def parrot():
    with serving() as asked:
        yield asked


def test_the_page_and_its_parts_need_nothing_from_elsewhere(parrot):
    for path, kind, part in (
        ("/", "text/html", '<script src="page.js">'),
        ("/page.css", "text/css", "--background"),
        ("/page.js", "text/javascript", "function veilOver"),
    ):
        status, headers, text = parrot.request("GET", path)
        assert (status, headers.get_content_type()) == (200, kind)
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert part in text
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    status, _, text = parrot.request("GET", "/offer")
    assert (status, json.loads(text)["model"]) == (200, "parrot")
    assert parrot.request("GET", "/../command.py")[0] == 404
    assert parrot.request("POST", "/offer", question(), JSON)[0] == 404


def test_a_question_is_passed_on_as_it_is(parrot):
    status, answer = parrot.ask(prompt="Wie heißt das?", methods=["scr"], strengths={"scr": 1.5})
    assert status == 200
    assert answer == {"bytes": len(png()), "prompt": "Wie heißt das?", "methods": ["scr"], "strengths": {"scr": 1.5}}


def test_what_goes_wrong_is_told_in_a_line(parrot, capsys):
    assert parrot.ask(prompt="refuse") == (400, {"error": "no: got that; expected less. Ask less."})
    status, told = parrot.ask(prompt="break")
    assert status == 500
    assert told["error"].startswith("a fault of the program: got ZeroDivisionError: inside")
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (question(), {"Content-Type": "text/plain"}, 415, "application/json"),
        (question(), {**JSON, "Host": "evil.example"}, 403, "not from there"),
        (question(), {**JSON, "Origin": "http://evil.example"}, 403, "not from there"),
        (question(), {**JSON, "Content-Length": "x"}, 411, "length"),
        (None, {**JSON, "Content-Length": str(MOST_BYTES + 1)}, 413, "too large: expected at most 37,748,736 bytes"),
        ("{", JSON, 400, "question"),
        ("[1]", JSON, 400, "another form"),
        (question(more=1), JSON, 400, "another form"),
        (question(methods="scr"), JSON, 400, "another form"),
        (question(methods=[1]), JSON, 400, "another form"),
        (question(strengths=[]), JSON, 400, "another form"),
        (question(picture="ä"), JSON, 400, "no base64"),
    ],
)
def test_what_is_no_question_is_refused(parrot, body, headers, status, said):
    found, _, text = parrot.request("POST", "/answer", body, headers)
    assert found == status
    assert said in json.loads(text)["error"]


def test_only_this_machines_names_lead_to_it(parrot):
    port = parrot.place.port
    for host, status in ((f"localhost:{port}", 200), (f"[::1]:{port}", 200), ("localhost:1", 403), ("a.example", 403)):
        assert parrot.request("GET", "/", headers={"Host": host})[0] == status
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert parrot.request("GET", "/offer", headers=own)[0] == 200
    with serving("0.0.0.0") as everywhere:  # who says so knows by which name
        assert everywhere.request("GET", "/", headers={"Host": "a.example"})[0] == 200


def test_it_listens_on_this_machine_alone_unless_told():
    assert build_parser().parse_args([]).host == "127.0.0.1"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot listen: got 127\.0\.0\.1, port .* expected an address"):
            bind("127.0.0.1", taken.getsockname()[1])
    for host, port in (("192.0.2.1", 0), ("127.0.0.1", 99_999)):
        with pytest.raises(ConfigError, match="cannot listen"):
            bind(host, port)


def test_bad_arguments_are_one_line(capsys):
    assert main(["--port", "99999"]) == 2
    assert main(["--port", "0", "--model", "lab/lava"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line[:7] for line in lines] == ["error: "] * 2


def test_every_method_has_a_strength_and_the_known_ones_the_right_one():
    found = {name: strength(get_method(name)) for name in list_methods()}
    fields = {name: one["field"] for name, one in found.items()}
    assert fields.items() >= {"scr": "scale", "vcd": "contrast", "purified": "contrast", "pai": "strength"}.items()
    assert found["scr"]["default"] == 1.1
    assert found["vcd"]["default"] is None


@pytest.fixture(scope="module")
def real():
    """The command itself, with lab/llava, at a port of its own; it ends by Ctrl-C."""
    command = [sys.executable, "-m", "scr.demo", "--port", "0", "--max-new-tokens", "24"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield Asked(re.search(r"http://\S+", line).group())
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert (process.returncode, err.split()[-1]) == (130, "ended")
        assert "Traceback" not in err


def test_a_real_question_by_http(real):
    offered = json.loads(real.request("GET", "/offer")[2])
    assert offered["model"] == "lab/llava"
    names = [one["name"] for one in offered["methods"]]
    assert {"scr", "purified", "opera"} <= set(names)
    assert "yes_shift" not in names, "it needs a number that has no default"
    status, answer = real.ask(
        prompt=offered["prompt"], methods=["scr", "purified", "opera"], strengths={"scr": 1.9, "purified": 0.5}
    )
    assert status == 200
    assert answer["methods"] == ["none", "scr", "purified", "opera"]
    (photo,) = answer["photos"]
    plain, scr, purified, opera = photo["said"]
    assert "beams" in opera["error"]
    for one in (plain, scr, purified):
        assert "".join(piece for piece, *_ in one["pieces"]).startswith("The image")
        assert one["milliseconds"] > 0
        assert one["trace"]["grids"] == [[12, 12]]
        assert 0 < one["trace"]["entropy"] < 5
        assert one["doubts"]
    assert len(scr["trace"]["sources"]) == 32
    assert plain["trace"]["sources"] == purified["trace"]["sources"] == []
    assert plain["pieces"] != scr["pieces"] or plain["pieces"] != purified["pieces"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"picture": base64.b64encode(b"no picture").decode()}, "no picture: got 10 bytes"),
        ({"picture": base64.b64encode(png()[:300]).decode()}, "no picture"),
        ({"prompt": " "}, "no question"),
        ({"methods": ["yes_shift"]}, "unknown method: got 'yes_shift'"),
        ({"methods": list_methods()}, "too many methods"),
        ({"methods": ["scr"], "strengths": {"scr": "a lot"}}, "scale"),
        ({"methods": ["scr"], "strengths": {"scr": 0}}, "scale"),
    ],
)
def test_a_real_server_says_what_it_cannot_answer(real, changed, said):
    status, told = real.ask(**changed)
    assert status == 400
    assert said in told["error"]
