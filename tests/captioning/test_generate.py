"""What is written, against searches written down here, which share nothing with `generate`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.captioning.caption_job import (
    BRIDGES,
    Seen,
    image_model,
    use_encoder,
    write_captioner,
    write_images,
)
from tests.captioning.little_job import IDENTITY
from tests.captioning.tiny import END, PAD, grids

from captune.captioning.caption import Caption
from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import from_pretrained, recipe_of
from captune.captioning.decoder_parts import check_length
from captune.captioning.generate import GenerationSettings
from captune.captioning.model import CaptionModel
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.pipeline import Encoding
from captune.images import ImageFile, Skipped, find_images
from captune.models.encoders import ImageTextModel
from captune.runs.records import CaptionWord

LONGEST = 12
FAMILIES = ("gpt2", "llama")
# soft tokens stand in the prompt, where generate itself copies them
ATTENDING = pytest.mark.parametrize(
    "captioner", [(family, "cross-attention") for family in FAMILIES], ids="-".join, indirect=True
)


@pytest.fixture(scope="module", params=[(f, b) for f in FAMILIES for b in BRIDGES], ids="-".join)
def captioner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    family, bridge = request.param
    folder = tmp_path_factory.mktemp("captioner") / "run"
    made, _ = from_pretrained(write_captioner(folder, family, bridge=bridge), device="cpu")
    return made


@torch.no_grad()
def next_log_probabilities(
    captioner: CaptionModel, grid: torch.Tensor, rows: list[list[int]]
) -> torch.Tensor:
    """[rows, vocabulary] after these ids of one image: all computed anew, a row at a time."""
    found = []
    for row in rows:
        ids = torch.tensor([[captioner.decoder.start_id, *row]])
        logits = captioner.logits(grid[None], ids, torch.ones_like(ids))
        found.append(logits[0, -1].log_softmax(-1))
    return torch.stack(found)


def greedy(captioner: CaptionModel, grid: torch.Tensor) -> list[int]:
    row: list[int] = []
    while len(row) < LONGEST and row[-1:] != [END]:
        row.append(int(next_log_probabilities(captioner, grid, [row])[0].argmax()))
    return row


def beam_search(captioner: CaptionModel, grid: torch.Tensor, beams: int) -> list[int]:
    """As transformers defines it: of `beams` running and `beams` ended, by mean a token."""
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, LONGEST + 1):
        scores = next_log_probabilities(captioner, grid, [row for _, row in running])
        options = [
            (total + float(scores[place, id]), [*row, id])
            for place, (total, row) in enumerate(running)
            for id in range(scores.shape[1])
        ]
        options.sort(key=lambda option: -option[0])
        best = options[: 2 * beams]
        ended += [(total / length, row) for total, row in best[:beams] if row[-1] == END]
        ended = sorted(ended, key=lambda option: -option[0])[:beams]
        running = [option for option in best if option[1][-1] != END][:beams]
        if len(ended) == beams and ended[-1][0] >= running[0][0] / length:
            break
    else:
        ended += [(total / LONGEST, row) for total, row in running]
    return max(ended, key=lambda option: option[0])[1]


def without_end(row: list[int]) -> list[int]:
    return row[:-1] if row[-1:] == [END] else row


def test_greedy_is_the_likeliest_token_each_time(captioner: CaptionModel) -> None:
    images = grids(6)
    written = captioner.generate(images, beams=1, max_tokens=LONGEST)
    assert written.ids == [without_end(greedy(captioner, grid)) for grid in images]


@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_equals_one_written_by_hand(captioner: CaptionModel, beams: int) -> None:
    images = grids(4, seed=2)
    written = captioner.generate(images, beams=beams, max_tokens=LONGEST)
    assert written.ids == [without_end(beam_search(captioner, grid, beams)) for grid in images]


@ATTENDING
def test_beam_search_equals_generate_with_an_image_a_beam(captioner: CaptionModel) -> None:
    """transformers' own, over images that were copied for each beam before they were projected."""
    images, beams, decoder = grids(4, seed=3), 5, captioner.decoder
    with torch.inference_mode():
        captioner.context.states = captioner.project(images.repeat_interleave(beams, dim=0))
        start = torch.full((4, 1), decoder.start_id)
        rows = decoder.module.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=LONGEST,
            eos_token_id=END,
            pad_token_id=PAD,
        )[:, 1:].tolist()
        captioner.context.states = None
    cut = [row[: row.index(END)] if END in row else row for row in rows]
    assert captioner.generate(images, beams=beams, max_tokens=LONGEST).ids == cut


@ATTENDING
def test_keys_and_values_are_not_copied_for_beams(captioner: CaptionModel) -> None:
    seen: list[tuple[int, tuple[int, ...], int]] = []

    def look(module: Any, args: Any, output: Any) -> None:
        hidden, keys = args[0], args[1]
        seen.append((len(hidden), tuple(keys.shape), keys.data_ptr()))

    projected = []
    layer = captioner.bridge.cross_attention_layers[0]
    handles = [
        layer.register_forward_hook(look),
        layer.key.register_forward_hook(lambda *_: projected.append(1)),
    ]
    captioner.generate(grids(3), beams=5, max_tokens=LONGEST)
    for handle in handles:
        handle.remove()
    while_beaming = seen[:-1]  # the last is the teacher-forced pass, a row an image
    assert len(projected) == 1
    assert {rows for rows, _, _ in while_beaming} <= {15, 3}
    assert 15 in {rows for rows, _, _ in while_beaming}
    assert {shape[0] for _, shape, _ in seen} == {3}
    assert len({place for _, _, place in seen}) == 1


def test_nothing_stands_behind_the_end(captioner: CaptionModel) -> None:
    written = captioner.generate(grids(24), beams=1, max_tokens=LONGEST)
    ended = [
        len(row) < len(own) for row, own in zip(written.ids, written.log_probabilities, strict=True)
    ]
    assert any(ended)
    for row, end in zip(written.ids, ended, strict=True):
        assert END not in row
        assert end or len(row) == LONGEST


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_equals_one_by_one(captioner: CaptionModel, beams: int) -> None:
    images = grids(7, seed=5)
    together = captioner.generate(images, beams=beams, max_tokens=LONGEST)
    for place in range(7):
        alone = captioner.generate(images[place : place + 1], beams=beams, max_tokens=LONGEST)
        assert alone.ids[0] == together.ids[place]
        assert alone.log_probabilities[0] == pytest.approx(
            together.log_probabilities[place], abs=1e-4
        )


@ATTENDING
def test_threads_have_images_of_their_own(captioner: CaptionModel) -> None:
    """A service asks one captioner from several threads."""
    asked = [grids(size, seed=size) for size in (1, 2, 3, 4)]

    def described(images: torch.Tensor) -> list[list[int]]:
        return captioner.generate(images, beams=2, max_tokens=LONGEST).ids

    alone = [described(images) for images in asked]
    assert alone[0] != alone[1][:1]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(described, asked * 4)) == alone * 4


# from here on with images


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    return find_images([write_images(tmp_path / "images", 11)]).images


def captioned(
    captioner: CaptionModel, images: list[ImageFile], **how: Any
) -> list[list[Caption | Skipped]]:
    model = how.pop("model", None) or image_model()
    settings = GenerationSettings(2, LONGEST, Encoding(batch_size=4, **how))
    return list(whole_captioner(captioner, model).stream(images, settings))


def whole_captioner(captioner: CaptionModel, model: ImageTextModel) -> Captioner:
    return Captioner(captioner, model, recipe_of(captioner, IDENTITY, bridge="", method=""))


def test_log_probabilities_are_those_of_a_pass_over_the_caption(
    captioner: CaptionModel, images: list[ImageFile]
) -> None:
    decoder = captioner.decoder
    encoder = image_model().image
    for caption in (one for batch in captioned(captioner, images) for one in batch):
        assert isinstance(caption, Caption)
        from PIL import Image

        with Image.open(caption.image.path) as image:
            grid = encoder.encode_grid(encoder.whole(image.convert("RGB"))[None]).float()
        (ids,) = decoder.encode([caption.caption])
        whole = [*ids, END] if caption.ended else ids
        with torch.no_grad():
            inputs = torch.tensor([[decoder.start_id, *whole[:-1]]])
            logits = captioner.logits(grid, inputs, torch.ones_like(inputs))[0].log_softmax(-1)
        expected = [float(logits[place, id]) for place, id in enumerate(whole)]
        # a word a token here. Beside other images the last bit of a grid in float16 may be another
        # one, which moves each of them by up to 1.5e-4 on some processors
        near = 5e-4
        assert [word.log_probability for word in caption.words] == pytest.approx(
            expected[: len(ids)], abs=near
        )
        assert caption.log_probability == pytest.approx(sum(expected), abs=near * len(whole))
        assert caption.mean_log_probability == pytest.approx(sum(expected) / len(whole), abs=near)
        assert caption.tokens == len(whole)


def test_order_batches_and_bad_images(
    captioner: CaptionModel, images: list[ImageFile], tmp_path: Path
) -> None:
    whole = captioned(captioner, images)
    assert [len(batch) for batch in whole] == [4, 4, 3]
    assert [one.image for batch in whole for one in batch] == images  # type: ignore[union-attr]
    images[5].path.write_bytes(b"\x89PNG broken")
    images[10].path.unlink()
    broken = captioned(captioner, images)
    flat = [one for batch in broken for one in batch]
    assert [len(batch) for batch in broken] == [4, 4, 3]
    assert [place for place, one in enumerate(flat) if isinstance(one, Skipped)] == [5, 10]
    assert broken[0] == whole[0]
    assert captioned(captioner, [images[10], images[5]]) == [[flat[10], flat[5]]]


def test_the_same_from_the_cache_and_from_the_middle(
    captioner: CaptionModel, images: list[ImageFile], tmp_path: Path
) -> None:
    seen = Seen()
    model = image_model(seen=seen)
    fresh = captioned(captioner, images)
    with FeatureCache(tmp_path / "features") as cache:
        assert captioned(captioner, images, cache=cache, model=model) == fresh
        assert seen.images == 11
        assert captioned(captioner, images, cache=cache, model=model) == fresh
        # what goes on at the beginning of a batch is equal to the last bit
        assert captioned(captioner, images[4:], cache=cache, model=model) == fresh[1:]
        assert seen.images == 11


def test_no_image_is_encoded_long_before_its_turn(captioner: CaptionModel, tmp_path: Path) -> None:
    """Memory does not grow with the number of images: nothing waits but two batches."""
    images = find_images([write_images(tmp_path / "many", 60)]).images
    seen = Seen()
    model = image_model(seen=seen)
    how = GenerationSettings(1, 2, Encoding(batch_size=4, workers=1))
    batches = whole_captioner(captioner, model).stream(images, how)
    for count, _ in enumerate(batches, 1):
        assert seen.images <= 4 * (count + 1)
    assert seen.images == 60


def test_the_full_stop_is_at_its_word(
    captioner: CaptionModel, images: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [CaptionWord("a", -1.0), CaptionWord("dog", -2.0), CaptionWord(".", -0.5)]
    monkeypatch.setattr("captune.captioning.caption.caption_words", lambda *given: words)
    found = [one for batch in captioned(captioner, images[:2]) for one in batch]
    assert {one.caption for one in found if isinstance(one, Caption)} == {"a dog."}
    assert found[0].words == words  # type: ignore[union-attr]


def test_in_python(
    images: list[ImageFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    loaded = []

    def load(spec: str, **where: Any) -> Any:
        loaded.append(spec)
        return image_model()

    monkeypatch.setattr("captune.captioning.captioner.load_model", load)
    folder = write_captioner(tmp_path / "run")
    captioner = Captioner.from_pretrained(folder, device="cpu")
    images[3].path.write_bytes(b"no image")
    place = images[0].path.parent
    captions = captioner.caption(place, max_tokens=LONGEST)
    assert [one.image.name for one in captions] == [p.name for p in images if p is not images[3]]
    assert captioner.caption([images[0].path], max_tokens=LONGEST)[0].caption == captions[0].caption
    assert loaded == ["places"]
    skipped: list[Skipped] = []
    captioner.caption(str(place), max_tokens=LONGEST, on_skip=skipped.append)
    assert [one.path for one in skipped] == ["image_003.png"]
    Captioner.from_pretrained(folder, encoder="elsewhere", device="cpu")
    assert loaded == ["places", "elsewhere"]
    use_encoder(monkeypatch, image_model("d1" * 32))
    with pytest.raises(UserError, match="has other weights"):
        Captioner.from_pretrained(folder, encoder="another", device="cpu")


def test_a_caption_must_fit_the_decoder(tmp_path: Path) -> None:
    captioner, _ = from_pretrained(write_captioner(tmp_path / "run", "gpt2"), device="cpu")
    check_length(captioner.decoder, 63)
    with pytest.raises(
        UserError, match="has places for 64 tokens, of which its start takes 1; take 63 or fewer"
    ):
        check_length(captioner.decoder, 64)
