"""Errors of unreadable data; their messages are one line."""


class BadDataError(ValueError):
    """Data cannot be read."""


class BadImageError(BadDataError):
    """A file or record is not a readable image."""
