"""Options of report, reproduce and app."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.files import printable
from captune.options.base import CsvOptions, option, require_at_least


@dataclass(kw_only=True)
class ReportOptions(CsvOptions):
    """`captune report`."""

    runs: list[str] = option(
        "run folders of any job; the methods of a tune come along",
        [],
        positional=True,
        nargs="*",
        metavar="RUN",
    )
    out: Path | None = option(
        "the page to write: one file, which opens without a network", None, metavar="FILE.html"
    )
    title: str | None = option("heading of the page (default: what was done)", None, metavar="TEXT")
    limit: int = option("images in a gallery, at the most", 2000, metavar="N")
    top: int = option("images at either end of the best and the worst", 4, metavar="N")
    images: Path | None = option(
        "folder of the images of runs from elsewhere, where the runs' paths begin: without it only"
        " images in the run's own folder are shown",
        None,
        metavar="DIR",
    )
    figures: Path | None = option(
        "folder for every table as CSV and every figure as PNG, SVG and PDF", None, metavar="DIR"
    )
    published: str | None = option(
        "set the figures of a published study beside those of the runs: dlcv-hw3, or a YAML file",
        None,
        metavar="STUDY",
    )
    check: Path | None = option(
        "a page of captune report: derive every figure of it again from its run folders, or from"
        " the RUN given",
        None,
        metavar="FILE.html",
    )

    def __post_init__(self) -> None:
        """Raises UserError for a page of nothing."""
        require_at_least(self, limit=1, top=1)


@dataclass(kw_only=True)
class ReproduceOptions:
    """`captune reproduce`."""

    study: str = option(
        "what is done again: dlcv-hw3, or a YAML file of the same form",
        positional=True,
        nargs=None,
        metavar="STUDY",
    )
    data: Path = option("folder of its data, laid out as published", metavar="DIR")
    out: Path = option("folder to write: a run folder a step, and the report", metavar="RUN")
    lite: bool = option("with the embedded models, which are small and need no hub", False)
    epochs: int | None = option("passes over the training images", None, metavar="N")
    limit: int | None = option("train on a fixed sample of N images (0: all)", None, metavar="N")
    classifier: str | None = option("another model to recognise with", None, metavar="SPEC")
    encoder: str | None = option("another frozen image encoder", None, metavar="SPEC")
    decoder: str | None = option("another frozen language model", None, metavar="SPEC")
    score_model: str | None = option("another model of CLIPScore", None, metavar="SPEC")
    only: list[str] = option("do this step only; may repeat", [], repeat=True, metavar="STEP")
    dry_run: bool = option("print the commands of the steps, and do nothing", False)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be trained with."""
        for name, least in (("epochs", 1), ("limit", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} {value}: must be {least} or more")


_HOST_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")


@dataclass(kw_only=True)
class AppOptions:
    """`captune app`."""

    runs: Path = option(
        "folder of run folders: those in it are offered, new ones are written there (default:"
        " runs)",
        Path("runs"),
        positional=True,
        nargs="?",
        metavar="RUNS",
    )
    host: str = option(
        "the address to listen at; one that other machines reach needs --shared",
        "127.0.0.1",
        metavar="ADDRESS",
    )
    port: int = option("the port to listen at (0: the first free one from 7860)", 0, metavar="N")
    shared: bool = option(
        "people on other machines use it, by --host or through a proxy: then the app opens no"
        " folder, file or model that somebody types",
        False,
    )
    name: list[str] = option(
        "with --shared: a name that the app is reached by, as the browser shows it; requests for"
        " other names are refused; may repeat",
        [],
        repeat=True,
        metavar="HOST",
    )
    open: bool = option("open the page in your browser", False)
    most_images: int = option("images that one person may drop at a time", 200, metavar="N")
    most_mb: int = option("megabytes of one image", 50, metavar="N")

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no server can have, and for RUNS that is a file.

        Also for an address that other machines reach without `shared`, and for `shared` without a
        name, or with what is no name.
        """
        if not 0 <= self.port <= 65535:
            raise UserError(f"port {self.port}: must be a number from 0 to 65535")
        require_at_least(self, most_images=1, most_mb=1)
        if not self.host:
            raise UserError("host: is empty; give an address, as 127.0.0.1")
        if os.path.isfile(self.runs):  # noqa: PTH113  # pathlib's raises for a long name
            raise UserError(f"{self.runs}: is a file; RUNS names the folder of the runs")
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
        f"--name {printable(typed)}: is no host name; give it without http:// and without port, as"
        " captune.example.org"
    )
