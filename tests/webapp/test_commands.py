"""The commands that the page shows, pasted into a shell as they are printed."""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.app import Client
from tests.colour_model import use_colour_model
from tests.webapp.made_up import little_captioner, write_runs

from captune.captioning.captioner import Captioner
from captune.cli import main as captune
from captune.options.pages import AppOptions
from captune.webapp import tabs
from captune.webapp.server import Running, running
from captune.webapp.views import shell_line

ODD = """it's "my" $(folder) & more"""
LABELS = ["red, it's green", "", "lite", False, False]


def read_by_a_shell(line: str) -> tuple[str, list[str]]:
    """Where a line runs `captune`, and the words behind that."""
    script = 'captune() { printf \'%s\\0\' "$PWD" "$@"; }\n' + line
    found = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, check=True)
    place, *words, _ = found.stdout.decode().split("\0")
    return place, words


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    folder = tmp_path_factory.mktemp("commands") / ODD
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("CAPTUNE_CACHE", str(folder / "cache"))
        use_colour_model(patch)
        little_captioner(folder, patch)
        write_runs(folder)
        patch.chdir(folder)
        with running(AppOptions(runs=Path("runs"))) as found:
            yield found, folder


def test_every_command_that_is_shown_runs_as_it_is_printed(
    app: tuple[Running, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    running_app, folder = app
    client = Client(running_app.address, 0)
    first = running_app.context.uploads.images_of(client.images).names[0]
    references = str(folder / "references.json")
    asked: dict[str, list[Any]] = {
        "classify": [*LABELS, client.images],
        "keep-classify": ["a b", client.images, *LABELS],
        "caption": ["lite", 2, "none", client.images],
        "keep-caption": ["c", client.images, "lite", 2, "none"],
        "explain": ["lite", 2, False, 0, client.images],
        "ask": ["w3", "w7", "lite", 2, first, client.images],
        "compare": ["first", "second", references, "", "compared"],
        "report": [["recognised", "maps"], ""],
    }
    for job, values in asked.items():
        shown = " ".join(client.ask(job, "click", values))
        line = html.unescape(json.loads(f'"{re.findall("<code>(.*?)</code>", shown)[-1]}"'))
        # in another folder than the one that the app was started in
        assert (line.startswith("cd ")) == (job.startswith("keep-") or job in ("compare", "report"))
        place, words = read_by_a_shell(line)
        monkeypatch.chdir(place)
        assert words[0] == {"keep-classify": "classify", "keep-caption": "caption"}.get(
            job, "explain" if job == "ask" else job
        )
        assert captune(words) == 0, line
        monkeypatch.chdir(folder)
    assert (folder / "report.html").is_file()


def test_the_answers_can_be_saved_as_to_writes_them(app: tuple[Running, Path]) -> None:
    running_app, _ = app
    client = Client(running_app.address, 1)
    fields = {
        "classify": ("labels", [*LABELS, client.images]),
        "explain": ("explanations", ["lite", 2, False, 0, client.images]),
    }
    for job, (name, values) in fields.items():
        shown = " ".join(client.ask(job, "click", values))
        for ending in ("csv", "jsonl"):
            assert f'download=\\"{name}.{ending}\\"' in shown
        rows = base64.b64decode(re.findall("jsonl;base64,([A-Za-z0-9+/=]+)", shown)[-1])
        images = running_app.context.uploads.images_of(client.images)
        assert [json.loads(row)["image"] for row in rows.splitlines()] == images.names
    assert list(running_app.folder.glob("tmp*")) == []


def test_captions_are_shown_as_they_come(
    app: tuple[Running, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    running_app, _ = app
    client = Client(running_app.address, 2)
    shown: list[int] = []
    write = Captioner.write

    def watched(self: Captioner, images: Any, *batch: Any) -> Any:
        job = next(reversed(running_app.context.queue._jobs.values()))
        shown.append(len(job.result))
        return write(self, images, *batch)

    monkeypatch.setattr(Captioner, "write", watched)
    monkeypatch.setattr(tabs.images, "_AT_ONCE", 1)
    list(client.ask("caption", "click", ["lite", 2, "none", client.images]))
    assert shown == [0, 1]


@pytest.mark.parametrize("word", [ODD, "a\u202eb'c\\d", "two\nlines", "-x", ""])
def test_a_shell_reads_the_word_that_was_meant(word: str) -> None:
    line = shell_line(["captune", word])
    assert line.isprintable()
    assert read_by_a_shell(line)[1] == [word]
