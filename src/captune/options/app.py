"""Options of `captune app`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.fields import option, require_at_least


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
        "the address to listen at; 0.0.0.0 lets other machines in, and then the app opens no"
        " folder that somebody types",
        "127.0.0.1",
        metavar="ADDRESS",
    )
    port: int = option("the port to listen at (0: the first free one from 7860)", 0, metavar="N")
    open: bool = option("open the page in your browser", False)
    most_photos: int = option("photos that one person may drop at a time", 200, metavar="N")
    most_mb: int = option("megabytes of one photo", 50, metavar="N")

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no server can have, and for RUNS that is a file."""
        if not 0 <= self.port <= 65535:
            raise UserError(f"port {self.port}: must be a number from 0 to 65535")
        require_at_least(self, most_photos=1, most_mb=1)
        if not self.host:
            raise UserError("host: is empty; give an address, as 127.0.0.1")
        if self.runs.is_file():
            raise UserError(f"{self.runs}: is a file; RUNS names the folder of the runs")

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches the app."""
        import ipaddress

        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
