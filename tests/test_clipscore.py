"""CLIPScore and its variants: the arithmetic by hand, real text sides, and what is encoded when."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captune.cli import main
from captune.clipscore import (
    PREFIX,
    PairFeatures,
    clip_scores,
    clip_scores_of,
    clipscore,
    clipscore_hw3,
    ref_clipscore,
)
from captune.errors import MismatchedImages, UserError
from captune.features.cache import FeatureCache
from captune.features.pipeline import Encoding
from captune.images import ImageFile
from captune.models.encoders import (
    ContextLength,
    ImageEncoder,
    ImageTextModel,
    SimilarityScale,
    TextEncoder,
)
from captune.models.load import load_model
from captune.options.scoring import MetricOptions
from captune.progress import Silent

ALL = ["clipscore", "ref_clipscore", "clipscore_hw3"]


class Dots(nn.Module):
    """Vectors [n, 4] through a fixed matrix; counts what it has seen."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        matrix = np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)
        self.matrix = torch.from_numpy(matrix)
        self.seen = 0

    def forward(self, values):
        self.seen += len(values)
        return values @ self.matrix


def letters(texts):
    """Counts of the letters a, b, c and of all characters of each text."""
    rows = [[text.count(c) for c in "abc"] + [len(text)] for text in texts]
    return {"values": torch.tensor(rows, dtype=torch.float32)}


def pixels(image):
    red, green, blue = np.asarray(image)[0, 0] / np.float32(255)
    return torch.tensor([red, green, blue, 0.5])


def words(texts):
    return [len(text.split()) + 2 for text in texts]


def scripted(context: int | None = 12, spec: str = "scripted") -> ImageTextModel:
    cpu, dtype = torch.device("cpu"), torch.float32
    limit = None if context is None else ContextLength(context, words)
    return ImageTextModel(
        spec=spec,
        weights_id="ab" * 32,
        licence=None,
        image=ImageEncoder(Dots(1), pixels, "pixel", "ab" * 32, 4, cpu, dtype),
        text=TextEncoder(Dots(2), letters, "ab" * 32, 4, cpu, dtype, limit),
        scoring=SimilarityScale(100.0),
    )


CANDIDATES = {"x": "a cab", "y": "bbb", "z": "a cab", "w": "a b c"}
REFERENCES = {"w": ["a b c", "cc"], "x": ["a cab here", "b"], "y": ["c"], "z": ["aa", "a", "abc"]}
COLOURS = {"x": (250, 10, 30), "y": (5, 200, 90), "z": (40, 40, 240), "w": (9, 9, 9)}


@pytest.fixture
def images(tmp_path):
    made = {}
    for image, colour in COLOURS.items():
        path = tmp_path / f"{image}.png"
        Image.new("RGB", (8, 6), colour).save(path)
        made[image] = ImageFile(path, path.name)
    return made


def by_hand(candidate, references, colour, prefix=PREFIX, w=2.5):
    """(CLIPScore, RefCLIPScore) in float64 from the formula, one image at a time."""

    def vector(values, seed):
        v = np.asarray(values, dtype=np.float64) @ np.random.default_rng(seed).normal(size=(4, 4))
        return v / np.sqrt((v**2).sum())

    def text(caption):
        read = prefix + caption
        return vector([*(read.count(c) for c in "abc"), len(read)], 2)

    image = vector([*(np.array(colour) / 255), 0.5], 1)
    clip = w * max(float(image @ text(candidate)), 0.0)
    if not references:
        return clip, None
    best = max(float(text(candidate) @ text(reference)) for reference in references)
    return clip, 2 * clip * best / (clip + best) if clip + best else 0.0


def test_the_scores_are_those_of_the_formulas(images):
    model = scripted()
    scores = clipscore(CANDIDATES, images, model=model)
    with_references = ref_clipscore(CANDIDATES, REFERENCES, images, model=model)
    homework = clipscore_hw3(CANDIDATES, images, model=model)
    assert list(scores.per_image) == list(CANDIDATES)
    for image, candidate in CANDIDATES.items():
        clip, ref = by_hand(candidate, REFERENCES[image], COLOURS[image])
        plain, _ = by_hand(candidate, None, COLOURS[image], prefix="")
        assert scores.per_image[image] == pytest.approx(clip, abs=1e-5)
        assert with_references.per_image[image] == pytest.approx(ref, abs=1e-5)
        assert homework.per_image[image] == pytest.approx(plain, abs=1e-5)
    assert 0.0 in {*scores.per_image.values(), *homework.per_image.values()}  # something is clipped
    for some in (scores, with_references, homework):
        assert some.corpus == pytest.approx(np.mean(list(some.per_image.values())), abs=1e-12)
        assert some.statistics is None
        json.dumps(some.recipe)
    other = clipscore(CANDIDATES, images, model=model, prefix="abc ", w=1.0)
    assert other.per_image["x"] == pytest.approx(
        by_hand("a cab", None, COLOURS["x"], "abc ", 1.0)[0], abs=1e-5
    )
    assert other.name == 'CLIPScore[scripted, prefix="abc ", w=1, float32, 12 tokens]'


def test_images_are_paths_or_in_memory(images):
    expected = clipscore(CANDIDATES, images, model=scripted()).per_image
    files = {id: image.path for id, image in images.items()}
    held = {
        "x": str(files["x"]),
        "y": files["y"],
        "z": files["z"].read_bytes(),
        "w": Image.open(files["w"]),
    }
    assert clipscore(CANDIDATES, held, model=scripted()).per_image == expected
    with pytest.raises(UserError, match=r"1 of 4 images cannot be read \(z: 0 bytes"):
        clipscore(CANDIDATES, {**held, "z": b""}, model=scripted())


def options(**given):
    return MetricOptions(**{"batch_size": 2, "workers": 1, **given})


def asked(metrics=ALL, model=None, captions=CANDIDATES, references=REFERENCES, *, images, **given):
    opened = []

    class Watched(Silent):
        @contextmanager
        def bar(self, what, total=0):
            counts = []
            yield counts.append
            opened.append((what, total, sum(counts)))

    scores = clip_scores(
        metrics, captions, references, images, options(**given), progress=Watched(), model=model
    )
    assert opened == [("encoding", len(captions), len(captions))]
    return scores


def test_one_pass_for_all_three_and_a_new_checkpoint_is_a_text_pass(images):
    model = scripted()
    scores = asked(model=model, images=images)
    assert model.image.module.seen == 4
    captions = set(CANDIDATES.values())
    referred = {caption for several in REFERENCES.values() for caption in several}
    assert model.text.module.seen == len(captions) + len({PREFIX + c for c in captions | referred})

    again = scripted()  # the same weights in another process
    assert {id: s.per_image for id, s in asked(model=again, images=images).items()} == {
        id: s.per_image for id, s in scores.items()
    }
    assert (again.image.module.seen, again.text.module.seen) == (0, 0)

    better = {image: caption + " b" for image, caption in CANDIDATES.items()}
    asked(model=again, captions=better, images=images)
    assert again.image.module.seen == 0
    assert again.text.module.seen == 2 * len(set(better.values()))

    uncached = scripted()
    asked(model=uncached, images=images, no_cache=True)
    assert uncached.image.module.seen == 4


def test_the_same_image_under_two_ids_is_encoded_once(images):
    model = scripted()
    pairs = {**images, "y": images["x"].path}  # a path does as well
    with FeatureCache() as cache:
        scores = clipscore({"x": "a cab", "y": "a cab"}, pairs, model=model, how=Encoding(cache))
    assert model.image.module.seen == 1
    assert scores.per_image["x"] == scores.per_image["y"]


def test_a_command_loads_the_model_that_its_options_name(images, tmp_path, monkeypatch, capsys):
    loaded = []

    def load(spec, **where):
        loaded.append((spec, where))
        return scripted()

    monkeypatch.setattr("captune.models.load.load_image_text_model", load)
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps(CANDIDATES))
    words = ["--images", str(tmp_path), "--metrics", "clipscore", "--model", "hf:some/model"]
    status = main(["score", str(captions), *words, "--device", "cpu", "--dtype", "float16"])
    assert status == 0, capsys.readouterr().err
    assert loaded == [("hf:some/model", {"device": "cpu", "dtype": "float16"})]


def test_the_prefix_is_that_of_the_options(images):
    given = options(prefix="see: ")
    scores = clip_scores(["clipscore"], CANDIDATES, None, images, given, model=scripted())
    assert list(scores) == ["clipscore"]
    assert scores["clipscore"].recipe["prefix"] == "see: "


def pairs_of(image, candidate, references, starts):
    def unit(rows):
        rows = np.array(rows, dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    recipe = {"model": {"spec": "m"}, "dtype": "float32", "device": "cpu", "context_length": None}
    n = len(image)
    return PairFeatures(
        ids=[str(i) for i in range(n)],
        images=unit(image),
        texts=unit([*candidate, *references]),
        prefixed=np.arange(n),
        plain=np.arange(n),
        references=np.arange(len(references)) + n,
        starts=np.array(starts),
        prefix=PREFIX,
        truncated={"candidates": 0, "references": 0},
        empty=0,
        recipe=recipe,
    )


def test_a_mean_with_nothing_or_less_is_nothing():
    """Where the published code divides by zero or leaves the range, the paper's clipping holds."""
    pairs = pairs_of(
        image=[[1, 0], [-1, 0], [1, 0], [1, 0]],
        candidate=[[1, 0], [1, 0], [0, 1], [1, 1]],
        references=[[-1, 0.1], [1, 0], [0, -1], [-1, 0], [-1, -1], [1, 0]],
        starts=[0, 1, 2, 4],
    )
    np.testing.assert_allclose(
        list(clip_scores_of(pairs, "clipscore").per_image.values()),
        [2.5, 0, 0, 2.5 / np.sqrt(2)],
        rtol=1e-6,
    )
    clip, best = 2.5 / np.sqrt(2), 1 / np.sqrt(2)
    np.testing.assert_allclose(
        list(clip_scores_of(pairs, "ref_clipscore").per_image.values()),
        [0, 0, 0, 2 * clip * best / (clip + best)],
        rtol=1e-6,
    )


def test_what_is_cut_is_counted_and_the_homework_cuts_nothing(images):
    model = scripted(context=7)  # two of them are start and end, three the prefix
    captions = {"x": "a b c", "y": "a b", "z": "a b c d e f", "w": "a"}
    references = {**REFERENCES, "y": ["a b c d", "one two three", "b"]}
    scores = asked(ALL[:2], model, captions, references, images=images)
    clip, ref = scores["clipscore"], scores["ref_clipscore"]
    assert (clip.recipe["context_length"], clip.recipe["truncated"]) == (7, 2)
    assert (ref.recipe["truncated"], ref.recipe["truncated_references"]) == (2, 4)
    assert clip.notes[0] == "CLIPScore: 2 of 4 candidates are cut at the model's 7 tokens"
    assert ref.notes[0] == (
        "RefCLIPScore: 2 of 4 candidates and 4 of 10 references are cut at the model's 7 tokens"
    )
    assert clip.name == f'CLIPScore[scripted, prefix="{PREFIX}", w=2.5, float32, 7 tokens]'

    model = scripted(context=4)
    with pytest.raises(UserError) as error:
        clipscore_hw3(captions, images, model=model)
    assert str(error.value) == (
        'clipscore_hw3: the caption of image "x" has 5 tokens, the model reads 4 (1 other is too '
        "long as well); this score cuts nothing: shorten the captions or ask for clipscore"
    )
    assert (model.image.module.seen, model.text.module.seen) == (0, 0)  # before any work
    homework = clipscore_hw3(captions, images, model=scripted(context=8))
    assert homework.name == "CLIPScore (hw3)[scripted, no prefix, w=2.5, float32, nothing cut]"
    assert homework.recipe["truncated"] == 0
    anything = clipscore_hw3(captions, images, model=scripted(context=None))
    assert anything.name == "CLIPScore (hw3)[scripted, no prefix, w=2.5, float32]"


def test_an_empty_caption_is_scored_and_spoken_of(images):
    scores = clipscore({**CANDIDATES, "y": " "}, images, model=scripted())
    clip, _ = by_hand(" ", None, COLOURS["y"])
    assert scores.per_image["y"] == pytest.approx(clip, abs=1e-5)
    assert scores.recipe["empty"] == 1
    assert any("an empty caption does not score 0" in note for note in scores.notes)
    assert "empty" not in clipscore(CANDIDATES, images, model=scripted()).recipe


def test_only_the_published_model_needs_no_caution(images):
    caution = "compare it with scores of the same model only"
    lite = clipscore(CANDIDATES, images, model=scripted(spec="lite"))
    assert any(caution in note for note in lite.notes)
    standard = clipscore(CANDIDATES, images, model=scripted(spec="open_clip:ViT-B-32/openai"))
    assert standard.notes == ()


def test_an_unreadable_image_is_an_error_that_names_it(images, tmp_path):
    model = scripted()
    for image in ("y", "z"):
        images[image].path.write_bytes(b"no picture")
    with pytest.raises(UserError) as error:
        clipscore(CANDIDATES, images, model=model)
    assert str(error.value).startswith("2 of 4 images cannot be read (y.png: ")
    assert "a mean over the others would be another number" in str(error.value)


def test_what_does_not_fit_together_is_refused_before_any_work(images):
    model = scripted()
    del images["y"]
    with pytest.raises(UserError, match='no image for image "y": CLIPScore compares'):
        clipscore(CANDIDATES, images, model=model)
    with pytest.raises(UserError, match='no image for images "w", "x", "y" and 1 more'):
        clipscore(dict(sorted(CANDIDATES.items())), {}, model=model)
    with pytest.raises(MismatchedImages, match='no references for image "y"'):
        references = {image: REFERENCES[image] for image in "wxz"}
        ref_clipscore(CANDIDATES, references, images, model=model)
    with pytest.raises(UserError, match=r"references of image .*at least one"):
        ref_clipscore({"x": "a"}, {"x": []}, images, model=model)
    with pytest.raises(UserError, match="ref_clipscore: compares with references"):
        asked(["ref_clipscore"], model, references=None, images=images)
    with pytest.raises(UserError, match="no captions to score"):
        clipscore({}, images, model=model)
    assert model.image.module.seen == model.text.module.seen == 0


def test_features_that_overflow_are_no_score(images):
    model = scripted()
    model.image.module.matrix[0, 0] = float("inf")
    with pytest.raises(UserError, match=r'features of images? "x".* use --dtype float32'):
        clipscore(CANDIDATES, images, model=model)


# --- real text sides


def reference_scores(image_features, text_features, w=2.5):
    """The arithmetic of the published code, on NumPy."""
    image = image_features / np.sqrt(np.sum(image_features**2, axis=1, keepdims=True))
    text = text_features / np.sqrt(np.sum(text_features**2, axis=1, keepdims=True))
    return w * np.clip(np.sum(image * text, axis=1), 0, None), text


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory):
    """A tiny CLIP of random weights as open_clip pushes it, and open_clip's own model."""
    from open_clip.model import CLIP
    from open_clip.push_to_hf_hub import save_for_hf

    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    torch.manual_seed(11)
    model = CLIP(**config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    preprocess = {
        "mean": (0.48, 0.46, 0.41),
        "std": (0.27, 0.26, 0.28),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    model.visual.image_mean, model.visual.image_std = preprocess["mean"], preprocess["std"]
    model.visual.preprocess_cfg = preprocess
    folder = tmp_path_factory.mktemp("open-clip")
    nothing = type("Nothing", (), {"save_pretrained": staticmethod(lambda _: None)})()
    save_for_hf(model, nothing, config, folder, safe_serialization=True)
    return model, folder


def test_equal_to_the_published_recipe_on_open_clip(open_clip_folder, tmp_path):
    import open_clip

    own, folder = open_clip_folder
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenize = open_clip.SimpleTokenizer(context_length=77)
    random = np.random.default_rng(3)
    images, opened = {}, []
    for i, size in enumerate([(50, 40), (33, 70), (64, 64)]):
        picture = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size)
        picture.save(tmp_path / f"{i}.png")
        images[str(i)] = tmp_path / f"{i}.png"
        opened.append(picture)
    long = "a cat beside " + "a dog and " * 60
    candidates = {"0": "a cat", "1": long, "2": "Two dogs on a red couch."}
    references = {"0": ["the cat", "a dog"], "1": ["a cat"], "2": ["dogs", long, "a couch"]}

    def encode(captions):
        with torch.inference_mode():
            return own.encode_text(tokenize([PREFIX + c for c in captions])).numpy()

    with torch.inference_mode():
        vectors = own.encode_image(torch.stack([preprocess(picture) for picture in opened])).numpy()
    clip, text = reference_scores(vectors, encode(candidates.values()))
    best = []
    for vector, captions in zip(text, references.values(), strict=True):
        _, others = reference_scores(vectors[:1], encode(captions))
        best.append(np.max(vector.dot(others.transpose())))
    expected = 2 * clip * best / (clip + best)

    model = load_model(f"open_clip:{folder}", device="cpu")
    scores = clipscore(candidates, images, model=model)
    with_references = ref_clipscore(candidates, references, images, model=model)
    np.testing.assert_allclose(list(scores.per_image.values()), clip, atol=1e-5)
    np.testing.assert_allclose(list(with_references.per_image.values()), expected, atol=1e-5)
    assert scores.recipe["context_length"] == 77
    assert scores.recipe["truncated"] == with_references.recipe["truncated"] == 1
    assert with_references.recipe["truncated_references"] == 1
    with pytest.raises(UserError, match=r'image "1" has \d+ tokens, the model reads 77;'):
        clipscore_hw3(candidates, images, model=model)


def test_half_precision_is_cast_up_before_it_is_normalised(open_clip_folder, tmp_path):
    _, folder = open_clip_folder
    Image.new("RGB", (40, 40), (200, 30, 90)).save(tmp_path / "a.png")
    candidates, images = {"a": "a red square"}, {"a": tmp_path / "a.png"}
    exact = load_model(f"open_clip:{folder}", device="cpu")
    half = load_model(f"open_clip:{folder}", device="cpu", dtype="bfloat16")
    features = half.image.encode(exact.image.transform(Image.open(tmp_path / "a.png"))[None])
    text = half.text.encode([PREFIX + "a red square"])
    expected = 2.5 * max(torch.cosine_similarity(features.double(), text.double()).item(), 0.0)
    scores = clipscore(candidates, images, model=half)
    assert scores.corpus == pytest.approx(expected, abs=1e-6)
    assert scores.recipe["dtype"] == "bfloat16"
    assert "bfloat16" in scores.name
    assert scores.corpus == pytest.approx(
        clipscore(candidates, images, model=exact).corpus, abs=0.05
    )


@pytest.mark.needs("lite", "shared")
def test_lite_tells_matching_captions_from_shuffled_ones(shared):
    """79 COCO images that the alignment has not seen."""
    folder = shared / "data" / "coco-mini"
    stored = json.loads((folder / "captions_val.json").read_text())
    images = {str(item["id"]): folder / "images" / item["file_name"] for item in stored["images"]}
    captions: dict[str, list[str]] = {image: [] for image in images}
    for annotation in stored["annotations"]:
        captions[str(annotation["image_id"])].append(annotation["caption"])
    matched = {image: several[0] for image, several in captions.items()}
    others = {image: several[1:] for image, several in captions.items()}
    ids = list(images)
    shuffled = {image: matched[ids[i - 1]] for i, image in enumerate(ids)}
    model = load_model("lite", device="cpu")

    found = asked(model=model, captions=matched, references=others, images=images)
    by_chance = asked(model=model, captions=shuffled, references=others, images=images)

    for metric, score in found.items():
        assert score.corpus - by_chance[metric].corpus > 0.5
        wins = [score.per_image[image] > by_chance[metric].per_image[image] for image in images]
        assert np.mean(wins) > 0.85
    assert found["clipscore"].recipe["context_length"] == 256
