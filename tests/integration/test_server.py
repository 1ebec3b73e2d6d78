"""A real `covid-xray serve` in a process of its own, on a free port."""

import io
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from app.api_keys import key_line, new_key
from tests import fakes
from tests.fakes import gray_png
from tests.integration.server import Server, Start

WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras"):
    sys.modules[name] = None  # which makes its import fail
"""


def test_no_answer_names_the_server(server: Server) -> None:
    assert "server" not in server.predict(gray_png()).headers


def test_the_connection_goes_on_after_a_head(server: Server) -> None:
    for path in ("/", "/v1/models", "/v1/predictions"):
        head = server.client.head(path)
        got = server.client.get(path)  # would read the rest of a body that was sent
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-length"] == got.headers["content-length"]
        assert "connection" not in head.headers


def test_a_large_upload_leaves_no_file(start: Start, tiny_store: Path, tmp_path: Path) -> None:
    server = start(model_store=tiny_store)
    server.wait_until_ready()
    server.predict(gray_png())  # what is imported by the first upload is read from a file too
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = _targets(descriptors)
    request = server.client.build_request(
        "POST", "/v1/predictions", files={"file": fakes.noise_png(2300)}
    )
    content = request.read()
    assert len(content) > 5_000_000
    seen: set[str] = set()

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(content), 2**19):
            yield content[at : at + 2**19]
            seen.update(_targets(descriptors))

    headers = {"content-type": request.headers["content-type"]}
    assert server.client.post("/v1/predictions", content=chunks(), headers=headers).is_success
    files = {each for each in seen - before if each.startswith("/")}
    assert not files  # a temporary file without a name would be seen as "/tmp/#123 (deleted)"
    assert not list(tmp_path.iterdir())


def _targets(descriptors: Path) -> set[str]:
    return {str(each.readlink()) for each in descriptors.iterdir()}


def test_it_starts_and_answers_without_tensorflow(
    start: Start, tiny_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    server = start(model_store=tiny_store, path=tmp_path).wait_until_ready()
    assert server.predict(gray_png()).status_code == 200
    (listed,) = server.client.get("/v1/models").json()["models"]
    assert listed["engine"] == "openvino"


def test_an_engine_that_is_missing_ends_in_one_sentence(
    start: Start, tiny_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    code, log = start(model_store=tiny_store, path=tmp_path, engine="tensorflow").end()
    assert code == 1
    assert log == (
        "covid-xray: Expected the Python package tensorflow to be installed; "
        "received none that imports.\n"
    )


def test_every_line_of_the_log_is_json_and_a_request_has_its_ids(
    start: Start, tiny_store: Path
) -> None:
    server = start(model_store=tiny_store).wait_until_ready()
    headers = {"x-request-id": "pacs-7"}
    server.client.post("/v1/predictions", files={"file": gray_png()}, headers=headers)
    _, log = server.stop()
    events = [json.loads(line) for line in log.splitlines()]
    assert {"app.registry", "uvicorn.error", "app.access"} <= {event["logger"] for event in events}
    (request,) = [event for event in events if event["event"] == "request"]
    assert (request["request_id"], request["status"]) == ("pacs-7", 200)


def test_a_log_for_a_person_is_text(start: Start, tiny_store: Path) -> None:
    server = start(model_store=tiny_store, log_format="console").wait_until_ready()
    _, log = server.stop()
    assert "Serving covid19-resnet50 version 1" in log
    assert not log.startswith("{")


class Collector(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    received: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.received.append((self.path, self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Collector)
    Collector.received.clear()
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_reach_their_collector_before_the_process_ends(
    start: Start, tiny_store: Path, collector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
    server = start(model_store=tiny_store).wait_until_ready()
    assert "traceresponse" in server.predict(gray_png()).headers
    code, _ = server.stop()
    assert code == 0
    assert {path for path, _ in Collector.received} == {"/v1/traces"}
    assert b"POST /v1/predictions" in b"".join(body for _, body in Collector.received)


def test_a_collector_of_spans_without_what_sends_to_it_ends_in_one_sentence(
    start: Start, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None"
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    code, log = start(model_store=tiny_store, path=tmp_path).end()
    assert code == 1
    last = log.splitlines()[-1]  # the release is loaded meanwhile, and may have told so
    assert last.startswith("covid-xray: Expected the extra otel to be installed")


def test_without_a_key_an_upload_is_refused_and_the_connection_goes_on(
    start: Start, tiny_store: Path, tmp_path: Path
) -> None:
    key = new_key()
    (tmp_path / "api_keys").write_text(key_line(key))
    options = {"api_keys_file": tmp_path / "api_keys", "docs": "key", "host": "0.0.0.0"}  # noqa: S104 -- with keys
    server = start(model_store=tiny_store, **options).wait_until_ready()
    assert server.predict(fakes.noise_png(2300)).status_code == 401
    assert server.client.get("/docs").status_code == 401
    assert server.client.get("/docs", auth=("any", key)).status_code == 200
    server.client.headers["x-api-key"] = key
    assert server.predict(gray_png()).status_code == 200
    _, log = server.stop()
    assert key not in log


def test_a_missing_release_ends_in_one_sentence(start: Start, tmp_path: Path) -> None:
    code, log = start(model_store=tmp_path).end()
    assert code == 1
    assert log.count("\n") == 1
    assert log.startswith("covid-xray: Expected a release in ")


def test_a_tampered_release_ends_in_one_sentence(start: Start, tmp_path: Path) -> None:
    folder = fakes.write_fake_release(tmp_path)
    (folder / "saved_model.pb").write_bytes(b"tampered")
    code, log = start(model_store=tmp_path).end()
    assert code == 1
    assert log.count("\n") == 1
    assert "saved_model.pb with SHA-256" in log


def test_a_port_that_is_taken_ends_the_process(start: Start, tiny_store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, log = start(model_store=tiny_store, port=port).end()
    assert code == 1
    assert "Traceback" not in log
    last = log.splitlines()[-1]  # the release is loaded meanwhile, and may have told so
    assert last.startswith("covid-xray: Expected a free port and an address of this machine in ")
    assert last.endswith(f"; received {port} and 127.0.0.1: address already in use.")


def test_a_request_that_is_under_way_when_the_process_is_stopped_is_answered(
    start: Start, tiny_store: Path
) -> None:
    server = start(model_store=tiny_store).wait_until_ready()
    request = server.client.build_request("POST", "/v1/predictions", files={"file": gray_png()})
    content = request.read()

    def chunks() -> Iterator[bytes]:
        yield content[:100]
        server.process.send_signal(signal.SIGTERM)
        while "Shutting down" not in (server.process.stderr or io.StringIO()).readline():
            pass
        yield content[100:]

    headers = {"content-type": request.headers["content-type"]}
    response = server.client.post("/v1/predictions", content=chunks(), headers=headers)
    assert response.status_code == 200
    code, _ = server.end()
    assert code == 0


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGINT,
        pytest.param(
            signal.SIGHUP,
            marks=pytest.mark.skipif(
                signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="ignored under nohup"
            ),
        ),
    ],
)
def test_a_signal_ends_the_process_in_order(
    start: Start, tiny_store: Path, number: signal.Signals
) -> None:
    server = start(model_store=tiny_store).wait_until_ready()
    assert server.predict(gray_png()).status_code == 200
    code, log = server.stop(number)
    assert code == 0
    assert "Traceback" not in log


def test_openvino_reports_to_nobody(tiny_store: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.engines import create_engine; "
        "create_engine(Path(sys.argv[1]), 'openvino'); "
        "assert sys.modules['openvino'], 'OpenVINO was not used'; "
        "sys.exit(sys.modules['openvino_telemetry'] is not None)"
    )
    release = tiny_store / fakes.NAME / "1"
    done = subprocess.run([sys.executable, "-c", program, str(release)], check=False, timeout=60)
    assert done.returncode == 0
