"""The page about runs in a real browser: sliders, choices and curves work from a file."""

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from mtl_vision.report import page, runs
from tests.report import folders

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
FLAGS = (*FLAGS, "--no-first-run", "--disable-sync", "--disable-component-update")


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser, tmp_path):
    folders.write(tmp_path / "a")
    folders.write(tmp_path / "b", scores=(55.0, 18.0), color=7)
    found = runs.read_all([tmp_path / "a", tmp_path / "b"])
    page.write(tmp_path / "page.html", found, found[0])
    browser.get((tmp_path / "page.html").as_uri())
    yield browser
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not errors


def clipped(browser, what):
    """Share of a layer that is hidden, in percent."""
    image = browser.find_element(By.CSS_SELECTOR, f".stack .{what}:not([hidden])")
    style = browser.execute_script("return getComputedStyle(arguments[0]).clipPath", image)
    right = style.removeprefix("inset(").split()[1].rstrip(")")
    return 100.0 if right.startswith("calc") else float(right.rstrip("%px"))


def slide(browser, value):
    slider = browser.find_element(By.CSS_SELECTOR, ".slide input")
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(script, slider, value)


@pytest.mark.parametrize(
    ("value", "prediction", "label"), [(0, 100, 100), (50, 50, 100), (100, 0, 100), (150, 0, 50)]
)
def test_the_slider_goes_from_image_over_prediction_to_label(shown, value, prediction, label):
    slide(shown, value)
    assert clipped(shown, "prediction") == prediction
    assert clipped(shown, "label") == label


def test_predictions_are_those_of_the_chosen_run(shown):
    Select(shown.find_element(By.ID, "run")).select_by_visible_text("b")
    seen = shown.find_elements(By.CSS_SELECTOR, ".prediction:not([hidden])")
    assert [image.get_attribute("data-run") for image in seen] == ["b"]
    assert shown.execute_script("return arguments[0].naturalWidth", seen[0]) == 16


def test_a_curve_tells_its_values(shown):
    chart = shown.find_element(By.CSS_SELECTOR, ".chart svg")
    ActionChains(shown).move_to_element_with_offset(chart, 140, 0).perform()
    text = shown.find_element(By.CSS_SELECTOR, ".chart output").text
    assert text == "a 0.1000 at 30; b 0.1000 at 30"


def test_nothing_is_wider_than_the_window(shown):
    width = shown.execute_script("return document.documentElement.scrollWidth")
    assert width <= shown.execute_script("return document.documentElement.clientWidth")
