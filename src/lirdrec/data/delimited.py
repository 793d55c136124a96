"""Read delimited text files: encoding, separator, header, blank lines, and lines with a wrong number of values."""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from lirdrec.data.compression import read_bytes
from lirdrec.data.frames import first_line
from lirdrec.data.ids import INTEGER
from lirdrec.data.table_with_source import NO_HEADER, NUMERIC, Table
from lirdrec.errors import ConfigError, DataError
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

SEPARATORS = (",", ";", "\t", "|", "::")
SEPARATOR_NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " ", "blank": " "}
UNQUOTED = ("\t", "::")  # with these separators a quote is a plain character
UNIT_SEPARATOR = "\x1f"  # replaces a separator of several characters, which polars does not support
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
HEAD_BYTES = 1 << 16  # bytes used to detect the separator
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
SCAN_BYTES = 1 << 18  # bytes scanned at once, small enough for the processor's cache
INFERENCE_ROWS = 10_000  # rows used to detect column types
UNNAMED = re.compile(r"column_[0-9]+")
COMMA_NUMBER = r"^[+-]?[0-9]+(,[0-9]+)?$"

QUOTED = re.compile(rb'"(?:[^"]|"")*"')
UNPARSABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)

BadRows = Literal["error", "skip"]


@dataclass(frozen=True)
class TextFormat:
    """The format options of a text file.

    Attributes:
        separator: separator of the values, or its name such as "tab"; None: detected from the first lines.
        encoding: encoding of the text; None: UTF-8, or UTF-16 if the file begins with its byte order mark.
        header: whether the first line holds the names of the columns.
        columns: names of the columns of a file without a header.
        bad_rows: "error", or "skip": leave out lines with a wrong number of values.

    Raises:
        ConfigError: an unknown encoding, an invalid separator, column names for a file with a header or none for a
            file without, or two equal names.
    """

    separator: str | None = None
    encoding: str | None = None
    header: bool = True
    columns: tuple[str, ...] | None = None
    bad_rows: BadRows = "error"

    def __post_init__(self) -> None:
        if self.separator is not None:
            separator = SEPARATOR_NAMES.get(self.separator, self.separator)
            if not separator or not separator.isascii() or set(separator) & set('"\r\n\0'):
                raise ConfigError(f"separator {separator!r}: give one or more plain characters, such as ';' or 'tab'")
            object.__setattr__(self, "separator", separator)
        if self.encoding is not None:
            try:
                b"a".decode(self.encoding, errors="replace")
            except LookupError:
                raise ConfigError(
                    f"there is no encoding '{self.encoding}'; common ones are utf-8, utf-16, cp1252, latin-1, gb18030"
                ) from None
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))
            if self.header:
                raise ConfigError(
                    "names of columns are given for a file that has a header; if it has no header, add --no-header (in"
                    " Python header=False)"
                )
            check_names(list(self.columns or ()), "the names of columns (--columns)", ConfigError)
        elif not self.header:
            raise ConfigError(
                "a file without a header needs names for its columns (--columns user,item,rating, in Python columns)"
            )


def read_delimited(path: Path, layout: TextFormat, default: str = ",", text: str | None = None) -> Table:
    """Read a text file of separated values, perhaps compressed, as a table without blank rows.

    Args:
        path, layout: the file and its format options.
        default: the separator to use if the first lines do not show it.
        text: None: all columns stay strings. A name: this column stays strings, and each other column gets the type
            that all of its values have. "": every column gets such a type; if no value has a leading zero, they are
            parsed at once, which takes little memory.

    Raises a DataError if the file is empty or damaged, its bytes do not fit the encoding, names of columns are
    repeated, or a line has too many or too few values and `layout` does not skip such lines.
    """
    content = to_utf8(path, read_bytes(path), layout.encoding).rstrip(b"\r\n")
    if not content.strip():
        raise DataError(f"{path}: the file is empty")
    start = len(content) - len(content.lstrip(b"\r\n"))
    n_lines_before = content.count(b"\n", 0, start)
    content = content[start:]
    separator = layout.separator or find_separator(content[:HEAD_BYTES], default, layout.header)
    mark = separator if len(separator) == 1 else UNIT_SEPARATOR
    if mark != separator:
        content = content.replace(separator.encode(), mark.encode())
    n_columns = None if layout.columns is None else len(layout.columns)
    body = _Body(path, content, mark, separator not in UNQUOTED, layout.header, n_lines_before, n_columns)
    at_once = text == "" and not has_leading_zeros(content)
    del content
    try:
        body, frame, skipped, numbers = _read(body, layout.bad_rows, typed=at_once)
    except DataError:
        if not at_once:
            raise
        at_once = False  # the first rows may have shown other types than the rest
        body, frame, skipped, numbers = _read(body, layout.bad_rows, typed=False)
    frame.columns = _names(body, layout, frame.width)
    first = 1 + layout.header + n_lines_before
    # some rows have line ends within quotes, or there are blank lines: find the line of each row
    if numbers is None and body.content.count(b"\n") + 1 != frame.height + layout.header:
        numbers = np.array([record.line for record in body.records()][layout.header :], dtype=np.int64)
    blank = _is_blank(frame.to_series(0))
    for name in frame.columns[1:]:
        if blank.any():  # rare, and usually false after a few columns
            blank &= _is_blank(frame[name])
    if blank.any():
        numbers = np.arange(frame.height) + first if numbers is None else numbers
        frame, numbers = frame.filter(~blank), numbers[~blank.to_numpy()]
    unnamed = [name for name in frame.columns if UNNAMED.fullmatch(name) and frame[name].null_count() == frame.height]
    frame = frame.drop(unnamed if layout.header else [])
    if text is not None and not at_once:
        frame = frame.with_columns(typed(frame[name], separator) for name in frame.columns if name != text)
    return Table(
        frame,
        str(path),
        text=True,
        skipped=skipped,
        decimal_comma=separator == ";",
        row_location=lambda row: f"line {row + first if numbers is None else numbers[row]}",
    )


def _read(body: _Body, bad_rows: BadRows, typed: bool) -> tuple[_Body, pl.DataFrame, int, np.ndarray | None]:
    """Parse a body; return the body as parsed, its frame, the number of skipped rows, and the lines of other rows.

    A quote is a plain character if no value begins with a quote. If the rows cannot be parsed otherwise, a backslash
    before a quote escapes it. The lines are None if no row was skipped.
    """
    value_start = rb'"(?<=[\r\n%b]")' % re.escape(body.separator.encode())
    if body.quoted and not body.content.startswith(b'"') and not re.search(value_start, body.content):
        body = dataclasses.replace(body, quoted=False)
    if body.quoted and b'\\"' in body.content:
        escaped = dataclasses.replace(body, content=body.content.replace(b'\\"', b'""'))
        attempts: tuple[tuple[_Body, BadRows], ...] = ((body, "error"), (escaped, bad_rows))
        for variant, policy in attempts:
            with contextlib.suppress(DataError):
                return variant, *variant.read(policy, typed)
    return body, *body.read(bad_rows, typed)


def _is_blank(values: pl.Series) -> pl.Series:
    return values.is_null() | (values.str.strip_chars() == "") if values.dtype == pl.String else values.is_null()


def to_utf8(path: Path, content: bytes, encoding: str | None) -> bytes:
    """Convert the content of a file to UTF-8 without byte order mark; line ends of classic Mac OS become line feeds.

    Raises a DataError that names the first line that is not valid text.
    """
    mark, marked = next((entry for entry in BYTE_ORDER_MARKS if content.startswith(entry[0])), (b"", "utf-8"))
    if marked == "utf-8" and encoding is None:
        content = content.removeprefix(mark)
    chosen = encoding or marked
    if not (chosen == "utf-8" and content.isascii()):
        try:
            decoded = content.decode(chosen)
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            name = "UTF-8" if chosen == "utf-8" else chosen
            raise DataError(
                f"{path}: not {name} text (byte 0x{content[error.start]:02x} in line {line}); save it as UTF-8, or give"
                " its encoding, such as cp1252 or latin-1 (--encoding NAME, in Python encoding)"
            ) from None
        if chosen != "utf-8":
            content = decoded.removeprefix("\ufeff").encode()
    if b"\0" in content[:4096]:
        raise DataError(
            f"{path} is not text (there is a zero byte in line {content.count(10, 0, content.index(0)) + 1}); if it is"
            " UTF-16, say so (--encoding utf-16-le, in Python encoding), else write it as CSV or Parquet"
        )
    if b"\r" in content and b"\n" not in content:  # line ends of classic Mac OS
        content = content.replace(b"\r", b"\n")
    return content


def find_separator(beginning: bytes, default: str, header: bool = True) -> str:
    """Find the separator that splits the largest share of the first lines into the same number of values, two or more.

    Returns `default` if no separator does.
    """
    lines = beginning[: beginning.rfind(b"\n")] if len(beginning) == HEAD_BYTES and b"\n" in beginning else beginning
    best, best_score = default, (0.0, 0, 0)
    for separator in dict.fromkeys((default, *SEPARATORS)):
        mark, quoted = separator.encode(), separator not in UNQUOTED
        counts = [record.n_values(mark, quoted) for record in _records(lines, quoted) if record.content.strip()][:200]
        usual = 0 if not counts else counts[0] if header else max(set(counts), key=counts.count)
        if usual > 1:
            share = counts.count(usual) / len(counts)
            score = (share, usual if share == 1 else 0, int(separator == default))
            if score > best_score:
                best, best_score = separator, score
    return best


def has_leading_zeros(content: bytes) -> bool:
    """Return whether a value of a text may consist of digits with a leading zero, such as `007`."""
    characters = np.frombuffer(content, dtype=np.uint8)
    if content[:1] == b"0" and content[1:2].isdigit():
        return True
    for start in range(0, len(characters), SCAN_BYTES):
        piece = characters[start : start + SCAN_BYTES + 2]
        before, zero, after = piece[:-2], piece[1:-1] == ord("0"), piece[2:]
        positions = np.flatnonzero(zero & (before - np.uint8(ord("0")) > 9))
        digit_follows = after[positions] - np.uint8(ord("0")) <= 9
        if ((before[positions] != ord(".")) & digit_follows).any():
            return True
    return False


def typed(values: pl.Series, separator: str = ",") -> pl.Series:
    """Convert a column of texts to integers, floats or booleans if every value is one; else return the texts.

    Codes that begin with 0 stay texts, as do integers beyond 64 bits. In files separated by semicolons numbers may
    have decimal commas.
    """
    present = values.drop_nulls()
    if len(present) == 0:
        return values
    if present.str.contains(INTEGER).all():
        for dtype in (pl.Int64, pl.UInt64):
            integers = values.cast(dtype, strict=False)
            if integers.null_count() == values.null_count():
                return integers
        return values
    if present.str.contains(r"^[+-]?0[0-9]").any():
        return values
    if present.str.contains(NUMBER).all():
        return values.cast(pl.Float64)
    if separator == ";" and present.str.contains(COMMA_NUMBER).all():
        logger.warning(
            "column '%s': the comma in its numbers is read as a decimal point; if it separates thousands, remove it",
            values.name,
        )
        return values.str.replace(",", ".", literal=True).cast(pl.Float64)
    return values == "true" if present.is_in(["true", "false"]).all() else values


def check_names(names: list[str], where: str, error: type[DataError] | type[ConfigError] = DataError) -> None:
    """Raise an exception of the class `error` if two columns have the same name."""
    for position, name in enumerate(names):
        if name and name in names[:position]:
            hint = "; give them different names"
            if NUMERIC.fullmatch(name):
                hint = f"; if its first line holds values, give the names of the columns: {NO_HEADER}"
            raise error(f"{where}: columns {names.index(name) + 1} and {position + 1} are both called '{name}'{hint}")


@dataclass(frozen=True)
class _Record:
    """A row of a text file, with the number of its first line, counted from 1."""

    content: bytes
    line: int

    def well_quoted(self, separator: bytes) -> bool:
        """Whether each value that begins with a quote also ends with a quote, and quotes inside it are doubled."""
        if b'"' not in self.content:
            return True
        mark = re.escape(separator)
        value = rb'(?:"(?:[^"]|"")*"|[^"%b][^%b]*|)' % (mark, mark)
        return re.fullmatch(value + rb"(?:%b%b)*" % (mark, value), self.content) is not None

    def n_values(self, separator: bytes, quoted: bool) -> int:
        """Count the values of the row; if `quoted`, separators inside quotes do not count."""
        content = QUOTED.sub(b"", self.content) if quoted and b'"' in self.content else self.content
        return content.count(separator) + 1


def _records(content: bytes, quoted: bool, first: int = 1) -> Iterator[_Record]:
    """Split a text, whose first line has the number `first`, into rows; line ends within quotes do not end a row."""
    lines: list[bytes] = []
    start, opened = first, False
    for number, line in enumerate(io.BytesIO(content), first):
        start = start if lines else number
        lines.append(line)
        opened ^= quoted and line.count(b'"') % 2 == 1
        if not opened:
            yield _Record(b"".join(lines).rstrip(b"\r\n"), start)
            lines = []
    if lines:
        yield _Record(b"".join(lines).rstrip(b"\r\n"), start)


@dataclass
class _Body:
    """The decoded content of a text file, to be parsed into a frame."""

    path: Path
    content: bytes
    separator: str
    quoted: bool
    header: bool
    n_lines_before: int = 0
    n_columns: int | None = None  # number of given column names

    def records(self) -> Iterator[_Record]:
        """Iterate over the rows, including the header."""
        return _records(self.content, self.quoted, self.n_lines_before + 1)

    def first_values(self) -> list[str]:
        """Return the values of the first row."""
        row = next(self.records()).content.decode()
        if not self.quoted:
            return row.split(self.separator)
        return next(csv.reader(io.StringIO(row, newline=""), delimiter=self.separator), [])

    def read(self, bad_rows: BadRows, typed: bool) -> tuple[pl.DataFrame, int, np.ndarray | None]:
        """Parse the content.

        Returns the frame, the number of dropped bad rows, and the line numbers of the other rows (None if no row was
        dropped). Raises a DataError for bad rows unless `bad_rows` is "skip".
        """
        fault = None
        try:
            frame = self._parse(self.content, typed)
            if self._is_complete(frame):
                return frame, 0, None
        except pl.exceptions.NoDataError:
            raise DataError(f"{self.path}: the file is empty") from None
        except UNPARSABLE as error:
            fault = first_line(error)
        good, bad = self._good_and_bad_rows()
        last = max((*good[-1:], *bad[-1:]), key=lambda record: record.line)
        if self.quoted and last.content.count(b'"') % 2:  # the row may span any number of lines
            fault = (
                f"a quote is opened in line {last.line} and never closed, so the end of its row is unknown, and no"
                " option can leave this row out; write the closing quote, or remove the opening one"
            )
        elif bad and bad_rows == "skip":
            try:
                frame = self._parse(b"\n".join(record.content for record in good), typed)
                return frame, len(bad), np.array([record.line for record in good][self.header :], dtype=np.int64)
            except UNPARSABLE as error:
                fault = first_line(error)
        elif bad:
            fault = self._describe_bad_row(bad[0])
        if fault is not None:
            raise DataError(f"{self.path} cannot be read as a table: {fault}")
        return frame, 0, None

    def _describe_bad_row(self, record: _Record) -> str:
        mark = self.separator.encode()
        if self.quoted and not record.well_quoted(mark):
            return (
                f'line {record.line} has a quote within a value in quotes; write it twice (""), or leave such lines'
                " out: --bad-rows skip (in Python bad_rows)"
            )
        n_values, n_expected = record.n_values(mark, self.quoted), self._n_expected()
        hint = " (a value that contains the separator must be in quotes)" if n_values > n_expected else ""
        return (
            f"line {record.line} has {pluralize(n_values, 'value')} for {pluralize(n_expected, 'column')}{hint};"
            " to leave such lines out: --bad-rows skip (in Python bad_rows='skip')"
        )

    def _parse(self, content: bytes, typed: bool) -> pl.DataFrame:
        def read(n_rows: int | None) -> pl.DataFrame:
            return pl.read_csv(
                io.BytesIO(content),
                separator=self.separator,
                has_header=self.header,
                infer_schema=typed,
                infer_schema_length=n_rows,
                glob=False,
                quote_char='"' if self.quoted else None,
            )

        if typed:  # checking all rows takes ten times as long and is rarely needed
            with contextlib.suppress(pl.exceptions.ComputeError):
                return read(INFERENCE_ROWS)
        return read(None)

    def _is_complete(self, frame: pl.DataFrame) -> bool:
        """Whether every row has as many values as there are columns (polars silently pads short rows)."""
        other = rb'[^\r\n"%b]' % re.escape(self.separator.encode())
        if self.quoted and re.search(rb'"(?<=%b")(?=%b)' % (other, other), self.content):
            return False  # polars silently drops some quotes within values
        if self.n_columns not in (None, frame.width):
            return False
        if frame.width == 1:
            return True
        rows = frame.height + self.header
        texts = [name for name in frame.columns if frame[name].dtype == pl.String]
        within = 0
        if self.quoted and b'"' in self.content:
            counts = [pl.col(name).str.count_matches(self.separator, literal=True).sum() for name in texts]
            within = sum(sum(row) for row in frame.select(counts).rows()) if texts and frame.height else 0
            if self.header:
                within += sum(name.count(self.separator) for name in self.first_values())
        if self.header and len(self.first_values()) != frame.width:
            return False
        return self.content.count(self.separator.encode()) - within == rows * (frame.width - 1)

    def _good_and_bad_rows(self) -> tuple[list[_Record], list[_Record]]:
        """Partition the rows into good rows (empty, or with the right number of values) and bad rows."""
        good: list[_Record] = []
        bad: list[_Record] = []
        mark, n_expected = self.separator.encode(), self._n_expected()
        for record in self.records():
            fits = record.n_values(mark, self.quoted) == n_expected
            fits = fits and (not self.quoted or record.well_quoted(mark))
            (good if fits or not record.content.strip() else bad).append(record)
        return good, bad

    def _n_expected(self) -> int:
        """Return the expected number of values per row: the number of values in the header.

        Without a header, it is the number of the given names. If no row has that many values, it is the number of
        values in the first row.
        """
        if self.header:
            return len(self.first_values())
        mark = self.separator.encode()
        counts = (record.n_values(mark, self.quoted) for record in self.records() if record.content.strip())
        first = next(counts, 1)
        n_columns = self.n_columns or first
        return n_columns if n_columns == first or n_columns in counts else first


def _names(body: _Body, layout: TextFormat, width: int) -> list[str]:
    """Return the names of the columns without blanks around them; raises a DataError if one is repeated or missing."""
    if layout.columns is not None:
        if len(layout.columns) != width:
            raise DataError(
                f"{body.path} has {pluralize(width, 'value')} in a line, but names are given for"
                f" {pluralize(len(layout.columns), 'column')}; name each column (--columns, in Python columns)"
            )
        return list(layout.columns)
    raw = body.first_values()
    names = [name.strip() for name in raw]
    if len(names) != width:
        raise DataError(
            f"{body.path}: the header has {pluralize(len(names), 'name')} for {pluralize(width, 'column')};"
            " name each column"
        )
    if names != raw:
        logger.warning("%s: blanks around names of columns are removed: %s", body.path, ", ".join(names))
    names = [name or f"column_{position}" for position, name in enumerate(names, 1)]
    check_names(names, str(body.path))
    return names
