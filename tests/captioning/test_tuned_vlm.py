"""Captioners of transformers, tuned: each family's random twin learns, and is loaded again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.captioning.test_any_captioner import GUIDE, captions, loaded, options, write_images
from tests.captioning.twins import FAMILIES, write_twin
from torch import Tensor

import captune
from captune.captioning.any_captioner import AnyCaptioner, prepare_captioner
from captune.captioning.checkpoint import (
    ImageIdentity,
    Part,
    TunedRecipe,
    read_any_recipe,
    save_pretrained,
)
from captune.captioning.model import batch
from captune.captioning.settings import LoRAConfig
from captune.captioning.training.budget import planned_in
from captune.captioning.training.frozen import SeenImages, train_projector
from captune.captioning.tuned_vlm import TunedVLM, tuned_vlm
from captune.captioning.tuning import TUNING_METHODS
from captune.cli import main
from captune.errors import UserError
from captune.features.pipeline import Encoding
from captune.images import find_images
from captune.pages.checking import check_page
from captune.runs import read_run

METHODS = ("adapter", "dora", "ia3", "lora", "prefix")
SAID = ("a red dog runs", "a blue cat", "the big sea")
BLIND = {"llava-next", "qwen2.5-vl", "qwen3-vl"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def opened(images: Path, twins: Any) -> Iterator[Callable[..., tuple[AnyCaptioner, SeenImages]]]:
    with ExitStack() as stack:

        def open_(family: str, train: str | None = None) -> tuple[AnyCaptioner, SeenImages]:
            captioner = loaded(images, twins(family))
            if train:
                train_projector(captioner)
            found = find_images([images]).images
            return captioner, SeenImages(captioner, found, Encoding(), stack, max_tokens=8)

        yield open_


def given(captioner: AnyCaptioner, seen: SeenImages, each: int = 1) -> dict[str, Tensor]:
    """A batch of `collate`: a caption or more of each image."""
    speech = captioner.speech
    rows = [
        [*speech.encode([SAID[(n + m) % 3]])[0], speech.end_id]
        for n in range(len(SAID))
        for m in range(each)
    ]
    ids, mask, targets = batch(rows, start=speech.start_id, pad=speech.pad_id)
    numbers = seen.grids_of(list(seen._places))
    return {"grids": numbers, "ids": ids, "mask": mask, "targets": targets}


def made(captioner: AnyCaptioner, seen: SeenImages, method: str, **how: Any) -> TunedVLM:
    how = {"train": None, **how}
    return tuned_vlm(captioner.vlm, method, {}, captioner.speech, seen=seen.of, **how)


def three_steps(model: TunedVLM, inputs: dict[str, Tensor]) -> list[float]:
    """The loss before each of three updates and behind them."""
    optimiser = torch.optim.AdamW(model.trained().values(), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(**inputs)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return [*losses, model(**inputs).item()]


def frozen_of(model: TunedVLM) -> dict[str, Tensor]:
    trained = {id(one) for one in model.trained().values()}
    return {
        name: one.detach().clone()
        for name, one in model.named_parameters()
        if id(one) not in trained
    }


def save(model: TunedVLM, captioner: AnyCaptioner, method: str, folder: Path, **how: Any) -> None:
    about = captioner.about
    base = ImageIdentity(about["spec"], about["weights_id"], about["processor_id"])
    part = Part(method, vars(model.tuning.config))
    save_pretrained(model, folder, TunedRecipe(base, part, 8, **how))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_guide_says_by_what_a_family_is_tuned(
    family: str, opened: Any, images: Path, tmp_path: Path
) -> None:
    """Three steps: the loss falls, nothing else moves, and what is loaded again is the same."""
    _, _, table = GUIDE.read_text().partition("<!-- families -->\n")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    said = dict(zip(rows[0], next(row for row in rows if row[0] == family), strict=True))
    captioner, seen = opened(family)
    inputs = given(captioner, seen)
    plain = captions(captioner, images, beam=1)
    with torch.no_grad():
        none = made(captioner, seen, "none")
        before, wanted = none.logits_at_targets(**inputs)
        none.detach()
    assert before.shape[0] == len(wanted) == int((inputs["targets"] >= 0).sum())
    tuned = []
    for method in METHODS:
        config = TUNING_METHODS.get(method).Config()
        (count,) = planned_in(captioner.vlm, method, config, None).values()
        try:
            model = made(captioner, seen, method)
        except UserError:
            continue
        tuned.append(method)
        assert count == sum(p.numel() for p in model.trained().values())
        with torch.no_grad():
            begun, _ = model.logits_at_targets(**inputs)
        torch.testing.assert_close(begun, before, atol=1e-4, rtol=1e-4)
        frozen = frozen_of(model)
        losses = three_steps(model, inputs)
        assert losses[-1] < losses[0]
        assert all(torch.equal(one, frozen[name]) for name, one in frozen_of(model).items())
        assert all(one.grad is not None for one in model.trained().values())
        written = captions(captioner, images, beam=1)
        assert [one.log_probability for one in written] != [one.log_probability for one in plain]
        save(model, captioner, method, tmp_path / method)
        model.detach()
        assert captions(captioner, images, beam=1) == plain
        assert captions(loaded(images, tmp_path / method), images, beam=1) == written
    missing = [method for method in METHODS if method not in tuned]
    assert said["tune"] == ("yes" if not missing else f"not by {', '.join(missing)}")


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_what_generate_reads_and_losses_what_words_score(
    family: str, opened: Any, images: Path
) -> None:
    captioner, seen = opened(family)
    vlm = captioner.vlm
    numbers = seen.grids_of(list(seen._places)).tolist()
    vision_ran: list[int] = []
    see = vlm.vision.of
    vlm.vision.of = lambda inputs: vision_ran.append(1) or see(inputs)
    inputs, features, prompts = seen.of(numbers, 1)
    written = vlm.written(inputs, features, max_tokens=5)
    assert torch.equal(written.prompts, prompts)
    ready = [captioner.read(one) for one in find_images([images]).images]
    whole = vlm.collate([one.inputs for one in ready])
    assert vlm.written(whole, max_tokens=5).ids == written.ids
    assert not vision_ran
    # several captions of an image, read once, are as each by itself
    model, two = made(captioner, seen, "none"), given(captioner, seen, each=2)
    with torch.no_grad():
        found, wanted = model.logits_at_targets(**two)
        alone = []
        for row in range(len(two["ids"])):
            own = {name: value[row : row + 1] for name, value in two.items()}
            own["grids"] = two["grids"][row // 2 : row // 2 + 1]
            alone.append(model.logits_at_targets(**own)[0])
        loss = model(**two).item()
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-4, rtol=1e-4)
    told = found.log_softmax(-1).gather(1, wanted[:, None])
    assert loss == pytest.approx(-told.mean().item(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_projector_is_trained_on_what_it_read_once(
    family: str, opened: Any, twins: Any, images: Path, tmp_path: Path
) -> None:
    if family == "blip":
        with pytest.raises(UserError, match="a blip has no layers between its vision and its"):
            opened(family, "projector")
        return
    captioner, seen = opened(family, "projector")
    assert (captioner.vlm.vision is None) == (family in BLIND)
    inputs = given(captioner, seen)
    untouched, anew = opened(family)
    with torch.no_grad():
        expected, _ = made(untouched, anew, "none").logits_at_targets(**inputs)
    counts = planned_in(captioner.vlm, "lora", LoRAConfig(), "projector")
    model = made(captioner, seen, "lora", train="projector")
    with torch.no_grad():
        found, _ = model.logits_at_targets(**inputs)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert sum(counts.values()) == sum(p.numel() for p in model.trained().values())
    frozen, begun = frozen_of(model), {k: p.clone() for k, p in model.trained().items()}
    losses = three_steps(model, inputs)
    assert losses[-1] < losses[0]
    assert all(torch.equal(one, frozen[name]) for name, one in frozen_of(model).items())
    moved = [k for k, p in model.trained().items() if not torch.equal(p, begun[k])]
    assert any(name.startswith("projector.") for name in moved)
    save(model, captioner, "lora", tmp_path / "tuned", train="projector")
    with torch.no_grad():
        learnt, _ = model.logits_at_targets(**inputs)
    again = loaded(images, tmp_path / "tuned")
    with ExitStack() as stack, torch.no_grad():
        found = find_images([images]).images
        reads = SeenImages(again, found, Encoding(), stack, max_tokens=8)
        same, _ = made(again, reads, "none").logits_at_targets(**inputs)
    torch.testing.assert_close(same, learnt, atol=1e-5, rtol=1e-5)
    model.detach()
    with torch.no_grad():
        back, _ = made(captioner, seen, "none").logits_at_targets(**inputs)
    torch.testing.assert_close(back, expected, atol=1e-4, rtol=1e-4)


def words(images: Path, start: Path, out: Path, *more: str) -> list[str]:
    told = [
        {"file_name": path.name, "captions": [SAID[n % 3], SAID[(n + 1) % 3]]}
        for n, path in enumerate(sorted(images.iterdir()))
    ]
    file = out.parent / "captions.jsonl"
    file.write_text("\n".join(map(json.dumps, told)))
    return [
        *("tune", str(images), "--captions", str(file), "--val-captions", str(file)),
        *("--start", str(start), "--out", str(out), "--epochs", "2", "--batch-size", "2"),
        *("--max-tokens", "8", "--score-model", "none", "--lr", "1e-2", "--device", "cpu"),
        *more,
    ]


@pytest.mark.parametrize(("family", "train"), [("vit-gpt2", ()), ("llava", ("projector",))])
def test_methods_are_compared_by_one_command_and_the_best_is_a_captioner(
    family: str, train: tuple[str, ...], twins: Any, images: Path, tmp_path: Path, capsys: Any
) -> None:
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(twins(family), base)
    more = ("--method", "adapter,lora", *(word for one in train for word in ("--train", one)))
    command = words(images, base, out, *more, "--json")
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [one["method"] for one in printed["methods"]] == ["adapter", "lora"]
    for one in printed["methods"]:
        assert one["trained"] == sum(one["parts"].values()) > 0
        assert one["cider_low"] <= one["cider"] <= one["cider_high"]
        assert any(part.startswith("projector") for part in one["parts"]) == bool(train)
        held = sorted(path.name for path in (out / one["method"]).iterdir())
        assert "checkpoints" not in held
        assert {"config.json", "model.safetensors", "tuning.json", "run.json"} <= set(held)
    recipe = read_any_recipe(out / "lora")
    assert recipe is not None
    assert recipe.base.spec == str(base.resolve())
    assert check_page(out / "report.html").holds
    before = (out / "lora" / "model.safetensors").read_bytes()
    assert main(command) == 0  # finished before
    assert json.loads(capsys.readouterr().out)["methods"] == printed["methods"]
    assert (out / "lora" / "model.safetensors").read_bytes() == before

    # its captions are those of the run, and it is explained and measured as any other
    (child,) = (read_run(out / "lora"),)
    kept = {record["path"]: record["caption"] for record in child.records()}
    told = captune.caption(images, model=str(out / "lora"), beam=1, max_tokens=8, device="cpu")
    assert {one.image.name: one.caption for one in told} == kept
    assert told.captioner["method"] == "lora"
    for method in ("occlusion", "attention"):
        maps = tmp_path / method
        asked = ["explain", str(images), "--model", str(out), "--method", method]
        assert main([*asked, "--max-tokens", "4", "--device", "cpu", "--out", str(maps)]) == 0
    # elsewhere, and another one
    base.rename(tmp_path / "moved")
    asked = ["caption", str(images), "--model", str(out), "--max-tokens", "8", "--device", "cpu"]
    assert main(asked) == 2
    assert "which is no folder here; say with --decoder where" in capsys.readouterr().err
    assert main([*asked, "--decoder", str(tmp_path / "moved")]) == 0
    other = write_twin(family, tmp_path / "other", seed=1)
    assert main([*asked, "--decoder", str(other)]) == 2
    assert "has other weights" in capsys.readouterr().err


def test_a_prefix_still_acts_where_attention_is_looked_at(
    opened: Any, images: Path, tmp_path: Path
) -> None:
    captioner, seen = opened("llava")
    model = made(captioner, seen, "prefix")
    three_steps(model, given(captioner, seen))
    vlm = captioner.vlm
    inputs, features, prompts = seen.of([0], 1)
    told = torch.tensor(captioner.speech.encode([SAID[0]]))
    before = vlm.hidden(inputs, features, prompts, told)
    found = vlm.attentions(inputs, features, prompts, told)
    assert len(found) >= 2
    assert torch.equal(vlm.hidden(inputs, features, prompts, told), before)


REFUSED = {
    ("--encoder", "timm:x"): "--encoder timm:x is for a captioner that captune builds of an",
    ("--rerank", "match"): "--rerank match is for a captioner that captune builds",
    ("--objective", "cider"): "--objective cider is for a captioner that captune builds",
    ("--set", "bridge.width=8"): "--set bridge... is for a captioner that captune builds",
    ("--method", "none"): "--method none trains nothing in --start",
    ("--method", "adapter,prefix"): "has its own attention code, into which no prefix can be put",
    ("--train", "projector"): "a blip has no layers between its vision and its language model",
    ("--max-trainable", "10"): "10 are allowed",
    ("--max-tokens", "600"): "has places for 512 tokens",
}


@pytest.mark.parametrize("more", REFUSED, ids=" ".join)
def test_what_it_cannot_do_is_said_before_anything_is_trained(
    more: tuple[str, ...], twins: Any, images: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(words(images, twins("blip"), tmp_path / "run", *more)) == 2
    assert REFUSED[more] in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*/checkpoints"))


def test_what_is_for_others_is_refused(
    twins: Any, images: Path, tmp_path: Path, opened: Any, capsys: Any
) -> None:
    captioner, seen = opened("blip")
    model = made(captioner, seen, "lora")
    save(model, captioner, "lora", tmp_path / "tuned")
    tuned = tmp_path / "tuned"
    asked = words(images, tuned, tmp_path / "run", "--method", "lora")
    assert main(asked) == 2
    assert (
        "was tuned in a captioner of transformers; start from that one" in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="captune caption, explain, faithful and push take it"):
        captune.Captioner.from_pretrained(tuned)
    with pytest.raises(UserError, match="--encoder is for a captioner with a bridge"):
        prepare_captioner(options(images, tuned, encoder="lite"))
    config = json.loads((tuned / "config.json").read_text())
    for part, wrong, told in (
        ("method", {"name": "lora", "config": {"rank": 10**8}}, "its settings make"),
        ("method", {"name": "lora", "config": {"ranks": 4}}, 'has no setting "ranks"'),
        ("train", "everything", "train"),
    ):
        (tuned / "config.json").write_text(json.dumps({**config, part: wrong}))
        with pytest.raises(UserError, match=told):
            loaded(images, tuned)
    without = [word for word in asked if word not in ("--start", str(tuned))]
    assert main([*without, "--train", "projector"]) == 2
    assert "--train projector is for --start of a captioner of transformers" in (
        capsys.readouterr().err
    )


def test_every_method_of_captune_is_tried() -> None:
    own = {name for name, source in TUNING_METHODS.sources().items() if source == "captune"}
    assert {*METHODS, "none"} == own
