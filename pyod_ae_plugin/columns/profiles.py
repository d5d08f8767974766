"""Roles of the columns of a training table, found by rules or asked for.

The first rule that applies gives the role. A role that is asked for overrules all but the rules
for columns that are empty or constant.

1. A column without a filled cell is left out ("drop").
2. A column is a label ("label") if it has at most two distinct values, and its name in small
   letters is label, labels, class, target, y, outlier, anomaly, fraud, attack, is_outlier,
   is_anomaly, is_fraud, is_attack or normal/attack.
3. A column with one distinct value and no gap is left out. With gaps, what is missing is learned of
   a number; a category has two values, one of which is "missing"; a time is left out.
4. Numbers are an id ("id") if they

   - count up by one in each row, from 0 or 1 in a column named index or in a first column without a
     name, from any number in at least 20 rows;
   - are distinct integers in a column named __index_level_0__, or whose name is or ends in the word
     id, key, uuid, nr, no or number;
   - are integers of which one is above 2**53 and at least 90% are distinct.
5. Other numbers, also in text, are a number ("number").
6. Times, and text that shows a time in each filled cell, are a time ("time"). The hour of the day
   is learned if it varies, the day of the week if it varies and the rows span at least two weeks.
   If neither does, the column is left out. Text whose day and month cannot be told apart is
   refused.
7. Text that shows numbers, or times, in at least 90% of the filled cells, but not in all, is
   refused.
8. Text with at most two values, or whose frequent values fill at least half of the filled cells, is
   a category ("category"). Frequent are the 50 most frequent of those that occur at least three
   times and in 0.5% of the rows.
9. Text in at least 20 rows of which at least 90% is distinct is an id.
10. Other text is refused.

On request only, a time is also learned as its position in time ("time+position"), and text or
numbers such as 20240131 are read as dates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pyod_ae_plugin.columns.frames import Frame, as_texts, is_time, shown_time, spelled
from pyod_ae_plugin.columns.matrix import Columns
from pyod_ae_plugin.columns.roles import (
    MOST_VALUES,
    ROLES,
    CategoryColumn,
    Column,
    NumberColumn,
    TimeColumn,
)
from pyod_ae_plugin.columns.tallies import Tally
from pyod_ae_plugin.columns.times import DAY, ORDERS, read_times
from pyod_ae_plugin.sources import some_of

_MOST_COUNTED = 10_000_000  # distinct texts of all columns together, and ten times fewer numbers
_MOST_TEXTS = 100_000  # of one column
_MOST = 0.9  # of the cells are "most cells"
_LEAST_ROWS = 20  # of a table where it is no accident that all values differ

_LABELS = re.compile(
    "label|labels|class|target|y|(is_)?(outlier|anomaly|fraud|attack)|normal/attack"
)
_ID_WORD = re.compile(
    r"(?:^|.*[\W_])(?:id|key|uuid|nr|no|number)|.*[a-z](?:Id|ID|Key|Uuid|UUID|Nr|No|Number)"
    r"|(?:account|case|client|customer|device|event|item|order|patient|product|record|row|session"
    r"|transaction|user)id",
    re.DOTALL,
)
_PARTS = {
    "hour": "the hour of the day",
    "weekday": "the day of the week",
    "position": "the position in time",
}


class UnusableColumnsError(ValueError):
    """Columns of a table cannot be used; the message has a line for each.

    Attributes
    ----------
    problems : list of str
        A line for each column.
    rows : dict of str to (int or None)
        The columns, as far as leaving them out would help, with the first row, from 0, whose cell
        is not like the others.
    """

    def __init__(self, problems: list[str], rows: Mapping[str, int | None]) -> None:
        super().__init__("\n".join(problems))
        self.problems, self.rows = problems, rows


class _MixedError(ValueError):
    """Most cells of a column are of one kind, and the one in a row is not."""

    def __init__(self, text: str, row: int | None) -> None:
        super().__init__(text)
        self.row = row


class Profiler:
    """What is known of a training table, which may come in pieces; takes bounded memory.

    Parameters
    ----------
    asked : dict of str to str, optional
        Roles by the names of columns. The roles of others are found.

    Examples
    --------
    >>> import pandas as pd
    >>> from pyod_ae_plugin.columns.frames import frame_of
    >>> from pyod_ae_plugin.columns.profiles import Profiler
    >>> rows = pd.DataFrame({"order_id": [7, 9, 8], "amount": [9.5, 3.0, 4.5], "fraud": [0, 0, 1]})
    >>> profiler = Profiler()
    >>> profiler.add(frame_of(rows))
    >>> columns = profiler.columns()
    >>> columns.features
    ['amount']
    >>> for note in columns.notes:
    ...     print(note)
    order_id is an id: kept, not learned from.
    fraud is a label: kept, never learned from.
    """

    def __init__(self, asked: Mapping[str, str] | None = None) -> None:
        check_roles({} if asked is None else asked)
        self._asked = dict(asked or {})
        self._tallies: dict[str, Tally] = {}

    def add(self, frame: Frame) -> None:
        """Take further rows of the table; ValueError if they have other columns."""
        if not self._tallies:
            self._tallies = {name: self._tally(name, len(frame.names)) for name in frame.names}
        differing = sorted(self._tallies.keys() ^ frame.columns.keys())
        if differing:
            raise ValueError(
                f"Columns stand in some rows but not in others: {some_of(differing)}. Give rows "
                "that have the same columns."
            )
        for name, cells in frame.columns.items():
            role = self._asked.get(name, "")
            if role not in Column.roles:
                # Numbers that are asked to be a category or dates are what their digits say.
                as_text = role == "category" or (role in TimeColumn.roles and not is_time(cells))
                self._tallies[name].add(as_texts(cells) if as_text else cells)

    def _tally(self, name: str, n_columns: int) -> Tally:
        most = max(1000, min(_MOST_TEXTS, _MOST_COUNTED // n_columns))
        role = self._asked.get(name)
        orders = ORDERS if role in TimeColumn.roles else ORDERS[:3] if role is None else ()
        return Tally(most, most // 10, orders)

    def columns(self) -> Columns:
        """The columns with their roles.

        Raises
        ------
        UnusableColumnsError
            That names every column that cannot be used, what it holds and what to do; or if names
            that were asked for are unknown, or nothing is left to learn from.
        """
        if not self._tallies:
            raise ValueError("The table has no rows. Give rows to learn from.")
        problems: list[str] = []
        unusable: dict[str, int | None] = {}
        unknown = sorted(self._asked.keys() - self._tallies.keys())
        if unknown:
            problems.append(
                f"Roles are given for columns that are not there: {some_of(unknown)}. The table "
                f"has {some_of(list(self._tallies))}."
            )
        found = []
        for i, (name, tally) in enumerate(self._tallies.items()):
            try:
                asked = self._asked.get(name)
                column = _column(name, tally, asked, is_first=i == 0)
                found.append(_with_gaps_noted(column if asked else _warned(column), tally))
            except ValueError as error:
                problems.append(f"Column {name!r} {error}")
                unusable[name] = getattr(error, "row", None)
        columns = Columns(tuple(found))
        if not problems and not columns.width:
            reasons = " ".join(columns.notes)
            problems.append(f"No column is left to learn from. {reasons}".strip())
        if problems:
            raise UnusableColumnsError(problems, unusable)
        return columns


def check_roles(asked: object) -> None:
    """Raise TypeError or ValueError unless these are roles by the names of columns."""
    if not isinstance(asked, Mapping):
        raise TypeError(f"Expected a dict of roles by column, got {type(asked).__name__}.")
    for name, role in asked.items():
        if not isinstance(name, str) or not isinstance(role, str):
            raise TypeError(f"Expected names and roles as str, got {name!r}: {role!r}.")
        if role not in ROLES:
            raise ValueError(f"Column {name!r}: expected a role of {ROLES}, got {role!r}.")


# -------------------------------------------------------------- the rules; problems are ValueErrors


def _column(name: str, tally: Tally, asked: str | None, *, is_first: bool) -> Column:
    """The column with the role that is asked for or found."""
    if asked in Column.roles:
        return Column(name, str(asked))
    if not tally.filled:
        return _left_out(name, "is empty")
    values = tally.values()
    if asked is None and _is_label(name, tally, values):
        return Column(name, "label", (f"{_plain(name)} is a label: kept, never learned from.",))
    if not tally.gaps and values is not None and len(values) == 1 and not tally.times:
        return _left_out(name, f"is constant ({_plain(_short(next(iter(values))))})")
    if tally.infinite and asked != "category":
        raise ValueError(
            f"holds infinite numbers. Replace them by numbers, or by empty cells if they stand for "
            f"missing values{_or_roles('drop')}."
        )
    if asked is None and _is_id(name, tally, is_first):
        return _id(name)
    if asked == "category":
        return _category(name, tally, values)
    if asked == "number" or (asked is None and tally.numbers == tally.filled):
        return _number(name, tally, asked)
    order = _order(tally)
    if asked is not None or order is not None:
        return _time(name, tally, order, asked or "time")
    return _text(name, tally, values)


def _with_gaps_noted(column: Column, tally: Tally) -> Column:
    """The column, with a note on cells that are missing if it is learned from."""
    n_gaps = tally.n - tally.filled
    if not n_gaps or not column.matrix_names:
        return column
    learned = (
        "they count as a value of their own"
        if isinstance(column, CategoryColumn)
        else "they are hidden from the network, and that they are missing is learned"
    )
    note = f"{_plain(column.name)}: {n_gaps:,} of {tally.n:,} values are missing; {learned}."
    return replace(column, notes=(*column.notes, note))


def _warned(column: Column) -> Column:
    """The column, with a note if it is learned from though its name is that of a label."""
    if not column.matrix_names or not _LABELS.fullmatch(column.name.strip().lower()):
        return column
    note = (
        f"column {column.name!r}: has the name of a label, but more than two values: learned as a "
        f"{column.role}; if it says which rows are outliers, give it the role 'label' or 'drop'."
    )
    return replace(column, notes=(*column.notes, note))


def _is_label(name: str, tally: Tally, values: Mapping[str, int] | None) -> bool:
    few = not tally.times and values is not None and len(values) <= 2
    return few and _LABELS.fullmatch(name.strip().lower()) is not None


def _is_id(name: str, tally: Tally, is_first: bool) -> bool:
    if tally.numbers < tally.filled or not tally.whole:
        return False
    plain = name.strip().lower()
    is_index = plain in ("index", "__index_level_0__") or (
        is_first and plain in ("", "unnamed: 0")  # the latter is what pandas reads for the former
    )
    if tally.counting and (tally.n >= _LEAST_ROWS or (is_index and tally.first in (0, 1))):
        return True
    share = tally.distinct_share()
    if tally.large and share >= _MOST:
        return True
    named = plain == "__index_level_0__" or _is_id_name(name)
    return named and share == 1 and tally.n > 1


def _is_id_name(name: str) -> bool:
    return any(_ID_WORD.fullmatch(text) for text in (name.strip(), name.strip().lower()))


def _number(name: str, tally: Tally, asked: str | None) -> Column:
    if tally.numbers < tally.filled:
        raise _mostly(tally, "number", "numbers", tally.numbers)
    notes = []
    if asked is None:
        if tally.large:
            notes.append(
                "holds integers above 2**53, whose last digits are lost; if they only name "
                "something, give it the role 'id' or 'drop'."
            )
        if tally.texts == tally.filled and not tally.large:
            notes.append("holds text that shows numbers: learned as a number.")
        if _is_id_name(name) and tally.whole:
            notes.append(
                "has the name of an id, but its values repeat: learned as a number; if it only "
                "names something, give it the role 'id' or 'drop'."
            )
    notes += [
        f"{spelled(value)} occurs {count:,} times far outside the others; if it stands for a "
        "missing value, replace it by an empty cell."
        for value, count in _far_outside(tally)
    ]
    shown = tuple(f"column {name!r}: {note}" for note in notes)
    lowest = float(tally.lowest.values[0])
    constant = lowest if lowest == -tally.highest.values[0] else None
    if constant is not None and not tally.gaps:  # though it is written in several ways
        return _left_out(name, f"is constant ({spelled(constant)})")
    return NumberColumn(name, "number", shown, gaps=tally.gaps, constant=constant)


def _far_outside(tally: Tally) -> list[tuple[float, int]]:
    """Numbers that repeat far outside the others, as those do that stand for missing values."""
    values, counts = tally.extremes()
    often = counts >= max(3, 0.005 * tally.n)
    for n_low, n_high in sorted(np.ndindex(3, 3), key=sum, reverse=True):
        low, high = np.split(np.arange(len(values)), [len(values) - n_high])
        low, rest = low[:n_low], values[n_low : len(values) - n_high]
        outside = np.concatenate([low, high])
        if len(rest) < 3 or not len(outside) or not often[outside].all():
            continue
        beyond = np.maximum(rest[0] - values[outside], values[outside] - rest[-1])
        if (beyond > 5 * (rest[-1] - rest[0])).all():
            return [(float(values[i]), int(counts[i])) for i in outside]
    return []


def _order(tally: Tally) -> str | None:
    """The order in which all cells are times, None if there is none."""
    fitting = [order for order, span in tally.spans.items() if span.n == tally.filled]
    if "ymd" not in fitting and {"dmy", "mdy"} <= set(fitting):
        example = shown_time(tally.spans["dmy"].first)
        raise ValueError(
            f"holds dates whose day and month cannot be told apart (the first is {example} if the "
            f"day stands first). Write them as 2024-01-31{_or_roles('drop')}."
        )
    return fitting[0] if fitting else None


def _time(name: str, tally: Tally, order: str | None, role: str) -> Column:
    if order is None:
        best = max(tally.spans, key=lambda order: tally.spans[order].n)
        raise _mostly(tally, best, "times", tally.spans[best].n)
    span = tally.spans[order]
    varying = span.parts()
    parts = tuple(part for part in varying if part != "position" or role == "time+position")
    if not parts:
        return _left_out(name, "holds times whose hour of the day and day of the week do not vary")
    shown = " and ".join(_PARTS[part] for part in parts)
    notes = [f"{_plain(name)} is a time: {shown} is learned."]
    if "weekday" not in parts:
        notes[0] = notes[0][:-1] + ", not the day of the week."
    if "hour" in parts and span.length < DAY:
        notes.append(
            f"column {name!r}: its rows span less than a day, so that other hours will look "
            "unusual; if that is not wanted, give it the role 'drop'."
        )
    start = shown_time(span.first)
    if np.isnat(read_times([start], "ymd")[0]):
        raise ValueError(f"holds times outside the years 1 to 9999{_or_roles('drop')}.")
    return TimeColumn(name, role, tuple(notes), order, parts, start, gaps=tally.gaps)


def _text(name: str, tally: Tally, values: Mapping[str, int] | None) -> Column:
    """A category or an id; ValueError for other text."""
    best = max(tally.spans, key=lambda order: tally.spans[order].n)
    most = _MOST * tally.filled
    if tally.numbers >= most:
        raise _mostly(tally, "number", "numbers", tally.numbers)
    if tally.spans[best].n >= most or tally.times:
        raise _mostly(tally, best, "times", tally.spans[best].n)
    frequent = _frequent(tally, values)
    covered = sum((values or {})[value] for value in frequent)
    if frequent and covered >= tally.filled / 2:
        return _category(name, tally, values)
    if tally.n >= _LEAST_ROWS and tally.distinct_share() >= _MOST:
        return _id(name)
    n_values = "very many" if values is None else f"{len(values):,}"
    raise ValueError(
        f"holds text with {n_values} different values, such as {_example(tally)}, too few of them "
        f"frequent. Give it the role {'category' if frequent else 'id'!r} to "
        f"{'learn the frequent ones' if frequent else 'keep it'}, or 'drop' to leave it out."
    )


def _frequent(tally: Tally, values: Mapping[str, int] | None) -> list[str]:
    """Values that have a column of their own in the matrix, sorted."""
    if values is None:
        return []
    if len(values) <= 2:
        return sorted(values)
    least = max(3, 0.005 * tally.n)
    often = [value for value in values if values[value] >= least]
    return sorted(sorted(often, key=lambda value: (-values[value], value))[:MOST_VALUES])


def _category(name: str, tally: Tally, values: Mapping[str, int] | None) -> CategoryColumn:
    frequent = _frequent(tally, values)
    if not frequent:
        several = "too many" if values is None else f"{len(values):,}"
        raise ValueError(
            f"has {several} different values, none of them frequent, so that it cannot be a "
            "category. Give it the role 'id' to keep it, or 'drop' to leave it out."
        )
    rare = len(frequent) < len(values or ())
    return CategoryColumn(name, "category", (), tuple(frequent), rare, tally.gaps)


def _id(name: str) -> Column:
    return Column(name, "id", (f"{_plain(name)} is an id: kept, not learned from.",))


def _left_out(name: str, why: str) -> Column:
    return Column(name, "drop", (f"{_plain(name)} {why}: left out.",))


# ---------------------------------------------------------------------------------- what is said


def _mostly(tally: Tally, what: str, plural: str, n: int) -> _MixedError:
    """Cells are of two kinds: which, and what to do."""
    n_odd = tally.filled - n
    row, cell = tally.odd.get(what, (None, ""))
    first = "" if row is None else f", the first in row {row}: {_short(cell)!r}"
    return _MixedError(
        f"holds {plural} in {n:,} cells but not in {n_odd:,} others{first}. Empty these cells if "
        "they stand for missing values, or correct them, or give the column the role 'category', "
        "'id' or 'drop'.",
        row,
    )


def _or_roles(role: str) -> str:
    return f", or give the column the role {role!r}"


def _example(tally: Tally) -> str:
    return repr(_short(tally.odd["number"][1]))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


def _plain(name: str) -> str:
    """A name as a sentence shows it."""
    if not name:
        return "the column without a name"
    return name if name.isprintable() and name == name.strip() else repr(name)
