"""Options of what is done with runs: report, verify, cite; and of what is no job."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.base import (
    CsvOptions,
    ModelOptions,
    check_pass,
    option,
    refuse_given,
    require_at_least,
    same_option,
)
from captune_metrics.display import printable


@dataclass(kw_only=True)
class ReportOptions(CsvOptions):
    """`captune report`."""

    runs: list[str] = option(
        "run folders of any command; the methods of a tune are included",
        [],
        nargs="*",
        metavar="RUN",
    )
    out: Path | None = option(
        "page to write: one file, which opens without a network", metavar="FILE.html"
    )
    title: str | None = option(
        "title of the page (default: the jobs and the number of images)", metavar="TEXT"
    )
    limit: int = option("maximum number of images in a gallery", 2000)
    top: int = option("images to show of the best and of the worst", 4)
    images: Path | None = option(
        "folder of the images of runs that were made on another machine; without it, only images"
        " inside the run folder are shown",
        metavar="DIR",
    )
    figures: Path | None = option(
        "folder to write every table as CSV and every figure as PNG, SVG and PDF", metavar="DIR"
    )
    published: str | None = option(
        "published study to compare the runs with: dlcv-hw3, or a YAML file", metavar="STUDY"
    )

    def __post_init__(self) -> None:
        """Raises UserError for a page of nothing."""
        require_at_least(self, limit=1, top=1)


@dataclass(kw_only=True)
class VerifyOptions:
    """`captune verify`."""

    place: Path = option(
        "page of captune report, run folder, or metrics.json of a score or a comparison",
        ...,
        nargs=None,
        metavar="PLACE",
    )
    runs: list[str] = option(
        "run folders of the page, if they have moved", [], nargs="*", metavar="RUN"
    )
    candidates: Path | None = option("captions of a score, if they have moved")
    a: Path | None = option("captions A of a comparison, if they have moved")
    b: Path | None = option("captions B of a comparison, if they have moved")
    references: Path | None = option("reference captions, if they have moved")
    images: Path | None = option("folder of the images, if they have moved", metavar="DIR")
    df: Path | None = option("saved document frequencies, if they have moved")
    device: str = same_option(ModelOptions, "device")
    batch_size: int = same_option(ModelOptions, "batch_size")
    workers: int = same_option(ModelOptions, "workers")
    no_cache: bool = same_option(ModelOptions, "no_cache")

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no pass can be made with."""
        check_pass(self.batch_size, self.workers)


@dataclass(kw_only=True)
class CiteOptions:
    """`captune cite`."""

    runs: list[str] = option("run folders of any command", ..., nargs="+", metavar="RUN")


@dataclass(kw_only=True)
class PushOptions:
    """`captune push`."""

    run: Path = option(
        "run folder of captune tune, or of one of its methods", ..., nargs=None, metavar="RUN"
    )
    repo: str = option(
        "repository of the hub to send it to; made if it is not there",
        ...,
        nargs=None,
        metavar="USER/NAME",
    )
    public: bool = option("let everybody see it (default: only you)", False)
    licence: str | None = option(
        "licence of the trained weights, by the hub's name for it, such as apache-2.0", metavar="ID"
    )
    dataset: str | None = option(
        "what it was trained on, for the card: a name, or USER/NAME of a dataset of the hub",
        metavar="NAME",
    )
    yes: bool = option("send without asking", False)
    to: Path | None = option(
        "write what would be sent into an empty folder, as the hub would have it, and send nothing",
        metavar="FOLDER",
    )

    def __post_init__(self) -> None:
        """Raises UserError for what is no repository, and for what the hub takes for no licence."""
        if self.to is not None:
            refuse_given(self, ("yes",), "sends, and --to only writes; leave one of them out")
        if not _REPOSITORY.fullmatch(self.repo):
            raise UserError(
                f"{printable(self.repo)} is not a repository of the hub; write USER/NAME, of"
                " letters, digits, - _ and ."
            )
        if self.licence is not None and not _LICENCE.fullmatch(self.licence):
            raise UserError(
                f"--licence {printable(self.licence)}: write it as the hub does, such as"
                " apache-2.0, mit or cc-by-nc-4.0"
            )


_REPOSITORY = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(kw_only=True)
class ReproduceOptions:
    """`captune reproduce`."""

    study: str = option(
        "study to reproduce: dlcv-hw3, or a YAML file of the same form",
        ...,
        nargs=None,
        metavar="STUDY",
    )
    data: Path = option(
        "folder of its data, in the layout in which it was published", ..., metavar="DIR"
    )
    out: Path = option(
        "folder to write: one run folder per step, and the report", ..., metavar="RUN"
    )
    lite: bool = option("use the built-in models, which are small and need no download", False)
    epochs: int | None = option("passes over the training images (default: those of the study)")
    limit: int | None = option("train on a fixed random sample of N images (0: all)")
    classifier: str | None = option(
        "model for classification (default: that of the study)", metavar="SPEC"
    )
    encoder: str | None = option(
        "frozen image encoder (default: that of the study)", metavar="SPEC"
    )
    decoder: str | None = option(
        "frozen language model (default: that of the study)", metavar="SPEC"
    )
    score_model: str | None = option(
        "model that computes CLIPScore (default: that of the study)", metavar="SPEC"
    )
    only: list[str] = option(
        "run only this step; may be given several times", repeat=True, metavar="STEP"
    )
    dry_run: bool = option("print the commands of the steps without running them", False)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be trained with."""
        require_at_least(self, epochs=1, limit=0)


SHELLS = ("bash", "zsh", "tcsh")


@dataclass(kw_only=True)
class CacheOptions:
    """`captune cache`."""

    action: str = option(
        "show sizes (default), prune to the limit, or clear everything",
        "show",
        nargs="?",
        choices=("show", "prune", "clear"),
    )
    limit: str | None = option(
        "new maximum size of the cache, such as 500MB or 20GB (initially 20GB)", metavar="SIZE"
    )


@dataclass(kw_only=True)
class ModelsOptions:
    """`captune models`."""

    action: str = option(
        "list (default), fetch, or check what works with a captioner of transformers",
        "list",
        nargs="?",
        choices=("list", "fetch", "check"),
    )
    spec: str | None = option("model to fetch or to check", nargs="?", metavar="SPEC")
    decoder: bool = option("fetch the language model of this name, for tune and caption", False)
    captioner: bool = option(
        "fetch the captioner of this name, which captune push sent to the hub", False
    )
    from_: Path | None = option(
        "take the wheels or model files from this folder instead of the network", metavar="FOLDER"
    )
    search: str | None = option(
        "list the models of open_clip and timm whose names contain TEXT", metavar="TEXT"
    )
    all: bool = option("list all models of open_clip and timm", False)
    prompt: str | None = option("check: what the captioner is asked", metavar="TEXT")
    device: str = same_option(ModelOptions, "device")
    dtype: str = same_option(ModelOptions, "dtype")


@dataclass(kw_only=True)
class CompletionOptions:
    """`captune completion`."""

    shell: str = option("bash, zsh or tcsh", ..., nargs=None, choices=SHELLS, metavar="SHELL")


@dataclass(kw_only=True)
class DemoOptions:
    """`captune demo`."""

    out: Path = option(
        "folder for the images, the runs and the page", Path("captune-demo"), metavar="FOLDER"
    )


_HOST_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")


@dataclass(kw_only=True)
class AppOptions:
    """`captune app`."""

    runs: Path = option(
        "folder of runs: the app shows the runs in it and writes new ones there (default: runs)",
        Path("runs"),
        nargs="?",
        metavar="RUNS",
    )
    host: str = option(
        "address to listen on; an address that other machines can reach needs --shared",
        "127.0.0.1",
        metavar="ADDRESS",
    )
    port: int = option("port to listen on (0: the first free port from 7860)", 0)
    shared: bool = option(
        "allow people on other machines, by --host or through a proxy; the app then opens no"
        " folder, file or model that somebody types",
        False,
    )
    name: list[str] = option(
        "with --shared: host name of the app, as browsers show it; requests for other names are"
        " refused; may be given several times",
        repeat=True,
        metavar="HOST",
    )
    open: bool = option("open the page in your browser", False)
    most_images: int = option("maximum number of images that one person may upload at a time", 200)
    most_mb: int = option("maximum size of an image, in megabytes", 50)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no server can have, and for RUNS that is a file.

        Also for an address that other machines reach without `shared`, and for `shared` without a
        name, or with what is no name.
        """
        if not 0 <= self.port <= 65535:
            raise UserError(f"port must be a number from 0 to 65535, not {self.port}")
        require_at_least(self, most_images=1, most_mb=1)
        if not self.host:
            raise UserError("host is empty; give an address, as 127.0.0.1")
        if os.path.isfile(self.runs):  # noqa: PTH113  # pathlib's raises for a long name
            raise UserError(f"{self.runs} is a file; RUNS names the folder of the runs")
        self.name = [_host_name(typed) for typed in self.name]
        if self.shared and not self.name:
            raise UserError(
                "--shared needs the name that the app is reached by: add --name HOST, as"
                " --name captune.example.org"
            )
        if self.name and not self.shared:
            raise UserError("--name counts with --shared only; add --shared, or leave --name out")
        if not self.shared and not is_loopback(self.host):
            raise UserError(
                f"--host {printable(self.host)}: other machines reach that address; if they are to"
                " use the app, add --shared --name HOST"
            )

    @property
    def is_private(self) -> bool:
        """Whether it is for this person on this machine alone, so that it opens what is typed."""
        return not self.shared

    @property
    def names(self) -> frozenset[str]:
        """The hosts, in lower case and without brackets, that requests may be for."""
        if self.shared:
            return frozenset(self.name)
        return frozenset({"127.0.0.1", "localhost", "::1", self.host.lower()})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(typed: str) -> str:
    """A host as requests name it. Raises UserError for an address with scheme, port or path."""
    plain = typed.strip().lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(plain.strip("[]")))
    except ValueError:
        if _HOST_NAME.fullmatch(plain):
            return plain
    raise UserError(
        f"--name {printable(typed)} is not a host name; give it without http:// and without port,"
        " as captune.example.org"
    )
