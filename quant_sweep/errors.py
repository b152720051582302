"""The one exception that a person's own input causes."""


class InputError(ValueError):
    """Something the person gave cannot be used.

    The message is one line, `key=value: what is wrong and what is allowed`. Commands print it alone; every other
    exception is a fault of the program and keeps its traceback.
    """
