"""The Java PTBTokenizer inside pycocoevalcap, as an oracle: lines in, lines out."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from captune_metrics.ptb import PUNCTUATION

# what Java takes for a line end, so that it gives back another number of lines
LINE_ENDS = "\r\v\f\u2028\u2029"


def jar() -> Path:
    """The CoreNLP jar of pycocoevalcap; skips the test where that is not installed."""
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        pytest.skip("pycocoevalcap is not installed")
    return Path(found.submodule_search_locations[0], "tokenizer", "stanford-corenlp-3.4.1.jar")


def java_text(text: str) -> str:
    """What the tokenizer prints for a file that holds `text`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "captions.txt")
        file.write_bytes(text.encode())
        answer = subprocess.run(
            [
                *("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", jar()),
                "edu.stanford.nlp.process.PTBTokenizer",
                *("-preserveLines", "-lowerCase", file),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    return answer.stdout.decode()


def java_lines(captions: Sequence[str]) -> list[str]:
    """The raw tokens of each caption, joined by blanks; captions without a line end in them."""
    lines = java_text("\n".join(captions)).split("\n")
    assert len(lines) == len(captions)
    return [line.rstrip(" ") for line in lines]


def filtered(line: str) -> str:
    """coco-caption's filter of one line of tokens."""
    return " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)
