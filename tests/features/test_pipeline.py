"""Images are encoded once, in order, whatever is renamed, copied, killed or damaged."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captune.errors import UserError
from captune.features import pipeline
from captune.features.cache import FeatureCache
from captune.features.encode import encode_images
from captune.features.pipeline import Encoding
from captune.images import ImageFile
from captune.models.encoders import ImageEncoder

DIMENSION = 12


class Counting(nn.Module):
    """Mean colours in a 2 x 2 grid; remembers the size of every batch."""

    def __init__(self, fits: int = 10**9, pause_s: float = 0.0) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.fits = fits
        self.pause_s = pause_s

    def forward(self, pixels):
        if len(pixels) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(pixels))
        time.sleep(self.pause_s)
        return nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)

    @property
    def images(self) -> int:
        return sum(self.batches)


def to_pixels(image):
    pixels = np.asarray(image.resize((16, 16)), np.float32).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def make_encoder(**options) -> ImageEncoder:
    return ImageEncoder(
        module=Counting(**options),
        transform=to_pixels,
        preprocessing_id="resize 16",
        weights_id="weights",
        dimension=DIMENSION,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def make_images(folder: Path, count: int, first: int = 0) -> list[ImageFile]:
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for i in range(first, first + count):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        path = folder / f"{i:05d}.png"
        Image.fromarray(pixels).save(path)
        images.append(ImageFile(path, path.name))
    return images


def collect(images, encoder, cache=None, batch_size=8, workers=2, **options):
    """(names, features, skipped) of a whole run."""
    skipped: list = []
    names, parts = [], [np.zeros((0, DIMENSION), np.float32)]
    for found, features in encode_images(
        images,
        encoder,
        Encoding(cache, batch_size, workers),
        on_skip=skipped.append,
        **options,
    ):
        assert features.dtype == np.float32
        assert len(found) == len(features) > 0
        names += [image.name for image in found]
        parts.append(features)
    return names, np.concatenate(parts), skipped


def expected(images):
    pixels = torch.stack([to_pixels(Image.open(image.path)) for image in images])
    return Counting()(pixels).numpy()


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path / "images", 30)


# -- what is computed, and what is not ---------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_features_in_the_order_of_the_images(images, cache, workers, batch_size):
    encoder = make_encoder()
    names, features, skipped = collect(images, encoder, cache, batch_size, workers)
    assert names == [image.name for image in images]
    np.testing.assert_allclose(features, expected(images), rtol=1e-5)
    assert not skipped
    assert max(encoder.module.batches) <= batch_size


def test_a_second_run_computes_nothing_and_equals_the_first_to_the_bit(images, cache):
    _, first, _ = collect(images, make_encoder(), cache)
    encoder = make_encoder()
    names, second, _ = collect(images, encoder, cache)
    assert encoder.module.images == 0
    assert names == [image.name for image in images]
    np.testing.assert_array_equal(first, second)


def test_another_process_finds_them(images, tmp_path):
    with FeatureCache(tmp_path / "features") as cache:
        collect(images, make_encoder(), cache)
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        collect(images, encoder, cache)
    assert encoder.module.images == 0


def test_renamed_and_copied_files_cost_nothing_and_changed_ones_are_redone(images, cache):
    collect(images, make_encoder(), cache)
    renamed = ImageFile(images[0].path.with_name("new name.png"), "new name.png")
    images[0].path.rename(renamed.path)
    copy = ImageFile(images[1].path.with_name("copy.png"), "copy.png")
    copy.path.write_bytes(images[1].path.read_bytes())
    changed = images[2]
    Image.new("RGB", (24, 24), "red").save(changed.path)
    encoder = make_encoder()
    collect([renamed, copy, changed], encoder, cache)
    assert encoder.module.images == 1


@pytest.mark.parametrize(
    "change",
    [
        {"weights_id": "others"},
        {"preprocessing_id": "resize 17"},
        {"dtype": torch.float64},
    ],
)
def test_another_model_or_preprocessing_shares_nothing(images, cache, change):
    collect(images, make_encoder(), cache)
    other = replace(make_encoder(), **change)
    collect(images, other, cache)
    assert other.module.images == len(images)


@pytest.mark.parametrize("cached", [True, False])
def test_copies_within_a_run_are_encoded_once(images, cache, cached, tmp_path):
    many = [image for _ in range(20) for image in images]
    encoder = make_encoder()
    names, features, _ = collect(many, encoder, cache if cached else None)
    assert encoder.module.images == len(images)
    assert names == [image.name for image in many]
    np.testing.assert_allclose(features, np.tile(expected(images), (20, 1)), rtol=1e-5)


def test_half_cached_keeps_the_order(images, cache):
    collect(images[::2], make_encoder(), cache)
    encoder = make_encoder()
    names, features, _ = collect(images, encoder, cache)
    assert encoder.module.images == 15
    assert names == [image.name for image in images]
    np.testing.assert_allclose(features, expected(images), rtol=1e-5)


def test_a_file_too_large_to_keep_is_read_again_for_decoding(images, monkeypatch):
    monkeypatch.setattr(pipeline, "_KEPT_BYTES", 10)
    _, features, skipped = collect(images, make_encoder())
    np.testing.assert_allclose(features, expected(images), rtol=1e-5)
    assert not skipped


def test_progress_counts_every_image(images, cache):
    images[3].path.write_text("no image")
    for _ in range(2):
        told: list[int] = []
        collect(images, make_encoder(), cache, on_progress=told.append)
        assert sum(told) == len(images)


def test_no_images():
    assert collect([], make_encoder())[0] == []


# -- bad files ---------------------------------------------------------------------------------


def test_a_bad_file_is_skipped_in_place_and_the_rest_goes_on(images, cache):
    images[0].path.write_bytes(b"")
    images[7].path.write_text("not an image, only called one")
    data = images[8].path.read_bytes()
    images[8].path.write_bytes(data[: len(data) // 2])
    images[29].path.unlink()
    names, features, skipped = collect(images, make_encoder(), cache)
    bad = {0, 7, 8, 29}
    assert [item.path for item in skipped] == [images[i].name for i in sorted(bad)]
    assert all(item.reason for item in skipped)
    good = [image for i, image in enumerate(images) if i not in bad]
    assert names == [image.name for image in good]
    np.testing.assert_allclose(features, expected(good), rtol=1e-5)


def test_all_bad(tmp_path):
    images = make_images(tmp_path, 20)
    for image in images:
        image.path.write_text("text")
    names, _, skipped = collect(images, make_encoder())
    assert names == []
    assert len(skipped) == 20


def test_a_transform_that_fails_on_one_image_skips_it(images):
    def transform(image):
        if image.width == 25:
            raise ValueError("odd")
        return to_pixels(image)

    Image.new("RGB", (25, 24)).save(images[4].path)
    names, _, skipped = collect(images, replace(make_encoder(), transform=transform))
    assert len(names) == 29
    assert skipped[0].path == images[4].name
    assert "odd" in skipped[0].reason


# -- memory and threads ------------------------------------------------------------------------


def test_look_ahead_is_bounded(tmp_path):
    images = make_images(tmp_path, 40) * 100
    taken = 0
    most = decoded = done = 0

    def source():
        nonlocal taken
        for i, image in enumerate(images):
            taken += 1
            # different bytes each, or copies would be folded
            path = tmp_path / f"many-{i}.bmp"
            Image.new("RGB", (8, 8), (i % 256, i // 256, 7)).save(path)
            yield ImageFile(path, image.name)

    def transform(image):
        nonlocal decoded
        decoded += 1
        return to_pixels(image)

    encoder = replace(make_encoder(pause_s=0.002), transform=transform)
    stream = encode_images(source(), encoder, Encoding(None, 8, 2), on_skip=lambda skipped: None)
    for found, _ in stream:
        done += len(found)
        most = max(most, taken - done)
        assert decoded - encoder.module.images <= 8 + 8 + 32
        if done > 800:
            break
    stream.close()
    assert most < 200


def test_closing_early_ends_the_threads(images, cache, tmp_path):
    many = images + make_images(tmp_path / "more", 100, first=1000)
    before = threading.active_count()
    encoder = make_encoder()
    stream = encode_images(many, encoder, Encoding(cache, 8, 3), on_skip=lambda skipped: None)
    next(stream)
    stream.close()
    assert threading.active_count() == before
    # and what was computed is on disk
    again = make_encoder()
    collect(many, again, cache)
    assert again.module.images == len(many) - encoder.module.images


def test_an_error_of_the_model_ends_the_run_and_its_threads(images, cache):
    class Broken(nn.Module):
        def forward(self, pixels):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="mat1"):
        collect(images, replace(make_encoder(), module=Broken()), cache)
    assert threading.active_count() == before


def test_a_batch_that_runs_out_of_memory_is_halved(images, cache):
    encoder = make_encoder(fits=3)
    names, features, _ = collect(images, encoder, cache, batch_size=16)
    assert names == [image.name for image in images]
    np.testing.assert_allclose(features, expected(images), rtol=1e-5)
    assert set(encoder.module.batches) <= {1, 2}


def test_a_single_image_that_does_not_fit_says_so(images):
    with pytest.raises(UserError, match="batch of one"):
        collect(images, make_encoder(fits=0), batch_size=4)


# -- a cache that does not work --------------------------------------------------------------


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path, images, warnings):
    # root ignores permissions, so a file stands where the folder would be
    (tmp_path / "blocked").write_text("a file")
    with FeatureCache(tmp_path / "blocked" / "features") as cache:
        for _ in range(2):
            encoder = make_encoder()
            names, _, _ = collect(images, encoder, cache)
            assert len(names) == encoder.module.images == 30
        assert cache.statistics().entries == 0
    assert len(warnings.records) == 1


def test_a_full_disk_costs_one_warning(images, cache, warnings, monkeypatch):
    collect(images[:10], make_encoder(), cache)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("captune.features.store._sync_data", full)
    names, _, _ = collect(images, make_encoder(), cache)
    assert len(names) == 30
    encoder = make_encoder()
    collect(images[:10], encoder, cache)
    assert encoder.module.images == 0
    assert len(warnings.records) == 1
    assert "No space left" in warnings.text
