"""The page at `/` in headless Chromium, before a real server."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from app.api_keys import key_line, new_key
from app.imaging import phantom
from tests.fakes import encode, gray_png, write_manifest
from tests.integration import scripts
from tests.integration.server import Server, Start

pytest.importorskip("selenium", reason="drives the browser")

from selenium.webdriver.common.keys import Keys

from tests.integration.browser import PROGRAMS, Browser, Chromium, Scheme, page_files

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)),
    reason="needs the programs chromium and chromedriver (Debian: chromium, chromium-driver)",
)

Browse = Callable[[Server], Browser]

REFUSED = "Failed to load resource"


@pytest.fixture(scope="module")
def server(tiny_store: Path) -> Iterator[Server]:
    """A server that logs no requests: nobody reads its log, and so many would fill the pipe."""
    server = Server({"model_store": str(tiny_store), "log_level": "warning"})
    yield server.wait_until_ready()
    server.client.close()
    server.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    chromium = Chromium()
    yield chromium
    chromium.close()


@pytest.fixture
def browse(chromium: Chromium) -> Iterator[Browse]:
    """Open a browser before a server, until the end of the test."""
    browsers = []

    def browse(server: Server) -> Browser:
        browsers.append(Browser(chromium, server))
        return browsers[-1]

    yield browse
    for browser in browsers:
        browser.close()


@pytest.fixture
def browser(browse: Browse, server: Server) -> Browser:
    return browse(server)


@pytest.fixture
def xray(tmp_path: Path) -> Path:
    path = tmp_path / "xray.png"
    picture = Image.fromarray(phantom()[..., 0]).resize((800, 960), Image.Resampling.BICUBIC)
    path.write_bytes(encode(np.asarray(picture)))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("no picture")
    return path


def test_the_page_asks_for_its_own_files_and_the_model_only(browser: Browser) -> None:
    browser.open()
    assert "no medical device" in browser.text(".notice")
    assert "covid19-resnet50, version 1" in browser.text("#model")
    browser.screenshot("start")
    assert {urlsplit(address).path for address in browser.requests()} <= page_files()
    browser.check()


def test_a_chosen_xray_is_shown_with_its_heatmap_and_its_answer(
    browser: Browser, xray: Path, server: Server
) -> None:
    browser.open().choose(xray)
    wanted = server.predict(xray.read_bytes()).json()
    assert browser.text("#verdict") == wanted["label"]
    content = browser.text("#content")
    for label, probability in wanted["probabilities"].items():
        assert f"{label}\n{100 * probability:.1f}%" in content
    assert "COVID-19 is said from 50.0% upwards" in content
    assert "at 95% confidence\nCOVID-19 and Normal: the image could be either" in content
    assert "at 90% confidence\nnothing is told" in content
    assert browser.text("#verdict + .care").startswith("Take it as no answer at 90% confidence: ")
    assert "800 \N{MULTIPLICATION SIGN} 960 pixels" in content
    assert wanted["image"]["sha256"] in content
    assert wanted["model"]["digest"] in content
    assert browser.find("#xray").is_displayed()
    assert browser.find("#overlay").size == browser.find("#xray").size
    assert browser.find(".mark").rect["x"] == pytest.approx(browser.middle_of(".track"), abs=3)
    assert f"{wanted['label']}. Take it as no answer at 90% confidence" in browser.said()
    browser.check()


def test_an_xray_can_be_dropped(browser: Browser) -> None:
    browser.open()
    browser.run(
        "const transfer = new DataTransfer();"
        "transfer.items.add(new File([new Uint8Array(arguments[0])], 'dropped.png'));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer}))",
        list(gray_png(255)),
    )
    browser.wait_for_answer()
    assert browser.text("#verdict") == "COVID-19"
    assert browser.text("#choice-title") == "dropped.png"
    browser.check()


def test_the_slider_lays_the_heatmap_over_the_xray(browser: Browser, xray: Path) -> None:
    browser.open().choose(xray)
    assert browser.opacity() == pytest.approx(0.65)
    browser.find("#opacity").send_keys(Keys.HOME)
    assert (browser.opacity(), browser.text("#opacity-value")) == (0, "0%")
    browser.find("#opacity").send_keys(Keys.ARROW_RIGHT * 6)
    assert browser.opacity() == pytest.approx(0.3)
    assert browser.text("#opacity-value") == "30%"
    browser.find("#show").click()
    assert browser.opacity() == 0
    browser.find("#show").click()
    assert browser.opacity() == pytest.approx(0.3)
    browser.check()


def test_what_the_browser_cannot_show_is_shown_as_the_service_reads_it(
    browser: Browser, xray: Path
) -> None:
    browser.command("Page.addScriptToEvaluateOnNewDocument", source=scripts.CANNOT_SHOW)
    browser.open().choose(xray)
    assert [address for address in browser.requests() if "opacity=0&" in address]
    assert browser.find("#xray").is_displayed()
    assert browser.run("return xray.naturalHeight") == 960
    assert browser.run(scripts.MEAN, "#xray") == pytest.approx(phantom().mean(), abs=2)
    browser.check()


def test_a_heatmap_that_is_empty_is_told_so(browser: Browser, xray: Path, tmp_path: Path) -> None:
    black = tmp_path / "black.png"
    black.write_bytes(gray_png(0))
    browser.open().choose(black)
    assert "nothing in this X-ray counted for COVID-19" in browser.text("#meaning")
    assert not browser.find("#opacity").is_displayed()
    browser.choose(xray)
    browser.wait("return meaning.textContent.startsWith('The brighter')")
    assert browser.find("#opacity").is_displayed()
    browser.check()


def test_the_uids_of_a_dicom_file_are_shown(browser: Browser, xray: Path) -> None:
    browser.command("Page.addScriptToEvaluateOnNewDocument", source=scripts.OF_DICOM)
    browser.open().choose(xray)
    content = browser.text("#content")
    for name, uid in (("Study", "1.2.3"), ("Series", "1.2.3.4"), ("SOP instance", "1.2.3.4.5")):
        assert f"{name} UID\n{uid}\n" in content
    browser.check()


def test_what_the_browser_would_show_too_dark_is_shown_as_the_service_reads_it(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "detector.png"
    path.write_bytes(encode(np.full((80, 100), 3200, np.uint16)))  # 12 bits in 16
    browser.open().choose(path)
    assert "uses 12 bits only" in browser.text(".care")
    assert browser.run(scripts.MEAN, "#xray") == pytest.approx(3200 / 4095 * 255, abs=2)
    browser.screenshot("warning")
    browser.check()


def test_a_file_that_is_no_xray_is_told_in_plain_words(
    browser: Browser, xray: Path, text: Path
) -> None:
    browser.open().choose(xray)
    browser.find("#file").send_keys(str(text))
    browser.wait("return document.querySelector('.problem')")
    problem = browser.text(".problem")
    assert "The file is of a type that is not read." in problem
    assert "Expected\na PNG" in problem
    assert "Received\n10 bytes of no known image type" in problem
    assert not browser.find("#xray").is_displayed()  # nothing of the X-ray before is left
    assert not browser.run("return document.querySelector('#verdict')")
    assert "No answer" in browser.said()
    browser.screenshot("problem")
    browser.check(REFUSED)


def test_a_service_that_cannot_be_reached_can_be_asked_again(browser: Browser, xray: Path) -> None:
    browser.open()
    browser.command("Network.enable")
    browser.command("Network.setBlockedURLs", urls=["*/v1/predictions"])
    browser.choose(xray)
    assert "The service cannot be reached." in browser.text(".problem")
    browser.screenshot("unreachable")
    browser.command("Network.setBlockedURLs", urls=[])
    browser.find(".problem button").click()
    browser.wait("return document.querySelector('#verdict')")
    browser.check(REFUSED)


def test_a_model_that_cannot_be_asked_for_at_first_is_asked_for_again_or_told_with_an_answer(
    browser: Browser, xray: Path
) -> None:
    browser.command("Network.enable")
    for again in (True, False):
        browser.command("Network.setBlockedURLs", urls=["*/v1/models"])
        browser.open()
        assert "The service cannot be reached." in browser.text(".problem")
        browser.command("Network.setBlockedURLs", urls=[])
        if again:
            browser.find(".problem button").click()
            browser.wait("return !document.querySelector('.problem')")
            assert browser.find("#nothing").is_displayed()
        else:
            browser.choose(xray)
        assert "covid19-resnet50, version 1" in browser.text("#model")
    browser.check(REFUSED)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("names", "told"), [([""], "a folder"), (["xray.png"] * 2, "2 files")])
def test_what_is_not_one_file_is_told_alone_and_as_the_pages_own_word(
    browser: Browser, xray: Path, names: list[str], told: str, *, before: bool
) -> None:
    browser.open()
    if before:
        browser.choose(xray)
    browser.drop(*(xray.parent / name for name in names))
    browser.wait("return document.querySelector('.problem')")
    assert f"received {told}" in browser.said()
    assert "Status" not in browser.text("#answer")
    assert not browser.run("return document.querySelector('.problem button, #verdict')")
    assert not any(browser.find(each).is_displayed() for each in ("#nothing", "#xray"))
    browser.check(REFUSED)


def test_an_answer_stands_where_its_heatmap_does_not_come(browser: Browser, xray: Path) -> None:
    browser.open()
    browser.command("Network.enable")
    browser.command("Network.setBlockedURLs", urls=["*/v1/heatmaps*"])
    browser.choose(xray)
    assert browser.text("#verdict") == "COVID-19"
    assert "There is no heatmap. The service cannot be reached." in browser.text("#meaning")
    assert not browser.find("#opacity").is_displayed()
    assert browser.find("#xray").is_displayed()
    browser.check(REFUSED)


def test_a_busy_service_can_be_asked_again_and_never_hears_a_files_name(
    browser: Browser, xray: Path
) -> None:
    browser.command("Page.addScriptToEvaluateOnNewDocument", source=scripts.BUSY)
    browser.open().choose(xray)
    assert "The service is overloaded." in browser.text(".problem")
    assert "A place should be free in 7 s." in browser.text(".problem")
    browser.find(".problem button").click()
    browser.wait("return !document.querySelector('#caption').hidden")
    assert browser.run("return window.sent") == ["upload"] * 3
    browser.check()


def test_another_file_takes_the_place_of_one_that_is_being_read(
    browser: Browser, xray: Path, tmp_path: Path
) -> None:
    black = tmp_path / "black.png"
    black.write_bytes(gray_png(0))
    browser.open()
    for file in (xray, black, xray, black):
        browser.find("#file").send_keys(str(file))
    browser.wait_for_answer()
    assert browser.text("#verdict") == "Normal"
    assert browser.text("#choice-title") == "black.png"
    assert browser.run("return [xray.naturalWidth, overlay.naturalWidth]") == [100, 100]
    browser.check()


def test_a_key_is_asked_for_and_kept_in_memory_only(
    start: Start, browse: Browse, tiny_store: Path, tmp_path: Path, xray: Path
) -> None:
    key = new_key()
    (tmp_path / "api_keys").write_text(key_line(key))
    server = start(model_store=tiny_store, api_keys_file=tmp_path / "api_keys").wait_until_ready()
    browser = browse(server)
    browser.open().choose(xray)
    browser.screenshot("key")
    browser.press("кey", Keys.ENTER)  # the field has the focus; this к is no k
    assert "letters, digits and ASCII signs only" in browser.text("#key-wrong")
    browser.press("wrong", Keys.ENTER)
    browser.wait("return document.querySelector('#key-wrong').textContent.includes('accepted')")
    browser.press(key, Keys.ENTER)
    browser.wait("return document.querySelector('#verdict')")
    assert "version 1" in browser.text("#model")
    stored = "return [localStorage.length, sessionStorage.length, document.cookie]"
    assert browser.run(stored) == [0, 0, ""]
    assert key not in browser.run("return document.documentElement.outerHTML")
    assert browser.find("#key").get_attribute("value") == ""
    browser.check(REFUSED)
    browser.open()
    assert browser.find("#key-form").is_displayed()


def test_everything_can_be_done_with_the_keyboard(browser: Browser, xray: Path) -> None:
    browser.open()
    browser.press(Keys.TAB)
    assert "Skip" in browser.focused()
    browser.press(Keys.ENTER)
    assert browser.focused() == "file"
    ring = "return getComputedStyle(document.querySelector('#file-label')).outlineStyle"
    assert browser.run(ring) == "solid"
    browser.choose(xray)  # stands for the browser's own window for files, which Enter opens
    browser.press(Keys.TAB)
    assert browser.focused() == "show"
    browser.press(Keys.TAB, Keys.ARROW_RIGHT)
    assert browser.focused() == "opacity"
    assert browser.opacity() == pytest.approx(0.7)
    browser.press(Keys.TAB)
    assert browser.focused() == "Model card"
    browser.press(Keys.ENTER)
    browser.wait("return dialog.open")
    browser.press(Keys.ESCAPE)
    browser.wait("return !dialog.open")
    assert browser.focused() == "Model card"
    browser.press(Keys.TAB, Keys.ENTER)
    browser.wait("return document.querySelector('#dialog-body pre')")
    assert '"version": 1' in browser.text("#dialog-body")
    browser.check(REFUSED)  # the tiny release has no card


def test_the_model_card_is_shown(
    start: Start, browse: Browse, tiny_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_store, tmp_path / "store")
    folder = tmp_path / "store" / "covid19-resnet50" / "1"
    (folder / "MODEL_CARD.md").write_text(scripts.CARD)
    write_manifest(folder)
    server = start(model_store=tmp_path / "store").wait_until_ready()
    browser = browse(server)
    browser.open().find("#model a").click()
    browser.wait("return document.querySelector('#dialog-body table')")
    assert "Made for tests, only <b>there</b>." in browser.text("#dialog-body")
    assert browser.text("#dialog-body ul") == "one goes on\ntwo"
    assert browser.text("#dialog-body td + td") == "0.5"
    browser.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_it_fits_every_width_in_light_and_dark(
    browser: Browser, xray: Path, text: Path, width: int, scheme: Scheme
) -> None:
    browser.prefer(scheme)
    browser.resize(width, 900)
    for name, file in (("answer", xray), ("problem", text)):
        browser.open().choose(file)
        browser.screenshot(f"{name}-{scheme}-{width}")
        assert browser.run("return document.documentElement.scrollWidth") <= width
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    red = int(ground.removeprefix("rgb(").split(",")[0])
    assert (red < 64) == (scheme == "dark")
    browser.check(REFUSED)


def test_a_phone_shows_the_answer_before_the_picture(browser: Browser, xray: Path) -> None:
    browser.resize(375, 667)
    browser.open().choose(xray)
    assert browser.run("return scrollY + verdict.getBoundingClientRect().bottom") < 667
    browser.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_anybody_out(
    browser: Browser, xray: Path, text: Path, scheme: Scheme
) -> None:
    browser.prefer(scheme)
    assert browser.open().barriers() == []
    for file in (xray, text):
        browser.open().choose(file)
        assert browser.barriers() == []
    browser.find("#model a + a").click()
    browser.wait("return document.querySelector('#dialog-body pre')")
    assert browser.barriers() == []
