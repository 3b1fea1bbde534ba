"""The one exception that users see: a line that names the file, the field and the remedy."""


class UserError(Exception):
    """A mistake in the input, not in the program. Commands print it as one line and exit with status 2."""
