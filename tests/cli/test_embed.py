from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captune.cli import main


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_paths_and_features(
    colours: Any, colour_images: Path, tmp_path: Path, suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (colour_images / "broken.jpg").write_bytes(b"\xff\xd8")
    file = tmp_path / f"features{suffix}"
    assert main(["embed", str(colour_images), "--features", str(file), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["command"], result["images"], result["dimension"]) == ("embed", 6, 3)
    assert len(result["skipped"]) == 1
    if suffix == ".npz":
        with np.load(file, allow_pickle=False) as content:
            paths, features = content["paths"].tolist(), content["features"]
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(file)
        paths = table["paths"].to_pylist()
        features = np.array(table["features"].to_pylist(), dtype=np.float32)
    assert paths == ["7_0.png", "7_1.png", "8_0.png", "8_1.png", "9_0.png", "9_1.png"]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[0], np.array([220, 20, 30]) / 255, atol=1e-3)


def test_another_ending_is_refused_before_work(
    colours: Any, colour_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(colour_images), "--features", "a.pkl"]) == 2
    assert ".npz or .parquet" in capsys.readouterr().err
    assert colours.image.module.images == 0
