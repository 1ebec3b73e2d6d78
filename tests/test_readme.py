"""The README's examples, against a real service."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from app.imaging import Limits
from app.main import create_app
from app.settings import Settings
from tests import fakes
from tests.integration.server import Server, Start

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def lines_with(text: str) -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if text in line]


@pytest.fixture
def server(start: Start, tiny_store: Path, tmp_path: Path) -> Server:
    (tmp_path / "xray.png").write_bytes(fakes.gray_png())
    shutil.copy(ROOT / "LICENSE", tmp_path)  # a file that stays as it is
    return start(model_store=tiny_store).wait_until_ready()


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def keys(document: object) -> object:
    return {k: keys(v) for k, v in document.items()} if isinstance(document, dict) else None


def test_the_curl_examples_give_answers_of_the_shown_form(server: Server, tmp_path: Path) -> None:
    commands = lines_with("curl ")
    shown = [json.loads(block) for block in blocks("json")]
    assert len(commands) == len(shown) == 2
    for command, wanted in zip(commands, shown, strict=True):
        words = command.replace(ADDRESS, str(server.client.base_url)).split()
        answer = json.loads(run([*words, "--silent"], tmp_path))
        assert keys(answer) == keys(wanted)


def test_the_shown_problem_is_the_one_that_is_given(server: Server, tmp_path: Path) -> None:
    command = lines_with("curl ")[1].replace(ADDRESS, str(server.client.base_url)).split()
    answer = json.loads(run([*command, "--silent"], tmp_path))
    assert answer == json.loads(blocks("json")[1])


def test_the_python_example_prints_a_label_and_a_probability(
    server: Server, tmp_path: Path
) -> None:
    (example,) = blocks("python")
    example = example.replace(ADDRESS, str(server.client.base_url).rstrip("/"))
    label, probability = run([sys.executable, "-c", example], tmp_path).split()
    assert label == "COVID-19"
    assert float(probability) == pytest.approx(200 / 255, abs=1e-3)


def test_every_setting_in_the_readme_exists_with_its_default() -> None:
    names = set(re.findall(r"COVID_XRAY_([A-Z_]+)", README))
    assert {name.lower() for name in names} <= set(Settings.model_fields)
    told = dict(told_defaults())
    assert {"host", "port", "max_batch", "max_pixels", "allow_anonymous"} <= set(told)
    for name, default in told.items():
        value = Settings.model_fields[name].default
        assert default == (f"{value:g}" if isinstance(value, float) else str(value).lower()), name


def told_defaults() -> Iterator[tuple[str, str]]:
    """Read the table of settings: each with its default, or with the one of all in its row."""
    for row in README.splitlines():
        if row.startswith("| `COVID_XRAY_"):
            names, defaults = (cell.strip() for cell in row.split("|")[1:3])
            if re.fullmatch(r"(`[^`]+`(, )?)+", defaults):  # others are words
                settings = [name.lower() for name in re.findall(r"`COVID_XRAY_(\w+)`", names)]
                yield from zip(settings, cycle(re.findall(r"`([^`]+)`", defaults)), strict=False)


def test_every_setting_is_in_a_document() -> None:
    documents = [README, *(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md"))]
    text = "\n".join(documents)
    assert not [n for n in Settings.model_fields if f"COVID_XRAY_{n.upper()}" not in text]


def test_every_status_of_a_problem_is_in_the_table() -> None:
    told = {int(status) for status in re.findall(r"^\| (\d{3})", README, re.MULTILINE)}
    described = create_app(Settings()).openapi()["paths"].values()
    responses = [each["responses"] for path in described for each in path.values()]
    answered = {int(status) for each in responses for status in each if status.isdigit()}
    assert {status for status in answered if status >= 400} <= told


def test_the_least_image_that_is_read_is_told() -> None:
    side = Limits().min_side
    assert f"at least {side} x {side} pixels" in README


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
