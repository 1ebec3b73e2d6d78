"""Two engines that run a release's SavedModel, behind one protocol."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from app.errors import EngineUnavailable, InferenceFailed, ReleaseInvalid
from app.openvino_runtime import import_openvino, simplify
from app.processor import FASTEST_FIRST, available_cpus, beside_int8, native_precisions
from app.release import EngineName, Precision, Release

EngineChoice = Literal["auto"] | EngineName
PrecisionChoice = Literal["auto"] | Precision

INT8 = "openvino_int8.xml"
"""Of a release's folder: its network quantised to 8-bit integers, in OpenVINO's own format."""

_INPUT = "image"
_INPUT_SHAPE = (224, 224, 1)
_OUTPUT_SHAPES = {"probabilities": (2,), "heatmap": (7, 7), "acceptance": ()}
_ROUNDING: dict[Precision, float] = {"f32": 1e-5, "bf16": 0.01, "int8": 0.01}
"""By how much a value may leave [0, 1], to be put back: bf16 has 8 bits of digits."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a release says about N images.

    Attributes:
        probabilities: float32 `[N, 2]`, calibrated, in the order of the manifest's labels.
        heatmap: float32 `[N, 7, 7]` in [0, 1], Grad-CAM of the first label against the second.
        acceptance: float32 `[N]` in [0, 1], how much an image looks like those of training.
    """

    probabilities: NDArray[np.float32]
    heatmap: NDArray[np.float32]
    acceptance: NDArray[np.float32]


class Engine(Protocol):
    """Something that runs a SavedModel. Several threads may call `predict` at the same time."""

    @property
    def name(self) -> EngineName:
        """Which engine it is."""

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    def predict(self, images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
        """Run the model.

        Args:
            images: uint8 `[N, 224, 224, 1]`, N at least 1.
            alone: Whether nothing else is worked on: then all threads may work on this.

        Raises:
            InferenceFailed: The images are of another form, the engine failed, or its answer
                has another number of rows, another shape, or values outside [0, 1].
        """

    def close(self) -> None:
        """Wait for what runs, then free the model."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an operator chose of engines.

    Attributes:
        engine: Which one; `auto` is OpenVINO where installed, else TensorFlow.
        precision: What it computes in; `auto` is the fastest that the release passed with this
            engine and that this processor has instructions for.
        threads: CPU threads; as many as `available_cpus` where None.
        cache: Folder for compiled networks, to start faster the next time; none where None.
    """

    engine: EngineChoice = "auto"
    precision: PrecisionChoice = "auto"
    threads: int | None = None
    cache: Path | None = None


class EngineFactory(Protocol):
    """What makes an engine: `open_engine`, or a test's own."""

    def __call__(self, release: Release, options: EngineOptions) -> Engine:
        """Load a release."""


class _Requests:
    """Inference requests of a compiled network; each is one caller's at a time.

    Args:
        model: Compiled by OpenVINO.
        count: How many.
        path: The release's, for errors.

    Raises:
        ReleaseInvalid: The network has not the signature of a release.
    """

    def __init__(self, model: Any, count: int, path: Path) -> None:  # noqa: ANN401 -- no types
        self._input = _port(model.inputs, _INPUT, path)
        self._outputs = {name: _port(model.outputs, name, path) for name in _OUTPUT_SHAPES}
        self._size = count
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(count):
            self._idle.put(request := model.create_infer_request())
        # Two threads that are the process' first to look into a tensor may lock each other up.
        _ = request.get_tensor(self._input).data

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run the network, and give a copy of each output."""
        request = self._idle.get()
        try:
            if request is None:
                raise InferenceFailed("an open engine", "a closed one")
            request.infer({self._input: images})
            outputs = self._outputs.items()
            return {name: request.get_tensor(port).data.copy() for name, port in outputs}
        finally:
            self._idle.put(request)

    def close(self) -> None:
        """Wait for what runs, then free the network."""
        for _ in range(self._size):
            self._idle.get()
        self._idle.put(None)
        self._size = 0


class OpenVinoEngine:
    """OpenVINO on the CPU. It reads the SavedModel folder as it is.

    Args:
        path: The SavedModel's folder.
        precision: What to compute in; for int8 the folder holds `INT8`.
        threads: CPU threads that one inference may use, and inferences that may be under way.
        cache: Folder for the compiled network; none where None.

    Raises:
        EngineUnavailable: OpenVINO is not installed, or cannot compute so on this processor.
        ReleaseInvalid: The folder holds no SavedModel with the signature of a release.
    """

    name: EngineName = "openvino"

    def __init__(
        self, path: Path, precision: Precision, threads: int, cache: Path | None = None
    ) -> None:
        openvino = import_openvino()
        hint = beside_int8() if precision == "int8" else precision
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            # Else replicas on one machine, and containers with a quota, all take its first cores.
            "ENABLE_CPU_PINNING": False,
            **({} if cache is None else {"CACHE_DIR": str(cache)}),
        }
        try:
            core = openvino.Core()
            # With a cache the network is not even read, as long as it is asked for by its file.
            cached = cache is not None or precision == "int8"
            file = str(path / INT8 if precision == "int8" else path)
            network = file if cached else simplify(core.read_model(file))
            # One image by all threads, or an image a thread: two cores answer a client that is
            # alone in half the time by the first, and 16 clients a third faster by the second.
            choices = [options | {"NUM_STREAMS": each} for each in sorted({1, threads})]
            # Of one network that was read they share weights, but only one after the other.
            with ThreadPoolExecutor(len(choices) if cached else 1) as pool:
                models = list(pool.map(partial(core.compile_model, network, "CPU"), choices))
            computes = models[0].get_property("INFERENCE_PRECISION_HINT").to_string()
        except Exception as error:  # its binding raises plain RuntimeError and more
            raise _unreadable(path, "OpenVINO", error) from error
        if computes != hint:
            raise EngineUnavailable(f"a processor that OpenVINO computes {hint} on", computes)
        self.precision = precision
        requests = [_Requests(model, threads, path) for model in models]
        self._alone, self._beside_others = requests[0], requests[-1]

    def predict(self, images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
        """Run the model; see `Engine`."""
        _check_images(images)
        try:
            outputs = (self._alone if alone else self._beside_others).infer(images)
        except RuntimeError as error:
            raise _failed("OpenVINO", error) from error
        return _checked(outputs, len(images), _ROUNDING[self.precision])

    def close(self) -> None:
        """Wait for what runs, then free the model."""
        for requests in {self._alone, self._beside_others}:
            requests.close()


class TensorFlowEngine:
    """TensorFlow, in f32, on what devices it finds.

    Args:
        path: The SavedModel's folder.
        precision: f32.
        threads: CPU threads; without effect where the process has used TensorFlow before.
        cache: Without effect.

    Raises:
        EngineUnavailable: TensorFlow is not installed, or f32 is not what is asked for.
        ReleaseInvalid: The folder holds no SavedModel with the signature of a release.
    """

    name: EngineName = "tensorflow"
    precision: Precision = "f32"

    def __init__(
        self, path: Path, precision: Precision, threads: int, cache: Path | None = None
    ) -> None:
        del cache
        if precision != self.precision:
            raise EngineUnavailable("f32, which TensorFlow computes in here", precision)
        # Its C++ side tells every start of the processor's instruction sets and of absent GPUs.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            import tensorflow as tf  # noqa: PLC0415 -- only where this engine is chosen
        except ImportError as error:
            raise EngineUnavailable(
                "the Python package tensorflow to be installed", "none that imports"
            ) from error
        with suppress(RuntimeError):  # raised where the process has used TensorFlow before
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        try:
            self._model = tf.saved_model.load(str(path))
            self._run = self._model.signatures["serving_default"]
            missing = _OUTPUT_SHAPES.keys() - self._run.structured_outputs.keys()
        except Exception as error:  # its loader raises OSError, ValueError, KeyError and more
            raise _unreadable(path, "TensorFlow", error) from error
        if missing:
            raise _no_tensor(min(missing), path)
        self._constant = tf.constant
        self._error = tf.errors.OpError

    def predict(self, images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
        """Run the model; see `Engine`."""
        del alone  # it shares its threads among all that runs
        _check_images(images)
        if self._model is None:
            raise InferenceFailed("an open engine", "a closed one")
        try:
            answer = self._run(**{_INPUT: self._constant(images)})
            outputs = {name: answer[name].numpy() for name in _OUTPUT_SHAPES}
        except (self._error, TypeError, ValueError) as error:
            raise _failed("TensorFlow", error) from error
        return _checked(outputs, len(images), _ROUNDING[self.precision])

    def close(self) -> None:
        """Free the model; what runs keeps its own reference and ends as it would."""
        self._model = self._run = None


_ENGINES: dict[EngineName, Callable[[Path, Precision, int, Path | None], Engine]] = {
    "openvino": OpenVinoEngine,
    "tensorflow": TensorFlowEngine,
}


def open_engine(release: Release, options: EngineOptions) -> Engine:
    """Load a release in an engine and precision that it passed its own test with.

    Raises:
        EngineUnavailable: The engine, or with `auto` every one, is not installed; the release did
            not pass with it, or not in the precision asked for.
        ReleaseInvalid: The folder holds no SavedModel with the signature of a release.
    """
    passed = release.manifest.precisions
    names = _choose(options.engine)
    wanted = native_precisions() if options.precision == "auto" else (options.precision,)
    for name in names:
        for precision in FASTEST_FIRST:
            if precision in wanted and precision in passed.get(name, ()):
                return create_engine(release.path, name, precision, options)
    known = ", ".join(f"{name} in {'/'.join(each)}" for name, each in passed.items())
    raise EngineUnavailable(
        f"an engine and precision that the release passed ({known})",
        f"{' or '.join(names)} in {options.precision}",
    )


def create_engine(
    path: Path,
    choice: EngineChoice = "auto",
    precision: Precision = "f32",
    options: EngineOptions | None = None,
) -> Engine:
    """Load a SavedModel, whatever it was found to be worth.

    Args:
        path: The SavedModel's folder.
        choice: An engine; `auto` is OpenVINO where installed, else TensorFlow.
        precision: What it computes in.
        options: Threads and cache; its engine and precision are not looked at.

    Raises:
        EngineUnavailable: The engine, or with `auto` every one, is not installed.
        ReleaseInvalid: The folder holds no SavedModel with the signature of a release.
    """
    engine = _ENGINES[_choose(choice)[0]]
    options = options or EngineOptions()
    return engine(path, precision, options.threads or available_cpus(), options.cache)


def installed_engines() -> tuple[EngineName, ...]:
    """Name the engines that can be imported here, the preferred one first."""
    return tuple(name for name in _ENGINES if importlib.util.find_spec(name) is not None)


def _choose(engine: EngineChoice) -> tuple[EngineName, ...]:
    names = installed_engines() if engine == "auto" else (engine,)
    if not names:
        raise EngineUnavailable("OpenVINO or TensorFlow to be installed", "neither")
    return names


def _check_images(images: NDArray[np.uint8]) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != _INPUT_SHAPE or not len(images):
        raise InferenceFailed(
            "images as uint8 [N, 224, 224, 1]", f"{images.dtype} {list(images.shape)}"
        )


def _checked(outputs: Mapping[str, NDArray[np.float32]], rows: int, rounding: float) -> Predictions:
    for name, shape in _OUTPUT_SHAPES.items():
        values = outputs[name]
        if values.shape != (rows, *shape):
            raise InferenceFailed(f"{name} of shape {[rows, *shape]}", f"{list(values.shape)}")
        # Not the negation: a comparison with NaN is false, and so NaN is found as well.
        if not np.all((values >= -rounding) & (values <= 1 + rounding)):
            raise InferenceFailed(f"{name} in [0, 1]", "other values")
    found = {name: outputs[name].clip(0, 1).astype(np.float32) for name in _OUTPUT_SHAPES}
    return Predictions(**found)


def _port(ports: list[Any], name: str, path: Path) -> Any:  # noqa: ANN401 -- OpenVINO has no types
    """Find a tensor by name; some versions of TensorFlow's frontend append `:0`."""
    for port in ports:
        if name in {each.split(":")[0] for each in port.names}:
            return port
    raise _no_tensor(name, path)


def _no_tensor(name: str, path: Path) -> ReleaseInvalid:
    return ReleaseInvalid(f"a tensor called {name} in the SavedModel at {path}", "none")


def _unreadable(path: Path, engine: str, error: Exception) -> ReleaseInvalid:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ReleaseInvalid(f"a SavedModel that {engine} reads at {path}", reason)


def _failed(engine: str, error: Exception) -> InferenceFailed:
    return InferenceFailed(f"an answer of {engine}", type(error).__name__)
