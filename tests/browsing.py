"""A real browser for tests of pages: Debian's chromium without a window, driven by selenium."""

import shutil
import time

import pytest


@pytest.fixture(scope="module")
def driver():
    """A browser without a window; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install -e '.[browser]'")
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(paths.values()):
        pytest.skip(f"no browser: got {paths}; Debian has both as chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(paths["chromedriver"]))
    yield browser
    browser.quit()


def opened(driver, page, *, width=1280, height=900, scheme="light"):
    """Open the page at a size and in a colour scheme; the console is empty before."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme_is = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme_is]})
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(page.as_uri())
    return driver


def ask(driver, script, *arguments):
    return driver.execute_script(f"return {script}", *arguments)


def text(driver, name):
    return ask(driver, "document.getElementById(arguments[0]).textContent", name)


def wait(condition, what):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def press(driver, key):
    driver.find_element("tag name", "body").send_keys(key)
