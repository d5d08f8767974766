"""Columns of a table as a matrix for the network, and as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyod_ae_plugin.columns.frames import Array, Frame
from pyod_ae_plugin.columns.roles import (
    ROLES,
    CategoryColumn,
    Column,
    NumberColumn,
    TimeColumn,
    expect,
    shown_cell,
)
from pyod_ae_plugin.columns.times import days_since_1970
from pyod_ae_plugin.sources import some_of

__all__ = ["ROLES", "CategoryColumn", "Column", "Columns", "NumberColumn", "TimeColumn"]

_BLOCK_ROWS = 2**13  # a block of a matrix stays in the processor's cache while it is filled
_KINDS = (Column, NumberColumn, CategoryColumn, TimeColumn)


@dataclass(frozen=True)
class Columns:
    """All columns of the training table, and the matrix that those learned from make.

    A ``Profiler`` finds them.

    Parameters
    ----------
    columns : tuple of Column
        In the order of the table, with what was learned of each.

    Examples
    --------
    >>> from pyod_ae_plugin.columns.matrix import Columns
    >>> from pyod_ae_plugin.columns.frames import Frame, Texts
    >>> from pyod_ae_plugin.columns.profiles import Profiler
    >>> import numpy as np
    >>> country = Texts.of(["DE", "FR", "FR", "DE", None, "FR"])
    >>> table = Frame({"amount": np.array([5.0, 7, 6, 5, np.nan, 9]), "country": country})
    >>> profiler = Profiler()
    >>> profiler.add(table)
    >>> columns = profiler.columns()
    >>> columns.matrix_names
    ['amount', 'amount is missing', 'country=FR', 'country=missing', 'country=other']
    >>> columns.encode(table.take(slice(3, 6)))
    array([[ 5.,  0.,  0.,  0.,  0.],
           [nan,  1.,  0.,  1.,  0.],
           [ 9.,  0.,  1.,  0.,  0.]])
    """

    columns: tuple[Column, ...]

    @property
    def _learned(self) -> list[Column]:
        return [column for column in self.columns if column.matrix_names]

    def _of_role(self, role: str) -> list[str]:
        return [column.name for column in self.columns if column.role == role]

    @property
    def features(self) -> list[str]:
        """Names of the columns that are learned from."""
        return [column.name for column in self._learned]

    @property
    def ids(self) -> list[str]:
        """Names of the columns that only name rows."""
        return self._of_role("id")

    @property
    def labels(self) -> list[str]:
        """Names of the columns that say which rows are outliers."""
        return self._of_role("label")

    @property
    def width(self) -> int:
        """Number of columns of the matrix."""
        return len(self.matrix_names)

    @property
    def matrix_names(self) -> list[str]:
        """Names of the columns of the matrix."""
        return [name for column in self._learned for name in column.matrix_names]

    @property
    def groups(self) -> Array:
        """Index into ``features`` [width] of each column of the matrix."""
        widths = [len(column.matrix_names) for column in self._learned]
        return np.repeat(np.arange(len(widths)), widths)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, guessed or warned of, a sentence each."""
        return tuple(note for column in self.columns for note in column.notes)

    @property
    def only_numbers(self) -> bool:
        """Whether every feature is a number, and the matrix holds nothing but these."""
        return bool((self.places_of_numbers == np.arange(self.width)[: len(self.features)]).all())

    def encode(self, frame: Frame, first_row: int = 0) -> Array:
        """Rows of a table as a matrix.

        Columns are found by name. Those that are not learned from may be missing.

        Parameters
        ----------
        frame : Frame
            The table.
        first_row : int, default=0
            What errors call the first row.

        Returns
        -------
        ndarray of shape (n, width)
            float64, NaN where a number or a time is missing.

        Raises
        ------
        ValueError
            If columns are missing, or hold cells that are not of their role.
        """
        self.check_names(frame.names)
        prepared, problems = [], []
        for column in self._learned:
            try:
                prepared.append(column.prepare(frame.columns[column.name], first_row))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(" ".join(problems))
        matrix = np.zeros((len(frame), self.width))
        filled = list(zip(self._learned, prepared, self._places(), strict=True))
        for start in range(0, len(matrix), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            for column, cells, place in filled:
                column.fill(matrix[rows, place], cells[rows])
        return matrix

    def _places(self) -> list[slice]:
        """Columns of the matrix of each feature."""
        ends = np.cumsum([len(column.matrix_names) for column in self._learned]).tolist()
        return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]

    def check_names(self, names: Sequence[str]) -> None:
        """Raise ValueError if columns that are learned from are not among the names of a table."""
        there = set(names)
        missing = [name for name in self.features if name not in there]
        if not missing:
            return
        plain = {name.strip().lower(): name for name in names}
        alike = [(name, plain.get(name.strip().lower())) for name in missing]
        hints = [f"{found!r} is not {name!r}: rename it." for name, found in alike if found]
        raise ValueError(
            f"The table lacks columns that were learned from: {some_of(missing)}. It has "
            f"{some_of(names)}. {' '.join(hints) or 'Give a table with all of them.'}"
        )

    def totals(self, contributions: Array) -> Array:
        """Sums over the columns of the matrix of each feature.

        Parameters
        ----------
        contributions : ndarray of shape (n, width)
            What each column of the matrix adds to a score.

        Returns
        -------
        ndarray of shape (n, n_features)
            What each feature adds.
        """
        contributions = self._of_width(contributions)
        starts = [place.start for place in self._places()]
        sums: Array = np.add.reduceat(contributions, starts, axis=1)
        return sums

    def shown(self, frame: Frame, i: int) -> list[str]:
        """The cells of row i as text, one for each feature."""
        return [shown_cell(frame.columns[name], i) for name in self.features]

    @property
    def places_of_numbers(self) -> Array:
        """Column of the matrix [n_features] of each number; -1 for what is not a number."""
        places = [
            place.start if isinstance(column, NumberColumn) and column.constant is None else -1
            for column, place in zip(self._learned, self._places(), strict=True)
        ]
        return np.array(places)

    @property
    def axes(self) -> list[str | list[str]]:
        """What the numbers of each feature that :meth:`drawn` returns stand for.

        "number"; "time", in days since 1970; or of a category the texts that they are indices of.
        """
        return [
            column.states
            if isinstance(column, CategoryColumn)
            else "time"
            if isinstance(column, TimeColumn)
            else "number"
            for column in self._learned
        ]

    def drawn(self, frame: Frame) -> Array:
        """Numbers [n, n_features] to draw: see :attr:`axes` for what they stand for."""
        matrix, numbers = self.encode(frame), []
        for column, place in zip(self._learned, self._places(), strict=True):
            block = matrix[:, place]
            if isinstance(column, TimeColumn):
                numbers.append(days_since_1970(column.prepare(frame.columns[column.name])))
            elif isinstance(column, CategoryColumn):
                first = len(column.states) - block.shape[1]  # 1 if a row of zeros is a state, too
                numbers.append(np.where(block.any(axis=1), block.argmax(axis=1) + first, 0))
            else:
                numbers.append(block[:, 0])
        return np.column_stack(numbers)

    def decoded(self, matrix: Array) -> Frame:
        """Rows of a matrix, such as reconstructions, as a table of the features.

        Parameters
        ----------
        matrix : ndarray of shape (n, width)
            Its values need not be exactly those that :meth:`encode` gives.

        Returns
        -------
        Frame
            A number as it is; a category as its most likely value, "missing" or "other"; a time as
            text such as "Mon 14:05".
        """
        matrix = self._of_width(matrix)
        blocks = zip(self._learned, self._places(), strict=True)
        return Frame({column.name: column.decode(matrix[:, place]) for column, place in blocks})

    def _of_width(self, matrix: Array) -> Array:
        matrix = np.asarray(matrix, np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != self.width:
            raise ValueError(f"Expected shape (n, {self.width}), got {matrix.shape}.")
        return matrix

    def to_json(self) -> list[dict[str, Any]]:
        """What :meth:`from_json` takes: for each column its fields, of JSON's types."""
        return [
            {key: list(v) if isinstance(v, tuple) else v for key, v in vars(column).items()}
            for column in self.columns
        ]

    @classmethod
    def from_json(cls, data: object) -> Columns:
        """The columns that :meth:`to_json` described; ValueError if it cannot have."""
        if not isinstance(data, list):
            raise ValueError(f"Expected a list of columns, got {type(data).__name__}.")
        columns = tuple(_read_column(item, i) for i, item in enumerate(data))
        twice = [name for name, n in Counter(c.name for c in columns).items() if n > 1]
        if twice:
            raise ValueError(f"Expected columns of different names, got {twice[0]!r} twice.")
        read = cls(columns)
        if not read.width:
            raise ValueError("Expected a column that is learned from, got none.")
        return read


# -------------------------------------------------------------------------- checks of what is read


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_optional_number(value: object) -> bool:
    return value is None or type(value) is float


_TYPES: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "str": ("text", lambda value: isinstance(value, str)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "tuple[str, ...]": ("a list of text", _is_texts),
    "float | None": ("a number or null", _is_optional_number),
}


def _read_column(item: object, i: int) -> Column:
    """One column of :meth:`Columns.from_json`, checked."""
    try:
        if not isinstance(item, dict):
            raise ValueError("expected an object")
        role = item.get("role")
        expect(isinstance(role, str) and role in ROLES, f"a role of {ROLES}")
        kind = next(kind for kind in _KINDS if role in kind.roles)
        fields = dataclasses.fields(kind)
        expect(set(item) == {field.name for field in fields}, f"the fields of role {role!r}")
        for field in fields:
            what, is_such = _TYPES[str(field.type)]
            expect(is_such(item[field.name]), f"{what} for {field.name!r}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in item.items()
        }
        column = kind(**values)
        column.check()
        expect(all(note.isprintable() for note in column.notes), "notes of printable characters")
    except ValueError as error:
        raise ValueError(f"Column {i} of those that were learned: {error}.") from error
    return column
