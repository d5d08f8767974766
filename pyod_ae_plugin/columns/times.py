"""Times that are written as text, and how far times spread.

The year stands first ("ymd"), or the day ("dmy"), or the month ("mdy"): 2024-01-31, 31.01.2024 or
01/31/2024, with ``-``, ``/`` or ``.`` between them. A time of day may follow after a blank or a T,
with or without seconds and their fraction, in 24 hours or with AM or PM. A zone at the end (Z or an
offset such as +01:00) is dropped: the time on the clock counts. "compact" is 20240131, which may
also be a number, so that it is a date only on request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from pyod_ae_plugin.columns.frames import TIME, Array

ORDERS = ("ymd", "dmy", "mdy", "compact")
DAY = np.timedelta64(1, "D")

_LONGEST = 60  # characters of a time with blanks around it; longer text could take long to match
_PIECE = 2**13  # texts whose matches are in memory at a time; more of them take longer each

_ZONE = r"(?:\s?(?:Z|[+-]\d\d(?::?\d\d)?))?"
_CLOCK = (
    r"(?:[T\s]\s*(\d{1,2}):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:\s?([AP])\.?M\.?)?" + _ZONE + ")?"
)
_FLAGS = re.ASCII | re.IGNORECASE
# What NumPy reads as it stands, and so fast. A zone stands only behind a time of day.
_ISO = re.compile(
    r"(?=.{10}(?:[T ]\d|$))(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)" + _ZONE,
    re.ASCII,
)
_YEAR_FIRST = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})" + _CLOCK, _FLAGS)
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})" + _CLOCK, _FLAGS)
_COMPACT = re.compile(r"(\d{4})()(\d\d)(\d\d)(?:T?(\d\d)(\d\d)(\d\d)?()())?", _FLAGS)


def read_times(values: Sequence[str], order: str) -> Array:
    """Times [n] of texts that are written in this order, NaT where a text is none."""
    starts = range(0, len(values), _PIECE)
    pieces = [_read_piece(values[start : start + _PIECE], order) for start in starts]
    return np.concatenate([np.empty(0, TIME), *pieces])


def _read_piece(texts: Sequence[str], order: str) -> Array:
    values = [text.strip() if len(text) <= _LONGEST else "" for text in texts]
    if order == "ymd":
        plain = _plain_iso(values)
        if plain is not None:
            return _moments(plain)
        matches = list(map(_ISO.fullmatch, values))
        if all(matches):
            return _moments([m[1] if m else None for m in matches])
        others = list(map(_YEAR_FIRST.fullmatch, values))
        if not any(matches) and not any(others):  # soon done with a column of other text
            return np.full(len(values), "NaT", TIME)
        pairs = zip(matches, others, strict=True)
        return _moments([m[1] if m else _iso(o, 1, 3, 4) for m, o in pairs])
    pattern = _COMPACT if order == "compact" else _YEAR_LAST
    year, month, day = {"compact": (1, 3, 4), "dmy": (4, 3, 1), "mdy": (4, 1, 3)}[order]
    matches = list(map(pattern.fullmatch, values))
    if not any(matches):
        return np.full(len(values), "NaT", TIME)
    return _moments([_iso(m, year, month, day) for m in matches])


def _plain_iso(values: Sequence[str]) -> Array | None:
    """Texts of one length in the commonest forms, as NumPy reads them; None if one is not so.

    It says nothing that the patterns would not say, but takes a tenth of their time.
    """
    length = len(values[0])
    if length not in (10, 16, 17, 19, 20) or set(map(len, values)) != {length}:
        return None
    letters = np.array(values).view(np.uint32).reshape(len(values), -1)
    if length in (17, 20):
        if letters.shape[1] != length or (letters[:, -1] != ord("Z")).any():
            return None
        letters = np.ascontiguousarray(letters[:, :-1])
    if letters.shape[1] not in (10, 16, 19):  # NumPy drops NUL at the end
        return None
    form = np.array(list(map(ord, "0000-00-00 00:00:00"[: letters.shape[1]])), np.uint32)
    letters[:, 10:11][letters[:, 10:11] == ord("T")] = ord(" ")
    digits = form == ord("0")
    if (letters[:, digits] - ord("0") > 9).any() or (letters != form)[:, ~digits].any():
        return None
    return letters.view(f"U{letters.shape[1]}")[:, 0]


def _iso(match: re.Match[str] | None, year: int, month: int, day: int) -> str | None:
    """The text that NumPy reads of a match, whose year, month and day are these groups.

    None if there is no match, or the hour does not fit to AM or PM.
    """
    if match is None:
        return None
    hours, minutes, seconds, fraction, half = match.groups()[4:]
    hour = int(hours or 0)
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half in "pP" else 0)
    date = f"{match[year]}-{match[month]:0>2}-{match[day]:0>2}"
    text = f"{date}T{hour:02}:{minutes or '00'}:{seconds or '00'}"
    return f"{text}.{fraction}" if fraction else text


def _moments(texts: Sequence[str | None] | Array) -> Array:
    """Read all at once; one by one only if there is a day such as February 30."""
    known = texts if isinstance(texts, np.ndarray) else [text or "NaT" for text in texts]
    try:
        return np.array(known, TIME)
    except ValueError:
        return np.array(list(map(_moment, known)), TIME)


def _moment(text: str) -> np.datetime64:
    try:
        return np.datetime64(text, "us")
    except ValueError:
        return np.datetime64("NaT", "us")


def days_since_1970(times: Array) -> Array:
    """Days [n] since the first of January 1970; NaN for gaps."""
    days: Array = np.where(np.isnat(times), np.nan, (times - np.datetime64(0, "us")) / DAY)
    return days


def hours(times: Array) -> Array:
    """Hours since midnight, NaN for NaT."""
    since: Array = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "h")
    return since


def weekdays(times: Array) -> Array:
    """Days since Monday as whole numbers, NaN for NaT."""
    days = times.astype("datetime64[D]")
    monday = np.datetime64("1970-01-05", "D")  # the first Monday that NumPy counts
    since: Array = (days - monday) / DAY % 7
    return since


class Span:
    """How far times spread, which come in pieces.

    Attributes
    ----------
    n : int
        Number of times.
    first : datetime64
        The first that came, NaT before.
    """

    def __init__(self) -> None:
        self.n = 0
        self.first = np.datetime64("NaT", "us")
        self._extent: Array = np.empty(0, TIME)  # the earliest and the latest
        self._hours: Array = np.empty(0)
        self._weekdays: Array = np.empty(0)

    def add(self, times: Array) -> None:
        """Take times, of which none is NaT, in the order of the rows."""
        if not len(times):
            return
        if not self.n:
            self.first = times[0]
        self.n += len(times)
        self._extent = _extent(self._extent, times)
        self._hours = _extent(self._hours, hours(times))
        self._weekdays = _extent(self._weekdays, weekdays(times))

    @property
    def length(self) -> np.timedelta64:
        """From the earliest to the latest."""
        earliest, latest = self._extent
        length: np.timedelta64 = latest - earliest
        return length

    def parts(self) -> tuple[str, ...]:
        """What can be learned of them: the parts that vary, the weekday from two weeks on."""
        earliest, latest = self._hours
        first, last = self._weekdays
        by_weekday = first < last and self.length >= 14 * DAY
        varying = {"hour": earliest < latest, "weekday": by_weekday, "position": self.length > 0}
        return tuple(part for part, varies in varying.items() if varies)


def _extent(known: Array, values: Array) -> Array:
    """The least and the largest of both."""
    return np.array([min([*known[:1], values.min()]), max([*known[1:], values.max()])])
