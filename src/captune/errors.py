"""The two ways captune stops: the user's mistake (exit status 2) or ours (exit status 1)."""

from captune_metrics.errors import MismatchedImages as MismatchedImages
from captune_metrics.errors import UserError as UserError


class Stopped(UserError):
    """Somebody asked long work to stop; the sentence says what is kept."""


class Offline(UserError):
    """Something would have reached the network while captune is offline."""


class MissingExtra(UserError):
    """An optional dependency is not installed; the sentence carries the pip command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra: pip install 'captune[{extra}]'")
