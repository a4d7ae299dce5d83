"""The Dockerfile, as far as it can be held to without a daemon: read, checked, and built dry.

The dry build runs the shell of each RUN in a copy of what COPY brings, with pip, uv and captune
replaced by programs that write down what they were asked.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
STUBS = ("pip", "uv", "captune", "useradd", "chmod")
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(NAME, what follows), continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ")
    parted = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name, rest) for name, rest in parted]


def all_of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves it out; the last line that speaks of it counts."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        if line and not line.startswith("#") and any(
            fnmatch.fnmatch(one, pattern.replace("**/", "*")) for one in parents
        ):  # fmt: skip
            out = not line.startswith("!")
    return out


def sources() -> list[str]:
    return [one for rest in all_of("COPY") for one in rest.split()[:-1]]


def test_it_is_made_of_plain_instructions_on_a_pinned_base() -> None:
    names = [name for name, _ in instructions()]
    assert set(names) <= KNOWN
    assert names[0] == "FROM"
    (base,) = all_of("FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = base.removeprefix("python:").partition("-")[0]
    assert SpecifierSet(project["requires-python"]).contains(python)


@pytest.mark.parametrize("package", [".", "packages/captune-metrics", "packages/captune-lite"])
def test_what_a_package_is_built_of_is_copied(package: str) -> None:
    folder = ROOT / package
    about = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = about["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = ["pyproject.toml", about["project"]["readme"], *about["project"]["license-files"]]
    copied = [ROOT / source for source in sources()]
    for name in (*needed, *wheel["packages"]):
        path = folder / name
        assert path.exists()
        assert any(path == one or one in path.parents for one in copied), path


def test_it_runs_as_nobody_special_and_fetches_nothing() -> None:
    found = instructions()
    names = [name for name, _ in found]
    last = {name: len(names) - 1 - names[::-1].index(name) for name in set(names)}
    assert last["USER"] > last["RUN"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", all_of("USER")[-1])
    environment = " ".join(rest for name, rest in found[last["RUN"] :] if name == "ENV")
    assert {"CAPTUNE_OFFLINE=1", "HF_HUB_OFFLINE=1"} <= set(environment.split())
    assert all_of("ENTRYPOINT") == ['["captune"]']
    guide = (ROOT / "docs" / "docker.md").read_text()
    runs = re.findall(r"^docker run .*", guide, re.MULTILINE)
    assert runs
    assert all("--network none" in line for line in runs)


def test_every_argument_is_used_and_every_secret_stays_out() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for argument in all_of("ARG"):
        assert f"${argument.partition('=')[0]}" in text
    assert not re.search(r"(?i)token|password|curl|wget|sudo|latest", text)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    for source in sources():
        assert (ROOT / source).exists()
        assert not ignored(source)
    for name in (".git", ".venv", "tests", "docs"):
        assert ignored(name)


@pytest.mark.needs("linux")
@pytest.mark.parametrize("backend", ["cpu", "cuda", "tpu"])
def test_a_dry_build(backend: str, tmp_path: Path) -> None:
    stubs, place = tmp_path / "stubs", tmp_path / "build"
    stubs.mkdir()
    for name in STUBS:
        (stubs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n')
        (stubs / name).chmod(0o755)
    (place / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "requirements/demo.txt", place / "requirements")
    arguments = dict(one.split("=") for one in all_of("ARG")) | {"BACKEND": backend}
    environment = {"PATH": f"{stubs}:{os.environ['PATH']}", **arguments}
    for shell in all_of("RUN"):
        done = subprocess.run(
            ["sh", "-c", shell], cwd=place, env=environment, capture_output=True, text=True
        )
        if backend == "tpu":
            assert (done.returncode, done.stderr) == (2, "BACKEND is cpu or cuda, not tpu\n")
            return
        assert (done.returncode, done.stderr) == (0, "")
    asked = [shlex.split(line) for line in (tmp_path / "asked").read_text().splitlines()]
    locked = (place / "locked.txt").read_text()
    packages = set(re.findall(r"^([a-z0-9-]+)==", locked, re.MULTILINE))
    assert {"transformers", "numpy", "hatchling"} <= packages
    assert locked.count("==") <= locked.count("--hash=sha256:")
    assert ["captune", "models", "fetch", "lite", "--decoder"] in asked
    everything = (ROOT / "requirements/demo.txt").read_text()
    by_uv = [words for words in asked if words[0] == "uv"]
    if backend == "cuda":
        assert locked == everything
        assert by_uv == []
        return
    heavy = {one for one in packages if one.startswith(("torch", "nvidia", "triton"))}
    assert heavy == set()
    (words,) = by_uv
    assert [re.sub("==.*", "", word) for word in words[-2:]] == ["torch", "torchvision"]
    assert all(f"{word} " in everything for word in words[-2:])
