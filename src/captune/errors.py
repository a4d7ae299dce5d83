"""The two ways captune stops: the user's mistake (exit status 2) or ours (exit status 1)."""


class UserError(Exception):
    """One sentence for the user: what was given, what was expected, what to do.

    The command line prints it without a traceback and leaves with status 2.
    """


class MismatchedImages(UserError):
    """Candidates and references are not about the same images."""


class Stopped(UserError):
    """Somebody asked long work to stop; the sentence says what is kept."""


class Offline(UserError):
    """Something would have reached the network while captune is offline."""


class MissingExtra(UserError):
    """An optional dependency is not installed; the sentence carries the pip command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra: pip install 'captune[{extra}]'")
