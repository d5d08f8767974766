"""Statistics of a column that comes in pieces; they take bounded memory.

None of them depends on how the rows are split into pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from pyod_ae_plugin.columns.frames import (
    LARGEST_EXACT,
    TIME,
    Array,
    Cells,
    Texts,
    read_numbers,
    spelled,
)
from pyod_ae_plugin.columns.times import Span, read_times

_PIECE_ROWS = 2**16
_N_EXTREMES = 6


class Counts:
    """How often each value occurs; of more than ``most`` values those of a random sample.

    A value is in the sample by its hash, so that all its cells are counted or none.
    """

    def __init__(self, most: int, hashes: Callable[[Array], Array]) -> None:
        self.most = most
        self.level = 0  # one value in 2**level is in the sample
        self.counts: dict[str | float, int] = {}
        self._hashes = hashes

    def add(self, values: Array) -> None:
        """Count values, of which each stands as often as it occurs."""
        self.add_counted(*np.unique(self._sampled(values)[0], return_counts=True))

    def add_counted(self, values: Array, counts: Array) -> None:
        """Count distinct values that occur so often."""
        for start in range(0, len(values), self.most):
            piece = slice(start, start + self.most)
            self._add_piece(values[piece], counts[piece])

    def _add_piece(self, values: Array, counts: Array) -> None:
        values, counts = self._sampled(values, counts)
        known = self.counts
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            known[value] = known.get(value, 0) + count
        while len(known) > self.most:
            self.level += 1
            every = np.array(list(known), values.dtype)
            kept, kept_counts = self._sampled(every, np.array(list(known.values())))
            known = dict(zip(kept.tolist(), kept_counts.tolist(), strict=True))
        self.counts = known

    def _sampled(self, values: Array, *others: Array) -> list[Array]:
        """The values in the sample, and what belongs to them."""
        if not self.level:
            return [values, *others]
        chosen = self._hashes(values) < 2 ** (32 - self.level)
        return [array[chosen] for array in (values, *others)]


def _hashes_of_numbers(values: Array) -> Array:
    bits: Array = values.view(np.uint64).copy()
    for _ in range(2):  # what SplitMix64 does to spread bits
        bits ^= bits >> np.uint64(30)
        bits *= np.uint64(0xBF58476D1CE4E5B9)
    hashes: Array = bits >> np.uint64(32)
    return hashes


def _hashes_of_texts(values: Array) -> Array:
    encoded = (value.encode("utf-8", "surrogatepass") for value in values)
    return np.fromiter(map(crc32, encoded), np.uint64, len(values))


class Lowest:
    """The lowest distinct numbers of a column, and how often each occurs."""

    def __init__(self) -> None:
        self.values = np.empty(0)
        self.counts = np.empty(0, np.int64)

    def add(self, numbers: Array) -> None:
        """Take numbers, of which none is NaN."""
        if len(self.values) == _N_EXTREMES:
            numbers = numbers[numbers <= self.values[-1]]
        if not len(numbers):
            return
        values, counts = np.unique(numbers, return_counts=True)
        both, places = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        sums = np.bincount(places, np.concatenate([self.counts, counts]))
        self.values = both[:_N_EXTREMES]
        self.counts = sums[:_N_EXTREMES].astype(np.int64)


class Tally:
    """What is known of a column.

    Parameters
    ----------
    most_texts, most_numbers : int
        Most distinct values that are counted one by one.
    orders : sequence of str
        Orders in which times may be written, out of ``times.ORDERS``.

    Attributes
    ----------
    n, filled, numbers, times : int
        Counts of cells: all, those that are not gaps, numbers (also in text), times of a type for
        times.
    whole, large, infinite, counting : bool
        Whether all numbers are whole, one is too large to be exact, one is infinite, and whether
        they count up by one in each row.
    odd : dict of str to (int, str)
        The first row whose text is not a number ("number") or not a time of an order, and
        that text.
    """

    def __init__(self, most_texts: int, most_numbers: int, orders: Sequence[str]) -> None:
        self.n = self.filled = self.numbers = self.times = self.texts = 0
        self.whole = self.counting = True
        self.large = self.infinite = False
        self.first = np.nan  # number
        self.lowest, self.highest = Lowest(), Lowest()  # the latter of the negated numbers
        self.spans = {order: Span() for order in orders}
        self.odd: dict[str, tuple[int, str]] = {}
        self._number_counts = Counts(most_numbers, _hashes_of_numbers)
        self._text_counts = Counts(most_texts, _hashes_of_texts)

    def add(self, cells: Cells) -> None:
        """Take the cells of further rows."""
        if isinstance(cells, Texts):  # whole, so that each value is read once
            self._add_texts(cells)
            return
        for start in range(0, len(cells), _PIECE_ROWS):
            piece = cells[start : start + _PIECE_ROWS]
            if piece.dtype == TIME:
                self._add_times(piece)
            else:
                self._add_numbers(piece)

    def _add_numbers(self, cells: Array) -> None:
        numbers = cells[~np.isnan(cells)] + 0.0  # -0 is 0
        self._number_counts.add(numbers)
        self._note_numbers(numbers)
        self._close(len(cells), len(numbers))

    def _add_times(self, cells: Array) -> None:
        times = cells[~np.isnat(cells)]
        for span in self.spans.values():
            span.add(times)
        self.times += len(times)
        self._close(len(cells), len(times))

    def _add_texts(self, texts: Texts) -> None:
        codes = texts.codes
        filled = codes[codes >= 0]
        counts = np.bincount(filled, minlength=len(texts.values))
        present = np.flatnonzero(counts)
        values = [texts.values[i] for i in present.tolist()]
        as_objects = np.array(values, object)
        self._text_counts.add_counted(as_objects, counts[present])
        places = np.cumsum(counts > 0) - 1  # of each value among those present
        cells = places[filled]
        numbers = read_numbers(values)
        self._note_numbers(numbers[cells][~np.isnan(numbers[cells])] + 0.0)
        self._note_odd("number", codes, ~np.isnan(numbers), places, values)
        self._note_times(codes, cells, places, values)
        self.texts += len(filled)
        self._close(len(codes), len(filled))

    def _note_times(self, codes: Array, cells: Array, places: Array, values: list[str]) -> None:
        for order, span in self.spans.items():
            times = read_times(values, order)
            span.add(times[cells][~np.isnat(times[cells])])
            self._note_odd(order, codes, ~np.isnat(times), places, values)

    def _note_odd(
        self, what: str, codes: Array, fits: Array, places: Array, values: list[str]
    ) -> None:
        """Keep the first cell whose value does not fit."""
        if what in self.odd or fits.all():
            return
        rows = np.flatnonzero(codes >= 0)
        row = rows[np.argmin(fits[places[codes[rows]]])]
        self.odd[what] = (self.n + int(row), values[places[codes[row]]])

    def _note_numbers(self, numbers: Array) -> None:
        if not len(numbers):
            return
        if not self.numbers:
            self.first = numbers[0]
        sizes = np.abs(numbers)
        self.infinite |= bool(np.isinf(sizes).any())
        self.large |= bool((sizes > LARGEST_EXACT).any())
        self.whole = self.whole and bool((numbers == np.floor(numbers)).all())
        self.counting = self.counting and not self.large  # where one more may be the same number
        if self.counting:
            expected = self.first + np.arange(self.numbers, self.numbers + len(numbers))
            self.counting = bool((numbers == expected).all())
        self.lowest.add(numbers)
        self.highest.add(-numbers)
        self.numbers += len(numbers)

    def _close(self, n: int, filled: int) -> None:
        self.n += n
        self.filled += filled
        self.counting = self.counting and self.numbers == self.n

    @property
    def gaps(self) -> bool:
        """Whether some cells, but not all, are missing."""
        return 0 < self.filled < self.n

    def values(self) -> dict[str, int] | None:
        """How often each value of numbers and text occurs, None if there are too many."""
        if self._text_counts.level or self._number_counts.level:
            return None
        counts = {str(value): n for value, n in self._text_counts.counts.items()}
        for number, n in self._number_counts.counts.items():
            text = spelled(float(number))
            counts[text] = counts.get(text, 0) + n
        return counts

    def distinct_share(self) -> float:
        """Distinct values per filled cell, estimated where there are too many."""
        both = (self._text_counts, self._number_counts)
        cells = sum(sum(c.counts.values()) << c.level for c in both)
        return sum(len(c.counts) << c.level for c in both) / max(cells, 1)

    def extremes(self) -> tuple[Array, Array]:
        """The lowest and the highest distinct numbers, sorted, and how often each occurs."""
        low, high = self.lowest, self.highest
        values = np.concatenate([low.values, -high.values[::-1]])
        counts = np.concatenate([low.counts, high.counts[::-1]])
        distinct, first = np.unique(values, return_index=True)
        return distinct, counts[first]
