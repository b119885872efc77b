"""Reads the lists that people and their programs write: one way, whatever the encoding is."""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from keras_ms.data.file_names import file_path, shown_name

# the longer ones first: UTF-32's begins as UTF-16's does
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path, what: str = "text", *, keep_bytes: bool = False) -> str:
    r"""The text of a file, without its byte order mark.

    UTF-8 is read, and UTF-16 or UTF-32 that begin with their mark, as spreadsheets write them.

    Args:
        path: the file.
        what: what is expected there, for the message.
        keep_bytes: whether bytes that are no UTF-8 are kept as surrogates, as `os.fsdecode` does:
            in lists of names of files. Defaults to False: they are refused.

    Returns:
        str; the ends of its lines are those of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bytes that are no text; the message names the file and the line.

    Example:

    >>> Path("list.txt").write_bytes(b"\xef\xbb\xbfcrow\r\nowl\r\n")  # doctest: +SKIP
    >>> read_text("list.txt")  # doctest: +SKIP
    'crow\r\nowl\r\n'
    """
    path = Path(file_path(path))
    if path.is_dir() or not path.exists():
        instead = "It is a folder" if path.is_dir() else "There is no such file"
        raise FileNotFoundError(f"Expected {what}. {instead}: {shown_name(path)}")
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content:
        raise ValueError(
            f"Expected {what} in UTF-8. {shown_name(path)} holds zero bytes, the first in line "
            f"{_line(content, content.index(0))}: it is no text, or UTF-16 without a byte order "
            "mark. Save it as UTF-8"
        )
    lenient = keep_bytes and encoding == "utf-8"
    try:
        return content.decode(encoding, "surrogateescape" if lenient else "strict")
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(
                f"Expected {what} in UTF-8. {shown_name(path)} begins as {encoding.upper()} and "
                f"is damaged: {error.reason}. Save it as UTF-8"
            ) from None
        where = f"line {_line(content, error.start)} of {shown_name(path)}"
        raise ValueError(_no_utf8(what, where, error.object[error.start])) from None


def check_text(text: str, where: str, what: str = "text") -> None:
    """Raises the error of `read_text` where text that was read with `keep_bytes` holds no text."""
    strange = next((mark for mark in text if 0xDC80 <= ord(mark) <= 0xDCFF), None)
    if strange:
        raise ValueError(_no_utf8(what, where, ord(strange) - 0xDC00))


def _no_utf8(what, where, byte):
    return (
        f"Expected {what} in UTF-8. Received the byte 0x{byte:02x} in {where}, which is none; it "
        "may be Latin-1 or Windows-1252. Save the file as UTF-8"
    )


def read_lines(path: str | Path, what: str = "text", *, keep_bytes: bool = False) -> list[str]:
    """The lines of a file without their ends, a list; arguments and errors as of `read_text`."""
    text = read_text(path, what, keep_bytes=keep_bytes)
    return io.StringIO(text, newline=None).read().split("\n")


def read_csv(
    path: str | Path,
    what: str = "a CSV file",
    *,
    needed: Sequence[str] = (),
    keep_bytes: bool = False,
    exact: bool = False,
) -> tuple[list[str], list[tuple[str, dict]]]:
    """The rows of a file of comma-separated values, by the names in its first line.

    Semicolons and tabs are read too, as spreadsheets of many countries write them: the delimiter
    is the one by which the first line holds the `needed` columns. Lines without any value are
    passed over, spaces around names of columns and around values too.

    Args:
        path, what, keep_bytes: as in `read_text`.
        needed: names of columns that must be there.
        exact: keep spaces around values, as programs write names. Defaults to False.

    Returns:
        (columns, [(where, {column: text})]): `where` is "line 3 of list.csv"; values that a line
        lacks are None.

    Raises:
        FileNotFoundError, ValueError: as `read_text`; columns that are missing or there twice, a
            line with more values than columns, or a quote that does not end.
    """
    text = read_text(path, what, keep_bytes=keep_bytes)
    told = re.match(r"sep=(.)\r?\n", text)  # the first line of some spreadsheets
    delimiters, skipped = (told[1], 1) if told else (",;\t", 0)
    text = text[told.end() :] if told else text
    # the first with everything needed, else the one that cuts the line most
    first = {mark: _first_row(text, mark) for mark in delimiters}
    whole = [mark for mark in delimiters if set(needed) <= set(first[mark])]
    chosen = whole[0] if whole else max(delimiters, key=lambda mark: len(first[mark]))
    columns = first[chosen]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"Expected the columns {', '.join(needed)} in the first line of {shown_name(path)}, "
            f"separated by commas, semicolons or tabs. Missing: {', '.join(missing)}. Received: "
            f"{', '.join(columns)[:200] or 'no line'}"
        )
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ValueError(
            f"Expected each column once in {shown_name(path)}. There twice: {', '.join(twice)}"
        )
    rows = []
    for number, values in _parsed(text, chosen, path, what, skipped, exact):
        where = f"line {number} of {shown_name(path)}"
        if any(values[len(columns) :]):
            raise ValueError(
                f"Expected {len(columns)} values in {where}. Received: {len(values)}. Quote a "
                f'value that holds a {_WORDS.get(chosen, "delimiter")}: "a{chosen}b"'
            )
        values = [*values[: len(columns)], *[None] * (len(columns) - len(values))]
        rows.append((where, dict(zip(columns, values))))
    return columns, rows


_WORDS = {",": "comma", ";": "semicolon", "\t": "tab"}


def _first_row(text, delimiter):
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = ([value.strip().lower() for value in row] for row in reader)
        return next((row for row in rows if any(row)), [])
    except csv.Error:
        return []


def _parsed(text, delimiter, path, what, skipped, exact):
    """(number of its last line, values) of each row with any, after the first."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=not exact
    )
    begun = False
    try:
        for row in reader:
            stripped = [value.strip() for value in row]
            values = row if exact else stripped
            if any(stripped) and not begun:
                begun = True
            elif any(stripped):
                yield reader.line_num + skipped, values
    except csv.Error as error:
        raise ValueError(
            f"Expected {what} in UTF-8. Line {reader.line_num + skipped} of {shown_name(path)}: "
            f"{error}"
        ) from error


def _line(content, position):
    """The line of a byte, whatever ends the lines."""
    before = content[:position].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return before.count(b"\n") + 1
