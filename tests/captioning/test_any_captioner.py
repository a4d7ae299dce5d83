"""Captioners of transformers: each family's random twin writes what transformers itself writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.captioning.twins import FAMILIES, write_twin
from tests.test_documented_commands import FENCE, commands, words
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

import captune
from captune.captioning import any_captioner
from captune.captioning.any_captioner import AnyCaptioner, prepare_captioner
from captune.captioning.caption import Caption
from captune.captioning.generate import GenerationSettings
from captune.cli import main
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.pipeline import Encoding
from captune.models.hub import own_place_of
from captune.models.vlm import DEFAULT_PROMPT
from captune.options.captioning import CaptionOptions
from captune.pages.checking import check_page

GUIDE = Path(__file__).parents[2] / "docs" / "any-captioner.md"
TOKENS = 6
SIZES = ((60, 40), (33, 80), (64, 64))
REPOSITORIES = {
    "Salesforce/blip-image-captioning-base": "blip",
    "microsoft/git-base-coco": "git",
    "HuggingFaceTB/SmolVLM-256M-Instruct": "smolvlm",
    "Qwen/Qwen2-VL-2B-Instruct": "qwen2-vl",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def write_images(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        colours = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        colours.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def options(images: Path, model: Path, **more: Any) -> CaptionOptions:
    settings = {"beam": 1, "max_tokens": TOKENS, "batch_size": 2, "device": "cpu", **more}
    return CaptionOptions(images=[str(images)], model=str(model), **settings)


def loaded(images: Path, model: Path, **more: Any) -> AnyCaptioner:
    captioner = prepare_captioner(options(images, model, **more)).load()
    assert isinstance(captioner, AnyCaptioner)
    return captioner


def captions(captioner: AnyCaptioner, images: Path, beam: int, **how: Any) -> list[Caption]:
    found = captune.images.find_images([images]).images
    batches = captioner.stream(found, GenerationSettings(beam, TOKENS, Encoding(**how)))
    return [one for batch in batches for one in batch if isinstance(one, Caption)]


class Theirs:
    """What people write: processor, generate, decode."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        if not hasattr(self.processor, "image_processor"):
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.processor = AutoImageProcessor.from_pretrained(folder)
        else:
            self.tokenizer = self.processor.tokenizer
            self.tokenizer.padding_side = "left"

    def inputs(self, pictures: Sequence[Image.Image]) -> Any:
        texts = None
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": DEFAULT_PROMPT}]
            chat = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(chat, add_generation_prompt=True)
            texts = [text] * len(pictures)
        elif self.model.config.model_type == "paligemma":
            texts = ["<image>"] * len(pictures)
        if texts is None:
            return {
                "pixel_values": self.processor(images=list(pictures), return_tensors="pt")[
                    "pixel_values"
                ]
            }
        made = self.processor(
            images=[[one] for one in pictures], text=texts, padding=True, return_tensors="pt"
        )
        return {name: value for name, value in made.items() if name != "labels"}

    @torch.no_grad()
    def write(self, pictures: Sequence[Image.Image], beams: int) -> list[str]:
        inputs = self.inputs(pictures)
        ids = self.model.generate(**inputs, num_beams=beams, do_sample=False, max_new_tokens=TOKENS)
        begun = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        texts = self.tokenizer.batch_decode(ids[:, begun:], skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    @torch.no_grad()
    def log_probability(self, picture: Image.Image) -> float:
        """Of the greedy caption, as generate computes it step by step."""
        found = self.model.generate(
            **self.inputs([picture]),
            do_sample=False,
            max_new_tokens=TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
        )
        chosen = found.sequences[0, -len(found.logits) :]
        pairs = zip(found.logits, chosen, strict=True)
        return float(sum(step[0].log_softmax(-1)[id] for step, id in pairs))


@pytest.mark.parametrize("family", FAMILIES)
def test_writes_what_transformers_writes(
    family: str, twins: Any, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = twins(family)
    pictures = [Image.open(path).convert("RGB") for path in sorted(images.iterdir())]
    captioner, theirs = loaded(images, folder), Theirs(folder)
    with FeatureCache() as features:
        for beams in (1, 3):
            ours = captions(captioner, images, beam=beams, batch_size=2, cache=features)
            assert [one.caption for one in ours] == theirs.write(pictures, beams)
            alone = captions(captioner, images, beam=beams, batch_size=1)
            assert [one.caption for one in alone] == [one.caption for one in ours]
            for one, other in zip(alone, ours, strict=True):
                assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
            if beams == 1:
                for one, picture in zip(ours, pictures, strict=True):
                    assert one.log_probability == pytest.approx(
                        theirs.log_probability(picture), abs=1e-4
                    )
                    said = sum(word.log_probability for word in one.words)
                    assert said == pytest.approx(one.log_probability, abs=1e-4) or one.ended
    # what the vision made of the images is looked up, and gives the same to the last bit
    with FeatureCache() as features:
        monkeypatch.setattr(captioner.vlm, "features", None)
        again = captions(captioner, images, beam=3, batch_size=2, cache=features)
    assert again == ours


def test_gemma_s_twin_says_different_words(twins: Any, images: Path) -> None:
    captioner = loaded(images, twins("gemma3"))
    inputs = captioner.vlm.inputs(Image.open(images / "0.png"), None)
    (ids,) = captioner.vlm.written(captioner.vlm.collate([inputs]), max_tokens=TOKENS).ids
    assert len(set(ids)) >= 4


def test_every_family_is_in_the_guide() -> None:
    _, _, table = GUIDE.read_text().partition("<!-- families -->\n")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == list(FAMILIES)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, marks=pytest.mark.needs("lite")) if "match" in line else line
        for line in commands(GUIDE.read_text())
    ],
)
def test_every_line_of_the_guide_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Against random twins that lie where the hub's repositories would."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    write_images(Path("images"))
    asked = words(command)
    for repository, family in REPOSITORIES.items():
        if f"hf:{repository}" in asked:
            write_twin(family, own_place_of(repository))
    if "models/vit-gpt2" in asked:
        write_twin("vit-gpt2", Path("models/vit-gpt2"))
    captioners = asked.count("--model") or 1
    captions = {str(number): "a red dog runs" for number in range(len(SIZES))}
    for name in ("captions", "train", "val"):
        Path(f"{name}.json").write_text(json.dumps(captions))
    quick = {
        "faithful": ["--minutes", "0.01", "--quick"],
        "tune": ["--epochs", "1", "--max-tokens", "8", "--score-model", "none"],
    }
    if "runs/tuned" in asked and asked[0] != "tune":
        start = ["--start", str(write_twin("blip", Path("models/blip"))), "--out", "runs/tuned"]
        data = ["images", "--captions", "train.json", "--val-captions", "val.json"]
        assert main(["tune", *data, *start, *quick["tune"]]) == 0
        capsys.readouterr()
    assert main([*asked, *quick.get(asked[0], []), "--json"]) == 0, capsys.readouterr()
    told = json.loads(capsys.readouterr().out)
    images = 1 if "images/0.png" in asked else len(SIZES)
    if asked[0] == "faithful":
        assert told["model"]["family"] == "qwen2_vl"
    elif asked[0] == "tune":
        assert told["trained_on"] == images
    elif asked[0] == "models":
        assert set(told["checks"].values()) == {"yes"}
    else:
        said = told["answers" if asked[0] == "caption" else "explanations"]
        assert len(said) == images * captioners


def test_a_killed_run_goes_on(twins: Any, images: Path, tmp_path: Path) -> None:
    asked = {
        "model": str(twins("qwen2-vl")),
        "max_tokens": TOKENS,
        "batch_size": 1,
        "device": "cpu",
    }
    whole = captune.caption(images, out=tmp_path / "whole", **asked)
    assert whole.captioner["family"] == "qwen2_vl"
    assert check_page(tmp_path / "whole" / "report.html") is not None
    assert "language model None" not in (tmp_path / "whole" / "report.html").read_text()

    class Killed(Exception): ...

    def stop(caption: Caption) -> None:
        raise Killed

    with pytest.raises(Killed):
        captune.jobs.caption.run(
            CaptionOptions(images=[str(images)], out=tmp_path / "again", **asked), each=stop
        )
    again = captune.caption(images, out=tmp_path / "again", **asked)
    assert again.resumed == 1
    lines = [(tmp_path / run / "records.jsonl").read_text() for run in ("whole", "again")]
    assert lines[0] == lines[1]


def test_a_seed_draws_the_same_words_again(twins: Any, images: Path) -> None:
    def drawn(seed: int) -> list[str]:
        asked = {"model": twins("blip"), "max_tokens": TOKENS, "temperature": 1.0, "seed": seed}
        return [one.caption for one in captune.caption(images, device="cpu", **asked)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_prompt_is_where_captions_begin_and_is_not_repeated(twins: Any, images: Path) -> None:
    for family in ("vit-gpt2", "blip", "git"):
        plain = captions(loaded(images, twins(family)), images, beam=1)
        begun = captions(loaded(images, twins(family), prompt="a red dog"), images, beam=1)
        assert [one.caption for one in plain] != [one.caption for one in begun]
        assert not any(one.caption.startswith("a red dog") for one in begun)
        assert all(one.tokens <= TOKENS for one in begun)


def test_threads_share_what_is_loaded_and_each_has_its_own_words(
    twins: Any, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [{"seed": 1}, {"seed": 2}, {"seed": 1, "prompt": "a red dog"}] * 2

    def drawn(asked: dict[str, Any]) -> list[str]:
        how = {"model": twins("blip"), "max_tokens": TOKENS, "temperature": 1.0, "no_cache": True}
        return [one.caption for one in captune.caption(images, device="cpu", **how, **asked)]

    alone = [drawn(asked) for asked in settings]
    loads: list[str] = []
    load = any_captioner.load_vlm

    def counting(folder: Path, spec: str, **how: Any) -> Any:
        loads.append(spec)
        return load(folder, spec, **how)

    monkeypatch.setattr(any_captioner, "load_vlm", counting)
    with captune.keep_models(), ThreadPoolExecutor(3) as threads:
        assert list(threads.map(drawn, settings)) == alone
        assert len(loads) == 1
    drawn({})
    assert len(loads) == 2


@pytest.mark.parametrize("family", ["vit-gpt2", "blip", "blip-2", "git", "llava", "gemma3"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_caption_ends_before_a_stop_text(
    family: str, beams: int, twins: Any, images: Path
) -> None:
    folder = twins(family)
    without = loaded(images, folder)
    plain = captions(without, images, beam=beams)
    # theirs also stop at a special token with such a name, of which a caption shows nothing
    hidden = "".join(map(str, without.vlm.tokenizer.added_tokens_decoder.values()))
    signs = re.findall(r"[!-~]", "".join(one.caption for one in plain))
    stop = [sign for sign in signs if sign not in hidden][-1]
    captioner = loaded(images, folder, stop=["never said", stop])
    ours = captions(captioner, images, beam=beams, batch_size=3)
    assert [one.caption for one in ours] != [one.caption for one in plain]
    alone = captions(captioner, images, beam=beams, batch_size=1)
    assert [one.caption for one in alone] == [one.caption for one in ours]
    for one, other in zip(alone, ours, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    assert not any(stop in one.caption for one in ours)
    assert [" ".join(word.word for word in one.words) for one in ours] == [
        one.caption for one in ours
    ]
    if beams == 1:  # with more, another one may be the best now
        for one, other in zip(ours, plain, strict=True):
            assert one.caption == " ".join(other.caption.partition(stop)[0].split())
            assert one.ended == (other.ended or stop in other.caption)
    # transformers stops at the same token
    theirs, some = Theirs(folder), sorted(images.iterdir())
    for one, path in zip(ours, some, strict=True):
        inputs = theirs.inputs([Image.open(path).convert("RGB")])
        how = {"stop_strings": [stop], "tokenizer": theirs.tokenizer, "do_sample": False}
        ids = theirs.model.generate(**inputs, num_beams=beams, max_new_tokens=TOKENS, **how)
        begun = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        (said,) = theirs.tokenizer.batch_decode(ids[:, begun:], skip_special_tokens=True)
        assert " ".join(said.partition(stop)[0].split()) == one.caption


def test_a_run_says_what_its_captions_stop_at(twins: Any, images: Path, tmp_path: Path) -> None:
    asked = {"model": twins("git"), "max_tokens": TOKENS, "beam": 1, "device": "cpu"}
    whole = captune.caption(images, **asked)
    stop = whole[0].caption[3:5]
    cut = captune.caption(images, **asked, stop=stop, out=tmp_path / "run")
    assert cut[0].caption == whole[0].caption.partition(stop)[0].strip()
    assert cut.ended > whole.ended
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["stop"] == [stop]
    signatures = [
        prepare_captioner(options(images, twins("git"), stop=one)).asked for one in ([], ["a"])
    ]
    assert signatures[0] != signatures[1]
    with pytest.raises(UserError, match="--stop names a text"):
        options(images, twins("git"), stop=["a", ""])


def test_a_batch_that_does_not_fit_is_halved(
    twins: Any, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = loaded(images, twins("git"))
    whole = captions(captioner, images, beam=1, batch_size=3)
    write, sizes = captioner.vlm.written, []

    def small(inputs: Any, *rest: Any, **how: Any) -> Any:
        sizes.append(len(inputs["pixel_values"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("out of memory")
        return write(inputs, *rest, **how)

    monkeypatch.setattr(captioner.vlm, "written", small)
    assert [one.caption for one in captions(captioner, images, beam=1, batch_size=3)] == [
        one.caption for one in whole
    ]
    assert sizes == [3, 1, 1, 1]


def test_refuses_a_pickle_code_and_what_is_not_for_it(
    twins: Any, images: Path, tmp_path: Path
) -> None:
    folder = write_twin("blip", tmp_path / "blip")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="weights as a pickle only, which can run code"):
        prepare_captioner(options(images, folder))
    (folder / "pytorch_model.bin").unlink()
    (tmp_path / "model.safetensors").rename(folder / "model.safetensors")

    config = folder / "config.json"
    stated = json.loads(config.read_text())
    config.write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(UserError, match="it needs code from its repository"):
        loaded(images, folder)
    config.write_text(json.dumps({**stated, "model_type": "clip"}))
    with pytest.raises(UserError, match="a clip describes no images"):
        loaded(images, folder)
    for name, value in (("encoder", "lite"), ("flag_below", 0.5), ("datastore", Path("x"))):
        with pytest.raises(UserError, match=re.escape(f"--{name.replace('_', '-')} is for")):
            prepare_captioner(options(images, twins("blip"), rerank="neighbours", **{name: value}))
    with pytest.raises(UserError, match="this one takes --rerank match"):
        prepare_captioner(options(images, twins("blip"), rerank="both"))


def test_a_folder_without_a_processor_is_said_to_take_no_images(
    images: Path, tmp_path: Path
) -> None:
    folder = write_twin("blip", tmp_path / "blip")
    for path in (*folder.glob("preprocessor_*"), *folder.glob("processor_*")):
        path.unlink()
    with pytest.raises(UserError, match=r"has no preprocessor_config.json, so it takes no images"):
        prepare_captioner(options(images, folder))


def test_more_words_than_a_model_has_places_for_are_refused(twins: Any, images: Path) -> None:
    captioner = loaded(images, twins("blip"))
    found = captune.images.find_images([images]).images
    with pytest.raises(UserError, match=r"--max-tokens 512: .* has places for 512 tokens"):
        list(captioner.stream(found, GenerationSettings(1, 512, Encoding())))


def test_a_check_says_what_works(twins: Any, tmp_path: Path, capsys: Any) -> None:
    for family, works in (("vit-gpt2", 9), ("blip-2", 8), ("gemma3", 10), ("qwen2-vl", 10)):
        assert main(["models", "check", str(twins(family)), "--device", "cpu"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert [line.split()[-1] for line in told] == ["yes"] * works
    assert main(["models", "check", str(twins("blip")), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checks"]["caption"] == "yes"
    assert main(["models", "check", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path} has no config.json; name a captioner of transformers" in told


def test_the_guide_shows_only_commands_that_are_run() -> None:
    assert len(commands(GUIDE.read_text())) >= 6
    assert FENCE.findall(GUIDE.read_text())
