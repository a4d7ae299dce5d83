"""`captune cache`: sizes, limit, prune, clear."""

import hashlib
import json

import numpy as np
import pytest

from captune.cli import main
from captune.cli.cache import parse_size
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.index import FeatureSpace
from captune.text import file_size

SPACE = FeatureSpace("pooled", "ab" * 32, "resize", "float32", "torch-cpu")


def fill(count: int) -> None:
    with FeatureCache() as cache:
        cache.remember_model("open_clip:ViT-B-32/openai", [SPACE.weights_id])
        digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)]
        cache.put_many(SPACE, {digest: np.zeros(512, np.float32) for digest in digests})


def test_shows_sizes_for_each_model(capsys):
    fill(50)
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert "open_clip:ViT-B-32/openai" in shown
    assert "of at most 20.0 GB" in shown
    assert "50" in shown
    assert "102.4 kB" in shown


def test_json_is_one_object(capsys):
    fill(3)
    assert main(["cache", "show", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == "cache"
    assert found["limit_bytes"] == 20 * 10**9
    assert found["images"] == 3
    assert found["models"][0]["entries"] == 3
    assert found["models"][0]["size_bytes"] == 3 * 2048


def test_a_limit_stays_and_prune_keeps_to_it(capsys):
    fill(300)
    assert main(["cache", "--limit", "200kB"]) == 0
    assert "of at most 200.0 kB" in capsys.readouterr().out
    assert main(["cache", "prune", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["limit_bytes"] == 200_000
    assert found["freed_bytes"] > 600_000
    assert found["size_bytes"] <= 200_000


def test_clear_leaves_nothing(capsys):
    fill(10)
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == []
    assert main(["cache"]) == 0


def test_an_empty_cache_is_no_error(capsys):
    assert main(["cache", "prune"]) == 0
    assert "0 B freed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("1.5 T", 1_500 * 10**9), ("500mb", 500 * 10**6), ("12", 12)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "20 PB", "GB"])
def test_not_a_size(text, capsys):
    with pytest.raises(UserError, match="20GB"):
        parse_size(text)


def test_a_bad_limit_is_the_users_mistake(capsys):
    assert main(["cache", "--limit", "lots"]) == 2
    assert "not a size" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--limit", "5GB"], ["prune"], ["clear"]])
def test_a_cache_that_cannot_be_changed_is_no_success(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CAPTUNE_CACHE", str(tmp_path / "file"))
    assert main(["cache", *words]) == 2
    assert "features cannot be written to; make room" in capsys.readouterr().err
    assert main(["cache"]) == 0


def test_sizes_are_readable():
    assert [file_size(n) for n in (0, 999, 2048, 20e9)] == ["0 B", "999 B", "2.0 kB", "20.0 GB"]
