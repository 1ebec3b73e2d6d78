"""The pure parts of the benchmark of serving, and all of it with a tiny release."""

import asyncio
import email
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.release import Manifest
from tests import fakes
from tests.benchmarks import figures, xrays
from tests.benchmarks.figures import Spread
from tests.benchmarks.machine import ROOT, newest_release
from tests.benchmarks.serving import report
from tests.benchmarks.serving.limit import concurrencies
from tests.benchmarks.serving.load import Load, Tally, run_clients
from tests.benchmarks.serving.options import parse, split_cpus
from tests.benchmarks.serving.requests import build_request
from tests.benchmarks.serving.servers import (
    choose_precisions,
    contenders,
    descendants,
    parse_rollup,
)
from tests.benchmarks.serving.sitting import Case, Limit, Results

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n{}"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([3.0], 0.99, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([float(value) for value in range(1, 101)], 0.99, 99.0),
        ([float(value) for value in range(1, 11)], 0.99, 10.0),
    ],
)
def test_a_percentile_is_the_nearest_rank(
    values: list[float], share: float, expected: float | None
) -> None:
    assert figures.percentile(values, share) == expected


def test_a_spread_is_of_the_rounds_that_have_a_value() -> None:
    spread = Spread.of([3.0, None, 1.0, 2.0])
    assert spread == Spread(2.0, 1.0, 3.0)
    assert figures.cell(spread) == "2.0 (1.0-3.0)"
    assert figures.cell(Spread.of([2.0]), 0) == "2"
    assert figures.cell(Spread.of([None])) == "-"


def test_a_ratio_with_nothing_below_is_none() -> None:
    assert figures.ratio(1.0, 2.0) == 0.5
    assert figures.ratio(1.0, 0.0) is None
    assert figures.ratio(None, 1.0) is None


def test_a_table_has_columns() -> None:
    assert figures.table([["", "a"], ["name", "1.5"]]) == "        a\nname  1.5"


def test_a_request_is_a_form_with_the_file_to_the_byte() -> None:
    file = b"\xff\xd8\xff\r\n--\r\n\x00"
    head, _, body = build_request("/predict", file).partition(b"\r\n\r\n")
    first, headers = head.split(b"\r\n", 1)
    assert first == b"POST /predict HTTP/1.1"
    message = email.message_from_bytes(headers + b"\r\n\r\n" + body)
    assert int(message["content-length"]) == len(body)
    _, part = message.walk()
    assert part.get_param("name", header="content-disposition") == "file"
    assert part.get_content_type() == "image/jpeg"
    assert file in body


def test_an_answer_counts_in_the_window_in_which_it_comes() -> None:
    tally = Tally(opens=1.0, closes=2.0)
    for began, ended in [(0.0, 0.9), (0.5, 1.5), (1.5, 2.5)]:
        tally.note(began, ended)
    assert tally.latencies_ms == [1000.0]


@asynccontextmanager
async def _serving(answer: bytes, length: int) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(await reader.read(length)) == length:
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "error"), [(GOOD, None), (BUSY, "503"), (ENDLESS, "ValueError")]
)
@pytest.mark.anyio
async def test_the_load_counts_good_answers_and_names_the_others(
    answer: bytes, error: str | None
) -> None:
    async with _serving(answer, 5) as port:
        tally = await run_clients(port, [b"first", b"other"], Load(3, 0.0, 0.1))
    assert bool(tally.latencies_ms) == (error is None)
    assert set(tally.errors) == ({error} if error else set())
    assert json.loads(json.dumps(tally.told()))["errors"] == tally.errors


@pytest.mark.anyio
async def test_a_patient_client_asks_again_when_it_is_told_to() -> None:
    later = BUSY.replace(b"Content", b"Retry-After: 9\r\nContent", 1)
    async with _serving(later, 5) as port:
        tally = await run_clients(port, [b"first"], Load(3, 0.0, 0.2, patient=True))
    assert tally.errors == {"503": 3}


def test_the_options_have_defaults_and_refuse_what_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = parse(["--release", str(tmp_path), "--servers", "service,keras", "--clients", "3"])
    assert (options.release, options.servers) == (tmp_path, ("service", "keras"))
    assert (options.clients, options.precisions, options.kinds) == (3, ("all",), tuple(xrays.KINDS))
    for words in (["--servers", "other"], ["--inputs", "gif"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            parse(["--release", str(tmp_path), *words])
    assert "expected 1 or more; received 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cpus", "load_cpus", "expected"),
    [
        (None, 0, ({4, 5, 6, 7}, {4, 5, 6, 7})),
        (2, 0, ({4, 5}, {4, 5})),
        (2, 1, ({4, 5}, {6})),
        (None, 1, ({4, 5, 6}, {7})),
    ],
)
def test_the_load_shares_the_servers_cores_or_has_its_own(
    cpus: int | None, load_cpus: int, expected: tuple[set[int], set[int]]
) -> None:
    assert split_cpus([4, 5, 6, 7], cpus, load_cpus) == expected


@pytest.mark.parametrize(("cpus", "load_cpus"), [(5, 0), (4, 1), (None, 4), (None, -1)])
def test_more_cores_than_there_are_is_an_error(cpus: int | None, load_cpus: int) -> None:
    with pytest.raises(ValueError, match="at most 4 cores"):
        split_cpus([4, 5, 6, 7], cpus, load_cpus)


def test_the_limit_tries_one_thread_first() -> None:
    assert concurrencies(1) == (1, 2)
    assert concurrencies(4) == (1, 4, 8)


def test_the_service_is_measured_in_what_its_release_passed(tmp_path: Path) -> None:
    folder = fakes.write_fake_release(tmp_path)
    content = fakes.manifest_content(folder) | {"precisions": {"openvino": ["f32", "bf16"]}}
    manifest = Manifest.model_validate(content)
    assert choose_precisions(manifest, ("f32",)) == [("openvino", "f32")]
    assert ("openvino", "f32") in choose_precisions(manifest, ("all",))
    assert len(choose_precisions(manifest, ("auto",))) == 1
    with pytest.raises(ValueError, match=r"f32, bf16.*received int8"):
        choose_precisions(manifest, ("int8", "f32"))
    (service,) = contenders(("service",), folder, [("openvino", "f32")])
    assert service.environment["COVID_XRAY_MODEL_STORE"] == str(tmp_path)
    assert service.environment["COVID_XRAY_ACCEPTANCE"] == "warn"


def test_the_newest_release_is_the_highest_number(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        fakes.write_fake_release(tmp_path, version)
    assert newest_release(tmp_path).name == "10"
    with pytest.raises(FileNotFoundError, match="a release"):
        newest_release(tmp_path / "empty")


def test_memory_is_read_from_the_kernels_summary() -> None:
    text = (
        "5581-7ffd ---p 00000000 00:00 0 [rollup]\nRss:   300 kB\nPss:   200 kB\nPss_Anon: 1 kB\n"
    )
    assert parse_rollup(text) == 200
    assert parse_rollup(Path("/proc/self/smaps_rollup").read_text()) > 1000


def test_the_children_of_a_process_are_found() -> None:
    with subprocess.Popen(["/bin/sleep", "30"]) as child:
        assert {os.getpid(), child.pid} <= set(descendants(os.getpid()))
        child.kill()


def test_synthetic_xrays_are_as_large_as_real_ones_and_always_the_same() -> None:
    (first, other) = xrays.make_inputs(["png-1024"])["png-1024"]
    assert 350_000 < len(first) < 700_000
    assert first != other
    assert first == xrays.make_file("PNG", 1024, 1024, 0)


def test_real_files_are_kinds_by_folder(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "large" / "b.JPG").write_bytes(b"b")
    (tmp_path / "notes.txt").write_bytes(b"c")
    assert xrays.read_inputs(tmp_path) == {tmp_path.name: (b"a",), "large": (b"b",)}
    with pytest.raises(FileNotFoundError, match="PNG or JPEG"):
        xrays.read_inputs(tmp_path / "nothing")


def test_a_share_of_the_limit_is_taken_within_each_round(tmp_path: Path) -> None:
    (service,) = contenders(("service",), tmp_path, [("openvino", "f32")])
    results = Results(
        cases=[
            Case(number, service.name, "png", clients, 9, rate, 30.0, 60.0, {"503": 1})
            for number, rate in enumerate((10.0, 40.0))
            for clients in (1, 16)
        ],
        limits=[
            Limit(number, "openvino", "f32", "png", {"1": rate, "2": 2 * rate}, 20.0, [0.5])
            for number, rate in enumerate((10.0, 40.0))
        ],
    )
    alone, together = report.summarize(results, [service])
    assert together.requests_per_s == Spread(25.0, 10.0, 40.0)
    assert together.limit_share == Spread(0.5, 0.5, 0.5)
    assert (together.p99_over_p50, together.errors) == (Spread(2.0, 2.0, 2.0), 2)
    assert (alone.beyond_alone_ms, together.beyond_alone_ms) == (Spread(10.0, 10.0, 10.0), None)
    assert "png, 16 clients" in report.write_tables(results, [alone, together])


def test_the_whole_benchmark_runs(tiny_store: Path, tmp_path: Path) -> None:
    release = tiny_store / fakes.NAME / "1"
    options = "--servers service --precision f32 --inputs png-224 --clients 2 --rounds 1"
    times = "--seconds 0.2 --warm-up 0.1"
    command = [sys.executable, "-m", "tests.benchmarks.serving", *options.split(), *times.split()]
    paths = ["--release", str(release), "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, *paths], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "of its limit" in done.stdout
    assert (tmp_path / "serving.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "serving.json").read_text())
    assert {"processor", "cores_used", "packages", "date", "command"} <= found["machine"].keys()
    (process,) = found["rounds"]["processes"]
    assert process["rss_mib"] > process["pss_mib"] > 0
    (limit,) = found["rounds"]["limits"]
    assert process["probabilities"]["png-224"] == pytest.approx(limit["probabilities"][0])
    assert {case["clients"] for case in found["rounds"]["cases"]} == {1, 2}
    assert not any(case["errors"] for case in found["rounds"]["cases"])
