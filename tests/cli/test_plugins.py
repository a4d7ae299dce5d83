from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from captune.cli import main
from captune_metrics import plugins


def test_what_can_be_chosen_is_listed_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("mine", "my_package:METHOD", "captune.tuning")
    monkeypatch.setattr(
        "importlib.metadata.entry_points",
        lambda group: [point] if group == "captune.tuning" else [],
    )
    plugins.plugins_of.cache_clear()
    try:
        assert main(["plugins", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["plugins"]
        assert main(["tune", "--help"]) == 0
        told = capsys.readouterr().out
    finally:
        plugins.plugins_of.cache_clear()
    assert found["tuning methods"]["mine"] == "my_package"
    assert found["tuning methods"]["lora"] == "captune"
    assert found["bridges"].keys() == {"bidirectional", "cross-attention", "prefix"}
    assert "occlusion" in found["map methods"]
    assert "cider" in found["metrics"]
    assert "open_clip" in found["model backends"]
    assert "adapter, dora, ia3, lora, mine, none, prefix" in re.sub(r"\s+", " ", told)


def test_tables_alone_as_markdown_and_latex(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--table", "md"]) == 0
    assert "| lora | captune |" in capsys.readouterr().out
    assert main(["plugins", "--table", "tex"]) == 0
    assert "\\begin{tabular}" in capsys.readouterr().out
    assert main(["plugins", "--table", "md", "--json"]) == 2


def test_the_help_of_tune_loads_no_torch() -> None:
    code = "import sys; from captune.cli import main; main(['tune', '--help'])"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
