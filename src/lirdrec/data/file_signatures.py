"""Detect compressions and table formats by the first bytes of a file, and explain files that are not tables."""

from __future__ import annotations

from pathlib import Path

from lirdrec.errors import DataError

GZIP, BZIP2, XZ, ZSTD, LZ4, ZIP = "gzip", "bzip2", "xz", "zstd", "lz4", "zip"
COMPRESSIONS = {
    b"\x1f\x8b": GZIP,
    b"BZh": BZIP2,
    b"\xfd7zXZ\x00": XZ,
    b"\x28\xb5\x2f\xfd": ZSTD,
    b"\x04\x22\x4d\x18": LZ4,
    b"PK\x03\x04": ZIP,
    b"PK\x05\x06": ZIP,
}
PARQUET, ARROW, ARROW_STREAM, FEATHER, ORC, EXCEL = "Parquet", "Arrow", "Arrow stream", "Feather", "ORC", "Excel"
TABLES = {
    b"PAR1": PARQUET,
    b"ARROW1\x00\x00": ARROW,
    b"\xff\xff\xff\xff": ARROW_STREAM,
    b"FEA1": FEATHER,
    b"ORC": ORC,
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": EXCEL,
}
ARCHIVES = {b"7z\xbc\xaf\x27\x1c": ("7z", "7z x"), b"Rar!\x1a\x07": ("RAR", "unrar x")}
PICKLE = "holds pickled Python objects, which are never loaded (they could run code); write it as CSV or Parquet"
NOT_TABLES = {
    b"\x93NUMPY": "is a NumPy array, not a table; if it holds features, use --features NAME=FILE.npy",
    b"\x89HDF\r\n\x1a\n": "is an HDF5 file; write its table as CSV or Parquet",
    b"Obj\x01": "is an Avro file; write it as Parquet",
    b"SQLite format 3\x00": "is an SQLite database; write its table as CSV or Parquet",
    b"%PDF-": "is a PDF file, not a table",
    b"\x89PNG": "is an image, not a table",
    b"\xff\xd8\xff": "is an image, not a table",
    **{bytes([0x80, version]): PICKLE for version in range(2, 6)},
}
HEAD_BYTES = max(map(len, (*COMPRESSIONS, *TABLES, *ARCHIVES, *NOT_TABLES)))


def detect_compression(head: bytes) -> str | None:
    """Return the compression of a file that begins with `head`; None if it is not compressed."""
    return next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)


def detect_table_format(head: bytes) -> str | None:
    """Return the binary table format of a file that begins with `head`; None: it has none, so it may be text."""
    return next((name for magic, name in TABLES.items() if head.startswith(magic)), None)


def check_not_archive(path: Path, head: bytes) -> None:
    """Raise a DataError if the file that begins with `head` is a 7z or RAR archive, which lirdrec cannot unpack."""
    for magic, (name, command) in ARCHIVES.items():
        if head.startswith(magic):
            raise DataError(f"{path} is a {name} archive; unpack it ({command} {path.name}) and give the unpacked file")


def check_maybe_table(path: Path, head: bytes) -> None:
    """Raise a DataError if `head`, the beginning of the file, shows a known type that is not a table."""
    for magic, sentence in NOT_TABLES.items():
        if head.startswith(magic):
            raise DataError(f"{path}: {sentence}")
