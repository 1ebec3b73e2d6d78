"""Stand-ins that tests share: releases, engines and images that cost milliseconds."""

import contextlib
import errno
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from app.engines import EngineFactory, EngineOptions, Predictions
from app.errors import InferenceFailed
from app.imaging import RESIZE_RULE, phantom
from app.opening import LoadRegistry, load_registry
from app.release import MANIFEST, EngineName, Manifest, Precision, Release, hash_files

NAME = "covid19-resnet50"
LABELS = ("COVID-19", "Normal")


class FakeEngine:
    """Answers with the mean brightness as the probability of COVID-19.

    Args:
        acceptance: The score that every image gets.
    """

    name: EngineName = "openvino"
    precision: Precision = "f32"

    def __init__(self, acceptance: float = 1.0) -> None:
        self.acceptance = acceptance
        self.calls = 0
        self.closed = False
        self.failing = False
        self.crashing = False
        self.may_answer = Event()
        self.may_answer.set()
        self.started = Event()

    def predict(self, images: NDArray[np.uint8], *, alone: bool = True) -> Predictions:
        del alone
        self.calls += 1
        self.started.set()
        self.may_answer.wait(30)
        if self.failing:
            raise InferenceFailed("an answer", "a secret of the engine")
        if self.crashing:
            raise ZeroDivisionError("a secret of the engine")
        return answer(images, self.acceptance)

    def close(self) -> None:
        self.closed = True


def new_fake_engine(release: Release, options: EngineOptions) -> FakeEngine:
    """Make a fake engine in whatever process; see `app.engines.EngineFactory`."""
    del release, options
    return FakeEngine()


def answer(images: NDArray[np.uint8], acceptance: float = 1.0) -> Predictions:
    """What the fake engine and the tiny SavedModel say."""
    x = images[..., 0].astype(np.float32) / 255
    p = x.mean(axis=(1, 2))
    return Predictions(
        probabilities=np.stack([p, 1 - p], axis=1),
        heatmap=x.reshape(-1, 7, 32, 7, 32).mean(axis=(2, 4)),
        acceptance=np.full(len(x), acceptance, np.float32),
    )


def factory(engine: FakeEngine) -> EngineFactory:
    """Make an engine factory that always gives one engine."""

    def new_engine(release: Release, options: EngineOptions) -> FakeEngine:
        assert release.path.is_dir()
        assert options.engine == "auto"
        assert options.threads
        return engine

    return new_engine


def loader(engine: FakeEngine) -> LoadRegistry:
    """Make what loads a release into one engine."""
    return partial(load_registry, new_engine=factory(engine))


def write_fake_release(store: Path, version: int = 1, **overrides: object) -> Path:
    """Write a release whose SavedModel only a fake engine can run."""
    folder = store / NAME / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"no graph")
    return write_manifest(folder, **overrides)


def write_tiny_release(store: Path, version: int = 1, **overrides: object) -> Path:
    """Write a release that every engine runs and that answers as `FakeEngine` does."""
    folder = store / NAME / str(version)
    folder.mkdir(parents=True)
    write_tiny_saved_model(folder)
    return write_manifest(folder, **overrides)


def write_manifest(folder: Path, **overrides: object) -> Path:
    """Write a valid manifest for the files that a folder has.

    Args:
        folder: The release.
        overrides: Fields of the manifest that are to be other than right.
    """
    content = manifest_content(folder) | overrides
    Manifest.model_validate(content)
    (folder / MANIFEST).write_text(json.dumps(content, default=str))
    return folder


def manifest_content(folder: Path) -> dict[str, Any]:
    """Make a manifest's content for the files that a folder has."""
    golden = answer(phantom()[np.newaxis])
    return {
        "name": NAME,
        "version": int(folder.name),
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "labels": LABELS,
        "input": {"resize": RESIZE_RULE},
        "decision": {"threshold": 0.5, "rule": "fixed"},
        "temperature": 1.0,
        "acceptance": {"trained": True, "threshold": 0.5, "rule": "fixed"},
        "prediction_sets": [
            {"confidence": confidence, "least": dict.fromkeys(LABELS, least), "images": {}}
            for confidence, least in ((0.9, 0.6), (0.95, 0.3))
        ],
        "metrics": [
            {
                "name": "whole",
                "split": "test",
                "images": {"COVID-19": 1, "Normal": 1},
                "metrics": {"auc": {"value": 0.5, "low": 0.4, "high": 0.6}},
            }
        ],
        "precisions": {"openvino": ["f32"], "tensorflow": ["f32"]},
        "golden": {
            "probabilities": golden.probabilities[0].tolist(),
            "acceptance": 1.0,
            "heatmap_mean": float(golden.heatmap.mean()),
            "tolerance": 0.001,
        },
        "training": {
            "command": "none",
            "config": {},
            "seed": 0,
            "backbone": "none",
            "epochs": 0,
            "packages": {},
            "python": "3.11",
            "hardware": "any",
            "dataset": {"fingerprint": "0" * 64, "images": {}},
        },
        "files": hash_files(folder),
    }


@contextlib.contextmanager
def unreadable(file: Path) -> Iterator[None]:
    """Take a file's permission to be read, which root has in any case."""
    access, open_file = os.access, Path.open

    def may_open(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == file:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return open_file(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", may_open)
        patch.setattr(os, "access", lambda path, mode: path != file and access(path, mode))
        yield


def write_tiny_saved_model(folder: Path) -> None:
    """Write a SavedModel with the signature of a release, that answers as `FakeEngine` does."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # noqa: PLC0415 -- most tests do without its seven seconds

    logging.getLogger("tensorflow").setLevel(logging.ERROR)

    def signature(image: object) -> dict[str, object]:
        x = tf.cast(image, tf.float32) / 255
        p = tf.reduce_mean(x, [1, 2, 3])
        return {
            "probabilities": tf.stack([p, 1 - p], 1),
            "heatmap": tf.nn.avg_pool2d(x, 32, 32, "VALID")[..., 0],
            "acceptance": tf.ones_like(p),
        }

    module = tf.Module()
    spec = tf.TensorSpec([None, 224, 224, 1], tf.uint8, name="image")
    module.serve = tf.function(signature, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def encode(pixels: NDArray[Any], kind: str = "PNG", **options: object) -> bytes:
    """Write an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def gray_png(value: int = 200, height: int = 80, width: int = 100) -> bytes:
    """Write an even gray X-ray."""
    return encode(np.full((height, width), value, np.uint8))


def noise_png(side: int) -> bytes:
    """Write an image that does not compress: about `side` squared bytes."""
    return encode(np.random.default_rng(0).integers(0, 256, (side, side), np.uint8))


class IdleService:
    """Stands for an application whose scheduler keeps a place for everybody."""

    retry_after_s = 1.0

    @property
    def state(self) -> "IdleService":
        return self

    service = scheduler = state

    def expect(self) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()


def dicom_header(**attributes: object) -> Dataset:
    """Make the header of a synthetic digital X-ray, with a made-up patient.

    Args:
        attributes: By keyword; None takes one away.
    """
    values = {
        "StudyInstanceUID": "2.25.91",
        "SeriesInstanceUID": "2.25.92",
        "SOPInstanceUID": "2.25.93",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "PatientName": "Phantom^Paula",
        "PatientID": "PHANTOM-1",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "StudyDate": "20260131",
        "StudyTime": "120000",
        "StudyID": "STUDY-1",
        "AccessionNumber": "ACCESSION-1",
        "ReferringPhysicianName": "Referrer^Rita",
        "PatientOrientation": ["L", "F"],
        "BurnedInAnnotation": "NO",
    }
    header = Dataset()
    for keyword, value in (values | attributes).items():
        if value is not None:
            setattr(header, keyword, value)
    return header


class FakeDestination:
    """A DICOMweb server that keeps what it gets, or says what went wrong.

    Attributes:
        stored: What came, in order.
        errors: Raised, one for each delivery, before anything is kept.
    """

    def __init__(self, *errors: Exception) -> None:
        self.stored: list[tuple[bytes, ...]] = []
        self.errors = list(errors)
        self.asked = 0
        self.may_answer = Event()
        self.may_answer.set()

    def store(self, instances: Sequence[bytes]) -> None:
        self.asked += 1
        self.may_answer.wait(30)
        if self.errors:
            raise self.errors.pop(0)
        self.stored.append(tuple(instances))


Answer = tuple[int, dict[str, str], Iterable[bytes]]
"""Status, headers, and the pieces of a body."""


class FakeWeb:
    """An HTTP server on this machine that gives answers in turn and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str, Message, bytes]] = []
        self.given = 0
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                web.asked.append((self.command, self.path, self.headers, body))
                status, headers, pieces = web.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for piece in pieces:
                        self.wfile.write(piece)
                        web.given += len(piece)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/dicom-web"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
