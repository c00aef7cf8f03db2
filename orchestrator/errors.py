"""The one exception for mistakes that a user can mend; jobs print it as a paragraph, without a traceback."""


class UserError(Exception):
    """What is wrong and what to do about it, in one paragraph."""
