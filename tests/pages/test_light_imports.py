"""A page runs no model, so making one loads no model library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.report_runs import classify_run, compare_run, explain_run, images, score_run, tune_run


def test_captune_report_loads_no_torch(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg"]
    captions = dict.fromkeys(names, "a dog")
    others = dict.fromkeys(names, "a cat")
    root = images(tmp_path / "images", names)
    runs = [
        classify_run(tmp_path / "classify", root, names),
        tune_run(tmp_path / "tune", root, {"lora": captions, "adapter": others}),
        score_run(tmp_path / "score", root, captions),
        compare_run(tmp_path / "compare", root, captions, others),
        explain_run(tmp_path / "explain", root, captions),
    ]
    words = ["report", *map(str, runs), "--out", str(tmp_path / "page.html")]
    code = (
        "import sys; from captune.cli import main; status = main(sys.argv[1:]);"
        " loaded = {'torch', 'transformers'} & set(sys.modules);"
        " sys.exit(status or ', '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
