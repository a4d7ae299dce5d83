"""Every command, with labels, prompts, captions and names that would do things to a terminal."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.captioning.caption_job import (
    use_encoder,
    use_map_methods,
    write_captioner,
    write_images,
)
from tests.captioning.little_job import fake_frozen, write_job
from tests.report_runs import classify_run, tune_run
from tests.test_escaping import terminal

import captune.cli.env
from captune.captioning.training import setup
from captune.cli import commands, main
from captune.jobs import caption as job

# sets the clipboard, turns colours around, clears, writes from right to left, hides
DOES = "\x1b]52;c;aGk=\x07\x1b[7;31m\x9b2J\x1bc\u202egnp\u2066\u200f\u200b\U000e0041[red]:dog:"
HOSTILE = f"red{DOES}\r\n\ttwo"
NAME = f"image{DOES}\n.png"
# of rich: styles, the cursor of a bar, the way of a link
_RICH = re.compile(r"\x1b\[(\d+;)*\d*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\x1b\[2K|\r")

# these name nothing of others; LaTeX has a form of its own for a backslash
_SAYS_OTHERWISE = ("env", "plugins", "completion", "cite")

Command = Callable[[Path], list[str]]
COMMANDS: dict[str, Command] = {}


def command(function: Command) -> Command:
    """A command of the table, by the name of the function; a second one has a number behind it."""
    COMMANDS[function.__name__] = function
    return function


def _images(here: Path) -> Path:
    folder = here / f"images{DOES}"
    folder.mkdir()
    for n, colour in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (20, 20), colour).save(folder / f"{n}{NAME}")
    (folder / f"broken{NAME}").write_bytes(b"GIF89a")
    return folder


def _json(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def _captions(here: Path, name: str, *captions: str) -> str:
    return _json(here / f"{name}{DOES}.json", {f"{n}{NAME}": captions for n in range(3)})


@command
def classify(here: Path) -> list[str]:
    labels = _json(here / f"labels{DOES}.json", {f"{n}{DOES}": f"{HOSTILE}{n}" for n in range(3)})
    return [
        *("classify", str(_images(here)), "--labels", labels, "--prompt", f"{HOSTILE} {{}}"),
        *("--prompt", "{}", "--csv", str(here / f"a{DOES}.csv"), "--out", str(here / f"run{DOES}")),
    ]


@command
def prompts(here: Path) -> list[str]:
    labels = _json(here / "labels.json", {"7": f"red{HOSTILE}", "8": "green", "9": "blue"})
    truth = here / "truth.csv"
    rows = [f'"{path.name}",{n + 7}' for n, path in enumerate(sorted(_images(here).iterdir())[:3])]
    truth.write_text("filename,label\n" + "\n".join(rows))
    words = ["prompts", str(here / f"images{DOES}"), "--labels", labels, "--truth", str(truth)]
    return [*words, "--prompt", f"{HOSTILE} {{}}", "--prompt", "a {}", "--out", str(here / "run")]


@command
def embed(here: Path) -> list[str]:
    return ["embed", str(_images(here)), "--to", str(here / f"features{DOES}.npz")]


@command
def caption(here: Path) -> list[str]:
    model = str(write_captioner(here / f"model{DOES}"))
    return ["caption", str(_images(here)), "--model", model, "--max-tokens", "4"]


@command
def caption_2(here: Path) -> list[str]:
    image = next(path for path in _images(here).iterdir() if path.name.startswith("0"))
    model = str(write_captioner(here / "model"))
    return ["caption", str(image), "--model", model, "--predictions", str(here / f"p{DOES}.json")]


@command
def tune(here: Path) -> list[str]:
    images, train, val = write_job(here / "job")
    for path in (train, val):
        path.write_text(path.read_text().replace('"a w', json.dumps(f"{HOSTILE} a w")[:-1]))
    return [
        *("tune", str(images), "--captions", str(train), "--val-captions", str(val)),
        *("--epochs", "1", "--out", str(here / f"run{DOES}")),
        *("--batch-size", "12", "--max-tokens", "40", "--device"),
        *("cpu", "--method", "lora", "--set", "bridge.width=16", "--set", "bridge.heads=2"),
    ]


@command
def explain(here: Path) -> list[str]:
    model = str(write_captioner(here / f"model{DOES}"))
    words = ["explain", str(_images(here)), "--model", model, "--caption", f"w20 {HOSTILE}"]
    return [*words, "--device", "cpu", "--out", str(here / f"run{DOES}")]


@command
def faithful(here: Path) -> list[str]:
    images = write_images(here / f"images{DOES}", 8)
    for path in list(images.iterdir()):
        path.rename(path.with_name(path.stem + NAME))
    (images / f"broken{NAME}").write_bytes(b"GIF89a")
    said = {path.stem: ["w20 w22"] for path in images.iterdir()}
    model = str(write_captioner(here / "model"))
    return [
        *("faithful", model, "--images", str(images), "--quick", "--device", "cpu"),
        *("--captions", _json(here / f"c{DOES}.json", said), "--out", str(here / f"run{DOES}")),
    ]


@command
def score(here: Path) -> list[str]:
    given = _json(here / f"a{DOES}.json", {f"{n}{NAME}": HOSTILE for n in range(3)})
    references = _captions(here, "refs", HOSTILE, "a red dog")
    return ["score", given, "--references", references, "--out", str(here / f"run{DOES}")]


@command
def score_2(here: Path) -> list[str]:
    words = score(here)
    main(words)
    Path(words[1]).write_text(json.dumps({f"{n}{NAME}": "another" for n in range(3)}))
    return ["verify", words[-1]]


@command
def rank(here: Path) -> list[str]:
    words = score(here)
    main(words)
    return ["rank", words[-1]]


@command
def compare(here: Path) -> list[str]:
    words = score(here)
    other = _json(here / f"b{DOES}.json", {f"{n}{NAME}": f"{HOSTILE} dog" for n in range(3)})
    return ["compare", words[1], other, *words[2:]]


@command
def report(here: Path) -> list[str]:
    images = _images(here)
    names = [path.name for path in images.iterdir()]
    run = classify_run(here / f"run{DOES}", images, names)
    tuned = tune_run(here / "tuned", images, {"lora": dict.fromkeys(names, HOSTILE)})
    for name in ("run.json", "metrics.json", "records.jsonl"):
        path = run / name
        path.write_text(path.read_text().replace("green", json.dumps(HOSTILE)[1:-1]))
    page = str(here / f"page{DOES}.html")
    return ["report", str(run), str(tuned), "--out", page, "--title", HOSTILE]


@command
def cite(here: Path) -> list[str]:
    run = Path(report(here)[1])
    path = run / "metrics.json"
    path.write_text(path.read_text().replace("a photo of a {}", json.dumps(HOSTILE)[1:-1]))
    return ["cite", str(run)]


@command
def completion(here: Path) -> list[str]:
    return ["completion", "bash"]


@command
def push(here: Path) -> list[str]:
    return ["push", str(here), f"me/{HOSTILE}"]


@command
def report_2(here: Path) -> list[str]:
    words = report(here)
    main(words)
    path = Path(words[1]) / "metrics.json"
    path.write_text(re.sub(r'"correct": \d', '"correct": 1', path.read_text()))
    return ["verify", words[-3]]


@command
def reproduce(here: Path) -> list[str]:
    data = here / f"hw3{DOES}"
    for name in ("p1_data/val", "p2_data/images/train", "p2_data/images/val"):
        (data / name).mkdir(parents=True)
    return ["reproduce", "dlcv-hw3", "--data", str(data), "--out", HOSTILE, "--dry-run"]


@command
def models(here: Path) -> list[str]:
    return ["models", "--search", HOSTILE]


@command
def models_2(here: Path) -> list[str]:
    return ["models", "fetch", "lite", "--from", str(here / HOSTILE)]


@command
def cache(here: Path) -> list[str]:
    return ["cache", "--limit", HOSTILE]


@command
def env(here: Path) -> list[str]:
    return ["env"]


@command
def plugins(here: Path) -> list[str]:
    return ["plugins"]


@command
def verify(here: Path) -> list[str]:
    return ["verify", str(here / HOSTILE)]


@command
def app(here: Path) -> list[str]:
    runs = here / f"runs{DOES}"
    runs.touch()
    return ["app", str(runs)]


@command
def shards(here: Path) -> list[str]:
    out = here / f"answers{DOES}"
    out.mkdir()
    stem = HOSTILE.replace("/", "")
    plan = {"command": "classify", "asked": {}, "options": {}, "shards": {stem: HOSTILE}}
    _json(out / "_captune.json", plan)
    (out / f"{stem}.parquet").touch()
    stats = {
        "rows": 1,
        "errors": 1,
        "seconds": 1,
        "reasons": {HOSTILE: 1},
        "sums": {},
        "sample": [],
    }
    _json(out / f"{stem}_stats.json", stats)
    return ["shards", "status", str(out)]


@command
def demo(here: Path) -> list[str]:
    (here / f"file{DOES}").touch()
    return ["demo", "--out", str(here / f"file{DOES}")]


@command
def classify_2(here: Path) -> list[str]:
    return ["classify", HOSTILE, "--labels", HOSTILE, "--truth", HOSTILE]


@command
def classify_3(here: Path) -> list[str]:
    return ["classify", "--labels", "a", f"--{HOSTILE}", HOSTILE]


@command
def unknown(here: Path) -> list[str]:
    return [HOSTILE]


@command
def score_3(here: Path) -> list[str]:
    return ["score", HOSTILE, "--references", HOSTILE, "--bootstrap", HOSTILE]


@pytest.fixture(autouse=True)
def _little_models(colours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_encoder(monkeypatch)
    monkeypatch.setattr(setup, "load_frozen", fake_frozen())
    use_map_methods(monkeypatch, "attention")
    monkeypatch.setenv("CAPTUNE_DEVICE", HOSTILE)
    write = job.run

    def captioned(*given: Any, **more: Any) -> Any:
        result = write(*given, **more)
        result.captions = [(name, f"{caption} {HOSTILE}") for name, caption in result.captions]
        return result

    monkeypatch.setattr(job, "run", captioned)


def assert_plain(text: str) -> None:
    for sign in text:
        place = max(0, text.index(sign) - 60)
        assert sign == "\n" or sign.isprintable(), ascii(text[place:][:90])


def test_every_command_is_in_the_table() -> None:
    assert {name.partition("_")[0] for name in COMMANDS} >= commands.COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_printed_does_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = COMMANDS[name](tmp_path)
    capsys.readouterr()
    status = main(words)
    found = capsys.readouterr()
    assert status in (0, 2), found.err
    assert_plain(found.out)
    assert_plain(found.err)
    assert r"\x1b]52;c;aGk=\x07" in found.out + found.err or name in _SAYS_OTHERWISE
    # one object, whatever it holds, and nothing else
    main([*words, "--json"])
    found = capsys.readouterr()
    assert_plain(found.out)
    assert_plain(found.err)
    assert found.out.isascii()
    assert json.loads(found.out)


@pytest.mark.parametrize("name", ["classify", "prompts", "caption", "tune", "rank", "report"])
def test_a_terminal_is_told_colours_by_rich_alone(name: str, tmp_path: Path) -> None:
    words = COMMANDS[name](tmp_path)
    with terminal() as stream:
        assert main(words) == 0
    said = stream.getvalue()
    assert "\x1b[7;31m" not in said
    assert_plain(_RICH.sub("", said))


def test_libraries_and_logs_are_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: Any) -> int:
        logging.getLogger("captune").warning("a warning of %s", HOSTILE)
        logging.getLogger("another.library").warning(HOSTILE)
        print(HOSTILE)
        sys.stderr.write(HOSTILE)
        raise ValueError(f"of ours {HOSTILE}")

    monkeypatch.setattr(captune.cli.env, "run", run)
    for more in ([], ["--debug"]):
        assert main(["env", *more]) == 1
        found = capsys.readouterr()
        assert_plain(found.out)
        assert_plain(found.err)
        assert r"a warning of red\x1b]52;c;aGk=\x07" in found.err
        assert ("Traceback" in found.err) == bool(more)
