"""`covid-xray predict --server` before a real server, and at a terminal."""

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from app.api_keys import key_line, new_key
from tests.integration.predict import COMMAND, address, predict
from tests.integration.server import Server, Start, free_port

ROOT = Path(__file__).parents[2]


def test_a_server_answers_as_this_program_does_itself(
    server: Server, folder: Path, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = predict("--json", "--server", address(server), folder)
    monkeypatch.setenv("COVID_XRAY_MODEL_STORE", str(tiny_store))
    here = predict("--json", folder)
    for one, other in zip(here.stdout.splitlines(), there.stdout.splitlines(), strict=True):
        changing = {"id": None, "timings_ms": None}
        assert json.loads(one) | changing == json.loads(other) | changing


def test_a_key_is_read_from_its_file(
    start: Start, tiny_store: Path, tmp_path: Path, folder: Path
) -> None:
    key = new_key()
    (tmp_path / "api_keys").write_text(key_line(key))
    (tmp_path / "key").write_text(f"{key}\n")
    server = start(model_store=tiny_store, api_keys_file=tmp_path / "api_keys").wait_until_ready()
    options = ("--server", address(server), folder / "0.png")
    assert predict("--api-key-file", tmp_path / "key", *options).returncode == 0
    without = predict(*options)
    assert (without.returncode, without.stdout) == (1, "")
    assert without.stderr == ("covid-xray: Expected an API key of this service; received none.\n")
    (tmp_path / "key").write_text("two words")
    wrong = predict("--api-key-file", tmp_path / "key", *options)
    assert wrong.returncode == 1
    assert "one API key and nothing else" in wrong.stderr
    assert "two words" not in wrong.stderr


def test_a_server_that_is_not_there_ends_in_one_sentence(folder: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = predict("--server", nowhere, folder)
    assert done.returncode == 1
    assert done.stderr == f"covid-xray: Expected a service at {nowhere}; received none.\n"


def test_without_the_extra_it_ends_in_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['httpx'] = None")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = predict("--server", "http://127.0.0.1:9", folder)
    assert done.returncode == 1
    assert done.stderr == (
        "covid-xray: Expected the extra client to be installed; received none.\n"
    )


def test_a_key_without_a_server_is_refused(folder: Path, tmp_path: Path) -> None:
    done = predict("--api-key-file", tmp_path / "key", folder)
    assert done.returncode == 2
    assert "--server" in done.stderr


def test_a_terminal_gets_a_table_and_how_far_it_is(server: Server, folder: Path) -> None:
    ours, theirs = pty.openpty()
    words = [*COMMAND, "--server", address(server), "."]
    environment = os.environ | {"COLUMNS": "140", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stdout=theirs, stderr=theirs, env=environment, cwd=folder)
    os.close(theirs)
    shown = b""
    while process.poll() is None or shown[-1:] != b"\n":
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other side was closed
            break
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert process.wait(60) == 1
    assert "Reading" in text
    assert re.search(r"│ 5\.png +│ COVID-19 │ +78\.4% │", text)
    assert "5 of 6 answered. Research software, no medical device." in text
