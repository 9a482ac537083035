"""How results are printed: JSON for programs, tables and lists for people.

What comes from files and keystores is escaped before a person sees it, so that no description or
path can drive the terminal.
"""

import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def one_line(text: str) -> str:
    """Return the text with everything unprintable escaped: line breaks, escapes, stray bytes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def print_line(text: str) -> None:
    """Print one line for a person."""
    print(one_line(text).encode(_encoding(), "backslashreplace").decode(_encoding()))


def print_json(value: Any) -> None:
    """Print a value for a program: ASCII, so that any locale carries it."""
    print(json.dumps(value, indent=2))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows in columns, or the sentence ``empty`` when there are none."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    if not cells:
        print_line(empty)
        return
    table = [list(headers), *cells]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers))]
    for row in table:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, str]) -> None:
    """Print one thing as a list of its properties."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print_line(f"{name.ljust(width)}  {value}".rstrip())


def print_warnings() -> None:
    """From now on print what is logged and has no log as errors are printed: a line each on stderr."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Line())
    logging.lastResort = handler


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"kmsfs: {record.levelname.lower()}: {one_line(record.getMessage())}"


def local_time(epoch_s: float) -> str:
    """Return a time as a person reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch_s))


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"
