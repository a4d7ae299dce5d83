"""METEOR 1.5, by the authors' own program: Java, out of the package pycocoevalcap.

Nothing of METEOR's matching is written again here: the jar aligns and scores (Denkowski and Lavie
2014), fed with captune's PTB tokens as the reference feeds it PTB output. pycocoevalcap's own
wrapper is not used, only its jar: it leaves its process running when something fails, waits for
ever once errors fill their pipe, and lets a "|||" in a reference shift the parts of a line.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np

from captune_metrics.corpus import Corpus
from captune_metrics.display import printable
from captune_metrics.errors import UserError
from captune_metrics.resampling import Doubles
from captune_metrics.scores import Candidates, References, Scores

_HEAP = "-Xmx2G"  # as pycocoevalcap gives it: the English paraphrases fill a good part
_TASK = ("-", "-", "-stdio", "-l", "en", "-norm")
_BARS = "|||"  # what separates the parts of a line
_STATISTICS = 23  # numbers the jar gives for one pair

# METEOR 1.5's parameters for English
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of exact, stem, synonym and paraphrase matches


def meteor(candidates: Candidates, references: References) -> Scores:
    """METEOR of each candidate against its references, 0..1; needs the extra `java` and Java.

    candidates: {image id: caption}; references: {image id: [caption, ...]}.
    The corpus figure is METEOR's own: of the summed counts, and so not the mean of the images.
    Raises UserError without pycocoevalcap, without Java or if it fails, and what Corpus raises.
    """
    check_installed()  # before anything is tokenised
    return meteor_of(Corpus(candidates, references))


def meteor_of(corpus: Corpus) -> Scores:
    """METEOR of a tokenised corpus, as `meteor`."""
    jar = check_installed()
    lines = []
    for start, n in zip(corpus.starts.tolist(), corpus.n_references.tolist(), strict=True):
        candidate, *references = map(_one_part, corpus.texts[start : start + n + 1])
        lines.append(f" {_BARS} ".join(["SCORE", *references, candidate]))
    with _Program.running(jar) as program:
        counts = [program.ask(line) for line in lines]
        program.send(f" {_BARS} ".join(["EVAL", *counts]))
        values = [_number(program.answer()) for _ in counts]
        total = _number(program.answer())
    statistics = _statistics(counts)
    # refuse a jar that is no METEOR 1.5: its recipe would be wrong, and so would be intervals
    ours = np.append(_of_sums(statistics, 1), _of_sums(statistics.sum(0, keepdims=True), 0))
    if not np.allclose(ours, [*values, total], rtol=0, atol=1e-9):
        raise _unknown_program(f"{total}")
    return Scores(
        "meteor",
        total,
        dict(zip(corpus.images, values, strict=True)),
        {"computed by": f"pycocoevalcap {_version()}, METEOR 1.5 (Java)", **corpus.recipe()},
        statistics=statistics,
        of_sums=_of_sums,
        title="METEOR",
        details=("1.5 (Java)", corpus.tokenizer),
    )


def check_installed() -> Path:
    """Where METEOR's jar is. Raises UserError without pycocoevalcap or without Java."""
    spec = find_spec("pycocoevalcap")
    folders = (spec.submodule_search_locations or []) if spec else []
    jars = sorted(path for folder in folders for path in Path(folder).glob("meteor/meteor-*.jar"))
    if not jars:
        raise UserError("meteor needs an extra: pip install 'captune-metrics[java]'")
    if shutil.which("java") is None:
        raise UserError(
            "meteor runs in Java, and there is no java on the PATH; install a Java runtime "
            "(8 or later) or leave meteor out of --metrics"
        )
    return jars[0]


class _Program:
    """The running jar: a line in, a line out. Standard error goes to a file, so it never blocks."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._errors = process, errors
        self._in, self._out = process.stdin, process.stdout

    @classmethod
    @contextmanager
    def running(cls, jar: Path) -> Iterator[_Program]:
        """Started, and gone at the end whatever happens. Raises UserError if it cannot start."""
        # Java before 18 reads standard input in the locale's encoding unless told otherwise
        options = [_HEAP, "-Dfile.encoding=UTF-8"]
        java = shutil.which("java") or "java"
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    [java, *options, "-jar", str(jar), *_TASK],
                    cwd=jar.parent,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                )
            except OSError as error:
                raise UserError(f"meteor: {java} does not start ({error.strerror})") from error
            try:
                yield cls(process, errors)
            finally:
                process.kill()
                with suppress(OSError):  # what it did not take any more
                    process.communicate()

    def send(self, line: str) -> None:
        """Give the program a line. Raises UserError if it has ended."""
        try:
            self._in.write(line.encode("utf-8", "replace") + b"\n")
            self._in.flush()
        except OSError:
            raise self._failed() from None

    def answer(self) -> str:
        """Its next line. Raises UserError if it has ended."""
        line = self._out.readline()
        if not line.endswith(b"\n"):
            raise self._failed()
        return line.decode("ascii", "replace").strip()

    def ask(self, line: str) -> str:
        """The answer to a line."""
        self.send(line)
        return self.answer()

    def _failed(self) -> UserError:
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read(10_000).decode("utf-8", "replace").strip().splitlines()
        said = [line for line in said if not line.startswith("Picked up ")]
        reason = f": {printable(said[0])[:200]}" if said else ""
        return UserError(
            f"meteor: Java stopped with status {status}{reason}; METEOR needs 2 GB of memory and "
            "Java 8 or later"
        )


def _one_part(text: str) -> str:
    """A tokenised caption as one part of a line."""
    return re.sub(r"[ \t\r\n]+", " ", text.replace(_BARS, "")).strip(" ")


def _number(answer: str) -> float:
    try:
        return float(answer)
    except ValueError:
        raise _unknown_program(answer) from None


def _statistics(counts: Sequence[str]) -> Doubles:
    """The jar's counts of each pair -> [n, 23]."""
    rows = [[_number(part) for part in line.split()] for line in counts]
    for row, line in zip(rows, counts, strict=True):
        if len(row) != _STATISTICS:
            raise _unknown_program(line)
    statistics = np.array(rows)
    # Two captions that match word by word in one piece are not fragmented: METEOR counts that one
    # chunk as none, alone and in a sum.
    words, chunks, matched = statistics[:, 0:2], statistics[:, 20], statistics[:, 21:23]
    statistics[(chunks == 1) & (matched == words).all(axis=1), 20] = 0
    return statistics


def _of_sums(sums: Doubles, images: int) -> Doubles:  # noqa: ARG001
    """Summed counts [m, 23] -> METEOR [m]: equations 1 to 5 of Denkowski and Lavie 2014.

    A row: words of the candidate and of the reference, function words of both; four times (exact,
    stem, synonym, paraphrase) the matched content words of both and the matched function words of
    both; chunks; matched words of both.
    """
    content_and_function = np.array([_DELTA, 1 - _DELTA])
    words, function = sums[:, 0:2], sums[:, 2:4]
    lengths = np.stack([words - function, function], axis=1)  # [m, kind, side]
    matches = sums[:, 4:20].reshape(-1, len(_WEIGHTS), 2, 2)  # [m, stage, kind, side]
    found = np.einsum("s,k,mskx->mx", _WEIGHTS, content_and_function, matches)
    offered = np.einsum("k,mkx->mx", content_and_function, lengths)
    precision, recall = _ratio(found, offered).T
    mean = _ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    chunks, matched = sums[:, 20], sums[:, 21:23]
    fragmentation = _ratio(chunks, matched.mean(axis=1))
    scores: Doubles = mean * (1 - _GAMMA * fragmentation**_BETA)
    return scores


def _ratio(over: Doubles, under: Doubles) -> Doubles:
    """Quotients; of nothing, 0."""
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def _unknown_program(answer: str) -> UserError:
    return UserError(
        f'meteor: answered "{printable(answer)[:80]}", not as METEOR 1.5 does; install the '
        "pycocoevalcap it comes with: pip install 'captune-metrics[java]'"
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pycocoevalcap")
    except PackageNotFoundError:
        return "unknown"
