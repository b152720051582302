"""The one exception that a person's own input causes."""

from unicodedata import category

__all__ = ["InputError", "NotFiniteError", "printable"]


class InputError(ValueError):
    """Something the person gave cannot be used.

    The message is one line, `key=value: what is wrong and what is allowed`. Commands print it alone; every other
    exception is a fault of the program and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class NotFiniteError(InputError, FloatingPointError):
    """A network made NaN out of sound images; its weights or the normalisation are not what it was trained with."""


def printable(text: str) -> str:
    """One line that a terminal shows as it is: line ends become spaces, other control characters `\\xNN`.

    Spaces of all kinds stay, those that do not break lines too.

    Names of files and layers, and what stands in files from elsewhere, may hold the codes that move a cursor, rename a
    window or turn the direction of writing.
    """
    return "".join(
        letter
        if letter.isprintable() or category(letter) == "Zs"
        else " "
        if letter in "\n\r\t\v\f"
        else _shown(letter)
        for letter in text
    )


def _shown(letter: str) -> str:
    return letter.encode("unicode_escape", errors="backslashreplace").decode("ascii")
