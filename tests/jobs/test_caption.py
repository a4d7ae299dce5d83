"""The files of a captioning, and that a killed one goes on to the same files."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tests.captioning.caption_job import (
    image_model,
    use_encoder,
    with_agreement,
    write_captioner,
    write_images,
)
from tests.colour_model import colour_model
from tests.image_factory import turned
from tests.processes import ended, start

import captune
from captune.captioning import any_captioner, captioner, rerank
from captune.captioning.generate import batch_ends
from captune.captioning.settings import WEIGHTS
from captune.captions import read_captions
from captune.errors import UserError
from captune.jobs import caption as job
from captune.jobs import caption_outputs
from captune.jobs.caption import CaptionResult, run
from captune.jobs.caption_outputs import CaptionJournal
from captune.options.captioning import CaptionOptions
from captune.pages.checking import check_page
from captune.progress import SILENT
from captune.runs import read_run
from captune.runs.writer import JOURNAL, locked_folder

COUNT = 13


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    use_encoder(monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", COUNT)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioner(tmp_path_factory.mktemp("captioner") / "run")


def options(images: Path, model: Path, **more: Any) -> CaptionOptions:
    settings = {"beam": 2, "max_tokens": 8, "batch_size": 4, "device": "cpu", **more}
    return CaptionOptions(images=[str(images)], model=str(model), **settings)


def captioned(images: Path, model: Path, **more: Any) -> tuple[CaptionResult, list[str]]:
    said: list[str] = []
    return run(options(images, model, **more), Said(said)), said


class Said:
    """A progress that keeps its sentences."""

    def __init__(self, said: list[str]) -> None:
        self.bar = SILENT.bar
        self.message = said.append


def records(run: Path) -> list[dict[str, Any]]:
    return list(read_run(run).records())


class Killed(BaseException):
    pass


def killed_after(
    batches: int, monkeypatch: pytest.MonkeyPatch, *, cut: int = 0
) -> pytest.MonkeyPatch:
    """The next captioning dies in the middle of writing down a batch; `cut` bytes are lost."""
    real, left = CaptionJournal.add, [batches]

    def dying(self: CaptionJournal, entries: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        real(self, entries)
        if left[0] == 0 and cut:
            with self.path.open("r+b") as file:
                file.truncate(file.seek(0, os.SEEK_END) - cut)

    patch = pytest.MonkeyPatch()
    patch.setattr(CaptionJournal, "add", dying)
    return patch


def test_a_limit(images: Path, model: Path) -> None:
    some, everything = (captioned(images, model, limit=n)[0].captions for n in (3, 0))
    assert len(some) == 3
    assert set(some) < set(everything)
    assert captioned(images, model, limit=3)[0].captions == some


def test_the_run_folder(images: Path, model: Path, tmp_path: Path) -> None:
    (images / "image_004.png").write_bytes(b"\x89PNG broken")
    out, predictions = tmp_path / "out", tmp_path / "p" / "pred.json"
    result, _ = captioned(images, model, out=out, predictions=predictions)
    run = read_run(out)
    assert run.kind == "caption"
    assert run.root == images
    assert [about["spec"] for about in run.about["models"]] == [
        str(model),
        "places",
        str(model.parent / "decoder-llama"),
    ]
    assert all(about["weights_id"] for about in run.about["models"])
    assert run.about["options"]["beam"] == 2
    rows = list(run.records())
    assert len(rows) == result.images == run.metrics["images"] == COUNT - 1
    assert [item.path for item in result.skipped] == ["image_004.png"]
    assert run.metrics["skipped"][0]["path"] == "image_004.png"
    assert run.metrics["ended"] == result.ended == sum(row["ended"] for row in rows)
    for row in rows:
        assert row.keys() == {
            *("path", "caption", "ended", "tokens", "log_probability", "mean_log_probability"),
            "words",
        }
        assert row["caption"] == " ".join(word["word"] for word in row["words"])
        words = sum(word["log_probability"] for word in row["words"])
        end = row["log_probability"] - words
        assert end < 0 if row["ended"] else end == pytest.approx(0, abs=1e-4)
        tokens = len(row["words"]) + row["ended"]
        assert row["tokens"] == tokens
        assert row["mean_log_probability"] == pytest.approx(
            row["log_probability"] / tokens, abs=1e-4
        )
    stems = {Path(row["path"]).stem: row["caption"] for row in rows}
    assert json.loads(predictions.read_text()) == stems
    assert list(read_captions(out).captions.values()) == [[text] for text in stems.values()]
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    # and once more, over what stands there
    captioned(images, model, out=out)
    assert records(out) == rows


@pytest.mark.parametrize(("batches", "cut"), [(0, 0), (1, 0), (2, 7), (3, 0), (4, 1)])
def test_a_stopped_run_goes_on(
    batches: int,
    cut: int,
    images: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (images / "image_002.png").write_bytes(b"\x89PNG broken")
    whole, out, pred = tmp_path / "whole", tmp_path / "out", tmp_path / "pred.json"
    captioned(images, model, out=whole, predictions=tmp_path / "whole.json")
    patch = killed_after(batches, monkeypatch, cut=cut)
    # four batches there are: the last kill is while the run folder is written
    patch.setattr(job, "_write_run", _dying)
    with pytest.raises(Killed):
        captioned(images, model, out=out, predictions=pred)
    patch.undo()
    assert not pred.exists()
    assert not (out / "run.json").exists()
    result, said = captioned(images, model, out=out, predictions=pred)
    kept = min(COUNT, 4 * (batches - bool(cut)))
    assert result.resumed == max(0, kept)
    assert any("resuming after" in sentence for sentence in said) == bool(result.resumed)
    for name in ("records.jsonl", "metrics.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert pred.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert [item.path for item in result.skipped] == ["image_002.png"]
    assert len(result.captions) == result.images == COUNT - 1


def _dying(*args: Any) -> None:
    raise Killed


def stop(
    images: Path, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> None:
    patch = killed_after(2, monkeypatch)
    with pytest.raises(Killed):
        captioned(images, model, out=out, **more)
    patch.undo()


@pytest.mark.parametrize("what", ["changed", "gone", "new"])
def test_a_image_that_is_another_ends_what_is_taken_over(
    what: str, images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stop(images, model, out, monkeypatch)
    if what == "changed":
        shutil.copy(images / "image_001.png", images / "image_005.png")
    elif what == "gone":
        (images / "image_005.png").unlink()
    else:
        shutil.copy(images / "image_001.png", images / "image_004b.png")
    result, _ = captioned(images, model, out=out)
    assert result.resumed == 4
    captioned(images, model, out=tmp_path / "whole")
    assert records(out) == records(tmp_path / "whole")


def test_other_options_do_not_go_on(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stop(images, model, out, monkeypatch)
    for more, match in (
        ({"beam": 3}, "was started there with --beam 2, and this one has 3"),
        ({"max_tokens": 9}, "--max-tokens 8"),
        ({"batch_size": 5}, "--batch-size 4"),
        ({"limit": 9}, "was started there with --limit 0, and this one has 9"),
    ):
        with pytest.raises(UserError, match=match):
            captioned(images, model, out=out, **more)
    other = write_captioner(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="was started there with model"):
        captioned(images, other, out=out)
    # what changes no caption may change
    result, _ = captioned(images, model, out=out, no_cache=True, predictions=tmp_path / "p.json")
    assert result.resumed == 8
    assert len(json.loads((tmp_path / "p.json").read_text())) == COUNT


def test_a_damaged_journal_is_begun_again(images: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    no_image = b'{"asked": {"--beam": 3}}\n{"name": "image_0'
    for content in (b"", b"\0\0\0\n", b"not json\n{}\n", b'{"asked": ', no_image):
        out.mkdir(exist_ok=True)
        (out / JOURNAL).write_bytes(content)
        assert captioned(images, model, out=out)[0].resumed == 0
        assert len(records(out)) == COUNT


def test_two_at_once_are_refused(images: Path, model: Path, tmp_path: Path) -> None:
    with (
        locked_folder(tmp_path / "out"),
        pytest.raises(UserError, match="another captune is writing there"),
    ):
        captioned(images, model, out=tmp_path / "out")


def test_an_earlier_run_stays_until_the_new_one_is_whole(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    captioned(images, model, out=out, beam=1)
    before = records(out)
    stop(images, model, out, monkeypatch)
    assert records(out) == before
    assert captioned(images, model, out=out)[0].resumed == 8
    assert read_run(out).about["options"]["beam"] == 2


def test_same_stems_are_refused_before_the_work(images: Path, model: Path, tmp_path: Path) -> None:
    shutil.copy(images / "image_001.png", images / "image_001.jpg")
    (images / "sub").mkdir()
    pred = tmp_path / "pred.json"
    with pytest.raises(UserError, match=r"image_001.jpg.*the same stem"):
        captioned(images, model, predictions=pred)
    (images / "image_001.jpg").unlink()
    shutil.copy(images / "image_003.png", images / "sub" / "image_003.png")
    with pytest.raises(UserError, match=r"sub/image_003.*the same stem"):
        captioned(images, model, predictions=pred)
    # of sidecars only those of one folder
    result, _ = captioned(images, model, sidecar=True)
    assert result.sidecars == {"written": COUNT + 1, "kept": 0}
    shutil.copy(images / "image_001.png", images / "image_001.jpg")
    with pytest.raises(UserError, match=r"would share \"image_001.txt\""):
        captioned(images, model, sidecar=True)


def test_sidecars(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = images / "image_005.txt"
    mine.write_text("what I wrote\n")
    stop(images, model, tmp_path / "out", monkeypatch, sidecar=True)
    assert len(list(images.glob("*.txt"))) == 8
    (images / "image_007.txt").unlink()  # as if the kill had come before it
    result, _ = captioned(images, model, sidecar=True, out=tmp_path / "out")
    assert result.sidecars == {"written": COUNT - 1, "kept": 1}
    assert mine.read_text() == "what I wrote\n"
    written = {row["path"]: row["caption"] for row in records(tmp_path / "out")}
    for name, caption in written.items():
        if name != "image_005.png":
            assert (images / name).with_suffix(".txt").read_text() == caption + "\n"
    assert len(read_captions(images)) == COUNT
    result, said = captioned(images, model, sidecar=True, beam=1)
    assert (result.images, result.sidecars) == (0, {"written": 0, "kept": COUNT})
    assert f"{COUNT} images have a .txt of that name already, which is kept" in said[0]
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        captioned(images, tmp_path / "nowhere", sidecar=True)
    result, said = captioned(images, model, sidecar=True, overwrite=True)
    assert "which is replaced" in said[0]
    assert mine.read_text() == written["image_005.png"] + "\n"
    assert result.sidecars == {"written": COUNT, "kept": 0}

    # what is skipped is not captioned; what is written beside it is
    (images / "image_003.txt").unlink()
    result, _ = captioned(images, model, sidecar=True)
    assert (result.images, result.sidecars) == (1, {"written": 1, "kept": COUNT - 1})
    pred = tmp_path / "pred.json"
    result, _ = captioned(images, model, sidecar=True, predictions=pred)
    assert (result.images, result.sidecars) == (COUNT, {"written": 0, "kept": COUNT})


@pytest.mark.parametrize("existing", ["append", "prepend"])
def test_captions_beside_what_is_there(images: Path, model: Path, existing: str) -> None:
    mine = images / "image_005.txt"
    mine.write_text("what I wrote\n")
    more = {"sidecar": True, "existing": existing, "prefix": "sks, ", "suffix": " (lite)"}
    result, said = captioned(images, model, **more)
    assert (
        f"1 image has a .txt of that name already, which is kept, with the caption {existing}ed"
        in said[0]
    )
    assert result.sidecars == {"written": COUNT, "kept": 0}
    captions = {Path(path).stem: f"sks, {caption} (lite)" for path, caption in result.captions}
    own = captions.pop("image_005")
    both = f"what I wrote, {own}" if existing == "append" else f"{own}, what I wrote"
    assert mine.read_text() == f"{both}\n"
    for stem, caption in captions.items():
        assert (images / f"{stem}.txt").read_text() == f"{caption}\n"
    # again, as after a kill of a captioning without --out: none is added twice
    (images / "image_003.txt").write_text("")
    result, _ = captioned(images, model, **more)
    assert result.sidecars == {"written": 1, "kept": COUNT - 1}
    assert mine.read_text() == f"{both}\n"
    for stem, caption in captions.items():
        assert (images / f"{stem}.txt").read_text() == f"{caption}\n"
    with pytest.raises(UserError, match="are for --sidecar"):
        options(images, model, prefix="a")
    with pytest.raises(UserError, match="give one of them"):
        options(images, model, **more, overwrite=True)


def test_sidecars_that_all_stand_load_no_torch(images: Path) -> None:
    for image in images.iterdir():
        image.with_suffix(".txt").write_text("what I wrote")
    words = ["caption", str(images), "--sidecar", "--json"]
    code = (
        "import sys; from captune.cli import main; "
        f"status = main({words!r}); sys.exit(status or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["sidecars"] == {"written": 0, "kept": COUNT}


@pytest.mark.needs("linux")
@pytest.mark.parametrize("place", ["a link", "a link to nothing", "a pipe", "a folder"])
def test_a_sidecar_that_is_no_file_of_the_folder_is_left_alone(
    images: Path, model: Path, tmp_path: Path, place: str
) -> None:
    """A folder of images from elsewhere may lead its sidecars to the user's own files."""
    mine, sidecar = tmp_path / "mine", images / "image_005.txt"
    if place == "a pipe":
        os.mkfifo(sidecar)
    elif place == "a folder":
        sidecar.mkdir()
    else:
        sidecar.symlink_to(mine)
        if place == "a link":
            mine.write_text("mine")
    for more in ({"existing": "append"}, {"existing": "overwrite"}, {"overwrite": True}):
        with pytest.raises(UserError, match=r"image_005.txt\" is a link or no file"):
            captioned(images, model, sidecar=True, **more)
    assert [*images.glob("*.txt")] == [sidecar]
    pred = tmp_path / "pred.json"
    result, _ = captioned(images, model, sidecar=True, predictions=pred)
    assert result.sidecars == {"written": COUNT - 1, "kept": 1}
    assert not mine.exists() or mine.read_text() == "mine"


@pytest.mark.needs("linux")
@pytest.mark.parametrize("place", ["a link", "a pipe"])
def test_a_journal_that_is_no_file_of_the_run_is_left_alone(
    images: Path, model: Path, tmp_path: Path, place: str
) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    out.mkdir()
    mine.write_text("mine")
    os.mkfifo(out / JOURNAL) if place == "a pipe" else (out / JOURNAL).symlink_to(mine)
    with pytest.raises(UserError, match="is a link or no file"):
        captioned(images, model, out=out)
    assert mine.read_text() == "mine"


def test_images_that_are_not_readable(images: Path, model: Path, tmp_path: Path) -> None:
    for path in images.iterdir():
        path.write_bytes(b"none")
    with pytest.raises(UserError, match="none of 13 files could be read"):
        captioned(images, model, out=tmp_path / "out", predictions=tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()
    assert not (tmp_path / "out").exists()


def test_what_is_refused(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="is not a folder; name the --out of a captune tune"):
        captioned(images, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no tuned captioner"):
        captioned(images, images)
    for settings in ({"max_tokens": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match="must be 1 or more"):
            options(images, model, **settings)
    for beam in (0, 9999):  # the latter would fill the machine's memory
        with pytest.raises(UserError, match=f"beam must be from 1 to 100, not {beam}"):
            options(images, model, beam=beam)
    with pytest.raises(UserError, match="would replace what is read"):
        captioned(images, model, predictions=images)
    with pytest.raises(UserError, match="holds files that are not a run"):
        captioned(images, model, out=images)
    monkeypatch.setattr(caption_outputs, "MOST_ANSWERS", 5)
    with pytest.raises(UserError, match="too many captions to print"):
        captioned(images, model)
    use_encoder(monkeypatch, image_model("d1" * 32))
    with pytest.raises(UserError, match="was trained with the image encoder places"):
        captioned(images, model, out=tmp_path / "out")
    # what failed before anything was written leaves no trace
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--overwrite is for --sidecar and --out"):
        options(images, model, overwrite=True)


def test_where_the_frozen_parts_lie_now(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(spec: str, **where: Any) -> Any:
        asked.append(spec)
        return image_model()

    monkeypatch.setattr("captune.captioning.captioner.load_model", load)
    moved = shutil.copytree(model.parent / "decoder-llama", tmp_path / "moved")
    first, _ = captioned(images, model)
    second, _ = captioned(images, model, decoder=str(moved), encoder="elsewhere")
    assert asked == ["places", "elsewhere"]
    assert first.captions == second.captions
    other = write_captioner(tmp_path / "x" / "gpt2", "gpt2").parent / "decoder-gpt2"
    with pytest.raises(UserError, match="was trained with the decoder"):
        captioned(images, model, decoder=str(other))


def test_of_several_methods_the_best(images: Path, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "three"
    shutil.copytree(model, run / "lora")
    (run / "metrics.json").write_text('{"best": "lora"}')
    result, said = captioned(images, run)
    assert said == [f"{run}: captions with lora, the best of its methods"]
    assert result.captioner["spec"] == str(run / "lora")


def test_a_cache_too_small_is_left_alone(
    images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captune.features.cache.FeatureCache.limit_bytes", 1000)
    result, said = captioned(images, model)
    assert result.images == COUNT
    assert "are not kept" in said[0]


def test_in_python(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(images, model, tmp_path / "o", monkeypatch, beam=1)
    how: dict[str, Any] = {"model": model, "beam": 1, "max_tokens": 8, "device": "cpu"}
    captions = captune.caption(images, batch_size=4, out=str(tmp_path / "o"), **how)
    for one, row in zip(captions, records(tmp_path / "o"), strict=True):
        # the mean is of rounded figures
        assert one.mean_log_probability == pytest.approx(row["mean_log_probability"], abs=2e-6)
        assert {**one.record(), "mean_log_probability": None} == {
            **row,
            "mean_log_probability": None,
        }
    (one,) = captune.caption(images / "image_003.png", **how)
    assert one.caption == captions[3].caption


def test_images_in_memory(images: Path, model: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"model": model, "beam": 1, "max_tokens": 8, "device": "cpu"}
    (tmp_path / "turned.jpg").write_bytes(turned(6))
    held: dict[str, Any] = {"turned.jpg": turned(6), "a page": b"<html>"}
    held["opened"] = Image.open(tmp_path / "turned.jpg")
    result = captune.caption(held, predictions=tmp_path / "captions.json", **how)
    (in_file,) = captune.caption(tmp_path / "turned.jpg", **how)
    assert result[0].record() == {**in_file.record(), "path": "turned.jpg"}
    assert [one.image.name for one in result] == ["turned.jpg", "opened"]
    assert [(one.path, one.reason) for one in result.skipped] == [
        ("a page", "not an image: a web page")
    ]
    assert list(json.loads((tmp_path / "captions.json").read_text())) == ["turned", "opened"]
    captioner = captune.Captioner.from_pretrained(model, device="cpu")
    (own,) = captioner.caption(turned(6), beam=1, max_tokens=8)
    assert (own.image.name, own.caption) == ("image 1", in_file.caption)
    for option in ({"out": tmp_path / "out"}, {"sidecar": True}):
        with pytest.raises(UserError, match="needs images that lie in files"):
            captune.caption(held, **how, **option)


def test_a_captioner_stays_loaded_within_a_block(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(model, tmp_path / "own" / "run")
    shutil.copytree(model.parent / "decoder-llama", tmp_path / "own" / "decoder-llama")
    how: dict[str, Any] = {"model": place, "beam": 1, "max_tokens": 8, "device": "cpu"}
    expected = [one.record() for one in captune.caption(images, **how)]
    loads: list[Path] = []
    load = any_captioner.load_captioner

    def counting(options: CaptionOptions, folder: Path, decoder: Any) -> Any:
        loads.append(folder)
        return load(options, folder, decoder)

    monkeypatch.setattr(any_captioner, "load_captioner", counting)
    with captune.keep_models(), ThreadPoolExecutor(3) as threads:
        told = threads.map(lambda _: captune.caption(images, **how), range(3))
        assert [[one.record() for one in result] for result in told] == [expected] * 3
        assert len(loads) == 1
        captune.caption(images, **{**how, "beam": 2, "batch_size": 3})
        with captune.keep_models():
            captune.caption(images, **how)
        assert len(loads) == 1
        with pytest.raises(UserError, match="--max-tokens 4096"):
            captune.caption(images, **{**how, "max_tokens": 4096})
        captune.caption(images, **how, dtype="bfloat16")
        assert len(loads) == 2
        with safe_open(place / WEIGHTS, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata()
        save_file({name: 3 * tensor for name, tensor in tensors.items()}, place / WEIGHTS, about)
        changed = [one.record() for one in captune.caption(images, **how)]
        assert changed != expected
        assert len(loads) == 3
    captune.caption(images, **how)
    assert len(loads) == 4


def test_half_precision(images: Path, model: Path, tmp_path: Path) -> None:
    result, _ = captioned(images, model, dtype="bfloat16", out=tmp_path / "out")
    assert result.images == COUNT
    assert all(row["log_probability"] < 0 for row in records(tmp_path / "out"))


def test_the_first_batch_is_small_and_a_resumed_run_has_the_same() -> None:
    assert batch_ends(100, 32) == [8, 40, 72, 100]
    assert batch_ends(40, 32) == [8, 40]
    assert batch_ends(7, 3) == [3, 6, 7]
    assert batch_ends(5, 32) == [5]
    assert batch_ends(0, 32) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
def test_kill_9(images: Path, model: Path, tmp_path: Path) -> None:
    """A process of its own, killed at moments drawn by chance, then left to end."""
    out = tmp_path / "out"
    chance = random.Random(0)
    journal = out / JOURNAL
    for kill in range(2):
        before = journal.stat().st_size if journal.exists() else 0
        process = start(caption_slowly, images, model, out)
        deadline = time.monotonic() + 300
        while not journal.exists() or journal.stat().st_size < before + 1500:
            assert process.exitcode is None, "it came to its end before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.random() * 0.1)
        process.kill()
        assert ended(process) == -signal.SIGKILL, kill
        assert not (out / "run.json").exists()
    assert ended(start(caption_slowly, images, model, out)) == 0
    captioned(images, model, out=tmp_path / "whole", batch_size=2)
    assert records(out) == records(tmp_path / "whole")
    assert read_run(out).about["resumed"] > 0


def caption_slowly(images: Path, model: Path, out: Path) -> None:
    """In a process of its own, with time to be killed in."""
    captioner.load_model = lambda spec, **where: image_model()
    add = CaptionJournal.add

    def slow(self: CaptionJournal, entries: Any) -> None:
        time.sleep(0.1)
        add(self, entries)

    CaptionJournal.add = slow  # type: ignore[method-assign]
    run(options(images, model, out=out, batch_size=2))


def test_the_chance_that_people_agree_is_a_column_and_flags(
    images: Path, model: Path, tmp_path: Path
) -> None:
    captioned(images, model, out=tmp_path / "before")
    sure = [record["mean_log_probability"] for record in records(tmp_path / "before")]
    centre = sorted(sure)[COUNT // 2]
    judged = with_agreement(model, tmp_path / "judged", centre)
    out, csv, rows = tmp_path / "out", tmp_path / "rows.csv", tmp_path / "rows.jsonl"
    plain, _ = captioned(images, judged, out=tmp_path / "plain")
    chances = [record["agreement"] for record in records(tmp_path / "plain")]
    assert chances == pytest.approx([1 / (1 + math.exp(10 * (centre - x))) for x in sure], abs=1e-4)
    assert plain.kept_answers[0].keys() == {"image", "caption", "log_probability", "agreement"}
    below = 0.5
    assert min(chances) < below < max(chances)
    result, _ = captioned(
        images, judged, out=out, to=[str(csv), str(rows)], flag_below=below, overwrite=True
    )
    flagged = [chance < below for chance in chances]
    assert result.flagged == sum(flagged) == read_run(out).metrics["flagged"]
    assert [record["flagged"] for record in records(out)] == flagged
    header, *lines = csv.read_text().splitlines()
    assert header == "image,caption,log_probability,agreement,flagged,model,weights_id"
    assert sum(",True," in line for line in lines) == sum(flagged)
    assert [json.loads(line)["flagged"] for line in rows.read_text().splitlines()] == flagged
    assert result.summary()["flagged"] == sum(flagged)
    assert f"flagged: {sum(flagged)} of {COUNT} captions" in "\n".join(result.sentences())
    page = (out / "report.html").read_text()
    assert "flagged only" in page
    assert "Would people agree with the captions?" in page
    assert "flagged only" not in (tmp_path / "plain" / "report.html").read_text()
    assert check_page(out / "report.html").holds


def test_the_flags_of_a_resumed_run_are_those_that_are_asked_for_now(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, out = with_agreement(model, tmp_path / "judged"), tmp_path / "out"
    stop(images, judged, out, monkeypatch)
    captioned(images, judged, out=out, flag_below=1.0)
    assert all(record["flagged"] == (record["agreement"] < 1) for record in records(out))


def test_a_captioner_without_a_fit_flags_nothing(images: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"--flag-below: nothing was fitted for .* captune tune"):
        captioned(images, model, flag_below=0.5)
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(UserError, match=r"flag-below must be above 0 and at most 1"):
            options(images, model, flag_below=wrong)


def test_a_stopped_run_goes_on_choosing(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerank, "load_image_text_model", lambda spec, **where: colour_model())
    how: dict[str, Any] = {"rerank": "match", "candidates": 3, "keep_candidates": True}
    whole, out = tmp_path / "whole", tmp_path / "out"
    captioned(images, model, out=whole, **how)
    patch = killed_after(2, monkeypatch)
    with pytest.raises(Killed):
        captioned(images, model, out=out, **how)
    patch.undo()
    with pytest.raises(UserError, match=r"--rerank"):
        captioned(images, model, out=out, **how | {"candidates": 4})
    assert captioned(images, model, out=out, **how)[0].resumed == 8
    assert (out / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()
    assert len(records(out)[0]["candidates"]) == 3
