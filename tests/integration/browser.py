"""A headless Chromium that tells what it did wrong: console errors, requests to other hosts."""

import json
import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from app.page import FILES
from tests.integration.server import Server

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
PROGRAMS = ("chromium", "chromedriver")

_ALONE = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Before any script of the page runs: note what its content security policy would not let happen.
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""

Scheme = Literal["light", "dark"]


class Chromium:
    """A browser for many tests; each has a `Browser` of it."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in (*_ALONE, f"--user-data-dir={self._profile.name}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = Service(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.home = self.driver.current_window_handle

    def close(self) -> None:
        self.driver.quit()
        self._profile.cleanup()


class Browser:
    """A window of its own, with nothing cached; storage is shared, which the page does not use.

    Args:
        chromium: Where it opens.
        server: Whose page it shows.
    """

    def __init__(self, chromium: Chromium, server: Server) -> None:
        self.address = str(server.client.base_url).rstrip("/")
        self.driver = chromium.driver
        self._home = chromium.home
        self.driver.switch_to.new_window("window")
        self.command("Network.clearBrowserCache")
        self.command("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        self.resize(1280, 900)
        for kind in ("browser", "performance"):
            self._log(kind)  # what the test before left

    def command(self, name: str, **arguments: object) -> Any:
        """Give a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def resize(self, width: int, height: int) -> None:
        """Set the size of what is shown, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: Scheme) -> None:
        """Set the colors that the person prefers."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def open(self) -> "Browser":
        """Load the page, and wait until it knows the model, wants a key or has a problem."""
        self.driver.get(f"{self.address}/")
        self.wait(
            "return !document.querySelector('#key-form').hidden || model.textContent"
            " || document.querySelector('.problem')"
        )
        return self

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function's body in the page, and give what it returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> None:
        """Wait until a function's body returns what is true."""
        WebDriverWait(self.driver, 30, poll_frequency=0.05).until(lambda _: self.run(condition))

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def said(self) -> str:
        """Give what a screen reader was told last."""
        text: str = self.run("return document.querySelector('#status').textContent")
        return text

    def opacity(self) -> float:
        """Give the opacity of the heatmap."""
        return float(self.run("return getComputedStyle(overlay).opacity"))

    def middle_of(self, selector: str) -> float:
        rect = self.find(selector).rect
        return float(rect["x"] + rect["width"] / 2)

    def focused(self) -> str:
        """Name what has the focus."""
        name: str = self.run(
            "return document.activeElement.id || document.activeElement.textContent"
        )
        return name

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def drop(self, *paths: Path) -> None:
        """Drop files or folders, as a hand does."""
        files = [str(path.resolve()) for path in paths]
        data = {"items": [], "files": files, "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.command("Input.dispatchDragEvent", type=kind, x=100, y=100, data=data)

    def choose(self, file: Path) -> None:
        """Choose a file, and wait for its answer."""
        self.find("#file").send_keys(str(file))
        self.wait_for_answer()

    def wait_for_answer(self) -> None:
        self.wait(
            "return document.querySelector('.problem') || !document.querySelector('#key-form')"
            ".hidden || !document.querySelector('#caption').hidden"
        )

    def screenshot(self, name: str) -> Path:
        """Write a picture of the whole page for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        width, shown, whole = self.run(
            "return [innerWidth, innerHeight, document.documentElement.scrollHeight]"
        )
        self.resize(width, max(shown, whole))
        path = SCREENSHOTS / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        self.resize(width, shown)
        return path

    def check(self, *expected: str) -> None:
        """Check that nothing went wrong since the last time.

        Args:
            expected: What errors on the console may hold: the browser writes one for every answer
                with a status from 400 upwards, whatever the page makes of it.
        """
        messages = self._log("browser")
        unexpected = [each for each in messages if not any(text in each for text in expected)]
        assert not unexpected
        assert self.run("return window.violations") == []
        hosts = {urlsplit(address).netloc for address in self.requests()}
        assert hosts <= {urlsplit(self.address).netloc}, hosts

    def barriers(self) -> list[Any]:
        """Name what axe finds that keeps somebody out: each rule, and the elements breaking it."""
        self.run(_read_axe())
        found: list[Any] = self.driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run({resultTypes: ['violations']}).then(({violations}) => done(violations.map("
            "(each) => [each.id, each.nodes.map((node) => node.html)])))"
        )
        return found

    def requests(self) -> list[str]:
        """Name the addresses that were asked for over a network since the last time."""
        events = [json.loads(message)["message"] for message in self._log("performance")]
        addresses = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [
            each for each in addresses if urlsplit(each).scheme in {"http", "https", "ws", "wss"}
        ]

    def _log(self, kind: str) -> list[str]:
        get_log: Callable[[str], list[dict[str, str]]] = self.driver.get_log
        return [entry["message"] for entry in get_log(kind)]

    def close(self) -> None:
        self.driver.close()
        self.driver.switch_to.window(self._home)


def _read_axe() -> str:
    """Read axe-core: a newer one that npm put into `build`, or that of the Python package.

    npm's: `npm install --prefix build --no-save axe-core`.
    """
    newer = ROOT / "build" / "node_modules" / "axe-core" / "axe.min.js"
    packed = files("axe_core_python") / "axe.min.js"
    return (newer if newer.exists() else packed).read_text(encoding="utf-8")


def page_files() -> set[str]:
    """Name the paths of which a loaded page asks."""
    return {*FILES, "/v1/models"}
