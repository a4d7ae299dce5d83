"""What is the user's mistake, and not a bug: one sentence, exit status 2."""


class UserError(Exception):
    """One sentence for the user: what was given, what was expected, what to do.

    A command line prints it without a traceback and leaves with status 2.
    """


class MismatchedImages(UserError):
    """Candidates and references are not about the same images."""
