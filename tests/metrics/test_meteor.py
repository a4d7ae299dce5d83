"""METEOR: the jar's own numbers, its own aggregate, and no process left behind."""

import os
import stat
import sys
import textwrap
from importlib import import_module

import numpy as np
import pytest

from captune_metrics.corpus import Corpus
from captune_metrics.errors import UserError
from captune_metrics.meteor_java import meteor, meteor_of

# the package's name `meteor` is the function
module = import_module("captune_metrics.meteor_java")

CAPTIONS = {
    "whole": ("a dog runs on the beach", ["a dog runs on the beach", "the dog is running"]),
    "stems": ("two men are riding horses", ["a man rides a horse", "two horsemen riding"]),
    "synonyms": ("a big sofa in a room", ["a large couch stands in the room"]),
    "nothing": ("purple", ["seven ships sail"]),
    "bars": ("a ||| sign | with || bars |||| here", ["a sign ||| with bars", "bars | here"]),
    "spaces": ("a  cat   sits", ["a cat  sits\tdown"]),
    "bars taken out": ("a sign | with || bars | here", ["a sign with bars", "bars | here"]),
    "single spaces": ("a cat sits", ["a cat sits down"]),
    "empty": ("", ["a plate of food"]),
    "empty reference": ("a plate of food", ["", "food"]),
    "both empty": ("", [""]),
    "lines": ("a boat\non a\rlake", ["a boat on\r\na lake"]),
    "scripts": ("ein großer Hund läuft", ["ein großer hund läuft schnell", "犬 が 走る"]),
    "marks": ('Isn\'t it $5 -- "cheap"?', ["it isn't cheap, at 5 dollars"]),
    "again": ("a dog runs on the beach", ["people walk along the shore with their dogs"]),
}


def corpus_of(images=tuple(CAPTIONS)) -> Corpus:
    return Corpus(
        {image: CAPTIONS[image][0] for image in images},
        {image: CAPTIONS[image][1] for image in images},
        "none",  # also what no tokenizer would let through
    )


@pytest.mark.needs("java")
def test_equal_to_pycocoevalcap():
    own = pytest.importorskip("pycocoevalcap.meteor.meteor").Meteor()  # its Java starts meanwhile
    scores = meteor_of(corpus_of())
    assert list(scores.per_image) == list(CAPTIONS)
    # its wrapper cannot hand over the others: they shift the parts of a line, or the lines
    plain = [image for image in CAPTIONS if image not in {"bars", "spaces", "lines"}]
    expected, each = own.compute_score(
        {image: CAPTIONS[image][1] for image in plain},
        {image: [CAPTIONS[image][0]] for image in plain},
    )
    assert [scores.per_image[image] for image in plain] == each
    assert expected != pytest.approx(np.mean(each), abs=1e-3)  # its aggregate is no mean
    # the aggregate of any of the images follows from their sums, so it can be resampled
    assert scores.statistics is not None
    assert scores.of_sums is not None
    rows = [list(CAPTIONS).index(image) for image in plain]
    sums = scores.statistics[rows].sum(axis=0, keepdims=True)
    assert scores.of_sums(sums, len(rows))[0] == pytest.approx(expected, abs=1e-12)
    everything = scores.statistics.sum(axis=0, keepdims=True)
    assert scores.of_sums(everything, len(CAPTIONS))[0] == pytest.approx(scores.corpus, abs=1e-12)
    np.testing.assert_allclose(scores.of_sums(scores.statistics[rows], 1), each, atol=1e-12)

    assert scores.per_image["whole"] == scores.per_image["lines"] == 1.0
    assert scores.per_image["nothing"] == scores.per_image["empty"] == 0.0
    assert scores.per_image["both empty"] == 0.0
    assert scores.per_image["bars"] == scores.per_image["bars taken out"] > 0
    assert scores.per_image["spaces"] == scores.per_image["single spaces"] > 0
    assert scores.name == "METEOR[1.5 (Java), none]"
    assert scores.recipe["computed by"].startswith("pycocoevalcap 1.")


FAKE = """\
    #!{python}
    import os, sys
    open({pid!r}, "w").write(str(os.getpid()))
    {before}
    for line in sys.stdin:
        if line.startswith("SCORE"):
            print("2 2 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 2 2", flush=True)
        else:
            {evaluate}
    """


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """fake_java(before, evaluate) -> the file with the process id of a `java` that plays METEOR."""
    (tmp_path / "package" / "meteor").mkdir(parents=True)
    (tmp_path / "package" / "meteor" / "meteor-1.5.jar").touch()
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "package")]})
    monkeypatch.setattr(module, "find_spec", lambda name: spec)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def install(before="", evaluate='print("1.0\\n" * line.count("|||") + "1.0", flush=True)'):
        pid = tmp_path / "pid"
        script = textwrap.dedent(FAKE).format(
            python=sys.executable, pid=str(pid), before=before, evaluate=evaluate
        )
        java = tmp_path / "java"
        java.write_text(script)
        java.chmod(java.stat().st_mode | stat.S_IXUSR)
        return pid

    return install


def is_running(pid_file) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


TWO = {"a": "a cat", "b": "a dog"}


def against_itself():
    return meteor(TWO, {image: [caption] for image, caption in TWO.items()})


def test_a_talkative_java_does_not_block_and_is_gone_afterwards(fake_java):
    pid = fake_java(before='sys.stderr.write("noise " * 200_000); sys.stderr.flush()')
    scores = against_itself()
    assert scores.corpus == 1.0
    assert scores.per_image == {"a": 1.0, "b": 1.0}
    assert scores.recipe["tokenizer"] == "ptb"
    assert not is_running(pid)


def test_a_java_that_dies_says_why(fake_java):
    pid = fake_java(
        before="sys.stderr.write('Picked up JAVA_TOOL_OPTIONS: x\\nInvalid maximum heap size');"
        "sys.exit(3)"
    )
    with pytest.raises(UserError, match="status 3: Invalid maximum heap size; METEOR needs 2 GB"):
        against_itself()
    assert not is_running(pid)


@pytest.mark.parametrize(
    "evaluate",
    [
        'print("Error: \\x1b[31m", flush=True)',
        'print("0.7\\n" * line.count("|||") + "0.7", flush=True)',  # not what its counts say
        'print("1.0\\n" * line.count("|||") + "0.9", flush=True)',  # another way to add up
    ],
)
def test_a_program_that_is_no_meteor_1_5_is_refused(fake_java, evaluate):
    pid = fake_java(evaluate=evaluate)
    with pytest.raises(UserError, match=r"not as METEOR 1\.5 does") as error:
        against_itself()
    assert "\x1b" not in str(error.value)
    assert not is_running(pid)


def test_an_interrupted_score_leaves_no_process(fake_java, monkeypatch):
    pid = fake_java()
    monkeypatch.setattr(module, "_number", lambda answer: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        against_itself()
    assert not is_running(pid)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"meteor needs an extra: pip install 'captune-metrics\[java\]'"
    ):
        against_itself()
    monkeypatch.undo()
    if module.find_spec("pycocoevalcap") is not None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match="no java on the PATH; install a Java runtime"):
            against_itself()
