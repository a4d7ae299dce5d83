"""Features are computed once, whatever is renamed, copied, killed, damaged or full."""

import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
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
from captune.features import FeatureCache, FeatureSpace, encode_photos, encode_texts
from captune.features import photos as photos_module
from captune.features import store as store_module
from captune.images import Photo
from captune.models.encoders import ImageEncoder
from captune.models.texts import TextEncoder

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


def make_photos(folder: Path, count: int, first: int = 0) -> list[Photo]:
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for i in range(first, first + count):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        path = folder / f"{i:05d}.png"
        Image.fromarray(pixels).save(path)
        photos.append(Photo(path, path.name))
    return photos


def collect(photos, encoder, cache=None, batch_size=8, workers=2, **options):
    """(names, features, skipped) of a whole run."""
    skipped: list = []
    names, parts = [], [np.zeros((0, DIMENSION), np.float32)]
    for found, features in encode_photos(
        photos,
        encoder,
        cache=cache,
        batch_size=batch_size,
        workers=workers,
        on_skip=skipped.append,
        **options,
    ):
        assert features.dtype == np.float32
        assert len(found) == len(features) > 0
        names += [photo.name for photo in found]
        parts.append(features)
    return names, np.concatenate(parts), skipped


def expected(photos):
    pixels = torch.stack([to_pixels(Image.open(photo.path)) for photo in photos])
    return Counting()(pixels).numpy()


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", 30)


@pytest.fixture
def cache(tmp_path):
    with FeatureCache(tmp_path / "features") as opened:
        yield opened


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What captune warned of; the command line's handler may have switched propagation off."""
    monkeypatch.setattr(logging.getLogger("captune"), "propagate", True)
    caplog.set_level(logging.WARNING, "captune")
    return caplog


# -- what is computed, and what is not ---------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_features_in_the_order_of_the_photos(photos, cache, workers, batch_size):
    encoder = make_encoder()
    names, features, skipped = collect(photos, encoder, cache, batch_size, workers)
    assert names == [photo.name for photo in photos]
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)
    assert not skipped
    assert max(encoder.module.batches) <= batch_size


def test_a_second_run_computes_nothing_and_equals_the_first_to_the_bit(photos, cache):
    _, first, _ = collect(photos, make_encoder(), cache)
    encoder = make_encoder()
    names, second, _ = collect(photos, encoder, cache)
    assert encoder.module.images == 0
    assert names == [photo.name for photo in photos]
    np.testing.assert_array_equal(first, second)


def test_another_process_finds_them(photos, tmp_path):
    with FeatureCache(tmp_path / "features") as cache:
        collect(photos, make_encoder(), cache)
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        collect(photos, encoder, cache)
    assert encoder.module.images == 0


def test_renamed_and_copied_files_cost_nothing_and_changed_ones_are_redone(photos, cache):
    collect(photos, make_encoder(), cache)
    renamed = Photo(photos[0].path.with_name("new name.png"), "new name.png")
    photos[0].path.rename(renamed.path)
    copy = Photo(photos[1].path.with_name("copy.png"), "copy.png")
    copy.path.write_bytes(photos[1].path.read_bytes())
    changed = photos[2]
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
def test_another_model_or_preprocessing_shares_nothing(photos, cache, change):
    collect(photos, make_encoder(), cache)
    other = replace(make_encoder(), **change)
    collect(photos, other, cache)
    assert other.module.images == len(photos)


@pytest.mark.parametrize("cached", [True, False])
def test_copies_within_a_run_are_encoded_once(photos, cache, cached, tmp_path):
    many = [photo for _ in range(20) for photo in photos]
    encoder = make_encoder()
    names, features, _ = collect(many, encoder, cache if cached else None)
    assert encoder.module.images == len(photos)
    assert names == [photo.name for photo in many]
    np.testing.assert_allclose(features, np.tile(expected(photos), (20, 1)), rtol=1e-5)


def test_half_cached_keeps_the_order(photos, cache):
    collect(photos[::2], make_encoder(), cache)
    encoder = make_encoder()
    names, features, _ = collect(photos, encoder, cache)
    assert encoder.module.images == 15
    assert names == [photo.name for photo in photos]
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)


def test_a_file_too_large_to_keep_is_read_again_for_decoding(photos, monkeypatch):
    monkeypatch.setattr(photos_module, "_KEPT_BYTES", 10)
    names, features, skipped = collect(photos, make_encoder())
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)
    assert not skipped


def test_progress_counts_every_photo(photos, cache):
    photos[3].path.write_text("no image")
    for _ in range(2):
        told: list[int] = []
        collect(photos, make_encoder(), cache, on_progress=told.append)
        assert sum(told) == len(photos)


def test_no_photos():
    assert collect([], make_encoder())[0] == []


# -- bad files ---------------------------------------------------------------------------------


def test_a_bad_file_is_skipped_in_place_and_the_rest_goes_on(photos, cache):
    photos[0].path.write_bytes(b"")
    photos[7].path.write_text("not an image, only called one")
    data = photos[8].path.read_bytes()
    photos[8].path.write_bytes(data[: len(data) // 2])
    photos[29].path.unlink()
    names, features, skipped = collect(photos, make_encoder(), cache)
    bad = {0, 7, 8, 29}
    assert [item.path for item in skipped] == [photos[i].name for i in sorted(bad)]
    assert all(item.reason for item in skipped)
    good = [photo for i, photo in enumerate(photos) if i not in bad]
    assert names == [photo.name for photo in good]
    np.testing.assert_allclose(features, expected(good), rtol=1e-5)


def test_all_bad(tmp_path):
    photos = make_photos(tmp_path, 20)
    for photo in photos:
        photo.path.write_text("text")
    names, _, skipped = collect(photos, make_encoder())
    assert names == []
    assert len(skipped) == 20


def test_a_transform_that_fails_on_one_photo_skips_it(photos):
    def transform(image):
        if image.width == 25:
            raise ValueError("odd")
        return to_pixels(image)

    Image.new("RGB", (25, 24)).save(photos[4].path)
    names, _, skipped = collect(photos, replace(make_encoder(), transform=transform))
    assert len(names) == 29
    assert skipped[0].path == photos[4].name
    assert "odd" in skipped[0].reason


# -- memory and threads ------------------------------------------------------------------------


def test_look_ahead_is_bounded(tmp_path):
    photos = make_photos(tmp_path, 40) * 100
    taken = 0
    most = decoded = done = 0

    def source():
        nonlocal taken
        for i, photo in enumerate(photos):
            taken += 1
            # different bytes each, or copies would be folded
            path = tmp_path / f"many-{i}.bmp"
            Image.new("RGB", (8, 8), (i % 256, i // 256, 7)).save(path)
            yield Photo(path, photo.name)

    def transform(image):
        nonlocal decoded
        decoded += 1
        return to_pixels(image)

    encoder = replace(make_encoder(pause_s=0.002), transform=transform)
    stream = encode_photos(
        source(), encoder, cache=None, batch_size=8, workers=2, on_skip=lambda skipped: None
    )
    for found, _ in stream:
        done += len(found)
        most = max(most, taken - done)
        assert decoded - encoder.module.images <= 8 + 8 + 32
        if done > 1500:
            break
    stream.close()
    assert most < 200


def test_closing_early_ends_the_threads(photos, cache, tmp_path):
    many = photos + make_photos(tmp_path / "more", 100, first=1000)
    before = threading.active_count()
    encoder = make_encoder()
    stream = encode_photos(
        many, encoder, cache=cache, batch_size=8, workers=3, on_skip=lambda skipped: None
    )
    next(stream)
    stream.close()
    assert threading.active_count() == before
    # and what was computed is on disk
    again = make_encoder()
    collect(many, again, cache)
    assert again.module.images == len(many) - encoder.module.images


def test_an_error_of_the_model_ends_the_run_and_its_threads(photos, cache):
    class Broken(nn.Module):
        def forward(self, pixels):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="mat1"):
        collect(photos, replace(make_encoder(), module=Broken()), cache)
    assert threading.active_count() == before


def test_a_batch_that_runs_out_of_memory_is_halved(photos, cache):
    encoder = make_encoder(fits=3)
    names, features, _ = collect(photos, encoder, cache, batch_size=16)
    assert names == [photo.name for photo in photos]
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)
    assert set(encoder.module.batches) <= {1, 2}


def test_a_single_photo_that_does_not_fit_says_so(photos):
    with pytest.raises(UserError, match="batch of one"):
        collect(photos, make_encoder(fits=0), batch_size=4)


# -- kill and resume ---------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_features import collect, make_encoder
from captune.features import FeatureCache
from captune.images import Photo
paths = sorted(Path(sys.argv[2]).glob("*.png"))
photos = [Photo(path, path.name) for path in paths]
encoder = make_encoder(pause_s=float(sys.argv[4]))
collect(photos, encoder, FeatureCache(Path(sys.argv[3])), on_progress=lambda n: print(n, flush=True))
print("encoded", encoder.module.images, flush=True)
"""


def start(photos: Path, cache: Path, pause_s: float) -> subprocess.Popen:
    words = [sys.executable, "-c", RUN, Path(__file__).parent, photos, cache, str(pause_s)]
    return subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, text=True)


def run_until(process: subprocess.Popen, count: int) -> int:
    done = 0
    while done < count:
        done += int(process.stdout.readline())
    return done


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(tmp_path, sign):
    photos = make_photos(tmp_path / "photos", 120)
    process = start(tmp_path / "photos", tmp_path / "features", 0.1)
    done = run_until(process, 48)
    process.send_signal(sign)
    process.wait(20)
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        names, features, _ = collect(photos, encoder, cache)
    assert names == [photo.name for photo in photos]
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)
    # the batch that was being saved may be lost, nothing before it
    assert 120 - done - 16 <= encoder.module.images <= 120 - done + 8


def test_two_processes_write_at_once(tmp_path):
    photos = make_photos(tmp_path / "photos", 60)
    processes = [start(tmp_path / "photos", tmp_path / "features", 0.01) for _ in range(2)]
    for process in processes:
        assert process.wait(60) == 0
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        _, features, _ = collect(photos, encoder, cache)
        assert cache.statistics().entries == 60
        assert cache.statistics().shards <= 2
    assert encoder.module.images == 0
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)


def _put_from_process(folder: Path, first: int) -> None:
    with FeatureCache(folder) as cache:
        for i in range(first, first + 200, 5):
            cache.put_many({key(j): vector(j) for j in range(i, i + 5)})


def test_many_threads_and_processes_on_one_cache(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_put_from_process, args=(tmp_path, n * 200)) for n in range(2)
    ]
    for process in processes:
        process.start()
    with FeatureCache(tmp_path) as cache:
        threads = [
            threading.Thread(
                target=lambda n=n: [
                    cache.put_many({key(j): vector(j) for j in range(i, i + 5)})
                    for i in range(400 + n * 200, 600 + n * 200, 5)
                ]
            )
            for n in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        check(cache, range(800), missing=0)


# -- the store ---------------------------------------------------------------------------------

SPACE = FeatureSpace("pooled", "w", "p", "float32", "torch-cpu")


def key(i: int) -> str:
    return f"{SPACE.name}/{i:064x}"


def vector(i: int) -> np.ndarray:
    return np.random.default_rng(i).standard_normal(64, dtype=np.float32)


def check(cache: FeatureCache, numbers, missing: int | None = None) -> int:
    """Whatever is found is right; returns how many are not found."""
    found = cache.get_many([key(i) for i in numbers])
    for i in numbers:
        if key(i) in found:
            np.testing.assert_array_equal(found[key(i)], vector(i))
    lost = len(numbers) - len(found)
    assert missing is None or lost == missing
    return lost


def put(cache: FeatureCache, numbers) -> None:
    cache.put_many({key(i): vector(i) for i in numbers})


def test_arrays_of_any_type_and_shape(cache):
    arrays = {
        key(0): np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        key(1): np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        key(2): np.zeros((0, 5), np.float32),
        key(3): np.float32(3.5) * np.ones(()),
    }
    cache.put_many(arrays)
    found = cache.get_many(list(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_more_keys_than_one_statement_takes(cache):
    put(cache, range(2500))
    check(cache, range(2600), missing=100)
    assert cache.get_many([]) == {}


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "gone", "flipped"])
def test_a_damaged_shard_is_a_miss_and_is_written_anew(tmp_path, damage):
    with FeatureCache(tmp_path) as cache:
        put(cache, range(100))
    (shard,) = (tmp_path / "shards").glob("*.bin")
    data = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(data[: len(data) // 2 + 3])
    elif damage == "zeros":
        shard.write_bytes(bytes(len(data)))
    elif damage == "empty":
        shard.write_bytes(b"")
    elif damage == "gone":
        shard.unlink()
    else:
        data[300] ^= 1
        shard.write_bytes(data)
    with FeatureCache(tmp_path) as cache:
        lost = check(cache, range(100))
        assert lost == {"cut": 50, "flipped": 1}.get(damage, 100)
        put(cache, range(100))
        check(cache, range(100), missing=0)


@pytest.mark.parametrize("damage", ["noise", "cut", "flipped", "empty", "other"])
def test_a_damaged_index_starts_an_empty_cache(tmp_path, damage, warnings):
    with FeatureCache(tmp_path) as cache:
        put(cache, range(400))
    index = tmp_path / "index.sqlite"
    data = bytearray(index.read_bytes())
    if damage == "noise":
        index.write_bytes(os.urandom(20_000))
    elif damage == "cut":
        index.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        for position in range(4096, len(data), 4096):
            data[position : position + 200] = os.urandom(200)
        index.write_bytes(data)
    elif damage == "empty":
        index.write_bytes(b"")
    else:
        with sqlite3.connect(index) as connection:
            connection.execute("PRAGMA user_version = 99")
    with FeatureCache(tmp_path) as cache:
        check(cache, range(400), missing=400)
        put(cache, range(400))
        check(cache, range(400), missing=0)
        cache.prune()
        assert len(list((tmp_path / "shards").glob("*.bin"))) == 1
    assert len(warnings.records) == (0 if damage == "empty" else 1)


def test_torn_bytes_after_a_kill_are_harmless(tmp_path):
    with FeatureCache(tmp_path) as cache:
        put(cache, range(10))
    (shard,) = (tmp_path / "shards").glob("*.bin")
    with shard.open("ab") as file:
        file.write(b"half a vect")
    with FeatureCache(tmp_path) as cache:
        put(cache, range(10, 20))
        check(cache, range(20), missing=0)
        assert cache.statistics().shards == 1


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path, photos, warnings):
    # root ignores permissions, so a file stands where the folder would be
    (tmp_path / "blocked").write_text("a file")
    with FeatureCache(tmp_path / "blocked" / "features") as cache:
        for _ in range(2):
            encoder = make_encoder()
            names, _, _ = collect(photos, encoder, cache)
            assert len(names) == encoder.module.images == 30
        assert cache.statistics().entries == 0
    assert len(warnings.records) == 1


def test_a_read_only_index_is_still_read(tmp_path, warnings):
    with FeatureCache(tmp_path) as cache:
        put(cache, range(10))
    with FeatureCache(tmp_path) as cache:
        cache._store.index._connection.execute("PRAGMA query_only = ON")
        put(cache, range(10, 20))
        put(cache, range(20, 30))
        check(cache, range(30), missing=20)
    assert len(warnings.records) == 1
    assert "going on without writing" in warnings.text


def test_a_full_disk_costs_one_warning(photos, cache, warnings, monkeypatch):
    put(cache, range(10))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("captune.features.shards._sync_data", full)
    names, _, _ = collect(photos, make_encoder(), cache)
    assert len(names) == 30
    check(cache, range(10), missing=0)
    assert len(warnings.records) == 1
    assert "No space left" in warnings.text


def test_the_limit_drops_what_was_used_longest_ago(tmp_path, monkeypatch):
    clock = iter(range(1, 10**6))
    monkeypatch.setattr("captune.features.index.time.time", lambda: float(next(clock)))
    # a limit of 1 MB makes shards of 125 kB: 500 vectors
    with FeatureCache(tmp_path, limit_bytes=10**6) as cache:
        for first in range(0, 3000, 100):
            put(cache, range(first, first + 100))
            check(cache, range(100), missing=0)  # always in use
        assert cache.statistics().size_bytes <= 10**6 + 125_000
    with FeatureCache(tmp_path, limit_bytes=10**6) as cache:
        check(cache, range(100), missing=0)
        check(cache, range(2900, 3000), missing=0)
        assert check(cache, range(600, 1000)) > 300
        assert cache.prune(300_000) > 0
        assert cache.statistics().size_bytes <= 300_000


def test_prune_leaves_a_shard_that_is_written_and_clear_under_a_writer_loses_nothing_new(tmp_path):
    with FeatureCache(tmp_path) as writer, FeatureCache(tmp_path) as other:
        put(writer, range(10))
        other.prune(0)
        check(writer, range(10), missing=0)
        # a person deletes what is in the way
        other._store.index.drop_shard(1)
        put(writer, range(10, 20))
        check(other, range(10, 20), missing=0)
        assert writer.clear() > 0
        check(other, range(20), missing=20)


def test_a_limit_is_stored_for_the_next_process(tmp_path):
    with FeatureCache(tmp_path) as cache:
        assert cache.limit_bytes == store_module.DEFAULT_LIMIT_BYTES == 20 * 10**9
        cache.set_limit(123_456)
    with FeatureCache(tmp_path) as cache:
        assert cache.limit_bytes == 123_456
    with FeatureCache(tmp_path, limit_bytes=5) as cache:
        assert cache.limit_bytes == 5


def test_statistics_by_model(cache):
    put(cache, range(5))
    cache.remember_model("w", "lite")
    found = cache.statistics()
    assert [(u.space, u.spec, u.entries, u.size_bytes) for u in found.spaces] == [
        (SPACE, "lite", 5, 5 * 256)
    ]


def test_a_closed_cache_is_empty(tmp_path):
    cache = FeatureCache(tmp_path)
    put(cache, range(3))
    cache.close()
    cache.close()
    put(cache, range(3, 6))
    assert cache.get_many([key(0)]) == {}


# -- texts -------------------------------------------------------------------------------------


class CountingTexts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, int]] = []

    def forward(self, ids):
        self.batches.append((len(ids), ids.shape[1]))
        lengths = (ids > 0).sum(1, keepdim=True).float()
        return torch.cat([ids.sum(1, keepdim=True).float(), lengths], 1)


def make_text_encoder(text_id: str = "t") -> TextEncoder:
    def tokenize(texts):
        width = max(len(text) for text in texts)
        rows = [[ord(c) % 128 + 1 for c in text] + [0] * (width - len(text)) for text in texts]
        return {"ids": torch.tensor(rows).reshape(len(texts), width)}

    device = torch.device("cpu")
    return TextEncoder(CountingTexts(), tokenize, text_id, 2, device, torch.float32)


def test_each_text_once_in_batches_of_like_length(cache):
    texts = ["cat", "a long sentence about a dog", "cat", "dog", "one more long sentence here", ""]
    encoder = make_text_encoder()
    features = encode_texts(texts, encoder, cache=cache, batch_size=3)
    assert encoder.module.batches == [(3, 3), (2, 27)]
    np.testing.assert_array_equal(features[:, 1], [len(text) for text in texts])
    again = make_text_encoder()
    np.testing.assert_array_equal(encode_texts(texts[::-1], again, cache=cache), features[::-1])
    assert again.module.batches == []
    other = make_text_encoder("other")
    encode_texts(["cat"], other, cache=cache)
    assert other.module.batches == [(1, 3)]


def test_no_texts_and_texts_without_a_cache():
    assert encode_texts([], make_text_encoder(), cache=None).shape == (0, 2)
    assert encode_texts(["a", "b\udcff"], make_text_encoder(), cache=None).shape == (2, 2)
