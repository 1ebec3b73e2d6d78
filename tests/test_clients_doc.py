"""The examples of docs/clients.md, against a real service."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.reading import write_row
from app.settings import Settings
from tests import fakes
from tests.integration.server import Server, Start

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"
PROGRAM = '#!/bin/sh\nexec {python} -c "from app.cli import main; main()" "$@"\n'


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


LINE = r"(COVID-19|Normal) +p\(COVID-19\)=\d+\.\d% +\S+\.png(  \S+)?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the examples name."""
    (tmp_path / "xrays").mkdir()
    for name, value in (("xray.png", 204), ("xrays/1.png", 204), ("xrays/2.png", 51)):
        (tmp_path / name).write_bytes(fakes.gray_png(value))
    (tmp_path / "key").write_text("any\n")
    return tmp_path


@pytest.fixture
def server(start: Start, tiny_store: Path) -> Server:
    return start(model_store=tiny_store).wait_until_ready()


def run(command: list[str], folder: Path, tiny_store: Path) -> str:
    program = folder / "bin" / "covid-xray"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COVID_XRAY_MODEL_STORE": str(tiny_store),
    }
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def at(server: Server, example: str) -> str:
    return example.replace(ADDRESS, str(server.client.base_url).rstrip("/"))


@pytest.mark.parametrize("example", blocks("sh"))
def test_an_example_for_the_shell_works(
    server: Server, folder: Path, tiny_store: Path, example: str
) -> None:
    out = run(["bash", "-euo", "pipefail", "-c", at(server, example)], folder, tiny_store)
    if "heatmap" in example:
        assert (folder / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    elif "answers.jsonl" in example:
        lines = (folder / "answers.jsonl").read_text().splitlines()
        assert [json.loads(line)["label"] for line in lines] == ["COVID-19", "Normal"]
    elif "covid-xray" in example:
        assert re.fullmatch(rf"({LINE}\n){{2,3}}", out)
    else:
        assert json.loads(out)


PRINTED = [
    r"COVID-19\n",
    r"COVID-19 {'COVID-19': 0\.\d+, 'Normal': 0\.\d+} \['COVID-19'\]\n",
    r"(xrays/\d+\.png (COVID-19|Normal)\n){17}",
    r"((COVID-19|Normal)\n){17}",
]


@pytest.mark.parametrize(("example", "printed"), list(zip(blocks("python"), PRINTED, strict=True)))
def test_an_example_in_python_works(
    server: Server, folder: Path, tiny_store: Path, example: str, printed: str
) -> None:
    for number in range(3, 18):  # one more than a request holds
        (folder / "xrays" / f"{number}.png").write_bytes(fakes.gray_png(51))
    out = run([sys.executable, "-W", "error", "-c", at(server, example)], folder, tiny_store)
    assert re.fullmatch(printed, out)


def test_the_shown_lines_of_the_command_line_are_written_so() -> None:
    (shown,) = blocks("text")
    for line in shown.splitlines():
        assert re.fullmatch(LINE, line)
        label, told, name, *remarks = line.split()
        positive = float(told.removeprefix("p(COVID-19)=").removesuffix("%")) / 100
        content = {"label": label, "probabilities": {"COVID-19": positive}}
        assert write_row(content, name, " ".join(remarks)) == line


def test_the_first_example_in_python_has_three_lines() -> None:
    assert len([line for line in blocks("python")[0].splitlines() if line]) == 3


def test_every_setting_that_is_named_exists() -> None:
    names = set(re.findall(r"COVID_XRAY_([A-Z_]+)", TEXT))
    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)
