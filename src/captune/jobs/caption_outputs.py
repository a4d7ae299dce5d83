"""What a captioning writes as it goes: predictions, sidecars, and the journal it resumes from.

RUN/.captions.jsonl     the journal: first what was asked for, then a line per image, in their order

Lines are written a batch at a time and flushed to the disk; what a kill cut off is written anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from captune.answer_files import joined_file
from captune.captioning.caption import Caption
from captune.errors import UserError
from captune.files import check_writable, whole_file, writing
from captune.images import ImageFile
from captune.jobs import MOST_ANSWERS
from captune.options.captioning import CaptionOptions
from captune.progress import SILENT, Progress
from captune.runs.reader import ABOUT
from captune.runs.writer import JOURNAL
from captune_metrics.display import printable, quoted
from captune_metrics.files import LARGEST_TEXT, read_regular

_WRITTEN = b'{"written": true}\n'  # behind the last image
_KEPT = "the captions of finished batches are kept"


Sink = Callable[[Caption], object]


def check_somewhere(options: CaptionOptions, images: int) -> None:
    """Raises UserError for more captions than a terminal shows, where no file has them."""
    wanted = options.out or options.predictions or options.sidecar or options.to
    if not wanted and images > MOST_ANSWERS:
        raise UserError(
            f"{images:,} images: too many captions to print; say where to write them,"
            " with --out RUN, --to FILE, --predictions FILE.json or --sidecar"
        )


def check_predictions(path: Path, images: Sequence[ImageFile]) -> None:
    """Raises UserError where the file cannot be written, or two images have one stem."""
    check_writable(path)
    names: dict[str, str] = {}
    for image in images:
        first = names.setdefault(_stem(image), image.name)
        if first != image.name:
            raise UserError(
                f"--predictions: {quoted(first)} and {quoted(image.name)} have the same stem,"
                f" {quoted(_stem(image))}, and the file has one place for it; rename one, or"
                " caption their folders one by one"
            )


def predictions_file(path: Path) -> AbstractContextManager[Sink]:
    """Takes `{"stem": "caption"}`, one line an image; the file appears when the block ends well.

    A stem is a file's name without its folder and its ending.
    """

    def line(one: Caption) -> str:
        return f"{json.dumps(_stem(one.image))}: {json.dumps(one.caption)}"

    return joined_file(path, "{\n", ",\n", "\n}\n", line)


class Sidecars:
    """`name.txt` beside `name.jpg`, whole files.

    written, kept: how many were, also by the killed run that this one goes on with, and how many
    stayed as they were. skips: whether what is there stays as it is.
    """

    def __init__(
        self,
        images: Sequence[ImageFile],
        *,
        done: int = 0,
        existing: str = "skip",
        around: tuple[str, str] = ("", ""),
        progress: Progress = SILENT,
    ) -> None:
        """done: how many of the images an earlier, killed run captioned. existing: what happens to
        a file that is there: skip, overwrite, append, prepend. around: text before and after each
        caption.

        Raises UserError where two images share a sidecar, or a folder cannot be written to."""
        self.written = self.kept = 0
        self._existing = existing
        self.skips = existing == "skip"
        self._around = around
        self._done = {image.name for image in images[:done]}
        self._fresh: list[ImageFile] = []
        owners: dict[Path, str] = {}
        folders: set[Path] = set()
        for image in images:
            path = sidecar_of(image)
            first = owners.setdefault(path, image.name)
            if first != image.name:
                raise UserError(
                    f"--sidecar: {quoted(first)} and {quoted(image.name)} would share"
                    f" {quoted(path.name)}; rename one of them"
                )
            if path == image.path:
                raise UserError(
                    f"--sidecar: {quoted(image.name)} itself has the name of a sidecar; leave it"
                    " out or rename it"
                )
            if path.parent not in folders:
                folders.add(path.parent)
                check_writable(path.parent / ".captune-sidecar.txt")
            stands = os.path.lexists(path)
            if stands and not self.skips and (path.is_symlink() or not path.is_file()):
                # whoever made a folder of images may have led it to a file of yours
                raise UserError(
                    f"--sidecar: {quoted(path.name)} is a link or no file; remove it, or keep it"
                    " with --existing skip"
                )
            if image.name in self._done or not stands:
                self._fresh.append(image)
        self._standing = standing = len(images) - len(self._fresh)
        if standing:
            some = "1 image has" if standing == 1 else f"{standing:,} images have"
            then = {
                "skip": "kept as it is (--overwrite replaces it)",
                "overwrite": "replaced",
            }.get(existing, f"kept, with the caption {existing}ed")
            progress.message(f"{some} a .txt of that name already, which is {then}")

    def add(self, one: Caption) -> None:
        """Write one sidecar."""
        path = sidecar_of(one.image)
        before, after = self._around
        text = f"{before}{one.caption}{after}"
        if os.path.lexists(path) and self._existing != "overwrite":
            there = _text_of(path) if path.is_file() else ""
            if one.image.name in self._done and text in there:
                self.written += 1  # by the run that was killed
                return
            if self.skips or self._is_added(text.strip(), there):
                self.kept += 1
                return
            both = (there, text) if self._existing == "append" else (text, there)
            text = ", ".join(part for part in both if part)
        with whole_file(path) as file:
            file.write(f"{text}\n")
        self.written += 1

    def leave(self) -> list[ImageFile]:
        """The images without a sidecar; the others keep theirs."""
        self.kept = self._standing
        return self._fresh

    def counts(self) -> dict[str, int]:
        """What was done, as `--json` says it."""
        return {"written": self.written, "kept": self.kept}

    def _is_added(self, text: str, there: str) -> bool:
        """Whether a run before this one, finished or killed, has added the same."""
        if self._existing == "append":
            return f", {there}".endswith(f", {text}")
        return f"{there}, ".startswith(f"{text}, ")


def sidecar_of(image: ImageFile) -> Path:
    """Where an image's caption stands beside it."""
    return image.path.with_suffix(".txt")


def _stem(image: ImageFile) -> str:
    return PurePosixPath(image.name).stem


def _text_of(path: Path) -> str:
    try:
        return read_regular(path, LARGEST_TEXT).decode("utf-8", "surrogateescape").strip()
    except OSError as error:
        raise UserError(
            f"{printable(path)} cannot be read ({error.strerror}); move it away, or leave"
            " --sidecar out"
        ) from None


class CaptionJournal:
    """What is done of a captioning, in a run folder that this process holds (`runs.writer`).

    done: how many of `images` it holds, from the first on: whole batches, and each image's file as
    it was then. An image that changed, came or went ends what is taken over.
    is_written: whether its run is written, so that it only stays for a captioning of several.
    """

    def __init__(
        self, folder: Path, asked: Mapping[str, Any], images: Sequence[ImageFile], batch_size: int
    ) -> None:
        """asked: all that the captions depend on, as JSON values."""
        self.path = folder / JOURNAL
        self.done = 0
        self.is_written = False
        self._asked = {"asked": dict(asked)}
        self._images = images
        self._batch_size = batch_size
        self._shown = printable(folder)
        self._stack = ExitStack()
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        """Raises UserError where a captioning of other options was begun in the folder."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise UserError(f"{self._shown}: its {JOURNAL} is a link or no file; remove it")
        with writing(self.path, _KEPT), ExitStack() as stack:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            mode = "r+b" if self.path.exists() else "w+b"
            self._file = stack.enter_context(self.path.open(mode))
            self._take_over()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._stack.close()
        except OSError:  # what a full disk did not take would be written once more
            if error[0] is None:
                raise
        if not self.done:
            self.remove()

    def add(self, entries: Iterable[tuple[ImageFile, Mapping[str, Any]]]) -> None:
        """The entries of one batch of images, the next in their order."""
        lines = [json.dumps({**_state(image), **entry}) + "\n" for image, entry in entries]
        with writing(self.path, _KEPT):
            self._file.seek(0, os.SEEK_END)
            self._file.write("".join(lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self.done += len(lines)

    def keep(self) -> None:
        """Say that its run is written."""
        with writing(self.path, _KEPT):
            self._file.seek(0, os.SEEK_END)
            self._file.write(_WRITTEN)

    def entries(self) -> Iterator[dict[str, Any]]:
        """All that it holds, in the order of the images."""
        with self.path.open("rb") as file:
            file.readline()
            for _ in range(self.done):
                yield json.loads(file.readline())

    def remove(self) -> None:
        """Delete the journal."""
        self._file.close()
        with suppress(OSError):  # some systems let nobody remove a lock that is held
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()  # only where nothing else is in it

    def _take_over(self) -> None:
        """Read what is there, and cut off behind the last batch that still holds."""
        from captune.captioning.generate import batch_ends  # it loads torch

        first = self._file.readline()
        end = self._file.tell()
        if not _is_whole(first) or not _is_whole(self._file.readline()):
            self._begin()  # nothing was done there, whatever was asked for
            return
        self._check(json.loads(first))
        self._file.seek(end)
        ends = set(batch_ends(len(self._images), self._batch_size))
        for number, image in enumerate(self._images, 1):
            line = self._file.readline()
            if not _is_whole(line):
                break
            entry = json.loads(line)
            if any(entry.get(key) != value for key, value in _state(image).items()):
                break
            if number in ends:
                self.done, end = number, self._file.tell()
        else:
            is_there = (self.path.parent / ABOUT).is_file()
            if self._file.readline() == _WRITTEN and is_there:
                self.is_written, end = True, self._file.tell()
        self._file.truncate(end)

    def _begin(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write((json.dumps(self._asked) + "\n").encode())
        self._file.flush()

    def _check(self, first: Any) -> None:
        before = first.get("asked") if isinstance(first, dict) else None
        now = self._asked["asked"]
        if before == now:
            return
        before = before if isinstance(before, dict) else {}
        name = next(key for key in sorted(before.keys() | now) if before.get(key) != now.get(key))
        raise UserError(
            f"{self._shown}: a captioning was started there with {name} {before.get(name)}, and"
            f" this one has {now.get(name)}; use the same options to resume, or another"
            " --out"
        )


def _is_whole(line: bytes) -> bool:
    """Whether it is JSON to its end; what a power cut leaves may be a line of zero bytes."""
    if not line.endswith(b"\n"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _state(image: ImageFile) -> dict[str, Any]:
    """What tells, without reading it, that an image is the same file as before."""
    try:
        found = image.path.stat()
    except OSError:
        return {"name": image.name, "bytes": None, "changed": None}
    return {"name": image.name, "bytes": found.st_size, "changed": found.st_mtime_ns}
