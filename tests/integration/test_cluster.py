"""The service on several Ray nodes: the same answers, and none lost whatever happens to a replica.

All share one cluster; each says first what it wants of it.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import fakes
from tests.app.calls import check_problem
from tests.fakes import gray_png
from tests.integration.load import CLIENTS, Load, until
from tests.integration.predict import address, predict
from tests.integration.ray_nodes import Either, RayServer
from tests.integration.server import Server


@pytest.fixture(scope="module")
def ray_server(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    """The service on two Ray nodes; its store is its own, and what it serves is pinned."""
    pytest.importorskip("ray", reason="needs the extra `scale`")
    store = tmp_path_factory.mktemp("cluster")
    shutil.copytree(tiny_store / fakes.NAME, store / fakes.NAME)
    settings = {"model_store": str(store), "model_version": "1", "log_level": "warning"}
    server = RayServer(2, settings, max_constructor_retry_count=1, health_check_period_s=0.5)
    try:
        yield server.wait_until_ready()
    finally:
        server.stop()


@pytest.fixture(scope="module", params=["single", "ray"])
def either_server(request: pytest.FixtureRequest) -> Either:
    """The service on one machine, and on a cluster: it answers the same."""
    found: Either = request.getfixturevalue("server" if request.param == "single" else "ray_server")
    return found


def test_an_xray_is_answered(either_server: Either) -> None:
    response = either_server.predict(gray_png(204))
    assert response.status_code == 200
    assert response.json()["probabilities"]["COVID-19"] == pytest.approx(0.8, abs=1e-4)


def test_requests_at_the_same_time_get_each_their_own_answer(either_server: Either) -> None:
    values = [0, 51, 102, 153, 204, 255] * 4
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda value: either_server.predict(gray_png(value)), values))
    found = [response.json()["probabilities"]["COVID-19"] for response in responses]
    assert found == pytest.approx([value / 255 for value in values], abs=1e-4)


def test_a_chunked_body_without_length_is_read(either_server: Either) -> None:
    client = either_server.client
    request = client.build_request("POST", "/v1/predictions", files={"file": gray_png()})
    content = request.read()
    headers = {"content-type": request.headers["content-type"]}
    chunks = (content[at : at + 100] for at in range(0, len(content), 100))
    assert client.post("/v1/predictions", content=chunks, headers=headers).is_success


def test_a_server_reads_all_files_of_a_folder_but_the_bad_one(
    either_server: Either, folder: Path
) -> None:
    done = predict("--json", "--server", address(either_server), folder)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [Path(line["file"]).name for line in lines] == [f"{each}.png" for each in range(6)]
    assert lines[3]["problem"]["code"] == "unsupported-image-type"
    labels = [line.get("label") for line in lines]
    assert labels == ["Normal", "Normal", "Normal", None, "COVID-19", "COVID-19"]
    done = predict("--server", address(either_server), folder / "[01].png")
    assert done.returncode == 0
    assert re.fullmatch(r"(Normal +p\(COVID-19\)=\d+\.\d% +.*\d\.png.*\n){2}", done.stdout)
    assert done.stderr == ""


def scale(server: RayServer, least: int, most: int, **options: object) -> None:
    """Have the cluster run so many replicas, and react within a second."""
    quick = {"upscale_delay_s": 0.2, "downscale_delay_s": 1.0, "look_back_period_s": 2.0}
    server.replica["autoscaling_config"] |= quick | {"min_replicas": least, "max_replicas": most}
    server.replica |= options
    server.deploy()
    server.wait_for("RUNNING", least)


FORM = {"files": {"file": gray_png()}}
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "live": ("GET", "/health/live", {}),
    "ready": ("GET", "/health/ready", {}),
    "prediction": ("POST", "/v1/predictions", FORM),
    "heatmap": ("POST", "/v1/heatmaps?legend=false", FORM),
    "batch": ("POST", "/v1/predictions/batch", {"files": [("files", gray_png())] * 2}),
    "fhir": ("POST", "/v1/predictions", FORM | {"headers": {"Accept": "application/fhir+json"}}),
    "model": ("GET", "/v1/models/1", {}),
    "no such model": ("GET", "/v1/models/9", {}),
    "no such path": ("GET", "/nowhere", {}),
    "no such method": ("DELETE", "/v1/models", {}),
    "no form": ("POST", "/v1/predictions", {"content": b"text"}),
    "no image": ("POST", "/v1/predictions", {"files": {"file": b"text"}}),
    "broken image": ("POST", "/v1/predictions", {"files": {"file": gray_png()[:60]}}),
    "too large": ("POST", "/v1/predictions", {"content": bytes(2_000_000)}),
    "not acceptable": ("POST", "/v1/predictions", FORM | {"headers": {"Accept": "text/html"}}),
    "no deadline": ("POST", "/v1/predictions", FORM | {"headers": {"X-Request-Timeout": "soon"}}),
    "no time": ("POST", "/v1/predictions", FORM | {"headers": {"X-Request-Timeout": "0.0001"}}),
    "an id": ("GET", "/health/live", {"headers": {"X-Request-ID": "pacs-7"}}),
    "documentation": ("GET", "/docs", {}),
    "page": ("GET", "/", {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_cluster_answers_as_one_machine_does(
    server: Server, ray_server: RayServer, name: str
) -> None:
    method, path, options = REQUESTS[name]
    one, other = (each.client.request(method, path, **options) for each in (server, ray_server))
    assert other.status_code == one.status_code
    for header in one.headers.keys() - {"date", "content-length", "connection", "x-request-id"}:
        assert other.headers[header] == one.headers[header], header
    assert len(other.headers.get_list("x-request-id")) == 1
    if name == "an id":
        assert other.headers["x-request-id"] == "pacs-7"
    if name == "no time":  # it may pass while the upload is read, or later
        for each in (one, other):
            check_problem(each, 504, "deadline-passed")
    else:
        assert comparable(other) == comparable(one)


def comparable(response: httpx.Response) -> object:
    """Take away what is another in every answer."""
    if "json" not in response.headers["content-type"]:
        return response.content
    changing = r'"(id|effectiveDateTime|issued|decode|queue|inference|total)": ?("[^"]*"|[\d.]+)'
    return json.loads(re.sub(changing, r'"\1": null', re.sub('urn:uuid:[^"]*', "", response.text)))


def test_metrics_are_those_of_all_replicas(ray_server: RayServer) -> None:
    scale(ray_server, 2, 2)
    before, _ = count(ray_server)
    for _ in range(CLIENTS):
        ray_server.predict(gray_png())
    after, replicas = count(ray_server)
    assert after - before == CLIENTS
    assert replicas == 2


def count(server: RayServer) -> tuple[float, int]:
    """Count predictions over all replicas, and the replicas."""
    text = server.client.get("/metrics").text
    name = r'^covid_xray_http_requests_total\{.*route="/v1/predictions",status="200"\} (.*)$'
    counts = re.findall(name, text, re.MULTILINE)
    return sum(map(float, counts)), text.count("covid_xray_ready{")


def test_a_node_that_dies_under_load_loses_no_request_and_its_replica_comes_back(
    ray_server: RayServer,
) -> None:
    scale(ray_server, 2, 2)
    # More than one replica takes at once, and slow to decode, so that the one that dies has some.
    with Load(ray_server.client.base_url, 3 * CLIENTS, fakes.noise_png(1000)) as load:
        time.sleep(1)
        ray_server.call("kill")
        answered = load.met[200]
        until(lambda: load.met[200] > answered + 50)
        ray_server.call("add")
        ray_server.wait_for("RUNNING", 2)
    assert load.lost == 0, load.met
    assert load.met.keys() == {200, 503}  # what the dead replica had was told to come again


def test_replicas_are_added_under_load_and_taken_away_after_it(ray_server: RayServer) -> None:
    scale(ray_server, 1, 2, target_ongoing_requests=2)
    ray_server.wait_for("RUNNING", 1)
    with Load(ray_server.client.base_url) as load:
        ray_server.wait_for("RUNNING", 2)
    assert load.met.keys() == {200}
    ray_server.wait_for("RUNNING", 1)


def test_beyond_the_queue_requests_are_refused_in_good_form(ray_server: RayServer) -> None:
    scale(ray_server, 1, 1, max_queued_requests=2)
    answers: list[httpx.Response] = []

    def ask() -> bool:
        """Ask at once; where the clients get no more of the cores than the replica, again."""
        answers.extend(pool.map(ray_server.predict, [gray_png()] * 48))
        return {each.status_code for each in answers} >= {200, 503}

    with ThreadPoolExecutor(24) as pool:
        until(ask)
    scale(ray_server, 1, 1, max_queued_requests=64)
    for each in answers:
        assert each.status_code in {200, 503}
        if each.status_code == 503:
            check_problem(each, 503, "overloaded")
            assert int(each.headers["retry-after"]) >= 1


def test_a_release_rolls_under_load_and_a_bad_one_is_rolled_back_and_no_request_fails(
    ray_server: RayServer,
) -> None:
    scale(ray_server, 1, 1)
    family = Path(ray_server.settings["COVID_XRAY_MODEL_STORE"]) / fakes.NAME
    folder = shutil.copytree(family / "1", family / "2")
    (folder / "manifest.json").unlink()
    fakes.write_manifest(folder)
    fakes.write_fake_release(family.parent, 3)  # its hashes are right, but nothing can run it
    with Load(ray_server.client.base_url, 4) as load:
        ray_server.settings["COVID_XRAY_MODEL_VERSION"] = "2"
        ray_server.deploy()
        until(lambda: load.versions[2] > 0)
        ray_server.wait_for("RUNNING", 1)
        ray_server.settings["COVID_XRAY_MODEL_VERSION"] = "3"
        ray_server.deploy()
        why = ray_server.wait_for("DEPLOY_FAILED")
        answered = load.versions[2]
        until(lambda: load.versions[2] > answered + 10)
        ray_server.settings["COVID_XRAY_MODEL_VERSION"] = "2"
        ray_server.deploy()
        ray_server.wait_for("RUNNING", 1)
    assert "a SavedModel that OpenVINO reads" in why
    assert load.met.keys() == {200}, load.met
    assert load.versions.keys() == {1, 2}
