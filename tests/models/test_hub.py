"""The one door to a hub: caches first, a spoken download, and refusals in a sentence."""

import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from captune import storage
from captune.errors import Offline, UserError
from captune.models import hub
from captune.models.load import fetch_model, load_model


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """A hub whose repositories are folders; counts what it is asked."""
    repositories, asked = {}, []
    cache = tmp_path / "cached-snapshots"

    def model_info(_, repo, files_metadata=False):
        asked.append(repo)
        if repo not in repositories:
            raise huggingface_hub.errors.RepositoryNotFoundError(
                "404", response=SimpleNamespace(headers={}, request=None)
            )
        files = [
            SimpleNamespace(rfilename=path.name, size=path.stat().st_size)
            for path in sorted(repositories[repo].iterdir())
        ]
        return SimpleNamespace(siblings=[*files, SimpleNamespace(rfilename="onnx/big", size=9)])

    def snapshot_download(repo, local_files_only=False, allow_patterns=(), tqdm_class=None):
        place = cache / repo.replace("/", "--")
        if local_files_only:
            if not place.is_dir():
                raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
            return str(place)
        place.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            shutil.copyfile(repositories[repo] / name, place / name)
        return str(place)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.delenv("CAPTUNE_OFFLINE", raising=False)
    return SimpleNamespace(repositories=repositories, asked=asked, cache=cache)


def test_naming_a_hub_model_fetches_it_once_and_says_how_much(
    fake_hub, clip_folder, caplog, monkeypatch
):
    fake_hub.repositories["org/clip"] = clip_folder
    (clip_folder / "training_args.bin").write_bytes(b"not asked for")
    with caplog.at_level("WARNING", "captune"):
        model = load_model("hf:org/clip", device="cpu")
    (clip_folder / "training_args.bin").unlink()
    assert "hf:org/clip: fetching" in caplog.text
    assert " MB, of org/clip from https://huggingface.co" in caplog.text
    fetched = {path.name for path in (fake_hub.cache / "org--clip").iterdir()}
    assert fetched == {path.name for path in clip_folder.iterdir()}
    assert model.weights_id == load_model(str(clip_folder), device="cpu").weights_id
    caplog.clear()
    monkeypatch.setenv("CAPTUNE_OFFLINE", "1")
    again = load_model("hf:org/clip", device="cpu")
    assert again.weights_id == model.weights_id
    assert fake_hub.asked == ["org/clip"]
    assert not caplog.records


def test_a_half_filled_cache_counts_as_none(fake_hub, clip_folder, monkeypatch):
    fake_hub.repositories["org/clip"] = clip_folder
    place = fake_hub.cache / "org--clip"
    place.mkdir(parents=True)
    shutil.copyfile(clip_folder / "config.json", place / "config.json")
    monkeypatch.setenv("CAPTUNE_OFFLINE", "1")
    with pytest.raises(Offline, match="org/clip is not in a cache here"):
        load_model("hf:org/clip", device="cpu")
    monkeypatch.delenv("CAPTUNE_OFFLINE")
    load_model("hf:org/clip", device="cpu")
    assert fake_hub.asked == ["org/clip"]


@pytest.mark.parametrize("switch", ["CAPTUNE_OFFLINE", "HF_HUB_OFFLINE", "--offline"])
def test_every_offline_switch_counts(switch, fake_hub, monkeypatch):
    if switch == "--offline":
        storage.set_offline(True)
    else:
        monkeypatch.setenv(switch, "1")
    try:
        for spec in ("hf:org/clip", "open_clip:ViT-B-32/openai", "timm:resnet50.a1_in1k"):
            with pytest.raises(Offline, match=r"captune is offline and .*captune models fetch"):
                load_model(spec, device="cpu")
    finally:
        storage.set_offline(False)
    assert fake_hub.asked == []


def test_a_repository_that_the_hub_does_not_have(fake_hub):
    with pytest.raises(UserError, match="the hub has no public repository org/nothing"):
        load_model("hf:org/nothing", device="cpu")


def test_no_network_is_one_sentence(monkeypatch):
    class ConnectError(Exception):
        """As the HTTP libraries' own: no OSError."""

    def unreachable(*_, **__):
        raise ConnectError("Name or service not known\nand a long traceback")

    monkeypatch.delenv("CAPTUNE_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(UserError) as refused:
        load_model("hf:org/clip", device="cpu")
    assert "could not be fetched (Name or service not known); try again" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_fetch_from_a_folder_needs_no_network(clip_folder, images, tmp_path):
    source = shutil.copytree(clip_folder, tmp_path / "stick")
    (place,) = fetch_model("hf:org/clip", source)
    assert place.is_relative_to(storage.cache_folder())
    shutil.rmtree(source)
    model = load_model("hf:org/clip", device="cpu")
    pixels = model.image.transform(images[0])[None]
    own = load_model(str(clip_folder), device="cpu")
    assert torch.equal(model.image.encode(pixels), own.image.encode(pixels))
    assert fetch_model("hf:org/clip", clip_folder) == [place]
    with pytest.raises(UserError, match="has no weights"):
        fetch_model("hf:org/other", _only_config(clip_folder, tmp_path))
    with pytest.raises(UserError, match="already local"):
        fetch_model(f"hf:{clip_folder}", clip_folder)


def test_adopting_adds_and_replaces(tmp_path):
    def take_all(names):
        return list(names)

    for number, (name, content) in enumerate((("a", "1"), ("b", "2"), ("a", "3"))):
        source = tmp_path / str(number)
        source.mkdir()
        (source / name).write_text(content)
        place = hub.adopt("org/name", source, take_all)
    assert {path.name: path.read_text() for path in place.iterdir()} == {"a": "3", "b": "2"}


def test_open_clip_and_timm_from_a_hub(fake_hub, make_open_clip, make_timm, word_tokenizer, images):
    import open_clip

    pixels = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "vocab_size": 13,
            "context_length": 16,
            "hf_tokenizer_name": "org/elsewhere",
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    _, folder = make_open_clip(config, pixels, word_tokenizer)
    fake_hub.repositories["org/tiny"] = folder
    model = load_model("open_clip:hf-hub:org/tiny", device="cpu")
    assert model.text.encode(["a cat", "a dog"]).shape == (2, 24)
    fetched = {path.name for path in (fake_hub.cache / "org--tiny").iterdir()}
    assert "open_clip_model.safetensors" in fetched
    assert "open_clip_pytorch_model.bin" not in fetched  # no pickle where there is a safe file

    _, folder = make_timm("test_vit.r160_in1k")
    fake_hub.repositories["timm/test_vit.r160_in1k"] = folder
    by_name = load_model("timm:test_vit.r160_in1k", device="cpu")
    by_repository = load_model("timm:hf-hub:timm/test_vit.r160_in1k", device="cpu")
    image = by_name.image.transform(images[0])[None]
    assert torch.equal(by_name.image.encode(image), by_repository.image.encode(image))
    assert fake_hub.asked == ["org/tiny", "timm/test_vit.r160_in1k"]


def _only_config(folder, tmp_path):
    place = tmp_path / "only-config"
    place.mkdir()
    shutil.copyfile(folder / "config.json", place / "config.json")
    return place


def test_a_name_in_a_file_is_fetched_only_when_the_user_says_so(fake_hub, clip_folder):
    fake_hub.repositories["org/clip"] = clip_folder
    with hub.unasked("runs/theirs: the captioner"):
        with pytest.raises(
            UserError,
            match=r"runs/theirs: the captioner needs hf:org/clip, .* captune models fetch hf:org",
        ):
            load_model("hf:org/clip", device="cpu")
        assert fake_hub.asked == []
    fetch_model("hf:org/clip")
    with hub.unasked("runs/theirs: the captioner"):
        load_model("hf:org/clip", device="cpu")
    assert fake_hub.asked == ["org/clip"]
