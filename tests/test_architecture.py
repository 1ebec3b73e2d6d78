"""The import rules of the design, read from the source and not from what happens to be loaded."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP = ROOT / "app"

WEB = {"fastapi", "fastapi_offline", "starlette"}
WEB_MODULES = {
    "bodies",
    "gate",
    "cluster",
    "head",
    "ingress",
    "main",
    "negotiation",
    "page",
    "problems",
    "routes",
    "security",
    "uploads",
    "observability",
    "waiting",
    "inference_protocol/routes",
    "dicomweb/routes",
}

# Which modules of app a module may import. What is not listed may import nothing of app.
MAY_IMPORT = {
    "decision": {"errors", "imaging", "release"},
    "release": {"errors"},
    "versions": {"errors"},
    "imaging": {"errors", "imaging"},
    "processor": {"release"},
    "engines": {"openvino_runtime", "processor", "release", "errors"},
    "openvino_runtime": {"errors"},
    "registry": {"engines", "release", "errors", "imaging", "versions"},
    "scheduler": {"errors"},
    "overlay": {"imaging"},
    "service": {
        "decision",
        "engines",
        "errors",
        "imaging",
        "overlay",
        "registry",
        "release",
        "scheduler",
    },
    "reports": {"decision", "errors", "imaging", "overlay", "reports", "service"},
    "negotiation": {"errors", "overlay", "reports", "schemas", "service"},
    "inference_protocol": {
        "engines",
        "errors",
        "imaging",
        "inference_protocol",
        "release",
        "scheduler",
        "service",
    },
    "inference_protocol/routes": {
        "errors",
        "inference_protocol",
        "problems",
        "service",
        "uploads",
        "waiting",
    },
    "dicomweb": {
        "dicomweb",
        "errors",
        "imaging",
        "reading",
        "reports",
        "scheduler",
        "schemas",
        "service",
    },
    "dicomweb/routes": {
        "bodies",
        "dicomweb",
        "errors",
        "examples",
        "imaging",
        "negotiation",
        "observability",
        "problems",
        "service",
        "uploads",
        "waiting",
    },
    "reading": {"errors", "schemas", "service"},
    "terminal": {"reading"},
    "bulk": {
        "bulk",
        "decision",
        "engines",
        "errors",
        "imaging",
        "logs",
        "processor",
        "reading",
        "registry",
        "release",
        "settings",
    },
    "upkeep": {"registry", "service"},
    "schemas": {"errors", "registry", "release", "service"},
    "metrics": {"dicomweb", "errors", "registry", "service"},
    "logs": {"errors"},
    "tracing": {"errors"},
    "examples": {"errors", "problem_examples", "schemas"},
    "openapi": {"examples"},
    "problem_examples": {"errors", "problems", "schemas"},
    "problems": {"errors", "observability", "schemas"},
    "bodies": {"errors"},
    "uploads": {"bodies", "errors", "service"},
    "gate": {"errors", "observability", "problems", "schemas", "service"},
    "routes": {
        "bodies",
        "dicomweb",
        "errors",
        "openapi",
        "inference_protocol",
        "gate",
        "negotiation",
        "observability",
        "overlay",
        "page",
        "problems",
        "schemas",
        "security",
        "service",
        "uploads",
        "waiting",
    },
    "ingress": {"errors", "observability", "problems", "security", "settings", "uploads"},
    "api_keys": {"errors"},
    "security": {"api_keys", "errors", "problems", "schemas"},
    "connections": {"observability", "problems", "schemas", "security"},
    "observability": {"errors", "metrics", "schemas", "service", "tracing"},
}
WIRING = {"cluster", "main", "cli", "commands", "server", "opening"}
SERVER = {"connections", "server"}

# Take half a second and 130 MB to import; nothing imports them but in a function.
WRITE_DICOM = {"reports/sr", "reports/secondary_capture", "dicomweb/server"}

# Of the extra `scale`: known where they are needed only, and imported when that is used.
BULK_LIBRARIES = {"fsspec", "pyarrow"}
BULK_ENTRY = {"app.bulk.Asked", "app.bulk.score_files"}
RAY_MODULES = {"bulk/cluster", "cluster"}

# What tells operators of the service, and the module beside `observability` that knows it.
TELLING = {"prometheus_client": "metrics", "structlog": "logs", "opentelemetry": "tracing"}


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _name(source: Path) -> str:
    return source.relative_to(ROOT).as_posix()


def _imports(source: Path, *, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _of_app(source: Path) -> set[str]:
    parts = (name.split(".") for name in _imports(source))
    modules = {path.stem for path in APP.iterdir()}
    return {part[1] for part in parts if part[0] == "app" and len(part) > 1 and part[1] in modules}


def _packages(source: Path, *, top_level_only: bool = False) -> set[str]:
    return {name.split(".")[0] for name in _imports(source, top_level_only=top_level_only)}


def _module(source: Path) -> str:
    """Name what the rules are about: a module or package of app, or a module with its own rules."""
    own = source.relative_to(APP).as_posix().removesuffix(".py")
    return own if own in MAY_IMPORT else own.split("/")[0]


@pytest.mark.parametrize("source", _sources("app"), ids=_name)
class TestApp:
    def test_it_never_imports_training(self, source: Path) -> None:
        assert "training" not in _packages(source)

    def test_the_web_framework_is_only_where_http_is(self, source: Path) -> None:
        if _module(source) not in WEB_MODULES:
            assert not _packages(source) & WEB

    def test_the_server_is_only_where_it_is_started(self, source: Path) -> None:
        if _module(source) not in SERVER:
            assert "uvicorn" not in _packages(source)

    @pytest.mark.parametrize("library", TELLING)
    def test_what_tells_operators_is_only_where_it_is_told(
        self, source: Path, library: str
    ) -> None:
        if _module(source) not in {"observability", TELLING[library]}:
            assert library not in _packages(source)

    def test_engines_are_imported_in_engines_only_and_lazily(self, source: Path) -> None:
        libraries = {"tensorflow", "keras", "openvino"}
        assert not _packages(source, top_level_only=True) & libraries
        if _module(source) not in {"engines", "openvino_runtime"}:
            assert not _packages(source) & libraries

    def test_ray_and_what_comes_with_it_wait_until_they_are_used(self, source: Path) -> None:
        entry = _module(source) != "bulk" or source.stem == "__init__"
        if entry:
            assert not _packages(source) & BULK_LIBRARIES
            names = _imports(source, top_level_only=True)
            assert not {name for name in names if name.startswith("app.bulk.")} - BULK_ENTRY
        assert "ray" not in _packages(source, top_level_only=True)
        if source.relative_to(APP).as_posix().removesuffix(".py") not in RAY_MODULES:
            assert "ray" not in _packages(source)

    def test_dicom_is_read_in_imaging_and_written_in_reports_and_libraries_wait_for_a_file(
        self, source: Path
    ) -> None:
        libraries = {"pydicom", "imagecodecs", "highdicom"}
        names = set(_imports(source, top_level_only=True))
        assert not names & {f"app.{module.replace('/', '.')}" for module in WRITE_DICOM}
        writes = source.relative_to(APP).as_posix().removesuffix(".py") in WRITE_DICOM
        if not writes and not source.stem.startswith("dicom"):
            assert not _packages(source, top_level_only=True) & libraries
            assert not [name for name in names if ".imaging.dicom" in name]

    def test_it_imports_of_app_only_what_its_job_needs(self, source: Path) -> None:
        module = _module(source)
        if module not in WIRING:
            assert _of_app(source) <= MAY_IMPORT.get(module, set()), module


@pytest.mark.parametrize("source", _sources("training"), ids=_name)
def test_training_shares_only_pixels_releases_and_engines_with_the_service(source: Path) -> None:
    shared = {"imaging", "release", "engines", "openvino_runtime", "processor", "errors"}
    assert _of_app(source) <= shared


@pytest.mark.parametrize("source", _sources("covid_xray"), ids=_name)
def test_the_client_knows_nothing_of_the_service(source: Path) -> None:
    assert not _packages(source) & {"app", "training"}


def test_main_shows_the_whole_service_in_under_80_lines() -> None:
    assert len((APP / "main.py").read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.parametrize("source", _sources("app") + _sources("covid_xray"), ids=_name)
def test_no_module_has_grown_past_its_job(source: Path) -> None:
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 400
