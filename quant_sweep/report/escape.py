"""Text that others wrote, made safe for where it goes: a terminal, Markdown, a CSV file, the name of a file.

Names of models, layers, classes and settings come from files and stores that anybody may have written. HTML is escaped
where it is made, by its templates.
"""

from __future__ import annotations

import hashlib
import re

import pandas as pd

from quant_sweep.errors import printable

__all__ = ["code", "csv_safe", "file_name", "markdown_plain", "printable"]

_LONGEST_NAME = 100
# What begins a tag, a link or a definition; emphasis does no harm.
_ACTIVE = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])[(\[:]|(?<=!)\[")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def file_name(text: str) -> str:
    """A name for a file or folder that says `text` and lies where it is put; different texts give different names."""
    plain = re.sub(r"[^\w.-]", "_", text, flags=re.ASCII)[:_LONGEST_NAME].lstrip(".-")
    if text and plain == text:
        return text
    return f"{plain}_{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"


def code(text: str) -> str:
    """`text` as code of a document, in which no character has a meaning."""
    return f"`{printable(text).replace('`', chr(39))}`"


def markdown_plain(text: str) -> str:
    """`text` outside code: no tags, no links, no line of its own."""
    return _ACTIVE.sub(lambda match: "&lt;" if match[0] == "<" else f"\\{match[0]}", printable(text))


def csv_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with an apostrophe before each text that a spreadsheet would compute, names of columns included."""
    safe = frame.copy()
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = [_no_formula(value) if isinstance(value, str) else value for value in safe[column]]
    return safe.rename(columns=lambda name: _no_formula(str(name)))


def _no_formula(text: str) -> str:
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
