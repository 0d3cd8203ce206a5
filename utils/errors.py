"""The one exception for what a user can get wrong."""


class UserError(Exception):
    """Something the user can mend.

    The message is one line: what is wrong, where, and how to mend it. The commands print it
    without a traceback and end with exit code 2.
    """
