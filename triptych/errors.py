"""The one exception family for mistakes that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A user's mistake or a missing thing outside this program: expected, actual, next step.

    The command line prints the message without a traceback and leaves with exit code 2. Our own
    bugs stay ordinary exceptions and assertions.
    """
