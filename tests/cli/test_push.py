"""`captune push` and `hf:USER/NAME`, against a hub on this machine."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from tests import report_runs
from tests.captioning.caption_job import (
    agreement_at,
    use_encoder,
    write_captioner,
    write_images,
)
from tests.fake_hub import TOKEN, FakeHub, serving
from tests.hostile.mutations import change_value

import captune
from captune.captioning.captioner import captioner_folder
from captune.captioning.checkpoint import write_beside
from captune.captioning.settings import AGREEMENT
from captune.captioning.training.frozen import start_folder
from captune.cli import main
from captune.errors import UserError
from captune.jobs.push import plan
from captune.options.pages import PushOptions
from captune.options.tuning import TuneOptions
from captune.runs.reader import METRICS

REPO = "me/harbour"
MODEL = f"hf:{REPO}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub of this process, with a login; captune is not offline."""
    monkeypatch.delenv("CAPTUNE_OFFLINE")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as found:
        template = found.address + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": found.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield found


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A tune of one method, of validation images with captions that nobody else may see."""
    names = [path.name for path in write_images(tmp_path / "images").iterdir()]
    secret = {name: f"a secret about {name}" for name in names}
    run = report_runs.tune_run(tmp_path / "run", tmp_path / "images", {"lora": secret})
    write_captioner(run / "lora")
    return run


def sent(hub: FakeHub) -> dict[str, bytes]:
    files: dict[str, bytes] = hub.repositories[REPO]["files"]
    return files


def test_a_captioner_is_sent_and_loaded_again(
    hub: FakeHub,
    tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["push", str(tuned), REPO, "--licence", "apache-2.0", "--dataset", "harbour photos"]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "captune", *words, "--yes", "--json"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    files = sent(hub)
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert told["files"] == {name: len(content) for name, content in files.items()}
    assert (told["private"], told["method"]) == (True, "lora")
    assert hub.repositories[REPO]["private"]
    # nothing of the images, the captions and the folders of this machine
    assert files["model.safetensors"] == (tuned / "lora" / "model.safetensors").read_bytes()
    for content in files.values():
        for word in (b"secret", b"image_0", bytes(tmp_path), b"alert("):
            assert word not in content
    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["pipeline_tag"] == "image-to-text"
    results = front["model-index"][0]["results"][0]
    assert results["dataset"]["name"] == "harbour photos"
    assert [one["type"] for one in results["metrics"]] == ["cider", "bleu_4", "clipscore"]
    assert f"--model {MODEL} --encoder FOLDER/places --decoder FOLDER/decoder-llama" in card
    assert "| attention | 0.500 | a problem |" in card
    assert "| frozen part | used as | weights | licence |" in card
    assert "@software{captune," in card

    use_encoder(monkeypatch)
    decoder = ["--decoder", str(tuned / "decoder-llama")]
    common = ["caption", str(tmp_path / "images"), "--max-tokens", "8", "--device", "cpu", "--json"]
    assert main([*common, "--model", str(tuned / "lora")]) == 0
    expected = json.loads(capsys.readouterr().out)["answers"]
    assert main([*common, "--model", MODEL, *decoder]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answers"] == expected
    assert found["model"]["spec"] == MODEL
    # a second time nothing is fetched, and offline it works too
    asked = len(hub.requests)
    assert main([*common, "--model", MODEL, *decoder, "--offline"]) == 0
    assert len(hub.requests) == asked
    start = start_folder(TuneOptions(start=Path(MODEL)), "lora")
    assert start is not None
    assert (start / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_it_asks_first_and_takes_no_for_an_answer(
    hub: FakeHub, tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(text: str, is_terminal: bool) -> Any:
        stream = io.StringIO(text)
        stream.isatty = lambda: is_terminal  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stream)
        status = main(["push", str(tuned), REPO])
        return status, capsys.readouterr()

    for text, is_terminal, said in (
        ("", False, "captune push: nothing was sent; add --yes to send it without being asked"),
        ("\n", True, "captune push: nothing was sent"),
        ("no\n", True, "captune push: nothing was sent"),
    ):
        status, printed = answer(text, is_terminal)
        assert (status, printed.err.splitlines()[-1]) == (2, said)
        assert f"these files leave this machine for {REPO}" in printed.err
        for name in ("README.md", "config.json", "model.safetensors"):
            assert f"  {name}  " in printed.err
        assert "not stated by who trained it" in printed.err
        assert hub.requests == []
    status, printed = answer("y\n", True)
    assert status == 0
    assert set(sent(hub)) == {"README.md", "config.json", "model.safetensors"}
    assert f"{hub.address}/{REPO}/commit/" in printed.out
    assert f"captune caption images/ --model {MODEL}" in printed.out


def test_the_function_sends_with_yes_alone(hub: FakeHub, tuned: Path) -> None:
    with pytest.raises(UserError, match=r"model\.safetensors .* \(nothing was sent"):
        captune.push(tuned / "lora", REPO)
    assert hub.requests == []
    result = captune.push(tuned / "lora", REPO, yes=True, public=True)
    assert not result.private
    assert not hub.repositories[REPO]["private"]
    assert result.url.startswith(hub.address)


def test_what_only_you_may_see_is_not_sent_where_all_can(hub: FakeHub, tuned: Path) -> None:
    hub.add(REPO, {})
    with pytest.raises(UserError, match="everybody can see it; add --public"):
        captune.push(tuned, REPO, yes=True)
    assert sent(hub) == {}
    assert captune.push(tuned, REPO, yes=True, public=True).sizes.keys() == sent(hub).keys()


@pytest.mark.parametrize(
    ("token", "said"),
    [("", "does not know who you are; run `hf auth login`"), ("hf_other", "did not take it")],
)
def test_a_login_is_needed(
    token: str, said: str, hub: FakeHub, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=said):
        captune.push(tuned, REPO, yes=True)
    assert hub.repositories == {}


def test_offline_nothing_is_sent(
    hub: FakeHub, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(tuned), REPO, "--yes", "--offline"]) == 2
    assert capsys.readouterr().err == (
        "captune push: captune is offline and push sends files to the hub; leave out --offline, or"
        " CAPTUNE_OFFLINE, to send them; --to FOLDER only writes them\n"
    )
    assert hub.requests == []


def test_what_would_be_sent_is_written_and_nothing_is_sent(
    hub: FakeHub, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captune.push(tuned, REPO, yes=True, licence="mit")
    asked = len(hub.requests)
    draft = tmp_path / "draft"
    words = ["push", str(tuned), REPO, "--licence", "mit", "--to", str(draft)]
    assert main([*words, "--offline", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["url"], told["method"], told["private"]) == (None, "lora", True)
    written = {path.name: path.read_bytes() for path in draft.iterdir()}
    assert sent(hub) == written  # to the byte
    assert told["files"] == {name: len(content) for name, content in written.items()}
    assert main(words) == 2
    assert "draft is not empty; name a folder that is" in capsys.readouterr().err
    assert main([*words, "--yes"]) == 2
    assert "--yes sends, and --to only writes" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "new" / "draft")]) == 0
    printed = capsys.readouterr().out
    assert "nothing was sent; captune push without --to sends these files" in printed
    assert len(hub.requests) == asked


def test_a_captioner_that_is_not_usable_is_sent_with_a_warning(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "the captions do not depend on the image, as that of x.jpg"
    finding = {"about": "image dependence", "figure": 0.0, "sentence": why, "wrong": True}
    metrics = json.loads((tuned / "lora" / METRICS).read_text())
    metrics["tuned"]["findings"] = [finding | {"is_fatal": True}]
    (tuned / "lora" / METRICS).write_text(json.dumps(metrics))
    assert main(["push", str(tuned), REPO, "--to", str(tmp_path / "draft")]) == 0
    assert f"lora is not usable: {why}" in capsys.readouterr().out
    planned = plan(PushOptions(run=tuned, repo=REPO, to=tmp_path / "other"))
    assert f"lora is not usable: {why}" in planned.described()
    assert "It is **not usable**, whatever these figures are" in planned.card
    assert "| image dependence | 0.000 | a fatal problem |" in planned.card
    assert "x.jpg" not in planned.card


def test_the_card_says_what_is_read_and_learnt_beside_images(tuned: Path, tmp_path: Path) -> None:
    def card() -> str:
        return plan(PushOptions(run=tuned, repo=REPO, to=tmp_path / "draft")).card

    before = card()
    about, config = (
        json.loads((tuned / "lora" / name).read_text()) for name in ("run.json", "config.json")
    )
    options = {"prompt": "tags", "tags": "secret.txt", "tags_top": 5, "tags_least": 0.1}
    about["options"] |= options | {"extra_text": "secret.jsonl", "extra_noise": 0.5}
    labels = {"labels": ["cat", "dog"], "top": 5, "least": 0.1, "model": config["image_encoder"]}
    config["known_words"] = labels | {"prompts": None}
    for name, content in (("run.json", about), ("config.json", config)):
        (tuned / "lora" / name).write_text(json.dumps(content))
    after = card()
    assert "secret" not in after
    for text in (
        "Of each image it reads tags: of 2 labels those to which places gives a probability of 0.1"
        " or more, 5 at most.",
        "Data: also captions without images; the captions of ",
        "| prompt | tags |",
        "| tags\\_top | 5 |",
        "| extra\\_noise | 0.5 |",
    ):
        assert text in after
        assert text not in before


def test_what_cannot_be_sent_is_one_sentence(tuned: Path, tmp_path: Path) -> None:
    for repo, options, said in (
        ("harbour", {}, "harbour is not a repository of the hub; write USER/NAME"),
        (REPO, {"licence": "My own"}, "write it as the hub does"),
    ):
        with pytest.raises(UserError, match=said):
            captune.push(tuned, repo, yes=True, **options)
    for run in (tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(UserError, match=f"{run.name} is not a folder; name the --out"):
            captune.push(run, REPO, to=tmp_path / "card")


def test_a_captioner_of_transformers_is_none_of_a_tune(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(UserError, match="is a captioner of transformers, and none of a captune"):
        captune.push(tmp_path, REPO, yes=True)
    assert hub.requests == []


def test_what_is_no_captioner_is_not_loaded(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(REPO, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    images = str(write_images(tmp_path / "images", 1))
    assert main(["caption", images, "--model", MODEL]) == 2
    assert "there is no captioner of captune push in it" in capsys.readouterr().err
    assert not any("/resolve/" in one for one in hub.requests)


def test_files_that_were_carried_over_are_adopted(
    tuned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["models", "fetch", MODEL, "--captioner"]
    assert main(words) == 2
    assert f"captune models fetch {MODEL} --captioner" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        full = SimpleNamespace(free=9)
        patch.setattr("captune.storage.shutil.disk_usage", lambda _: full)
        assert main([*words, "--from", str(tuned / "lora")]) == 2
    assert "make room" in capsys.readouterr().err
    assert main([*words, "--from", str(tuned / "lora")]) == 0
    assert f"the captioner of {MODEL} is now in" in capsys.readouterr().out


EVIL = "x\n```\n---\nlicense: mit\n---\n# <script>alert(1)</script> [y](http://evil.example) $(id)"


def test_a_run_of_somebody_else_writes_nothing_into_the_card_but_its_words(
    hub: FakeHub, tuned: Path
) -> None:
    place = tuned / "lora"
    about, metrics, config = (
        json.loads((place / name).read_text())
        for name in ("run.json", "metrics.json", "config.json")
    )
    about["versions"] = {EVIL: EVIL}
    about["models"] = [{"spec": EVIL, "weights_id": EVIL, "licence": EVIL, "decoder_id": EVIL}]
    about["options"] |= {"objective": EVIL, "set": [EVIL], "select": EVIL}
    one = metrics["tuned"]
    one["method"] = EVIL
    one["scores"][EVIL] = one["scores"]["cider"] | {"name": EVIL}
    for finding in one["findings"]:
        finding["about"] = EVIL
    config["image_encoder"]["spec"] = EVIL
    config["decoder"]["spec"] = "hf:" + "a" * 1000
    for name, content in (("run.json", about), ("metrics.json", metrics), ("config.json", config)):
        (place / name).write_text(json.dumps(content))
    captune.push(tuned, REPO, yes=True)
    card = sent(hub)["README.md"].decode()
    _, front, body = card.split("\n---\n")[0], *card.removeprefix("---\n").split("\n---\n")
    assert "license" not in yaml.safe_load(front)
    fences = [line for line in body.splitlines() if line.startswith("```")]
    assert fences == ["```", "```", "```python", "```", "```bibtex", "```"]
    assert next(line for line in body.splitlines() if line.startswith("#")) == "# harbour"
    outside = "".join(body.split("```")[::2])
    assert not re.search(r"(?<!\\)(<script|\]\(http://evil)", outside)
    assert "'FOLDER/evil.example) $(id)'" in body  # a shell runs none of it
    assert " | language model | " in body  # by which parts of one name are told apart


def test_no_link_sends_a_file_that_lies_elsewhere(
    hub: FakeHub, tuned: Path, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    for name in ("model.safetensors", "config.json", "explain.json", "metrics.json"):
        path = tuned / "lora" / name
        if not path.exists():
            content = {"schema": 1, "method": "attention", "layer": None, "head": None}
            path.write_text(json.dumps(content))
        path.rename(private / name)
        path.symlink_to(private / name)
        with pytest.raises(UserError, match=f"{name} leads out of the run, to .*private"):
            captune.push(tuned, REPO, yes=True)
        path.unlink()
        (private / name).rename(path)
    (tuned / "lora").rename(private / "lora")
    (tuned / "lora").symlink_to(private / "lora")
    with pytest.raises(UserError, match="leads out of the run"):
        captune.push(tuned, REPO, yes=True)
    assert hub.repositories == {}
    # a run that is reached by a link is a run
    (tuned / "lora").unlink()
    (private / "lora").rename(tuned / "lora")
    (tmp_path / "latest").symlink_to(tuned)
    captune.push(tmp_path / "latest", REPO, yes=True)
    assert set(sent(hub)) >= {"README.md", "config.json", "model.safetensors"}


def test_how_likely_people_agree_is_sent(hub: FakeHub, tuned: Path) -> None:
    write_beside(tuned / "lora" / AGREEMENT, agreement_at(-2.0))
    captune.push(tuned, REPO, yes=True)
    assert json.loads(sent(hub)["agreement.json"])["beam"] == 2


def test_of_the_map_to_believe_its_own_fields_are_sent(hub: FakeHub, tuned: Path) -> None:
    content = {"schema": 1, "method": "attention", "layer": None, "head": None, "note": "secret"}
    (tuned / "lora" / "explain.json").write_text(json.dumps(content))
    captune.push(tuned, REPO, yes=True)
    assert b"secret" not in sent(hub)["explain.json"]
    assert json.loads(sent(hub)["explain.json"])["method"] == "attention"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "zero", "huge"])
@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "explain.json", "agreement.json"),
        "run.json",
        "metrics.json",
    ],
)
def test_what_stands_in_the_place_of_a_file_is_no_captioner(
    hub: FakeHub, tuned: Path, name: str, kind: str
) -> None:
    path = tuned / "lora" / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    with pytest.raises(UserError, match=re.escape(name)):
        captune.push(tuned, REPO, yes=True)
    assert hub.repositories == {}


@pytest.mark.parametrize("repo", ["../x", "x/..", "a/b/c", "me/x\0", "me/x?y", "https://h/x"])
def test_names_that_are_no_repository(hub: FakeHub, tuned: Path, tmp_path: Path, repo: str) -> None:
    with pytest.raises(UserError):
        captune.push(tuned, repo, yes=True)
    with pytest.raises(UserError):
        captune.Captioner.from_pretrained(f"hf:{repo}")
    assert (
        main(["models", "fetch", f"hf:{repo}", "--captioner", "--from", str(tuned / "lora")]) == 2
    )
    assert hub.requests == []
    assert not [path for path in tmp_path.rglob("*") if path.name == "README.md"]


def test_files_of_a_hub_that_are_called_like_others_are_not_fetched(
    hub: FakeHub, tuned: Path, tmp_path: Path
) -> None:
    own = ("config.json", "model.safetensors")
    files = {name: (tuned / "lora" / name).read_bytes() for name in own}
    names = ("../../../evil", "/etc/evil", "..\\evil", "*", "model.safetensors/../../evil", "x.py")
    hub.add(REPO, files | dict.fromkeys(names, b"evil"))
    place = captioner_folder(MODEL)
    assert sorted(path.name for path in place.iterdir()) == [*own]
    assert not any("evil" in one for one in hub.requests)


def test_mutated_runs_are_planned_or_refused_in_a_sentence(hub: FakeHub, tuned: Path) -> None:
    place = tuned / "lora"
    for name in ("run.json", "metrics.json", "config.json"):
        whole = (place / name).read_text()
        for seed in range(60):
            (place / name).write_text(whole)
            told = change_value(place / name, random.Random(f"{name}{seed}"))
            try:
                card = plan(PushOptions(run=tuned, repo=REPO)).card
            except UserError:
                continue
            except Exception as error:
                raise AssertionError(told) from error
            front, body = card.removeprefix("---\n").split("\n---\n")
            assert yaml.safe_load(front)["library_name"] == "captune", told
            assert all(line.isprintable() for line in body.splitlines()), told
            assert not re.search(r"(?<!\\)<(script|img)", body), told
        (place / name).write_text(whole)
    assert hub.requests == []


def test_what_was_tuned_in_a_captioner_of_transformers_is_sent_and_loaded_again(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.captioning.twins import write_twin

    other = write_twin("blip", tmp_path / "places" / "blip")
    names = [path.stem for path in write_images(tmp_path / "images").iterdir()]
    said = tmp_path / "captions.json"
    said.write_text(json.dumps(dict.fromkeys(names, "a secret red dog")))
    data = [str(tmp_path / "images"), "--captions", str(said), "--val-captions", str(said)]
    how = ["--method", "adapter", "--train", "projector", "--epochs", "1", "--max-tokens", "8"]
    run = tmp_path / "run"
    more = ["--score-model", "none", "--device", "cpu", "--out", str(run)]
    blip_2 = write_twin("blip-2", tmp_path / "places" / "blip-2")
    assert main(["tune", *data, "--start", str(blip_2), *how, *more]) == 0
    assert main(["push", str(run), REPO, "--yes"]) == 0
    files = sent(hub)
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    for content in files.values():
        for word in (b"secret", bytes(tmp_path)):
            assert word not in content
    card = files["README.md"].decode()
    assert f"--model {MODEL} --decoder FOLDER/blip-2" in card
    assert f'captune.caption("images/", model="{MODEL}")' in card
    assert "Trained: adapter and projector, " in card
    assert "bridge" not in card
    capsys.readouterr()
    assert main(["cite", str(run)]) == 0
    told = capsys.readouterr().out
    assert "The frozen captioner \\texttt{blip-2}" in told
    assert "its projector trained too, was trained on" in told
    common = ["caption", str(tmp_path / "images"), "--max-tokens", "4", "--device", "cpu", "--json"]
    assert main([*common, "--model", str(run)]) == 0
    expected = json.loads(capsys.readouterr().out)["answers"]
    assert main([*common, "--model", MODEL, "--decoder", str(blip_2)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answers"] == expected
    assert found["model"]["spec"] == MODEL
    assert main([*common, "--model", MODEL]) == 2  # it was a folder of somebody's
    assert "say with --decoder where it lies now" in capsys.readouterr().err
    assert main([*common, "--model", MODEL, "--decoder", str(other)]) == 2
