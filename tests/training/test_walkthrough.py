"""The notebook for readers of the article: what is committed of it, and that it runs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from traitlets.config import Config

from tests.training.conftest import draw

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "training" / "walkthrough.ipynb"
TAGS = {"parameters"}


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> dict[str, NotebookNode]:
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def with_parameters(notebook: NotebookNode, values: dict[str, object]) -> NotebookNode:
    """Overwrite parameters in a cell behind theirs, as papermill does."""
    (place,) = (i for i, cell in enumerate(notebook.cells) if "tags" in cell.metadata)
    assert all(f"\n{name} = " in f"\n{notebook.cells[place].source}" for name in values)
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    notebook.cells.insert(place + 1, new_code_cell("\n".join(lines), id="injected-parameters"))
    return notebook


def text(cell: NotebookNode) -> str:
    return "".join(o.text for o in cell.outputs if (o.output_type, o.get("name")) == STDOUT)


def figures(cell: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


STDOUT = ("stream", "stdout")


@pytest.fixture
def _own_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a kernel's files, and a person's settings, out of each other's way."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.delenv("MPLBACKEND", raising=False)


@pytest.mark.timeout(900)  # 80 s of processor time, on cores that may be busy
@pytest.mark.usefixtures("_own_jupyter")
def test_it_runs_from_top_to_bottom(tmp_path: Path, backbone_file: Path) -> None:
    data = tmp_path / "data"
    draw(data / "COVID-19", 14, brightness=90)
    draw(data / "Normal" / "adults", 12, brightness=0)
    draw(data / "Normal" / "children", 12, brightness=40)
    notebook = with_parameters(
        read(NOTEBOOK),
        {
            "DATA": str(data),
            "BACKBONE": str(backbone_file),
            "EPOCHS": 1,
            "LIMIT": 36,
            "SIZE": 32,
            "WORK": str(tmp_path / "work"),
        },
    )
    NotebookClient(
        notebook,
        kernel_name="python3",
        startup_timeout=120,
        timeout=None,  # a cell's; the test has its own
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},  # where Jupyter would run it
        # TensorFlow takes its time to end on a busy machine; killed, it would leave a warning.
        config=Config({"KernelManager": {"shutdown_wait_time": 60}}),
    ).execute()

    cells = code_cells(notebook)
    assert "38 X-rays, 0 files not used; 36 drawn" in text(cells["load"])
    assert "174 conv5_block3_out           (None, None, None, 2048) frozen" in text(cells["freeze"])
    assert "180 probabilities              (None, 2)                trains" in text(cells["freeze"])
    assert "Trainable params: 4,723,202 " in text(cells["freeze"])
    assert list(tmp_path.glob("work/*/fit/1-head/features.npz"))
    assert "auc " in text(cells["measure"])
    assert "children / Normal" in text(cells["measure"])
    assert text(cells["controls"]).count("AUC ") == 3
    drawn = {name: figures(cell) for name, cell in cells.items() if figures(cell)}
    assert drawn == dict.fromkeys(("look", "means", "curves", "plots", "heatmaps"), 1)
    assert not [name for name, cell in cells.items() if "Warning" in str(cell.outputs)]


@pytest.mark.parametrize("path", sorted(ROOT.glob("training/**/*.ipynb")), ids=lambda p: p.name)
class TestCommitted:
    def test_it_holds_no_outputs(self, path: Path) -> None:
        for cell in code_cells(read(path)).values():
            assert cell.outputs == []
            assert cell.execution_count is None

    def test_it_holds_no_images(self, path: Path) -> None:
        for cell in read(path).cells:
            assert not cell.get("attachments")
            assert "data:" not in cell.source
        assert path.stat().st_size < 40_000

    def test_it_is_a_valid_notebook_and_names_no_ones_machine(self, path: Path) -> None:
        notebook = read(path)
        nbformat.validate(notebook)
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        assert {tag for cell in notebook.cells for tag in cell.metadata.get("tags", ())} <= TAGS
        assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
