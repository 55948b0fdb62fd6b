"""The one exception that stands for a mistake of the user's, not of the program's."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message names the file or the key and says what to do about it. The command line prints it without a traceback,
    so it has to be enough on its own.
    """
