"""Stores: moto's S3 on loopback, with worker processes and with Ray; and stores that fail."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from captune import caption
from captune.cli import main
from captune.shards import places
from captune.shards.places import Place, StoreError, download
from captune.shards.shard import find_shards
from tests.captioning.caption_job import use_encoder, write_captioner, write_images
from tests.shards import toy
from tests.shards.conftest import rows_of

GUIDE = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """s3fs at an empty bucket `bucket`; processes that are started find it as well."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CAPTUNE_OFFLINE")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    store.mkdir("bucket")
    yield store
    store.rm("bucket", recursive=True)  # moto keeps it for as long as this process lives
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def captioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy.install(tmp_path / "site", monkeypatch)
    return write_captioner(tmp_path / "captioner" / "run")


def put_tars(store: Any, images: Path, shards: int) -> list[str]:
    """The images, dealt to shards; their names in the order of the shards."""
    paths, names = sorted(images.iterdir()), []
    for shard in range(shards):
        own = paths[shard::shards]
        tar = toy.write_tar(images.parent / "t.tar", [(p.name, p.read_bytes()) for p in own])
        store.pipe_file(f"bucket/in/{shard:03}.tar", tar.read_bytes())
        names += [path.stem for path in own]
    return names


def of_the_guide() -> list[str]:
    """The command of docs/scale.md that captions from a store to a store."""
    (line,) = re.findall(r'^captune (caption "s3://.*\{000..003\}.*)$', GUIDE.read_text(), re.M)
    return shlex.split(line)


@pytest.mark.needs("s3")
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.needs("ray"))])
def test_captions_from_a_store_to_a_store(
    tmp_path: Path, s3: Any, captioner: Path, engine: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    images = write_images(tmp_path / "images", 12)
    keys = put_tars(s3, images, 4)
    how = ["--model", str(captioner), "--encoder", "toy:places", "--device", "cpu"]
    how += ["--beam", "2", "--max-tokens", "8", "--batch-size", "4"]
    words = [*of_the_guide(), *how, "--engine", engine]
    assert main(words) == 0
    assert "4 of 4 shards done, 12 images" in capsys.readouterr().out
    s3.get("bucket/out/", str(tmp_path / "out"), recursive=True)
    rows = [row for n in range(4) for row in rows_of(tmp_path / "out", f"{n:03}")]
    assert [row["key"] for row in rows] == keys
    use_encoder(monkeypatch)
    options = {"beam": 2, "max_tokens": 8, "batch_size": 4, "device": "cpu"}
    expected = {
        one.image.path.stem: one.caption for one in caption(images, model=captioner, **options)
    }
    assert {row["key"]: row["caption"] for row in rows} == expected
    if engine == "local":
        assert main(words) == 0  # no process is started for it
        assert "4 of 4 shards were there" in capsys.readouterr().err
        assert main(["shards", "status", "s3://bucket/out", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == 12


@pytest.mark.needs("s3")
def test_one_of_two_can_create(s3: Any) -> None:
    place = Place.of("s3://bucket/out")
    assert place.create("a.claim", b"one")
    assert not place.create("a.claim", b"two")
    assert place.read("a.claim") == b"one"
    place.remove("a.claim")
    place.remove("a.claim")
    assert place.create("a.claim", b"three")
    assert place.names() == {"a.claim"}


class Faulty:
    """A store whose file of ten bytes comes as `get` says, from one try to the next."""

    def __init__(self, get: Callable[[int], bytes], etags: Iterator[str]) -> None:
        self.get, self.etags, self.tries = get, etags, 0

    def info(self, path: str) -> dict[str, Any]:
        return {"size": 10, "ETag": next(self.etags)}

    def get_file(self, path: str, target: str) -> None:
        self.tries += 1
        Path(target).write_bytes(self.get(self.tries))

    def invalidate_cache(self) -> None:
        pass


def busy(tries: int) -> bytes:
    if tries < 3:
        raise OSError("503 Slow Down")
    return b"0123456789"


@pytest.mark.parametrize(
    ("get", "etags", "tries", "reason"),
    [
        (busy, "aaaaaaaaaa", 3, None),
        (lambda tries: b"0123456789"[: 5 * tries], "aaaaaaaaaa", 2, None),
        (lambda tries: b"0123456789", "abbb", 2, None),
        (lambda tries: b"01234", "aaaaaaaaaa", 4, "5 of 10 bytes came"),
        (lambda tries: b"0123456789", "abcdefghij", 4, "it changed while it was read"),
    ],
)
def test_a_store_that_fails_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, get: Any, etags: str, tries: int,
    reason: str | None,
) -> None:  # fmt: skip
    store = Faulty(get, iter(etags))
    monkeypatch.setattr(places, "store_of", lambda address: (store, "0.tar"))
    monkeypatch.setattr(places, "_WAITS_S", (0.0, 0.0, 0.0))
    if reason is None:
        download("s3://bucket/0.tar", tmp_path / "0.tar")
        assert (tmp_path / "0.tar").read_bytes() == b"0123456789"
    else:
        with pytest.raises(StoreError, match=f"0.tar: the store failed 4 times .{reason}"):
            download("s3://bucket/0.tar", tmp_path / "0.tar")
    assert store.tries == tries


def test_a_server_that_is_not_reached_is_no_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_WAITS_S", (0.0, 0.0, 0.0))

    def action() -> None:
        raise FileNotFoundError("https://localhost/0.tar") from TimeoutError("connection timeout")

    with pytest.raises(StoreError, match=r"failed 4 times .connection timeout"):
        places.patiently("https://localhost/0.tar", action)


@pytest.mark.parametrize("word", ["s3://bucket/*.tar", "s3://bucket/folder"])
def test_a_store_that_lists_nothing_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    class Unreached:
        def fail(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("no route")

        glob = find = fail

        def ls(self, *_: Any, **__: Any) -> list[str]:
            return []

        def invalidate_cache(self) -> None:
            pass

    for module in ("places", "shard"):
        asked = f"captune.shards.{module}.store_of"
        monkeypatch.setattr(asked, lambda address: (Unreached(), address))
    monkeypatch.setattr(places, "_WAITS_S", (0.0, 0.0, 0.0))
    with pytest.raises(StoreError, match=r"the store failed 4 times .no route"):
        find_shards([word])


def test_a_bug_is_not_a_fault_of_the_store() -> None:
    def action() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        places.patiently("s3://bucket/0.tar", action)


def test_a_claim_is_made_also_where_another_process_sweeps_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, swept = os.link, []

    def beside_a_sweep(source: Path, target: Path) -> None:
        if not swept:
            swept.append(source)
            source.unlink()
        link(source, target)

    monkeypatch.setattr("captune.shards.places.os.link", beside_a_sweep)
    place = Place.of(tmp_path / "out")
    assert place.create("00000.claim", b"{}")
    assert swept
    assert not place.create("00000.claim", b"{}")
    assert place.names() == {"00000.claim"}
