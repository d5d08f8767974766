"""Text in files: decompressed, decoded and checked while it is read, in blocks of UTF-8."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

COMPRESSED = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}

_LONGEST_LINE = 2**26  # characters; a million columns take half of it

# A mark at the beginning says what a file is encoded in. Those of UTF-32 begin as those of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def marked_encoding(file: Path) -> str | None:
    """What the mark at the beginning of a file says that it is encoded in, if it has one."""
    with _opened(file) as opened:
        return _mark(opened.read(4))[0]


def text_blocks(file: Path, shown: Path, encoding: str, size: int) -> Iterator[bytes]:
    """Yield the text of a file in UTF-8, in blocks of about ``size`` bytes.

    A mark at the beginning of the file overrules ``encoding``. What cannot be decoded, a NUL byte
    and a line that is too long raise ValueError, which calls the file ``shown`` and has the number
    of the line.
    """
    line, length, after_return = 1, 0, False  # of the last line of the block before
    for block in _decoded(file, shown, encoding, size):
        if b"\0" in block:
            where = f"{shown}: line {line + line_ends(block[: block.index(0)], after_return)}"
            raise ValueError(
                f"{where} holds a NUL byte. Save the file as text in UTF-8; if it is in UTF-16 "
                "without a mark, try --encoding utf-16-le."
            )
        if n_ends := line_ends(block, after_return):
            line, length = line + n_ends, 0
        length += len(block) - 1 - max(block.rfind(b"\n"), block.rfind(b"\r"))
        if length >= _LONGEST_LINE:
            raise ValueError(
                f"{shown}: line {line} is longer than {_LONGEST_LINE:,} characters. Check that "
                "it is a table with line ends."
            )
        after_return = block.endswith(b"\r")
        yield block


def line_ends(block: bytes, after_return: bool = False) -> int:
    r"""Number of line ends ("\n", "\r" or both) in a block, which may follow upon a "\r"."""
    both = block.count(b"\r\n") + (after_return and block.startswith(b"\n"))
    return block.count(b"\n") + block.count(b"\r") - both


def text_lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of blocks of text, each with its end."""
    rest = b""
    for block in blocks:
        lines = (rest + block).splitlines(keepends=True)
        rest = lines.pop() if lines else b""  # it may go on
        yield from map(bytes.decode, lines)
    if rest:
        yield rest.decode()


def without_lines(blocks: Iterable[bytes], n: int) -> Iterator[bytes]:
    """Yield blocks of text without their first ``n`` lines."""
    blocks, rest = iter(blocks), b""
    while n > 0 and (block := next(blocks, b"")):
        lines = (rest + block).splitlines(keepends=True)
        rest = lines.pop()
        skipped = min(n, len(lines))
        n -= skipped
        if skipped < len(lines):
            rest = b"".join(lines[skipped:]) + rest
    yield from chain([b"" if n else rest], blocks)


def _decoded(file: Path, shown: Path, encoding: str, size: int) -> Iterator[bytes]:
    """Yield the text of a file in UTF-8."""
    n_ends, after_return = 0, False
    with _opened(file) as opened:
        block = opened.read(size)
        mark, n_bytes = _mark(block)
        encoding = mark or encoding
        decoder = codecs.getincrementaldecoder(encoding)()
        block = block[n_bytes:]
        while True:
            try:
                text = decoder.decode(block, final=not block).encode()
            except UnicodeDecodeError as error:
                raise _located(error, shown, encoding, n_ends, after_return) from error
            if text:
                n_ends += line_ends(text, after_return)
                after_return = text.endswith(b"\r")
                yield text
            if not block:
                return
            block = opened.read(size)


def _opened(file: Path) -> IO[bytes]:
    """Open a file, to be decompressed if its ending says so."""
    kind = COMPRESSED.get(file.suffix.lower())
    return file.open("rb") if kind is None else kind(file)


def _mark(start: bytes) -> tuple[str | None, int]:
    """The encoding that a mark says, or None, and the length of the mark."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding, len(mark)
    return None, 0


def _located(
    error: UnicodeDecodeError, shown: Path, encoding: str, n_ends: int, after_return: bool
) -> ValueError:
    """The same error with the number of the line, after ``n_ends`` lines before its block."""
    data, begin = error.object, 0
    before = data[: error.start].decode(encoding).encode()
    if error.encoding == "utf-8":  # the error shall show the place in the line
        begin = max(before.rfind(b"\n"), before.rfind(b"\r")) + 1
    here = UnicodeDecodeError(
        error.encoding,
        data[begin : error.end],
        error.start - begin,
        error.end - begin,
        error.reason,
    )
    return ValueError(
        f"{shown}: line {n_ends + line_ends(before, after_return) + 1}: {here}. The file is not "
        f"{encoding.upper()}; try --encoding latin-1."
    )
