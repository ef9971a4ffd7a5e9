"""The page of described photos in a real browser: what is shown, filters, keys, marks, and their way to `analysis`."""

import json
import time

import pytest
from browsing import ask, opened, press, text, wait
from described import SETTINGS, TRACE, described, row
from PIL import Image

from analysis import marks
from scr.describing.gallery.copies import copied
from scr.describing.gallery.page import write_page
from scr.describing.gallery.photos import Photo
from scr.describing.gallery.records import SETTINGS_FILE

pytestmark = pytest.mark.browser
HOSTILE = "</script><img src=x onerror='window.attacked = true'>"
SCORED = {"score": 0.8, "confidence": 0.4, "evidence": 0.5, "recheck": -1.0}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Seventy photos: one whose methods disagree, one that is hostile, one that is broken, one of a single object."""
    folder = tmp_path_factory.mktemp("gallery")
    Image.new("RGB", (80, 60), (200, 120, 40)).save(folder / "a.png")
    rows = [
        row("a.png", "A dog and a cat 🙂.", "dog", "cat", **SCORED),
        row("a.png", "A dog and a bus 🙂.", "dog", "bus", method="vcd", trace=TRACE, score=0.1),
        row(HOSTILE, f"A mug {HOSTILE}", "mug", category=None, score=0.2),
        row(HOSTILE, f"A mug {HOSTILE}", "mug", category=None, score=0.2, method="vcd"),
        row("broken.png", "", error=HOSTILE),
        *(row(f"{number}.png", "A car.", "car", score=0.1, method=method)
          for number in range(67) for method in ("none", "vcd")),
    ]  # fmt: skip
    records = described(folder / "out", rows)
    settings = json.loads((folder / "out" / SETTINGS_FILE).read_text())
    photos = {"a.png": Photo("a.png", folder / "a.png")}
    return write_page(
        folder / "out",
        settings,
        list(records.rows().values()),
        lambda name: copied(photos[name], folder / "out") if name in photos else None,
    )


def fresh(driver, page, **options):
    """The page as one sees it who has marked nothing."""
    opened(driver, page, **options)
    ask(driver, "localStorage.clear()")
    time.sleep(0.1)  # another process of the browser hears later that the store was emptied
    return opened(driver, page, **options)


def objects(driver):
    return ask(driver, "[...document.querySelectorAll('#objects button')].map(e => e.firstChild.textContent)")


def words(driver, kind):
    script = "[...document.querySelectorAll('#texts .said ' + arguments[0])].map(e => e.firstChild.textContent)"
    return ask(driver, script, kind)


def test_texts_stand_side_by_side_with_what_differs_and_what_is_doubted(driver, gallery):
    fresh(driver, gallery)
    assert text(driver, "place") == "a.png · 1 of 70"
    assert ask(driver, "[...document.querySelectorAll('#texts h2')].map(e => e.textContent)") == ["none", "vcd"]
    assert words(driver, ".differs") == ["cat", "bus"]
    assert words(driver, ".level-3") == ["dog", "cat"]
    assert words(driver, ".level-0") == ["dog", "bus"]
    assert "A dog (doubtful) and a cat (doubtful) 🙂." in text(driver, "texts")
    assert "0.80" in ask(driver, "document.querySelector('#texts .word').title")
    assert text(driver, "prompt") == SETTINGS["prompt"]
    wait(lambda: ask(driver, "document.getElementById('large').naturalWidth") == 80, "the picture")
    assert driver.get_log("browser") == []
    assert ask(driver, "document.querySelectorAll('script[src], link[rel=stylesheet]').length") == 0


def test_filters(driver, gallery):
    fresh(driver, gallery)
    for name, count in (("doubtful", 1), ("disagree", 1), ("failed", 1), ("unmarked", 68)):
        box = driver.find_element("css selector", f"#filters [name={name}]")
        box.click()
        assert text(driver, "count") == f"{count} of 70 photos", name
        box.click()
    for name in ("doubtful", "failed"):
        driver.find_element("css selector", f"#filters [name={name}]").click()
    assert text(driver, "count") == "No photo is like that."
    assert not driver.find_element("id", "detail").is_displayed()


def test_what_models_and_files_say_is_text(driver, gallery):
    fresh(driver, gallery)
    press(driver, "\ue014")
    assert text(driver, "place") == f"{HOSTILE} · 2 of 70"
    assert f"A mug {HOSTILE}" in text(driver, "texts")
    assert not driver.find_element("id", "ask").is_displayed(), "a noun outside the list is not asked about"
    driver.find_element("id", "nouns").click()
    assert objects(driver) == ["mug"]
    press(driver, "\ue014")
    assert f"not described: {HOSTILE}" in text(driver, "texts")
    assert text(driver, "legend") == "no picture to show"
    assert ask(driver, "window.attacked") is None
    assert ask(driver, "document.querySelectorAll('img[src=x]').length") == 0


def test_the_veil_is_switched_on(driver, gallery):
    fresh(driver, gallery)
    clear = "document.getElementById('map').getContext('2d').getImageData(0, 0, 1, 1).data[3]"
    assert ask(driver, clear) == 0
    assert ask(driver, "document.querySelectorAll('#marks *').length") == 0
    press(driver, "a")
    assert ask(driver, clear) == round(0.7 * (255 - round(255 * 0.02 / 0.04)))
    press(driver, "s")
    assert ask(driver, "document.querySelectorAll('#marks rect').length") == 2
    assert ask(driver, "document.querySelectorAll('#marks circle').length") == 2
    assert "3 × 4 patches" in text(driver, "legend")
    assert "sources: 1, neighbours: 2" in driver.find_element("id", "stage").get_attribute("aria-label")


def test_marks_by_two_keys_are_kept_and_can_be_taken_back(driver, gallery):
    fresh(driver, gallery)
    assert objects(driver) == ["dog", "cat", "bus"]
    for key in "yny":
        press(driver, key)
    # All of this photo is marked: the next one with something to mark, past the two that have nothing.
    assert text(driver, "place") == "0.png · 4 of 70"
    assert text(driver, "kept").startswith("3 of 70 objects marked. Marks stay")
    press(driver, "u")
    assert text(driver, "place") == "a.png · 1 of 70"
    assert objects(driver) == ["✓ dog", "✗ cat", "bus"]
    assert text(driver, "asked") == "bus"
    press(driver, "k")
    assert text(driver, "asked") == "cat"
    driver.find_element("id", "there").click()
    opened(driver, gallery)
    assert objects(driver) == ["✓ dog", "✓ cat", "bus"]
    driver.find_element("css selector", "#texts .word").click()
    assert text(driver, "asked") == "dog"
    assert driver.get_log("browser") == []


def test_two_tabs_keep_each_others_marks(driver, gallery):
    fresh(driver, gallery)
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    opened(driver, gallery)
    press(driver, "y")
    driver.close()
    driver.switch_to.window(first)
    wait(lambda: objects(driver) == ["✓ dog", "cat", "bus"], "what the other tab marked")
    assert text(driver, "kept").startswith("1 of 70")
    # What a tab writes itself it is not told: as what another one wrote just now.
    key = ask(driver, "Object.keys(localStorage)[0]")
    ask(driver, "localStorage.setItem(arguments[0], arguments[1])", key, '{"a.png": {"cat": false}}')
    press(driver, "y")
    kept = "JSON.parse(localStorage.getItem(arguments[0]))"
    assert ask(driver, kept, key) == {"a.png": {"dog": True, "cat": False}}
    ask(
        driver,
        "localStorage.setItem(arguments[0], arguments[1])",
        key,
        '{"0.png": {"car": true}, "a.png": {"dog": true}}',
    )
    press(driver, "u")
    assert ask(driver, kept, key) == {"0.png": {"car": True}}


def test_saved_marks_are_what_the_command_reads(driver, gallery, tmp_path, capsys):
    fresh(driver, gallery)
    assert not driver.find_element("id", "save").is_enabled()
    for key in "yny":
        press(driver, key)
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    driver.find_element("id", "save").click()
    path = tmp_path / "marks.json"
    wait(path.exists, "the file")
    time.sleep(0.2)
    assert json.loads(path.read_text())["marks"] == {"a.png": {"dog": True, "cat": False, "bus": True}}
    assert marks.main([str(gallery.parent), str(path)]) == 0
    out = capsys.readouterr().out
    assert "| none | 1 | 2 | 50.0 | 50.0 |" in out
    assert "| vcd | 1 | 2 | 0.0 | 100.0 |" in out


def test_keys_keep_the_meaning_that_they_have(driver, gallery):
    fresh(driver, gallery)
    driver.find_element("css selector", "#layers select").send_keys("y")
    assert text(driver, "kept").startswith("0 of")
    ask(driver, "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'y', ctrlKey: true, bubbles: true}))")
    assert text(driver, "kept").startswith("0 of")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(driver, gallery, scheme):
    fresh(driver, gallery, width=360, height=740, scheme=scheme)
    assert ask(driver, "document.documentElement.scrollWidth") <= 360
    dark = ask(driver, "getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert dark == (scheme == "dark")
    there = driver.find_element("id", "there").rect
    assert there["y"] + there["height"] <= 740, "both answers are at hand"
    assert len(driver.find_elements("css selector", "#gallery li")) == 60
    ask(driver, "document.getElementById('more').scrollIntoView({block: 'center'})")
    driver.find_element("id", "more").click()
    assert len(driver.find_elements("css selector", "#gallery li")) == 70


def test_everything_has_a_name_where_it_is_read_aloud(driver, gallery):
    fresh(driver, gallery)
    driver.execute_cdp_cmd("Accessibility.enable", {})
    tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node["ignored"]
        and node["role"]["value"] in ("button", "checkbox", "combobox", "img", "image", "list")
        and not node.get("name", {}).get("value")
    ]
    assert [one for one in nameless if one != "list"] == []
