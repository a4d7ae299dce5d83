"""Document frequencies of n-grams: counted, named, saved and loaded, so that CIDEr can be frozen.

A table is a gzip'd text. Its first line is a JSON object (format, name, images, n-grams, tokenizer,
source); every other line is a count, a tab, and the words of an n-gram between single spaces.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from captune_metrics.corpus import ORDERS, Corpus, NgramCounts
from captune_metrics.display import printable
from captune_metrics.errors import UserError
from captune_metrics.files import open_regular
from captune_metrics.scores import References

# name -> digest of the tables that come with captune
SHIPPED = {"coco-val2017": "7dd2965af2895866fc698abeb428bb7533bf0d8ec78806e5539e9f54b4f1b586"}
CORPUS = "corpus"  # what --df calls no table: frequencies of the references at hand
_ENDINGS = (".gz", ".tsv", ".df")
_FORMAT = "captune document frequencies 1"
_MAX_BYTES = 128 * 2**20  # of text; COCO's 118,000 training images need about a fifth of it
_MAX_NGRAMS = 3_000_000  # three times those of COCO's training images
_MAX_HEADER_BYTES = 10_000
_MAX_DIGITS = 15


@dataclass(frozen=True, eq=False)
class DocumentFrequency:
    """In how many images' references each n-gram occurs, counted over a set of images.

    name: what recipes call it. images: how many the set has.
    counts: {words of an n-gram: images}; what occurs in one image only is left out, which changes
        no score: CIDEr takes max(1, count).
    tokenizer: what made the words. source: where the captions came from, and their licence.
    """

    name: str
    images: int
    counts: Mapping[tuple[str, ...], int]
    tokenizer: str = "ptb"
    tokenizer_version: str | None = None
    source: str = ""

    @classmethod
    def counted(
        cls, captions: Corpus | References, name: str = "counted", source: str = ""
    ) -> DocumentFrequency:
        """Count over the references of a corpus, or over {image id: [caption, ...]} (with `ptb`).

        On the command line: `captune score CANDIDATES --references REFS --save-df FILE`. That gives
        the shipped table (the same digest) where REFS are the last captions of each COCO val2017
        image, all but its first.
        """
        if not isinstance(captions, Corpus):
            captions = Corpus(dict.fromkeys(captions, ""), captions)
        return cls(
            name=name,
            images=len(captions.images),
            counts=dict(_frequent(captions)),
            tokenizer=captions.tokenizer,
            tokenizer_version=captions.tokenizer_version,
            source=source,
        )

    @classmethod
    def load(cls, path: Path | str) -> DocumentFrequency:
        """Read a saved table. Raises UserError for a file that is none."""
        try:
            with open_regular(path) as file:
                return _read(file, str(path))
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            reason = getattr(error, "strerror", None) or error
            raise _broken(str(path), f"cannot be read ({reason})") from None

    @classmethod
    def shipped(cls, name: str) -> DocumentFrequency:
        """A table that comes with captune. Raises UserError for an unknown name."""
        if name not in SHIPPED:
            raise UserError(f'table "{printable(name)}": captune comes with {", ".join(SHIPPED)}')
        with files("captune_metrics").joinpath(f"{name}.tsv.gz").open("rb") as file:
            return _read(file, name)

    def write(self, file: IO[bytes]) -> None:
        """Write the table to an open file; the same counts give the same bytes."""
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as zipped:
            zipped.write(json.dumps(self._header()).encode() + b"\n")
            zipped.write(self._body())

    def save(self, path: Path | str) -> None:
        """Write the table as the file `path`."""
        with Path(path).open("wb") as file:
            self.write(file)

    @cached_property
    def digest(self) -> str:
        """sha256 of what scores depend on: the images and the counts, whatever the name or file."""
        return hashlib.sha256(f"{self.images}\n".encode() + self._body()).hexdigest()

    @property
    def label(self) -> str:
        """What a recipe line calls it: the name, and 8 digits of the digest unless it is shipped.

        Two tables may have one name, also one of captune's.
        """
        is_shipped = SHIPPED.get(self.name) == self.digest
        return self.name if is_shipped else f"{self.name}@{self.digest[:8]}"

    def within(self, counts: NgramCounts, known: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """[n-grams] counts of a text's own n-grams, an array an order; 0 where the table has none.

        known: [word ids of the text] the table's id of each word (`vocabulary`), -1 for none.
        """
        size, found, prefix = np.int64(known.size), [], np.zeros(1, dtype=np.int64)
        for n, (keys, frequencies) in enumerate(self._keys, start=1):
            first, last = np.divmod(counts.ngrams(n).keys, size)
            place, word = prefix[first], known[last]
            wanted = place * len(self.vocabulary) + word
            wanted[(place < 0) | (word < 0)] = -1
            prefix = np.searchsorted(keys, wanted)
            missing = keys[prefix] != wanted
            prefix[missing] = -1
            found.append(np.where(missing, 0, frequencies[prefix]))
        return found

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Every word of the table -> id, in alphabetical order."""
        words = sorted({word for ngram in self.counts for word in ngram})
        return {word: id for id, word in enumerate(words)}

    @cached_property
    def _keys(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(n-grams as sorted keys, their counts) an order.

        key = (place of the first n - 1 words among the keys before) * vocabulary + last word. The
        first words of an n-gram are found even where the table lacks them, with a count of 0.
        """
        orders = [dict(zip(ngrams, counts, strict=True)) for ngrams, counts in self._by_order()]
        for longer, shorter in zip(reversed(orders), reversed(orders[:-1]), strict=False):
            for ngram in longer:
                shorter.setdefault(ngram[:-1], 0)
        places: dict[tuple[str, ...], int] = {(): 0}
        keys = []
        for order in orders:
            ngrams = sorted(order)
            packed = [
                places[ngram[:-1]] * len(self.vocabulary) + self.vocabulary[ngram[-1]]
                for ngram in ngrams
            ]
            places = {ngram: place for place, ngram in enumerate(ngrams)}
            # a last key that nothing equals: there is always one to look at
            packed.append(np.iinfo(np.int64).max)
            counts = [*map(order.__getitem__, ngrams), 0]
            keys.append((np.array(packed, dtype=np.int64), np.array(counts, dtype=np.int64)))
        return keys

    def _by_order(self) -> list[tuple[list[tuple[str, ...]], list[int]]]:
        """The n-grams and their counts, orders 1 to 4."""
        orders: list[tuple[list[tuple[str, ...]], list[int]]] = [([], []) for _ in range(ORDERS)]
        for ngram, count in self.counts.items():
            ngrams, counts = orders[len(ngram) - 1]
            ngrams.append(ngram)
            counts.append(count)
        return orders

    def _header(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "name": self.name,
            "images": self.images,
            "orders": ORDERS,
            "ngrams": len(self.counts),
            "at_least_images": 2,
            "tokenizer": self.tokenizer,
            "tokenizer_version": self.tokenizer_version,
            "source": self.source,
        }

    def _body(self) -> bytes:
        """A line an n-gram, short ones first, then by their words."""
        lines = [
            f"{count}\t{' '.join(ngram)}\n"
            for ngrams, counts in self._by_order()
            for ngram, count in sorted(zip(ngrams, counts, strict=True))
        ]
        return "".join(lines).encode("utf-8", "surrogatepass")


def is_file(df: str) -> bool:
    """Whether `--df` names a file: `corpus` and the shipped tables are words, file or not."""
    if df == CORPUS or df in SHIPPED:
        return False
    try:
        return Path(df).is_file()
    except OSError:  # too long for a name, for one
        return False


def name_of_table(path: Path) -> str:
    """What a table saved as `path` is called: mine, of mine.df.gz.

    Raises UserError for names that mean another table.
    """
    name = path.name
    while name.lower().endswith(_ENDINGS) and name.rpartition(".")[0]:
        name = name.rpartition(".")[0]
    if name.lower() in (CORPUS, *SHIPPED):
        raise UserError(
            f'{printable(path)}: a table must not be called "{printable(name)}", which --df '
            "means otherwise; give the file another name"
        )
    return printable(name)


def resolve_df(df: str) -> DocumentFrequency | None:
    """What `--df` names: None for "corpus", a shipped table, or a saved one.

    Raises UserError for what is neither.
    """
    if df == CORPUS:
        return None
    if df in SHIPPED:
        return DocumentFrequency.shipped(df)
    if not is_file(df):
        raise UserError(
            f'--df "{printable(df)}" is not a file; give corpus, {", ".join(SHIPPED)} or a table '
            "saved with --save-df"
        )
    return DocumentFrequency.load(df)


def _frequent(corpus: Corpus) -> Iterator[tuple[tuple[str, ...], int]]:
    """The n-grams that the references of 2 images or more have, with how many."""
    words = list(corpus.vocabulary)
    for n in range(1, ORDERS + 1):
        frequencies = corpus.ngrams(n).document_frequency
        frequent = np.flatnonzero(frequencies >= 2)
        columns = [[words[id] for id in column] for column in _spelled(corpus, n, frequent)]
        yield from zip(
            zip(*columns, strict=True), frequencies[frequent].tolist(), strict=True
        )  # fmt: skip


def _spelled(corpus: Corpus, n: int, ngrams: NDArray[np.int64]) -> list[list[int]]:
    """The word ids of n-grams of order `n`: n columns."""
    keys = corpus.ngrams(n).keys[ngrams]
    if n == 1:
        return [keys.tolist()]
    first, last = np.divmod(keys, len(corpus.vocabulary))
    return [*_spelled(corpus, n - 1, first), last.tolist()]


def _read(file: IO[bytes], where: str) -> DocumentFrequency:
    """A table from an open file, never more of it than the bounds above."""
    try:
        with gzip.GzipFile(fileobj=file) as zipped:
            line = zipped.readline(_MAX_HEADER_BYTES)
            header = _header_of(line, where)
            body = zipped.read(_MAX_BYTES + 1)
    except gzip.BadGzipFile:
        raise _broken(where, "is not gzip") from None
    except (EOFError, zlib.error):
        raise _broken(where, "is cut off or damaged") from None
    if len(body) > _MAX_BYTES:
        raise _broken(where, f"holds more than {_MAX_BYTES // 2**20} MB of text")
    if body.count(b"\n") != header["ngrams"] or not (body or b"\n").endswith(b"\n"):
        raise _broken(
            where, f"does not hold the {header['ngrams']} n-grams its first line speaks of"
        )
    version = header.get("tokenizer_version")
    return DocumentFrequency(
        name=printable(header["name"]),
        images=header["images"],
        counts=_counts_of(body, header["images"], where),
        tokenizer=printable(header["tokenizer"]),
        tokenizer_version=printable(version) if isinstance(version, str) else None,
        source=printable(header["source"]),
    )


def _header_of(line: bytes, where: str) -> dict[str, Any]:
    """The first line, checked."""
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise _broken(f"{where}:", f'its first line does not say "{_FORMAT}"')
    for key, least, most in (("images", 1, 10**_MAX_DIGITS), ("ngrams", 0, _MAX_NGRAMS)):
        value = header.get(key)
        if type(value) is not int or not least <= value <= most:
            raise _broken(f"{where}:", f"its {key} must be a number from {least} to {most}")
    for key in ("name", "tokenizer", "source"):
        if not isinstance(header.get(key), str):
            raise _broken(f"{where}:", f"its {key} must be a string")
    return header


def _counts_of(body: bytes, images: int, where: str) -> dict[tuple[str, ...], int]:
    """The lines after the first, checked."""
    try:
        text = body.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise _broken(where, "is not UTF-8") from None
    counts: dict[tuple[str, ...], int] = {}
    same = dict[str, str]()  # one object for all uses of a word
    lines = text.split("\n")[:-1]
    for number, line in enumerate(lines, start=2):
        digits, _, ngram = line.partition("\t")
        words = tuple([same.setdefault(word, word) for word in ngram.split(" ")])
        is_count = digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS
        if not is_count or not 1 <= int(digits) <= images:
            raise _broken(
                f"{where}:", f"line {number}: expected a count from 1 to {images} and a tab"
            )
        if len(words) > ORDERS or "" in words:
            raise _broken(
                f"{where}:", f"line {number}: expected 1 to {ORDERS} words between spaces"
            )
        counts[words] = int(digits)
    if len(counts) != len(lines):
        raise _broken(where, "names an n-gram twice")
    return counts


def _broken(where: str, what: str) -> UserError:
    return UserError(
        f"{printable(where)} {what}; expected a table saved by captune score --save-df"
    )
