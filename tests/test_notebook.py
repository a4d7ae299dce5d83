"""The notebook of the docs, run from its first cell to its last with a small budget."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.mark.needs("lite", "decoder", "jupyter")
def test_every_cell_runs_and_results_show_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells[0].source == "%pip install --quiet captune"
    assert not any(cell.outputs for cell in cells)
    (tuned,) = (cell for cell in cells if "EPOCHS = 10" in cell.source)
    small = 'decoder_blocks=2, max_tokens=8, score_model="none", epochs=EPOCHS'
    tuned.source = tuned.source.replace("EPOCHS = 10", "EPOCHS = 1").replace("epochs=EPOCHS", small)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    shown = [
        "".join(output.data.get("text/html", "") for output in cell.outputs if "data" in output)
        for cell in cells
    ]
    for verb, html in zip(
        ("classify", "tune", "caption", "score", "explain"), shown[2:], strict=False
    ):
        assert '<div class="captune"' in html, verb
    assert "report.html" in shown[-1]
    assert (tmp_path / "report.html").stat().st_size > 100_000
