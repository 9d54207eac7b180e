"""File names as texts that tables, terminals and spreadsheets take, and back."""

from __future__ import annotations

import os
import re
import unicodedata

FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs a cell that begins so
_BREAKING = {"Cc", "Zl", "Zp"}  # Unicode categories: control characters, line and paragraph ends
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
_ESCAPE_BYTES = re.compile(rb"\\x([0-9a-f]{2})")


def written(path: str | os.PathLike[str]) -> str:
    r"""A path as one line of UTF-8; `unwritten` gives it back.

    Control characters, and bytes that are not UTF-8, become `\xHH`, byte by byte, as `$'...'` of
    bash and zsh takes it; a backslash that would be mistaken for such becomes `\x5c`.
    """
    return one_line(_ESCAPE.sub(r"\\x5cx\1", os.fspath(path)))


def unwritten(text: str) -> str:
    """The path that `written` wrote."""
    return os.fsdecode(
        _ESCAPE_BYTES.sub(lambda match: bytes.fromhex(match[1].decode()), os.fsencode(text))
    )


def one_line(text: str) -> str:
    """A text without what would break a line or a UTF-8 file, which is escaped as in `written`."""
    return "".join(_hex(char) if _breaks(char) else char for char in text)


def _breaks(char: str) -> bool:
    return "\ud800" <= char <= "\udfff" or unicodedata.category(char) in _BREAKING


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def to_cell(text: str) -> str:
    """An id or a path for a cell of a CSV file: a spreadsheet takes it for text, not a formula.

    `./` before it keeps a relative path what it is; `from_cell` removes it.
    """
    return f"./{text}" if text.startswith(FORMULA) else text


def from_cell(text: str) -> str:
    """What `to_cell` was given."""
    return text[2:] if text.startswith(tuple(f"./{sign}" for sign in FORMULA)) else text
