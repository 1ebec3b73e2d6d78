"""The README's examples, against a real service."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    (tmp_path / "README.md").write_text(README)
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
    shown = json.loads(blocks("json")[1])
    for key in ("type", "title", "status", "expected"):
        assert answer[key] == shown[key]


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
    defaults = {name: str(field.default) for name, field in Settings.model_fields.items()}
    assert defaults["host"] == "127.0.0.1"
    assert defaults["port"] == "8000"
    assert defaults["queue_limit"] == "64"
    assert defaults["acceptance"] == "enforce"


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
