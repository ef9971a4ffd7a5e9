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
from browsing import ask, text, wait
from described import row
from PIL import Image
from tiny import tiny_llava

from benchmarks.lab import data_folder
from scr import ConfigError, UnsupportedGenerationError, get_method, list_methods
from scr.demo import build_parser, main
from scr.demo.answering import Answering, strength
from scr.demo.serving import MOST_BYTES, bind
from scr.describing.description import Description
from scr.describing.gallery.page import page_data

ROOT = Path(__file__).parent.parent
JSON = {"Content-Type": "application/json"}


def png() -> bytes:
    stream = io.BytesIO()
    Image.effect_mandelbrot((96, 96), (-2, -1, 1, 1), 60).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def lab_picture() -> bytes:
    return next((data_folder("test", 1) / "test").iterdir()).read_bytes()


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


class Slow(Parrot):
    """Answers once it may."""

    def __init__(self):
        self.may = threading.Semaphore(0)

    def answer(self, picture, prompt, methods, strengths):
        self.may.acquire()
        if prompt == "refuse":
            raise ConfigError("no: got that; expected less. Ask less.")
        rows = [row("the picture", f"It is {prompt}.")]
        return page_data({"id": "", "model": "slow", "prompt": prompt}, rows, lambda name: {"size": [96, 96]})


@contextlib.contextmanager
def serving(host="127.0.0.1", answering=None):
    with bind(host, 0) as server:
        server.answering = answering or Parrot()
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


def test_no_scores_are_asked_for_by_none(monkeypatch):
    given = []

    def answering(*_, **options):
        given.append(options["calibration"])
        raise KeyboardInterrupt

    monkeypatch.setattr("scr.checkpoints.chosen.load_chosen", lambda *_: (None, None, None))
    monkeypatch.setattr("scr.demo.answering.Answering", answering)
    assert [main(["--port", "0", *more]) for more in ([], ["--calibration", "none"])] == [130, 130]
    own, none = given
    assert (own.name, none) == ("lab/llava", None)


def test_it_says_that_scores_were_learnt_on_another_model(monkeypatch, capsys):
    def answering(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scr.checkpoints.chosen.load_chosen", lambda *_: (None, None, "another"))
    monkeypatch.setattr("scr.demo.answering.Answering", answering)
    assert main(["--port", "0", "--model", "lab/smol", "--calibration", "lab/llava"]) == 130
    assert "learnt on another model (lab/llava): here" in capsys.readouterr().err


def test_every_method_has_a_strength_and_the_known_ones_the_right_one():
    found = {name: strength(get_method(name)) for name in list_methods()}
    fields = {name: one["field"] for name, one in found.items()}
    assert fields.items() >= {"scr": "scale", "vcd": "contrast", "purified": "contrast", "pai": "strength"}.items()
    assert found["scr"]["default"] == 1.1
    assert found["vcd"]["default"] is None


def test_a_method_that_refuses_leaves_the_others(monkeypatch):
    def describe(model, processor, images, prompt, method, **options):
        (path,) = images
        assert Path(path).read_bytes() == png()
        if method.parts:
            assert method.parts["scr"].scale == 1.5
            raise UnsupportedGenerationError("not so: got this; expected that. Do that.")
        return [Description(image=path, prompt=prompt, text="A dog.", milliseconds=3.0)]

    monkeypatch.setattr("scr.describing.asking.describe", describe)
    monkeypatch.setattr("scr.describing.asking.Asker._traces", lambda *_: {})
    model, processor = tiny_llava()
    beside, beams = {"settings": {"scale": 1.3}}, {"num_beams": 5}
    answering = Answering(model, processor, name="tiny", prompt="?", calibration=None, generation=beams, beside=beside)
    assert "opera" in answering.choices
    assert answering.choices["scr"]["default"] == 1.3, "what lies beside the checkpoint"
    answer = answering.answer(png(), "What?", ["none", "scr", "scr"], {"scr": 1.5, "vcd": 3.0})
    assert answer["methods"] == ["none", "scr"]
    plain, refused = answer["photos"][0]["said"]
    assert plain["pieces"] == [["A dog.", 0, -1]]
    assert refused == {"error": "not so: got this; expected that. Do that."}


@pytest.fixture(scope="module")
def real():
    """The command itself, with lab/llava, at a port of its own; it ends by Ctrl-C."""
    command = [sys.executable, "-m", "scr.demo", "--port", "0", "--max-new-tokens", "24"]
    # What the tests ignore, as those do that were started in the background, the command would ignore, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, before)
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield Asked(re.search(r"http://\S+", line).group())
        finally:
            process.send_signal(signal.SIGINT)
            try:
                _, err = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (process.returncode, err.splitlines()[-1]) == (130, "interrupted; the page is closed")
        assert "Traceback" not in err


def test_a_real_question_by_http(real):
    offered = json.loads(real.request("GET", "/offer")[2])
    assert offered["model"] == "lab/llava"
    names = [one["name"] for one in offered["methods"]]
    assert {"scr", "purified"} <= set(names)
    assert {"yes_shift", "opera"}.isdisjoint(names), "one needs a number that has no default, one beams"
    status, answer = real.ask(
        picture=base64.b64encode(lab_picture()).decode(),
        prompt=offered["prompt"],
        methods=["scr", "purified"],
        strengths={"scr": 1.9, "purified": 0.5},
    )
    assert status == 200
    assert answer["methods"] == ["none", "scr", "purified"]
    (photo,) = answer["photos"]
    plain, scr, purified = photo["said"]
    for one in (plain, scr, purified):
        assert "".join(piece for piece, *_ in one["pieces"]).startswith("The image")
        assert one["milliseconds"] > 0
        assert one["doubts"]
    for one in (plain, scr):
        assert one["trace"]["grids"] == [[12, 12]]
        assert 0 < one["trace"]["entropy"] < 5
    assert plain["trace"]["sources"] == []
    assert len(scr["trace"]["sources"]) == 16, "what lies beside the checkpoint"
    assert purified["trace"] is None, "it looks where the model looks"
    assert any(one["pieces"] != plain["pieces"] for one in (scr, purified))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"picture": base64.b64encode(b"no picture").decode()}, "no picture: got a file ("),
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


@pytest.mark.browser
def test_a_picture_is_uploaded_in_a_browser(real, driver, tmp_path):
    (tmp_path / "photo.png").write_bytes(lab_picture())

    def found(script):
        return ask(driver, script)

    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.set_window_size(1280, 900)
    driver.get(real.address)
    wait(lambda: found("document.querySelectorAll('#methods [name=method]').length > 20"), "methods are offered")
    assert text(driver, "model") == "lab/llava"
    assert driver.find_element("css selector", "#question button").get_property("disabled")
    driver.find_element("name", "picture").send_keys(str(tmp_path / "photo.png"))
    driver.find_element("css selector", "#methods [value=purified]").click()
    knob = driver.find_element("css selector", "[data-method=scr]")
    knob.clear()
    knob.send_keys("1.9")
    driver.find_element("css selector", "#question button").click()
    wait(lambda: text(driver, "state").startswith("answered in"), lambda: text(driver, "state"))
    heads = found("[...document.querySelectorAll('#texts h2')].map((one) => one.textContent)")
    assert heads == ["the model as it is", "scr", "purified"]
    said = found("[...document.querySelectorAll('#texts .said')].map((one) => one.textContent)")
    assert said[0].startswith("The ")
    assert found("document.querySelectorAll('.word').length") > 2
    assert "nats" in found("document.querySelector('#texts .note').textContent")
    assert "12 × 12 patches" in text(driver, "legend")
    assert found("document.getElementById('large').naturalWidth") == 96
    assert found("document.querySelectorAll('#marks rect').length") == 0
    driver.find_element("css selector", "#layers [name=sources]").click()
    assert found("document.querySelectorAll('#marks rect').length") == 32, "a light and a dark line for each source"
    shades = "new Set(document.getElementById('map').getContext('2d').getImageData(0, 0, 12, 12).data).size"
    assert found(shades) > 10
    assert found("document.documentElement.scrollWidth <= innerWidth")
    assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    assert found("document.documentElement.scrollWidth") == 390
    (tmp_path / "broken.png").write_bytes(b"no picture")
    driver.find_element("name", "picture").send_keys(str(tmp_path / "broken.png"))
    driver.find_element("css selector", "#question button").click()
    wait(lambda: "no picture" in text(driver, "state"), "an error is shown")


@pytest.mark.browser
def test_an_answer_is_taken_for_the_picture_that_is_still_chosen(driver, tmp_path):
    for name in ("first.png", "second.png"):
        (tmp_path / name).write_bytes(png())
    slow = Slow()
    with serving(answering=slow) as asked:
        driver.get(asked.address)
        wait(lambda: text(driver, "model") == "parrot", "the offer")
        button = driver.find_element("css selector", "#question button")

        def choose(name):
            driver.find_element("name", "picture").send_keys(str(tmp_path / name))

        def said(prompt, meanwhile=None):
            ask(driver, "document.querySelector('[name=prompt]').value = arguments[0]", prompt)
            button.click()
            if meanwhile:
                choose(meanwhile)
            assert not button.is_enabled(), "a question runs"
            assert text(driver, "state") == "asking ..."
            slow.may.release()
            wait(button.is_enabled, "the end of the question")
            return text(driver, "state")

        choose("first.png")
        assert said("one").startswith("answered in")
        shown = "[document.getElementById('texts').textContent, document.getElementById('large').src]"
        before = ask(driver, shown)
        assert "It is one." in before[0]
        assert said("two", meanwhile="second.png") == "answered about the picture before; ask again"
        assert ask(driver, shown) == before
        assert said("refuse", meanwhile="first.png").startswith("about the picture before: no: got that")
        assert said("three").startswith("answered in")
        after = ask(driver, shown)
        assert "It is three." in after[0]
        assert after[1] != before[1]
