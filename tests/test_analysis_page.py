"""The report in a real browser: Debian's chromium without a window, driven by selenium."""

import io
import shutil

import numpy as np
import pytest
from browsing import ask, opened, press, text, wait
from PIL import Image
from synthetic_results import answer, many_runs, questions, record, write

from analysis.drawing.overlays import overlay
from analysis.findings.summary import summary_findings
from analysis.reading.load import load_results
from analysis.report import PAGE, build_report
from benchmarks.records import SampleRecord

pytestmark = pytest.mark.browser
HOSTILE = "</script><img src=x onerror='window.attacked = true'><script>window.attacked = true</script>"
TRACE = {"grids": [[6, 8]], "attention": [0.02] * 24 + [0.01] * 23 + [0.04], "entropy": 3.5, "entropy_normalized": 0.9,
         "sources": [10, 37], "neighbors": [9, 11, 36, 38], "owners": [0, 0, 1, 1]}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two thousand samples of which the last ones are captions; most lie beside the page."""
    root = tmp_path_factory.mktemp("page")
    before = questions(images=340)
    after = questions(images=340, noise=1)
    (root / "images").mkdir()
    for number in range(340):
        Image.new("RGB", (80, 60), (number % 255, 120, 90)).save(root / "images" / f"{number}.jpg")
    Image.new("RGB", (80, 60), (200, 120, 40)).save(root / "images" / "first.png")
    shown = answer("a", "first.png", "no", 2.0, TRACE), answer("a", "first.png", "no", -2.0, TRACE)
    write(root / "results", record(), [shown[0], *before])
    write(root / "results", record("scr"), [shown[1], *after])
    told = [SampleRecord(id=str(number), image="0.jpg", prompt="Describe.", target=["dog"], output=f"A dog {HOSTILE}")
            for number in range(10)]  # fmt: skip
    grade = {"mentions": [{"word": "dog", "start": 2, "end": 5, "node": "dog"}], "hallucinated": ["dog"],
             "grounded": [], "missed": ["cat"]}  # fmt: skip
    other = SampleRecord(id="10", image="0.jpg", prompt="Describe.", target=["cat"], output="A dog.", found=grade)
    for method in ("none", "vcd"):
        write(root / "results", record(method, task="chair", model="lab/other"), [*told, other])
    page = build_report(
        load_results(root / "results"),
        root / "report",
        images=[root / "images"],
        analyses={"summary": summary_findings},
    )
    assert len(list((root / "report" / "samples").glob("chunk-*.js"))) == 9
    return page


def choose(driver, name, choice):
    """Choose as a user does, by the shown text."""
    for option in driver.find_elements("css selector", f"#filters select[name={name}] option"):
        if option.text == choice:
            option.click()
            return
    raise AssertionError(choice)


def test_it_opens_quickly_and_without_errors(driver, report):
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    opened(driver, report)
    # Seconds of the page's own thread: a busy machine would make a test of the clock say anything.
    metrics = {one["name"]: one["value"] for one in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
    assert 0 < metrics["TaskDuration"] < 1
    wait(lambda: text(driver, "place") == "sample 1 of 2000", text(driver, "place"))
    assert driver.get_log("browser") == []
    assert ask(driver, "document.querySelectorAll('script[src]').length") == 0, "the first samples are in the page"


def test_filters(driver, report):
    opened(driver, report)
    choose(driver, "outcome", "fixed")
    total = int(text(driver, "count").split()[0])
    assert 0 < total < 2000
    assert set(ask(driver, "[...document.querySelectorAll('#gallery .thumbnail + span')].map(e => e.textContent)")) == {
        "✓ fixed"
    }
    low, high = (driver.find_element("name", name) for name in ("low", "high"))
    low.send_keys("4")
    some = int(text(driver, "count").split()[0])
    assert 0 < some < total
    high.send_keys("4.5")
    fewer = int(text(driver, "count").split()[0])
    assert 0 < fewer < some
    wait(lambda: "entropy4." in text(driver, "facts"), text(driver, "facts"))
    choose(driver, "row", "vcd")
    assert text(driver, "count").startswith("No sample is like that")
    assert not driver.find_element("id", "detail").is_displayed()
    driver.find_element("css selector", "#filters [type=reset]").click()
    wait(lambda: text(driver, "count").startswith("2000 of 2000"), text(driver, "count"))
    assert driver.get_log("browser") == []


def test_arrow_keys(driver, report):
    opened(driver, report)
    left, right = "\ue012", "\ue014"
    for key, place in ((right, 2), (right, 3), (left, 2), (left, 1), (left, 1)):
        press(driver, key)
        wait(lambda place=place: text(driver, "place") == f"sample {place} of 2000", text(driver, "place"))
    assert not driver.find_element("id", "previous").is_enabled()
    driver.find_element("name", "low").send_keys("1", left, right)
    assert text(driver, "place").startswith("sample 1 of"), "in a text field arrows move the cursor"
    driver.find_element("id", "next").click()
    wait(lambda: text(driver, "place").startswith("sample 2 of"), text(driver, "place"))
    assert ask(driver, "document.querySelectorAll('#gallery [aria-current]').length") == 1


def test_later_samples_are_loaded_when_they_are_wanted(driver, report):
    opened(driver, report)
    choose(driver, "model", "lab/other")
    wait(lambda: text(driver, "prompt") == "Describe.", text(driver, "prompt"))
    assert ask(driver, "document.querySelectorAll('script[src]').length") >= 1
    assert HOSTILE in text(driver, "before"), "what a model said is text"
    assert ask(driver, "window.attacked") is None
    assert ask(driver, "document.querySelectorAll('#before *').length") == 0
    driver.find_elements("css selector", "#gallery button")[-1].click()
    wait(lambda: text(driver, "place") == "sample 11 of 11", text(driver, "place"))
    assert ask(driver, "document.querySelector('#after mark').textContent") == "dog"
    assert text(driver, "after") == "A dog (hallucinated)."
    assert driver.get_log("browser") == []


def test_more_thumbnails(driver, report):
    opened(driver, report)
    assert len(driver.find_elements("css selector", "#gallery li")) == 48
    driver.find_element("id", "more").click()
    assert len(driver.find_elements("css selector", "#gallery li")) == 96
    wait(lambda: ask(driver, "document.querySelector('#gallery img').naturalWidth") == 80, "a thumbnail")


def test_the_overlay_is_that_of_the_notebook(driver, report):
    opened(driver, report)
    assert text(driver, "facts").count("first.png") == 1
    stage = driver.find_element("id", "stage")
    wait(lambda: ask(driver, "document.getElementById('large').naturalWidth") == 80, "the picture")
    seen = Image.open(io.BytesIO(stage.screenshot_as_png)).convert("RGB")
    picture = report.parent.parent / "images" / "first.png"
    drawn = overlay(picture, TRACE, size=seen.width).resize(seen.size)
    difference = np.abs(np.asarray(seen, float) - np.asarray(drawn, float)).mean(axis=2)
    assert difference.mean() < 3
    assert "8 patches" in stage.get_attribute("aria-label")
    for layer in ("attention", "sources", "neighbors"):
        driver.find_element("css selector", f"#layers [name={layer}]").click()
    wait(lambda: ask(driver, "document.querySelectorAll('#marks *').length") == 0, "no marks")
    plain = np.asarray(Image.open(io.BytesIO(stage.screenshot_as_png)).convert("RGB"), float)
    assert np.abs(plain - np.array([200, 120, 40])).mean() < 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(driver, report, scheme):
    opened(driver, report, width=360, height=740, scheme=scheme)
    assert ask(driver, "document.documentElement.scrollWidth") <= 360
    ground = ask(driver, "getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 26)"}[scheme]
    small = ask(
        driver,
        "[...document.querySelectorAll('#browser button, #browser select')].filter(e => e.offsetParent)"
        ".filter(e => e.getBoundingClientRect().height < 24).length",
    )
    assert small == 0, "WCAG 2.2's target size"


def test_everything_has_a_name_where_it_is_read_aloud(driver, report):
    opened(driver, report)
    driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    wanted = {"button", "link", "combobox", "spinbutton", "checkbox", "region", "image", "img", "form", "navigation"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node.get("role", {}).get("value") in wanted
    ]
    assert len(named) > 50
    assert [role for role, name in named if not name.strip()] == []
    driver.execute_cdp_cmd("Accessibility.disable", {})


def test_a_page_without_its_folder_says_so(driver, report, tmp_path):
    shutil.copy(report, tmp_path / PAGE)
    opened(driver, tmp_path / PAGE)
    wait(lambda: text(driver, "place") == "sample 1 of 2000", text(driver, "place"))
    wait(lambda: ask(driver, "document.getElementById('large').src.startsWith('data:')"), "the thumbnail instead")
    choose(driver, "model", "lab/other")
    wait(lambda: "Copy the folder “samples” along" in text(driver, "place"), text(driver, "place"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A page of all analyses, with tables of many columns."""
    root = tmp_path_factory.mktemp("wide")
    many_runs(root / "results")
    return build_report(load_results(root / "results"), root / "report")


WIDE = (
    "[...document.querySelectorAll('main .scroll')].filter(e => e.querySelector('table'))"
    ".filter(e => e.scrollWidth > e.clientWidth).map(e => e.getAttribute('aria-label'))"
)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_no_table_scrolls_sideways(driver, wide, width, scheme):
    opened(driver, wide, width=width, scheme=scheme)
    driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    assert ask(driver, "document.querySelectorAll('main table').length") > 15
    assert ask(driver, WIDE) == []
    assert ask(driver, "document.documentElement.scrollWidth") <= width
    assert driver.get_log("browser") == []


def test_the_list_of_sections_stays_and_says_where_one_is(driver, wide):
    for width in (1280, 390):
        opened(driver, wide, width=width)
        assert ask(driver, "document.querySelector('nav [aria-current]').textContent") == "did it help?"
        driver.execute_script("document.getElementById('settings').scrollIntoView()")
        wait(
            lambda: ask(driver, "document.querySelector('nav [aria-current]').textContent") == "settings",
            "the section that is read",
        )
        assert ask(driver, "document.querySelector('nav').getBoundingClientRect().top") == 0
        assert ask(driver, "document.querySelectorAll('nav [aria-current]').length") == 1
        forest = ask(driver, "document.querySelector('#forest img').currentSrc")
        assert forest.endswith("forest-narrow.svg") == (width == 390)
