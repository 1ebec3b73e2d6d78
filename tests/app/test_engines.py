import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import engines, openvino_runtime
from app.engines import (
    Engine,
    EngineOptions,
    OpenVinoEngine,
    TensorFlowEngine,
    create_engine,
    installed_engines,
    open_engine,
)
from app.errors import EngineUnavailable, InferenceFailed, ReleaseInvalid
from app.imaging import phantom
from app.processor import available_cpus, native_precisions
from app.release import EngineName, Precision, open_release
from tests import fakes

ROOT = Path(__file__).parents[2]
ENGINES: tuple[EngineName, ...] = ("openvino", "tensorflow")


@pytest.fixture
def saved_model(tiny_store: Path) -> Path:
    return tiny_store / fakes.NAME / "1"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, saved_model: Path) -> Engine:
    return create_engine(saved_model, request.param, options=EngineOptions(threads=2))


def test_an_answer_has_one_row_per_image_and_the_graphs_values(engine: Engine) -> None:
    images = np.concatenate([phantom()[None], np.full((2, 224, 224, 1), 51, np.uint8)])
    found, expected = engine.predict(images), fakes.answer(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(found.heatmap, expected.heatmap, atol=1e-5)
    np.testing.assert_allclose(found.acceptance, expected.acceptance, atol=1e-5)
    assert found.probabilities.dtype == np.float32


def test_an_answer_is_not_overwritten_by_the_next(engine: Engine) -> None:
    first = engine.predict(np.zeros((1, 224, 224, 1), np.uint8))
    engine.predict(np.full((1, 224, 224, 1), 255, np.uint8))
    assert first.probabilities[0, 0] == pytest.approx(0)


def test_many_threads_get_each_their_own_answer(engine: Engine) -> None:
    def ask(value: int) -> float:
        images = np.full((1, 224, 224, 1), value, np.uint8)
        return float(engine.predict(images).probabilities[0, 0])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(64)))
    assert answers == pytest.approx([value / 255 for value in range(64)], abs=1e-5)


def test_a_closed_engine_answers_no_more(engine: Engine) -> None:
    engine.close()
    engine.close()
    for _ in range(3):
        with pytest.raises(InferenceFailed, match="a closed one"):
            engine.predict(phantom()[None])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 224, 224, 1), np.uint8),
        np.zeros((1, 224, 224, 1), np.float32),
        np.zeros((1, 224, 224, 3), np.uint8),
        np.zeros((224, 224, 1), np.uint8),
    ],
    ids=lambda images: f"{images.dtype}-{images.shape}",
)
def test_images_of_another_form_are_refused(engine: Engine, images: np.ndarray) -> None:
    with pytest.raises(InferenceFailed, match="uint8"):
        engine.predict(images)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("content", [None, b"", b"no graph"])
def test_a_folder_without_a_graph_is_an_invalid_release(
    tmp_path: Path, name: EngineName, content: bytes | None
) -> None:
    pytest.importorskip(name)
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ReleaseInvalid, match="a SavedModel that"):
        create_engine(tmp_path, name)


@pytest.mark.parametrize("name", ENGINES)
def test_a_graph_without_a_releases_outputs_is_invalid(tmp_path: Path, name: EngineName) -> None:
    tf = pytest.importorskip("tensorflow")
    module = tf.Module()
    spec = tf.TensorSpec([None, 224, 224, 1], tf.uint8, name="image")
    module.serve = tf.function(
        lambda image: {"probabilities": tf.cast(image[:, 0, :2, 0], tf.float32)},
        input_signature=[spec],
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    with pytest.raises(ReleaseInvalid, match=r"a tensor called (acceptance|heatmap)"):
        create_engine(tmp_path, name)


def answering(value: float, path: Path) -> TensorFlowEngine:
    tf = pytest.importorskip("tensorflow")
    module = tf.Module()
    spec = tf.TensorSpec([None, 224, 224, 1], tf.uint8, name="image")

    def signature(image: object) -> dict[str, object]:
        zeros = tf.cast(tf.reduce_sum(image, [1, 2, 3]) * 0, tf.float32)
        return {
            "probabilities": tf.stack([zeros + value, zeros], 1),
            "heatmap": tf.zeros([tf.shape(zeros)[0], 7, 7]),
            "acceptance": zeros,
        }

    module.serve = tf.function(signature, input_signature=[spec])
    tf.saved_model.save(module, str(path), signatures=module.serve)
    return TensorFlowEngine(path, "f32", 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_values_that_are_no_probabilities_are_no_answer(tmp_path: Path, value: float) -> None:
    with pytest.raises(InferenceFailed, match=r"probabilities in \[0, 1\]"):
        answering(value, tmp_path).predict(phantom()[None])


@pytest.mark.parametrize(("value", "said"), [(1.0000002, 1), (-1e-7, 0)])
def test_a_probability_that_rounding_takes_past_its_end_is_at_it(
    tmp_path: Path, value: float, said: int
) -> None:
    assert answering(value, tmp_path).predict(phantom()[None]).probabilities[0, 0] == said


def test_an_image_beside_others_has_the_same_answer_as_one_alone(saved_model: Path) -> None:
    engine = create_engine(saved_model, "openvino", options=EngineOptions(threads=2))
    images = phantom()[None]
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(lambda _: engine.predict(images, alone=False), range(8)))
    one = engine.predict(images)
    engine.close()
    for each in many:
        np.testing.assert_allclose(each.probabilities, one.probabilities, atol=1e-6)
    for alone in (True, False):
        with pytest.raises(InferenceFailed, match="an open engine"):
            engine.predict(images, alone=alone)


SEES_WHERE_THREADS_MAY_RUN = """
import os, pathlib, sys, numpy as np
from concurrent.futures import ThreadPoolExecutor
from app.engines import EngineOptions, create_engine
engine = create_engine(pathlib.Path(sys.argv[1]), options=EngineOptions(threads=1))
images, seen = np.zeros((8, 224, 224, 1), np.uint8), set()
with ThreadPoolExecutor(1) as pool:
    for alone in (True, False):
        answer = pool.submit(engine.predict, images, alone=alone)
        while not answer.done():
            for task in os.listdir("/proc/self/task"):
                seen.add(frozenset(os.sched_getaffinity(int(task))))
print(*map(len, seen))
"""


def test_no_engine_keeps_to_the_first_cores_which_its_neighbours_would_keep_to_too() -> None:
    release = max((ROOT / "model_store" / fakes.NAME).iterdir())  # its inference takes a while
    command = [sys.executable, "-c", SEES_WHERE_THREADS_MAY_RUN, str(release)]
    seen = subprocess.check_output(command, cwd=ROOT, text=True, timeout=120)
    assert seen.split() == [str(len(os.sched_getaffinity(0)))]


def test_auto_prefers_openvino(saved_model: Path) -> None:
    assert isinstance(create_engine(saved_model), OpenVinoEngine)


def test_auto_takes_tensorflow_where_openvino_is_missing(
    saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "openvino" else find(name)
    )
    assert installed_engines() == ("tensorflow",)
    assert isinstance(create_engine(saved_model), TensorFlowEngine)


def test_without_any_engine_the_reason_is_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineUnavailable, match="OpenVINO or TensorFlow to be installed"):
        create_engine(tmp_path)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_asked_for_but_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: EngineName
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # which makes its import fail
    with pytest.raises(EngineUnavailable, match=name):
        create_engine(tmp_path, name)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_available_cpus_keep_to_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cpus(tmp_path) == cpus


CPUINFO = "processor: 0\nflags\t\t: fpu {flags} sse2\n"


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("", ("f32",)),
        ("sse4_2", ("f32",)),
        ("avx2", ("int8", "f32")),
        ("avx512_vnni", ("int8", "f32")),
        ("avx512_bf16", ("bf16", "f32")),
        ("amx_int8 amx_bf16", ("int8", "bf16", "f32")),
    ],
)
def test_a_processors_precisions_are_those_it_has_instructions_for(
    tmp_path: Path, flags: str, native: tuple[Precision, ...]
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO.format(flags=flags))
    assert native_precisions(file) == native


def test_where_the_processor_is_not_told_of_it_computes_in_f32(tmp_path: Path) -> None:
    assert native_precisions(tmp_path / "none") == ("f32",)


Choosing = Callable[[Sequence[Precision], Sequence[Precision], EngineOptions], Any]


@pytest.fixture
def choosing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choosing:
    """Tell which engine and precision are made of a release that passed some with OpenVINO."""

    def choose(
        native: Sequence[Precision], passed: Sequence[Precision], options: EngineOptions
    ) -> tuple[str, str]:
        precisions = {"openvino": passed, "tensorflow": ["f32"]}
        folder = fakes.write_fake_release(tmp_path, precisions=precisions)
        made: list[tuple[str, str]] = []
        monkeypatch.setattr(engines, "native_precisions", lambda: native)
        monkeypatch.setattr(engines, "create_engine", lambda _, *what: made.append(what[:2]))
        open_engine(open_release(folder), options)
        return made[0]

    return choose


@pytest.mark.parametrize(
    ("native", "options", "passed", "expected"),
    [
        (("int8", "bf16", "f32"), {}, ("f32", "bf16", "int8"), ("openvino", "int8")),
        (("int8", "bf16", "f32"), {}, ("f32", "bf16"), ("openvino", "bf16")),
        (("f32",), {}, ("f32", "bf16", "int8"), ("openvino", "f32")),
        (("bf16", "f32"), {"precision": "int8"}, ("f32", "int8"), ("openvino", "int8")),
        (("bf16", "f32"), {}, (), ("tensorflow", "f32")),
        (("bf16", "f32"), {"engine": "tensorflow"}, ("f32", "bf16"), ("tensorflow", "f32")),
    ],
)
def test_the_fastest_precision_is_taken_that_passed_and_is_native(
    choosing: Choosing,
    native: tuple[Precision, ...],
    options: dict[str, Any],
    passed: tuple[Precision, ...],
    expected: tuple[EngineName, Precision],
) -> None:
    assert choosing(native, passed, EngineOptions(**options)) == expected


@pytest.mark.parametrize(
    "options",
    [{"engine": "openvino", "precision": "int8"}, {"engine": "tensorflow", "precision": "bf16"}],
)
def test_a_precision_that_did_not_pass_is_not_served(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    release = open_release(fakes.write_fake_release(tmp_path))
    with pytest.raises(EngineUnavailable, match=r"passed \(openvino in f32, tensorflow in f32\)"):
        open_engine(release, EngineOptions(**options))


def test_a_compiled_network_is_kept_in_the_cache_and_gives_the_same_answer(
    saved_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    image = phantom()[None]
    options = EngineOptions(threads=1, cache=tmp_path / "cache")
    first, second = (
        create_engine(saved_model, "openvino", options=options).predict(image) for _ in range(2)
    )
    assert list((tmp_path / "cache").iterdir())
    assert np.array_equal(first.probabilities, second.probabilities)


def test_weights_of_float16_are_made_float32_once_for_all_compilations() -> None:
    openvino = pytest.importorskip("openvino")
    ops = importlib.import_module("openvino.opset8")
    values = np.linspace(-1, 1, 12, dtype=np.float16).reshape(3, 4)
    image = ops.parameter([1, 3], np.float32, name="image")
    wide = ops.convert(ops.constant(values), np.float32)
    product = ops.matmul(image, wide, transpose_a=False, transpose_b=False)
    network = openvino.Model([product], [image], "network")
    simplified = openvino_runtime.simplify(network)
    constants = [each for each in simplified.get_ops() if each.get_type_name() == "Constant"]
    assert [each.get_element_type().to_dtype() for each in constants] == [np.float32]
    row = np.array([[1, 2, 3]], np.float32)
    (answer,) = openvino.compile_model(simplified, "CPU")(row).values()
    assert np.allclose(answer, row @ values.astype(np.float32), atol=1e-2)
