"""What is let go of at the end of a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """`with thing as one:` closes it, whatever happens inside."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds; closing again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
