"""What decides how much of a run a page shows; kept in the page, so that it can be checked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """title: of the page, or "" to have one written. limit: images of a gallery, at the most.

    top: images at either end of a list of the best and the worst.
    published: the study whose figures stand beside those of the runs, or "".
    """

    title: str = ""
    limit: int = 2000
    top: int = 4
    published: str = ""
