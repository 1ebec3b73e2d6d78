import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from app import cli
from app.api_keys import ApiKeys
from app.errors import EngineUnavailable
from app.release import MANIFEST
from tests import fakes
from tests.fakes import gray_png

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["covid-xray", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def served(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COVID_XRAY_MODEL_STORE", str(tiny_store))
    return tiny_store


def is_one_sentence(text: str) -> bool:
    return re.fullmatch(r"covid-xray: [^\n]+\.\n", text) is not None


def test_the_web_framework_waits_until_a_release_is_loading() -> None:
    script = "import sys, app.cli; print(sorted({'fastapi', 'uvicorn'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


STOPPED_IN_A_CALLBACK = """
import os, signal, sys, time, weakref
from app import cli

class Module: pass

def receive_signal_in_a_callback():
    module = Module()
    reference = weakref.ref(module, lambda _: os.kill(os.getpid(), number))
    del module
    print("went on", flush=True)
    os._exit(1)

number = signal.Signals[sys.argv.pop()]
signal.signal(signal.SIGHUP, getattr(signal, sys.argv.pop()))
cli.load_registry = lambda settings: time.sleep(3)
cli.import_openvino = receive_signal_in_a_callback
cli.main()
"""


@pytest.mark.parametrize(
    ("number", "before", "expected"),
    [
        ("SIGTERM", "SIG_DFL", (0, b"", b"")),
        ("SIGHUP", "SIG_DFL", (0, b"", b"")),
        ("SIGHUP", "SIG_IGN", (1, b"went on\n", b"")),
    ],
    ids=["stopped", "hung up", "by nohup"],
)
def test_a_signal_during_the_start_ends_it_wherever_it_comes(
    number: str, before: str, expected: tuple[int, bytes, bytes]
) -> None:
    command = [sys.executable, "-c", STOPPED_IN_A_CALLBACK, "serve", before, number]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == expected


def test_verify_tells_what_it_found_in_every_engine(run: Run, tiny_store: Path) -> None:
    code, out, _ = run("verify", tiny_store / fakes.NAME / "1")
    assert code == 0
    assert f"{fakes.NAME} version 1" in out
    for engine in ("openvino", "tensorflow"):
        assert re.search(rf"{engine} +f32 +COVID-19 0\.\d{{4}}, Normal .* golden answer", out)


def test_verify_of_no_release_ends_in_one_sentence(run: Run, tmp_path: Path) -> None:
    code, out, err = run("verify", tmp_path / "1")
    assert (code, out) == (1, "")
    assert is_one_sentence(err)


def test_verify_of_a_changed_release_ends_in_one_sentence(run: Run, tmp_path: Path) -> None:
    folder = fakes.write_fake_release(tmp_path)
    (folder / "saved_model.pb").write_bytes(b"changed")
    code, _, err = run("verify", folder)
    assert code == 1
    assert is_one_sentence(err)


def test_verify_of_a_release_with_another_answer_ends_in_one_sentence(
    run: Run, tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow", reason="writes a SavedModel")
    folder = fakes.write_tiny_release(tmp_path)
    content = json.loads((folder / MANIFEST).read_text())
    content["golden"]["probabilities"] = [0.99, 0.01]
    (folder / MANIFEST).write_text(json.dumps(content))
    code, _, err = run("verify", folder)
    assert code == 1
    assert is_one_sentence(err)
    assert "probability 0.9900" in err


def test_verify_passes_over_a_precision_that_this_processor_does_not_have(
    run: Run, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, name: str, precision: str) -> NoReturn:
        raise EngineUnavailable(f"a processor that {name} computes {precision} on", "another")

    monkeypatch.setattr(cli, "create_engine", refuse)
    code, out, _ = run("verify", tiny_store / fakes.NAME / "1")
    assert code == 0
    assert "f32  not tried. Expected a processor that openvino computes f32 on" in out


@pytest.mark.usefixtures("served")
def test_predict_prints_a_row_per_file_and_fails_where_one_has_no_answer(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "good.png").write_bytes(gray_png(204))
    (tmp_path / "bad.png").write_bytes(b"text")
    code, out, _ = run("predict", tmp_path / "good.png")
    assert code == 0
    assert re.fullmatch(r"COVID-19 +p\(COVID-19\)=80\.0% +.*good\.png\n", out)
    code, out, _ = run("predict", tmp_path / "bad.png", tmp_path / "good.png", tmp_path / "none")
    bad, good, none = out.splitlines()
    assert code == 1
    assert "no known image type" in bad
    assert good.startswith("COVID-19")
    assert "No such file" in none


@pytest.mark.usefixtures("served")
def test_predict_prints_lines_of_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(gray_png(51))
    (tmp_path / "bad.png").write_bytes(b"text")
    paths = [tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "none"]
    code, out, _ = run("predict", "--json", *paths)
    good, bad, none = map(json.loads, out.splitlines())
    assert code == 1
    assert (good["file"], good["label"]) == (str(paths[0]), "Normal")
    assert bad["problem"]["code"] == "unsupported-image-type"
    assert none["problem"]["detail"] == "No such file or directory."


def test_predict_without_a_release_ends_in_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COVID_XRAY_MODEL_STORE", str(tmp_path))
    code, _, err = run("predict", tmp_path / "any.png")
    assert code == 1
    assert is_one_sentence(err)


def test_a_new_key_is_shown_once_beside_the_line_that_accepts_it(run: Run, tmp_path: Path) -> None:
    code, out, err = run("key", "--name", "the  ward\n2")
    assert code == 0
    assert re.fullmatch(r"sha256:[0-9a-f]{64} the ward 2\n", out)
    (tmp_path / "api_keys").write_text(out)
    (key,) = re.findall(r"cxr_\S+", err)
    assert ApiKeys(tmp_path / "api_keys").accept(key)
    assert key not in out
    assert run("key")[1] != out


def test_to_serve_other_machines_without_keys_ends_in_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COVID_XRAY_HOST", "0.0.0.0")  # noqa: S104 -- refused
    code, _, err = run("serve")
    assert code == 1
    assert is_one_sentence(err)
    assert "COVID_XRAY_API_KEYS_FILE" in err


@pytest.mark.parametrize(
    ("name", "value"), [("COVID_XRAY_PORT", "http"), ("COVID_XRAY_PROT", "8000")]
)
def test_a_setting_that_cannot_be_used_ends_in_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    code, _, err = run("serve")
    assert code == 1
    assert is_one_sentence(err)
    assert name in err


@pytest.mark.usefixtures("served")
def test_a_cache_that_can_be_no_folder_is_blamed_and_not_the_release(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COVID_XRAY_CACHE_DIR", "/dev/null/cache")
    code, _, err = run("predict", "any.png")
    assert (code, is_one_sentence(err)) == (1, True)
    assert "COVID_XRAY_CACHE_DIR" in err
