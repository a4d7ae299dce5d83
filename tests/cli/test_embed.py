from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captune.cli import main


def read(file: Path) -> tuple[dict[str, list[str]], Any, dict[str, Any]]:
    """The names by their title, the features and the metadata of a file."""
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as content:
            names = {key: content[key].tolist() for key in content if key in ("paths", "texts")}
            return names, content["features"], json.loads(str(content["metadata"]))
    if file.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(file)
        (title,) = {*table.column_names} - {"features"}
        features = np.array(table["features"].to_pylist(), dtype=np.float32)
        about = json.loads(table.schema.metadata[b"captune"])
        return {title: table[title].to_pylist()}, features, about
    from safetensors import safe_open

    with safe_open(file, "np") as content:
        about = content.metadata()
        names = {key: json.loads(about[key]) for key in about if key != "captune"}
        return names, content.get_tensor("features"), json.loads(about["captune"])


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".safetensors"])
def test_paths_features_and_model(
    colours: Any, colour_images: Path, tmp_path: Path, suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (colour_images / "broken.jpg").write_bytes(b"\xff\xd8")
    file, other = tmp_path / f"features{suffix}", tmp_path / "other.npz"
    to = ["--to", str(file), "--to", str(other)]
    assert main(["embed", str(colour_images), *to, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["command"], result["images"], result["dimension"]) == ("embed", 6, 3)
    assert len(result["skipped"]) == 1
    names, features, about = read(file)
    expected = ["7_0.png", "7_1.png", "8_0.png", "8_1.png", "9_0.png", "9_1.png"]
    assert names == {"paths": [str(colour_images / name) for name in expected]}
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[0], np.array([220, 20, 30]) / 255, atol=1e-3)
    assert (about["spec"], about["weights_id"]) == ("colours", "c0" * 32)
    assert about["normalised"] is result["normalised"] is False
    np.testing.assert_array_equal(read(other)[1], features)

    assert main(["embed", str(colour_images), "--normalise", *to]) == 0
    _, scaled, about = read(file)
    assert about["normalised"] is True
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, features / lengths, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".safetensors"])
def test_sentences(colours: Any, tmp_path: Path, suffix: str) -> None:
    texts, file = tmp_path / "texts.txt", tmp_path / f"texts{suffix}"
    texts.write_text("a red thing\n\n  green \n")
    assert main(["embed", "--texts", str(texts), "--to", str(file)]) == 0
    names, features, about = read(file)
    assert names == {"texts": ["a red thing", "green"]}
    assert features.shape == (2, 3)
    assert features[0].argmax() == 0
    assert features[1].argmax() == 1
    assert about["weights_id"] == "c0" * 32


def test_what_is_refused_before_work(
    colours: Any, colour_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    long, wide = tmp_path / "long.txt", tmp_path / "wide.txt"
    long.write_text("a\n" + "b" * 100_001)
    wide.write_text("a\n" * 10_000 + "b" * 100_000)  # 4 GB as an array of texts of one width
    images = str(colour_images)
    for words, sentence in (
        ([images, "--to", "a.pkl"], ".npz, .parquet or .safetensors"),
        ([images], "--to FILE"),
        (["--to", "a.npz"], "give either images, or sentences with --texts"),
        ([images, "--texts", str(empty), "--to", "a.npz"], "give either images, or sentences"),
        (["--texts", str(empty), "--to", "a.npz"], "holds no sentence"),
        (["--texts", str(long), "--to", "a.npz"], "holds a line of 100,001 characters"),
        (["--texts", str(wide), "--to", "a.npz"], "take 4.0 GB in an .npz; write .parquet or"),
        ([images, "--to", "a.npz", "--to", "./a.npz"], "is the file of --to too"),
        ([images, "--to", "a.npz", "--limit", "-1"], "limit must be 0 or more, not -1"),
        (["--texts", str(wide), "--to", "a.npz", "--limit", "2"], "--limit is for images"),
        ([images, "--out", "a", "--shard-size", "2", "--limit", "2"], "--limit is not for shards"),
    ):
        assert main(["embed", *words]) == 2
        assert sentence in capsys.readouterr().err
    assert colours.image.module.images == 0
