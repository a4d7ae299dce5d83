"""Names that jobs not yet in captune.jobs take from here."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from captune.features.encode import none_readable
from captune.progress import Advance

__all__ = ["Bar", "none_readable"]

Bar = Callable[..., AbstractContextManager[Advance]]
