"""Patch grids are encoded once and then read from the mapped files of the cache."""

import gc
import hashlib
import os
import signal
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.features.test_pipeline import Counting, expected, make_images, to_pixels
from tests.features.test_resume import run_until
from tests.processes import ended, pipe, start
from torch import nn

from captune.errors import UserError
from captune.features import store as store_module
from captune.features.cache import FeatureCache
from captune.features.encode import encode_grids, encode_images, open_grids
from captune.features.pipeline import Encoding
from captune.images import ImageFile
from captune.models.encoders import GridShape, ImageEncoder, PatchGrid

TOKENS, CHANNELS = 16, 3


class Places(Counting):
    """Mean colours in a 4 x 4 grid, as tokens."""

    def forward(self, pixels):
        super().forward(pixels)
        return nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)


def make_encoder(**options) -> ImageEncoder:
    module = Places(**options)
    patches = PatchGrid(
        shape=GridShape(TOKENS, 2 * CHANNELS, 4, 4),
        cached_shape=(TOKENS, CHANNELS),
        encode=module,
        finish=lambda cached: torch.cat([cached, cached + 1], dim=-1),
        transform=to_pixels,
        preprocessing_id="squash 16",
        weights_id="grid weights",
    )
    device = torch.device("cpu")
    return ImageEncoder(
        Counting(), to_pixels, "crop 16", "w", 12, device, torch.float32, patches=patches
    )


def grids_in_float32(images):
    pixels = torch.stack([to_pixels(_opened(image)) for image in images])
    return Places()(pixels)


def _opened(image):
    from PIL import Image

    return Image.open(image.path)


def collect(images, encoder, cache=None, batch_size=8, workers=2, **options):
    """(names, grids, skipped) of a whole run."""
    skipped: list = []
    names, parts = [], [np.zeros((0, TOKENS, CHANNELS), np.float16)]
    for found, grids in encode_grids(
        images,
        encoder,
        Encoding(cache, batch_size, workers),
        on_skip=skipped.append,
        **options,
    ):
        assert grids.dtype == np.float16
        assert len(found) == len(grids) > 0
        names += [image.name for image in found]
        parts.append(grids)
    return names, np.concatenate(parts), skipped


def opened(images, encoder, cache, **options):
    told = {"on_skip": lambda _: None} | options
    return open_grids(images, encoder, Encoding(cache, 8, 2), **told)


def key_of(image: ImageFile) -> str:
    return hashlib.sha256(image.path.read_bytes()).hexdigest()


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path / "images", 30)


# -- the stream ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_grids_in_the_order_of_the_images_once(images, cache, cached):
    many = [*images, *images[::3]]
    images[7].path.write_text("no image")
    encoder = make_encoder()
    names, first, skipped = collect(many, encoder, cache if cached else None)
    good = [image for image in many if image is not images[7]]
    assert names == [image.name for image in good]
    np.testing.assert_array_equal(first, grids_in_float32(good).half().numpy())
    assert {item.path for item in skipped} == {images[7].name}
    assert encoder.patches.encode.images == 29
    if cached:
        again = make_encoder()
        _, second, _ = collect(many, again, cache)
        assert again.patches.encode.images == 0
        np.testing.assert_array_equal(first, second)


def test_grids_and_pooled_vectors_do_not_mix(images, cache):
    encoder = make_encoder()
    collect(images, encoder, cache)
    vectors = np.concatenate(
        [found for _, found in encode_images(images, encoder, Encoding(cache, 8, 2), on_skip=print)]
    )
    np.testing.assert_allclose(vectors, expected(images), rtol=1e-5)
    spaces = {usage.space.what: usage for usage in cache.statistics().spaces}
    assert spaces["grid"].entries == spaces["pooled"].entries == 30
    assert spaces["grid"].size_bytes == 30 * TOKENS * CHANNELS * 2
    assert spaces["grid"].space.preprocessing_id == "squash 16"


@pytest.mark.parametrize("change", [{"weights_id": "x"}, {"preprocessing_id": "x"}])
def test_another_grid_shares_nothing(images, cache, change):
    collect(images, make_encoder(), cache)
    encoder = make_encoder()
    other = replace(encoder, patches=replace(encoder.patches, **change))
    collect(images, other, cache)
    assert encoder.patches.encode.images == 30


def test_an_encoder_without_a_grid_is_refused(images, cache):
    with pytest.raises(UserError, match="no patch grid"):
        collect(images, replace(make_encoder(), patches=None), cache)


def test_values_beyond_float16_are_refused(images):
    encoder = make_encoder()
    loud = replace(encoder.patches, encode=lambda pixels: encoder.patches.encode(pixels) * 1e4)
    with pytest.raises(UserError, match="beyond 65,504"):
        collect(images, replace(encoder, patches=loud))


def test_a_damaged_grid_is_encoded_again(images, cache, tmp_path):
    collect(images, make_encoder(), cache)
    cache.close()
    (shard,) = (tmp_path / "features" / "shards").glob("*.bin")
    data = bytearray(shard.read_bytes())
    data[5] ^= 255
    shard.write_bytes(data)
    with FeatureCache(tmp_path / "features") as again:
        encoder = make_encoder()
        _, grids, _ = collect(images, encoder, again)
    assert encoder.patches.encode.images == 1
    np.testing.assert_array_equal(grids, grids_in_float32(images).half().numpy())


# -- random access ---------------------------------------------------------------------------------


def test_a_store_gives_what_the_model_gave(images, cache):
    images[3].path.write_text("no image")
    skipped: list = []
    encoder = make_encoder()
    with opened(images, encoder, cache, on_skip=skipped.append) as store:
        good = [image for i, image in enumerate(images) if i != 3]
        assert list(store.keys) == [image.name for image in good]
        assert store.keys == {image.name: key_of(image) for image in good}
        chosen = [good[20], good[0], good[20]]
        keys = [key_of(image) for image in chosen]
        halves = grids_in_float32(chosen).half()
        assert torch.equal(store.cached(keys), halves)
        found = store.grids_of(keys)
        assert found.dtype == torch.float32
        assert torch.equal(found, torch.cat([halves.float(), halves.float() + 1], dim=-1))
        with pytest.raises(KeyError):
            store.grids_of([key_of(images[3])])
    assert [item.path for item in skipped] == [images[3].name]


def test_what_is_read_can_be_trained_on(images, cache):
    store = opened(images, make_encoder(), cache)
    layer = nn.Linear(2 * CHANNELS, 2)
    layer(store.grids_of(list(store.keys.values()))).sum().backward()
    assert layer.weight.grad is not None


def test_a_store_is_a_view_of_the_files(images, cache):
    opened(images, make_encoder(), cache)
    encoder = make_encoder()
    store = opened(images, encoder, cache)
    assert encoder.patches.encode.images == 0
    for key in store.keys.values():
        grid = store.arrays[key]
        assert not grid.flags.owndata
        assert not grid.flags.writeable
    base = store.arrays[key_of(images[0])]
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base).__name__ in ("mmap", "memoryview")


def test_a_store_outlives_the_cache_and_a_prune(images, tmp_path):
    with FeatureCache(tmp_path / "features") as cache:
        store = opened(images, make_encoder(), cache)
        cache.clear()
    gc.collect()
    keys = [key_of(image) for image in images]
    assert torch.equal(store.cached(keys), grids_in_float32(images).half())


def test_many_shards(images, cache, monkeypatch):
    monkeypatch.setattr(store_module, "_SHARD_BYTES", 500)
    opened(images[:10], make_encoder(), cache)  # batches of one run may be saved together
    store = opened(images, make_encoder(), cache)
    assert cache.statistics().shards > 1
    keys = [key_of(image) for image in images]
    assert torch.equal(store.cached(keys), grids_in_float32(images).half())


def test_without_a_cache_a_temporary_folder_serves(images, tmp_path, monkeypatch, warnings):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "blocked").write_text("a file")
    before = threading.active_count()
    for cache in (None, FeatureCache(tmp_path / "blocked" / "features")):
        with opened(images, make_encoder(), cache) as store:
            keys = [key_of(image) for image in images]
            assert torch.equal(store.cached(keys), grids_in_float32(images).half())
            assert list((tmp_path / "temporary").iterdir())
        assert not list((tmp_path / "temporary").iterdir())
    encoder = replace(make_encoder(), patches=None)
    with pytest.raises(UserError, match="no patch grid"):
        opened(images, encoder, None)
    assert not list((tmp_path / "temporary").iterdir())
    assert threading.active_count() == before


def test_more_grids_than_the_cache_may_keep(images, tmp_path):
    with FeatureCache(tmp_path / "features", limit_bytes=2_000) as cache:
        encoder = make_encoder()
        with pytest.raises(UserError, match=r"captune cache --limit 1GB"):
            opened(images, encoder, cache)
    assert encoder.patches.encode.images == 0


def test_a_disk_that_fills_up_says_so(images, cache, monkeypatch, warnings):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("captune.features.store._sync_data", full)
    with pytest.raises(UserError, match="make room on its disk"):
        opened(images, make_encoder(), cache)


# -- memory and kills --------------------------------------------------------------------------


class Large(nn.Module):
    """A grid of a megabyte."""

    def forward(self, pixels):
        return torch.ones(len(pixels), 512, 1024) * pixels.mean((1, 2, 3))[:, None, None]


def test_memory_is_bounded_where_grids_are_large(tmp_path):
    encoder = make_encoder()
    patches = replace(
        encoder.patches,
        encode=Large(),
        shape=GridShape(512, 1024, 1, 512),
        cached_shape=(512, 1024),
    )
    images = make_images(tmp_path / "images", 150)
    most = 0
    with FeatureCache(tmp_path / "features") as cache:
        for _ in range(2):  # encoded, then found
            stream = encode_grids(
                images,
                replace(encoder, patches=patches),
                Encoding(cache, 4, 2),
                on_skip=print,
            )
            most = max(most, *(len(grids) for _, grids in stream))
    assert most <= 64  # 64 MB


def encode_slowly(folder: Path, features: Path, tell: Connection) -> None:
    images = [ImageFile(path, path.name) for path in sorted(folder.glob("*.png"))]
    encoder = make_encoder(pause_s=0.1)
    how, told = Encoding(FeatureCache(features), 8, 2), {"on_progress": tell.send}
    for _ in encode_grids(images, encoder, how, on_skip=print, **told):
        pass


def test_a_killed_run_lost_one_batch(tmp_path):
    images = make_images(tmp_path / "images", 80)
    hear, tell = pipe()
    process = start(encode_slowly, tmp_path / "images", tmp_path / "features", tell)
    done = run_until(hear, 32)
    os.kill(process.pid, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        names, grids, _ = collect(images, encoder, cache)
    assert names == [image.name for image in images]
    np.testing.assert_array_equal(grids, grids_in_float32(images).half().numpy())
    assert 80 - done - 16 <= encoder.patches.encode.images <= 80 - done + 8
