"""What is raised for data that cannot be read."""


class BadDataError(ValueError):
    """Data that cannot be read, found while reading it; one line."""


class BadImageError(BadDataError):
    """A file or record that holds no readable image, as one line."""
