"""Tables with categories, gaps and times: which roles are found, and what matrix they give."""

import datetime as dt
import json
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyod_ae_plugin.columns.frames import TIME, Frame, Texts, frame_of
from pyod_ae_plugin.columns.matrix import Columns
from pyod_ae_plugin.columns.profiles import Profiler
from pyod_ae_plugin.columns.times import read_times

N = 40
FEW = ["DE", "FR", "US", "DE"] * (N // 4)


def frame(**columns):
    """Frame of lists: numbers with None for gaps, text, or times."""
    return frame_of(pl.DataFrame(columns, strict=False))


def learned(table, **asked):
    profiler = Profiler(asked)
    profiler.add(table if isinstance(table, Frame) else frame_of(table))
    return profiler.columns()


def role_of(cells, name="x", **asked):
    """Role of a column beside a number."""
    table = frame(**{name: cells, "number": [i * 0.7 for i in range(len(cells))]})
    (column, _) = learned(table, **asked).columns
    return column.role


def numbers(n=N, seed=0):
    return np.random.default_rng(seed).normal(size=n).round(3).tolist()


def orders(n=N):
    """A plain table as shops have them."""
    start = dt.datetime(2024, 1, 1, 9, 30)
    return pl.DataFrame(
        {
            "order_id": [f"O{i}" for i in range(n)],
            "created_at": [str(start + i * dt.timedelta(hours=13)) for i in range(n)],
            "country": (FEW * n)[:n],
            "channel": (["web", "app", "web"] * n)[:n],
            "amount": numbers(n),
            "age": [None if i % 5 == 0 else 20.0 + i % 7 for i in range(n)],
            "is_fraud": [int(i % 10 == 0) for i in range(n)],
        }
    )


# ---------------------------------------------------------------------------------- a plain table


def test_a_plain_table_becomes_a_matrix():
    columns = learned(orders())
    assert columns.features == ["created_at", "country", "channel", "amount", "age"]
    assert (columns.ids, columns.labels) == (["order_id"], ["is_fraud"])
    assert columns.matrix_names == [
        "created_at hour (sin)",
        "created_at hour (cos)",
        "created_at day of week (sin)",
        "created_at day of week (cos)",
        *("country=DE", "country=FR", "country=US", "country=other"),
        *("channel=web", "channel=other"),
        "amount",
        *("age", "age is missing"),
    ]
    assert columns.groups.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 4, 4]
    assert "order_id is an id: kept, not learned from." in columns.notes
    matrix = columns.encode(frame_of(orders()))
    assert matrix.shape == (N, columns.width)
    assert matrix.dtype == np.float64
    assert matrix[1, 4:10].tolist() == [0, 1, 0, 0, 0, 0]
    assert np.isnan(matrix[0, 11])
    assert matrix[:2, 12].tolist() == [1, 0]
    quarter = 2 * np.pi * 9.5 / 24
    assert matrix[0, :4] == pytest.approx([np.sin(quarter), np.cos(quarter), 0, 1])


def test_cells_are_shown_and_a_matrix_is_read_back():
    columns, table = learned(orders()), frame_of(orders())
    assert columns.shown(table, 0)[:3] == ["2024-01-01 09:30:00", "DE", "web"]
    assert columns.shown(table, 0)[-1] == "missing"
    decoded = columns.decoded(columns.encode(table) + 0.1)
    assert decoded.names == columns.features
    assert decoded.columns["country"].cells() == FEW
    assert decoded.columns["channel"].cells() == orders()["channel"].to_list()
    assert np.allclose(decoded.columns["amount"], np.array(numbers()) + 0.1)
    assert decoded.columns["created_at"].cells()[0].startswith("Mon ")
    exact = columns.decoded(columns.encode(table))
    assert exact.columns["created_at"].cells()[:2] == ["Mon 09:30", "Mon 22:30"]
    unknown = columns.decoded(np.full((1, columns.width), np.nan))
    assert unknown.columns["country"].cells() == unknown.columns["created_at"].cells() == [None]


# ------------------------------------------------------------------------------------ roles found


@pytest.mark.parametrize("name", ["label", "Class", " y ", "is_fraud", "Normal/Attack", "anomaly"])
def test_two_values_under_the_name_of_a_label_are_one(name):
    assert role_of([0, 0, 0, 1] * 10, name) == "label"
    assert role_of(["normal", "attack"] * 20, name) == "label"
    assert role_of([0.5, 1.5, 2.5, 3.5] * 10, name) == "number"
    assert role_of([0, 0, 0, 1] * 10, name, **{name: "number"}) == "number"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(
            (name, "id")
            for name in ("id", "user_id", "Order-ID", "row id", "customerId", "invoice no")
        ),
        *((name, "id") for name in ("customerid", "serial number", "rowKey", "uuid")),
        *((name, "number") for name in ("paid", "humid", "grid", "monkey", "casino", "amount")),
    ],
)
def test_distinct_integers_are_an_id_by_name(name, role):
    distinct = np.random.default_rng(0).permutation(5000)[:N].tolist()
    assert role_of(distinct, name) == role
    assert role_of([*distinct[:-1], distinct[0]], name) == "number"
    assert role_of([i + 0.5 for i in distinct], name) == "number"


def test_the_index_that_pandas_writes_is_an_id():
    for name in ("", "Unnamed: 0", "index"):
        assert role_of([0, 1, 2, 3], name) == role_of([1, 2, 3, 4], name) == "id"
        assert role_of([0, 2, 3, 4], name) == "number"
    assert role_of([5, 0, 17, 3], "__index_level_0__") == "id"


def test_integers_that_count_up_are_an_id_from_20_rows_on():
    assert role_of(list(range(7, 27))) == "id"
    assert role_of(list(range(7, 26))) == "number"
    assert role_of([*range(7, 26), 25]) == "number"
    assert role_of([*range(7, 27), None, *range(27, 40)]) == "number"


def test_integers_too_large_to_be_exact():
    distinct = [str(2**60 + i) for i in range(0, 3000, 100)]
    assert role_of(distinct) == "id"
    columns = learned(frame(x=distinct[:10] * 4))
    assert columns.features == ["x"]
    assert "above 2**53" in columns.notes[0]
    assert frame_of(pd.DataFrame({"x": [2**60 + 1, 5]})).columns["x"].cells()[0] == str(2**60 + 1)


def test_text_of_few_values_is_a_category_and_distinct_text_an_id():
    assert role_of(FEW) == "category"
    assert role_of([True, False] * 20) == "category"
    assert role_of([f"a{i}" for i in range(20)]) == "id"
    with pytest.raises(ValueError, match=r"'x' holds text with 19 different values.*'id' to keep"):
        role_of([f"a{i}" for i in range(19)])
    with pytest.raises(ValueError, match=r"'x' holds text with 80 different values"):
        role_of([f"a{i}" for i in range(80)] * 2)


def test_columns_that_say_nothing_are_left_out():
    columns = learned(frame(a=numbers(), b=[5] * N, c=["k"] * N, d=[None] * N, e=[b"0"[0]] * N))
    assert columns.features == ["a"]
    assert columns.notes[:3] == (
        "b is constant (5): left out.",
        "c is constant (k): left out.",
        "d is empty: left out.",
    )


def test_one_value_and_gaps():
    gaps = [None, "k", "k", "k"] * 10
    day = [None, dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1), None] * 10
    columns = learned(frame(a=[None, 5, 5, 5] * 10, b=gaps, c=day))
    assert columns.matrix_names == ["a is missing", "b=missing", "b=other"]
    assert columns.encode(frame(a=[None, 5], b=["k", "new"])).tolist() == [[1, 0, 0], [0, 0, 1]]
    decoded = columns.decoded(np.array([[0.1, 0.2, 0.1], [0.9, 0.8, 0.1]]))
    assert decoded.columns["b"].cells() == ["k", "missing"]
    assert decoded.columns["a"].tolist() == [5, 5]


def test_text_that_shows_numbers_is_a_number_unless_some_does_not():
    assert role_of([str(i * i) for i in range(N)]) == "number"
    cells = [*map(str, numbers()), "?", "?"]
    with pytest.raises(ValueError, match=r"numbers in 40 cells but not in 2 others.*row 40: '\?'"):
        role_of(cells)
    assert role_of(["A1", "17", "B"] * 14) == "category"


def test_all_problems_are_told_at_once():
    table = frame(a=[*map(str, numbers()), "?"], b=[f"{i % 30}a" for i in range(41)], c=[1.5] * 41)
    with pytest.raises(ValueError, match="holds") as raised:
        learned(table, d="id", e="number")
    for told in ("'a' holds numbers", "'b' holds text", "not there: ['d', 'e']", "'drop'"):
        assert told in str(raised.value)
    with pytest.raises(ValueError, match=r"No column is left.*c is constant"):
        learned(frame(c=[1.5] * 41))
    with pytest.raises(ValueError, match=r"Column 'a'.*infinite"):
        learned(frame(a=[1.0, 2.0, np.inf]))
    with pytest.raises(ValueError, match="no rows"):
        Profiler().columns()


def test_roles_that_are_asked_for_are_checked():
    with pytest.raises(ValueError, match="expected a role of"):
        Profiler({"a": "float"})
    for wrong in (["a"], {"a": 1}, {1: "id"}):
        with pytest.raises(TypeError):
            Profiler(wrong)
    with pytest.raises(ValueError, match=r"'x' holds numbers in 0 cells.*row 0: 'DE'"):
        role_of(FEW, x="number")
    with pytest.raises(ValueError, match=r"'x' holds times in 0 cells"):
        role_of(FEW, x="time")
    with pytest.raises(ValueError, match="none of them frequent"):
        role_of([f"a{i}" for i in range(N)], x="category")


def test_roles_that_are_asked_for_overrule():
    codes = [10, 20, 30, 20] * 10
    columns = learned(frame(x=codes, z=numbers()), x="category", z="drop")
    assert columns.matrix_names == ["x=10", "x=20", "x=30", "x=other"]
    assert columns.encode(frame(x=["30", "7"])).tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    assert columns.encode(frame(x=[30, None])).tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    assert learned(frame(x=codes, y=numbers()), y="id").ids == ["y"]


def test_a_number_far_outside_that_repeats_is_warned_of():
    cells = [*numbers(100), *[-999] * 5]
    columns = learned(frame(x=cells))
    assert columns.notes == (
        "column 'x': -999 occurs 5 times far outside the others; if it stands for a missing "
        "value, replace it by an empty cell.",
    )
    assert len(learned(frame(x=[*cells, 9999, 9999, 9999])).notes) == 2
    assert learned(frame(x=[*numbers(100), -999])).notes == ()
    assert learned(frame(x=[*numbers(100), -3.5, -3.5, -3.5])).notes == ()
    assert learned(frame(x=[0, 1, 1, 0] * 10)).notes == ()


# ------------------------------------------------------------------------------------- categories


def test_rare_and_unseen_values_are_pooled():
    cells = [*["a", "b"] * 20, "c", "d"]
    columns = learned(frame(x=cells))
    assert columns.matrix_names == ["x=a", "x=b", "x=other"]
    matrix = columns.encode(frame(x=["b", "c", "new", None]))
    assert matrix.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
    assert learned(frame(x=["other", "b", "missing", None] * 10)).matrix_names == [
        *("x=b", "x=missing", "x=other", "x=(missing)", "x=(other)")
    ]


def test_at_most_50_values_have_a_column():
    columns = learned(frame(x=[f"{i:02}x" for i in range(60)] * 5))
    assert columns.width == 51


@pytest.mark.slow
@given(st.lists(st.sampled_from(["DE", "FR", "US", "new", None]), min_size=1))
def test_a_new_value_changes_only_its_own_group(cells):
    columns = learned(orders())
    table = frame_of(orders().head(1))
    rows = table.take(np.zeros(len(cells), int))
    before = columns.encode(rows)
    after = columns.encode(Frame({**rows.columns, "country": Texts.of(cells)}))
    changed = ~((before == after) | (np.isnan(before) & np.isnan(after)))
    assert not changed[:, columns.groups != 1].any()
    assert (after[:, columns.groups == 1].sum(axis=1) == 1).all()


# ------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("text", "order", "time"),
    [
        ("2024-01-31T10:00:00Z", "ymd", "2024-01-31T10:00"),
        ("2024-01-31T10:00:00+05:30", "ymd", "2024-01-31T10:00"),
        (" 2024-01-31 10:00 ", "ymd", "2024-01-31T10:00"),
        ("2024-01-31", "ymd", "2024-01-31"),
        ("2024/1/31 9:05", "ymd", "2024-01-31T09:05"),
        ("2024-01-31 10:00:00.25", "ymd", "2024-01-31T10:00:00.25"),
        (" 28/12/2015 10:00:00 PM", "dmy", "2015-12-28T22:00"),
        ("31.1.2024 12:00 am", "dmy", "2024-01-31T00:00"),
        ("12-28-2015", "mdy", "2015-12-28"),
        ("20240131", "compact", "2024-01-31"),
    ],
)
def test_times_are_read(text, order, time):
    assert read_times(["no time", text], order).astype(str).tolist()[0] == "NaT"
    assert read_times([text], order)[0] == read_times(["no time", text], order)[1]
    assert read_times([text], order)[0] == np.datetime64(time)


@pytest.mark.parametrize(
    "text",
    [
        *("", "2024", "2024-01", "2024-02-30", "2024-01-01Z", "2024-01-01-07", "now", "1.5", "NaT"),
        *("2024-01-01 24:00", "2024-01-01 13:00 PM", "2024-01-01" + " " * 10**6 + "x"),
    ],
)
def test_what_is_no_time_is_none(text):
    assert all(np.isnat(read_times([text, "2024-01-01"], o))[0] for o in ("ymd", "dmy", "mdy"))


@given(st.lists(st.datetimes(), min_size=1), st.sampled_from(["%d/%m/%Y", "%Y-%m-%d", "%m.%d.%Y"]))
def test_times_are_read_as_they_were_written(times, date):
    order = {"d": "dmy", "Y": "ymd", "m": "mdy"}[date[1]]
    written = [
        # strftime may write years before 1000 with fewer digits
        time.strftime(date.replace("%Y", f"{time.year:04}") + " %H:%M:%S.%f")
        for time in times
    ]
    assert read_times(written, order).tolist() == times


def dates(form, days):
    start = dt.date(2024, 1, 1)
    return [(start + dt.timedelta(days=d)).strftime(form) for d in days]


def test_day_and_month_are_told_apart_by_all_cells_or_not_at_all():
    columns = learned(frame(x=dates("%d.%m.%Y", range(N)), y=dates("%m/%d/%Y", range(N))))
    assert [column.order for column in columns.columns] == ["dmy", "mdy"]
    with pytest.raises(ValueError, match=r"day and month cannot be told apart.*2024-01-31.*'drop'"):
        learned(frame(x=dates("%d/%m/%Y", range(10))))
    with pytest.raises(ValueError, match=r"times in 40 cells but not in 1 others.*row 40: 'soon'"):
        learned(frame(x=[*dates("%Y-%m-%d", range(N)), "soon"]))


def test_compact_dates_are_times_on_request():
    cells = [int(date) for date in dates("%Y%m%d", range(N))]
    assert role_of(cells) == "number"
    for x in (cells, list(map(str, cells))):
        columns = learned(frame(x=x), x="time")
        assert columns.matrix_names == ["x day of week (sin)", "x day of week (cos)"]
        assert np.array_equal(columns.encode(frame(x=cells)), columns.encode(frame(x=x)))


def test_only_parts_of_times_that_vary_are_learned():
    hourly = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=i) for i in range(13 * 24)]
    columns = learned(frame(x=hourly))
    assert columns.matrix_names == ["x hour (sin)", "x hour (cos)"]  # less than two weeks
    daily = [dt.datetime(2024, 1, 1) + dt.timedelta(days=i) for i in range(15)]
    columns = learned(frame(x=daily))
    assert columns.matrix_names == ["x day of week (sin)", "x day of week (cos)"]
    columns = learned(frame(x=daily[:14], y=numbers(14)))
    assert columns.features == ["y"]
    assert "do not vary: left out" in columns.notes[0]
    short = learned(frame(x=hourly[:20]))
    assert "less than a day" in short.notes[1]


def test_the_position_in_time_is_learned_on_request():
    days = [None, *dates("%Y-%m-%d 06:00", range(20))]
    columns = learned(frame(x=days), x="time+position")
    assert columns.matrix_names[2:] == ["x days since start", "x is missing"]
    matrix = columns.encode(frame(x=["2024-01-02 18:00:00", None]))
    assert matrix[0, 2:].tolist() == [1.5, 0]
    assert np.isnan(matrix[1, :3]).all()
    decoded = columns.decoded(matrix).columns["x"].cells()
    assert decoded == ["2024-01-02 Tue", None]
    assert columns.decoded(np.full((1, 4), 1e300)).columns["x"].cells()[0].startswith("9999-12-31")


def test_rows_have_the_same_bits_alone():
    columns, table = learned(orders(3000)), frame_of(orders(3000))
    matrix = columns.encode(table)
    for i in (0, 1, 7, 2999):
        row = columns.encode(table.take(slice(i, i + 1)))
        assert np.array_equal(row[0], matrix[i], equal_nan=True)
    assert np.array_equal(columns.encode(table.take(slice(1, None))), matrix[1:], equal_nan=True)


# ---------------------------------------------------------------------- tables that do not fit


def test_columns_are_found_by_name():
    columns = learned(orders())
    shuffled = orders().select(reversed(orders().columns)).with_columns(more=pl.lit("x"))
    one, other = (columns.encode(frame_of(t)) for t in (orders(), shuffled))
    assert np.array_equal(one, other, equal_nan=True)
    fewer = orders().drop("order_id", "is_fraud")
    assert np.array_equal(columns.encode(frame_of(fewer)), one, equal_nan=True)
    with pytest.raises(ValueError, match=r"lacks .*\['country', 'age'\].*'Age' is not 'age'"):
        columns.encode(frame_of(orders().drop("country").rename({"age": "Age"})))


def test_cells_that_are_not_of_their_role_are_named():
    columns = learned(orders())
    wrong = orders().with_columns(
        amount=pl.Series(["1.5", "x", None, "y"] * 10), created_at=pl.Series([1.0, 2.0] * 20)
    )
    with pytest.raises(ValueError, match="expected") as raised:
        columns.encode(frame_of(wrong))
    assert "Column 'amount', row 1: expected a number, got 'x'" in str(raised.value)
    assert "Column 'created_at', row 0: expected a time such as 2024-01-31" in str(raised.value)
    for cell in (np.inf, dt.datetime(2024, 1, 1)):
        with pytest.raises(ValueError, match="row 0: expected a"):
            columns.encode(frame_of(orders().with_columns(amount=pl.lit(cell))))
    profiler = Profiler()
    profiler.add(frame(a=[1.0]))
    with pytest.raises(ValueError, match="some rows but not in others"):
        profiler.add(frame(b=[1.0]))


def test_gaps_only_where_there_were_none():
    columns = learned(frame(a=numbers(), t=dates("%Y-%m-%d", range(N))))
    matrix = columns.encode(frame(a=[None], t=[None]))
    assert matrix.shape == (1, 3)
    assert np.isnan(matrix).all()


# ---------------------------------------------------------------------- learning piece by piece

cells = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(-3, 3), st.none()
)


@given(
    st.lists(cells, min_size=8, max_size=60),
    st.lists(st.sampled_from(["a", "b", "1", "2024-01-01", None]), min_size=60, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_what_is_learned_does_not_depend_on_the_pieces(numbers, texts, cuts):
    numbers = [None if number is None else float(number) for number in numbers]
    table = Frame(
        {
            "a": np.array(numbers, float),
            "b": Texts.of(texts[: len(numbers)]),
            "c": np.arange(len(numbers)).astype(TIME),
            "d": np.arange(len(numbers)) % 5 * 0.5,
        }
    )
    profiler = Profiler()
    bounds = [0, *sorted(min(cut, len(numbers)) for cut in cuts), len(numbers)]
    for start, end in pairwise(bounds):
        profiler.add(table.take(slice(start, end)))
    assert outcome(profiler.columns) == outcome(lambda: learned(table))


def outcome(find):
    try:
        return find()
    except ValueError as error:
        return str(error)


def test_a_column_may_be_numbers_in_one_piece_and_text_in_another():
    profiler = Profiler()
    profiler.add(frame(a=[1, 2, 1, 2, 1, 2], b=[1.5, 2.0, 3.0, 4.0, 5.0, 6.0]))
    profiler.add(frame(a=["1", "x", "x", "y", "x", "2"], b=["7", "8", "9", "1", "2", "3"]))
    assert profiler.columns().matrix_names == ["a=1", "a=2", "a=x", "a=other", "b"]


@pytest.mark.slow
def test_memory_is_bounded_and_a_sample_decides():
    n = 300_000
    many = [f"u{i}" for i in np.random.default_rng(0).permutation(n)]
    table = Frame(
        {
            "token": Texts(np.arange(n, dtype=np.int32), many),
            "user": Texts((np.arange(n) // 2).astype(np.int32), many),
            "user_id": np.random.default_rng(1).permutation(n).astype(float),
            "amount": np.random.default_rng(2).normal(size=n),
        }
    )
    profiler = Profiler({"user": "drop"})
    profiler.add(table)
    assert profiler.columns().ids == ["token", "user_id"]
    held = profiler._tallies["token"]._text_counts
    assert len(held.counts) <= held.most
    assert held.level > 0
    with pytest.raises(ValueError, match="'user' holds text with very many different values"):
        learned(table)


# ------------------------------------------------------------------------------- totals and JSON


@given(st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_totals_keep_the_sum(n, seed):
    columns = learned(orders())
    contributions = np.random.default_rng(seed).normal(size=(n, columns.width))
    totals = columns.totals(contributions)
    assert totals.shape == (n, len(columns.features))
    assert np.allclose(totals.sum(axis=1), contributions.sum(axis=1))
    with pytest.raises(ValueError, match=r"Expected shape \(n, 13\), got \(2, 2\)"):
        columns.totals(np.zeros((2, 2)))


def test_json_gives_the_same_columns():
    table = orders().with_columns(only=pl.Series([None, 5.0, 5.0, 5.0] * 10))
    columns = learned(table, created_at="time+position")
    read = Columns.from_json(json.loads(json.dumps(columns.to_json())))
    assert read == columns
    one, other = columns.encode(frame_of(table)), read.encode(frame_of(table))
    assert np.array_equal(one, other, equal_nan=True)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.mark.slow
@given(st.data())
def test_forged_json_is_refused_or_means_something(data):
    written = learned(orders()).to_json()
    for _ in range(data.draw(st.integers(1, 3))):
        item = data.draw(st.sampled_from(written))
        key = data.draw(st.sampled_from([*item, "more"]))
        if data.draw(st.booleans()):
            item.pop(key, None)
        else:
            known = [other[key] for other in written if key in other] or [1]
            item[key] = data.draw(values | st.sampled_from(known))
    try:
        columns = Columns.from_json(written)
    except ValueError:
        return
    matrix = np.zeros((2, columns.width))
    assert columns.decoded(matrix).names == columns.features
    assert columns.to_json() == written


@pytest.mark.parametrize("forged", [None, {}, "x", [1], [[]], [{}], []])
def test_what_is_no_list_of_columns_is_refused(forged):
    with pytest.raises(ValueError, match="xpected"):
        Columns.from_json(forged)


@pytest.mark.parametrize(
    ("i", "change"),
    [
        (0, {"role": "drop2"}),
        (1, {"role": "time", "parts": ["position"]}),
        (1, {"parts": ["weekday", "hour"]}),
        (1, {"parts": []}),
        (1, {"order": "dym"}),
        (1, {"start": "yesterday"}),
        (2, {"values": ["b", "a"]}),
        (2, {"values": ["a", "a"]}),
        (2, {"values": []}),
        (2, {"values": [f"{i:03}" for i in range(51)]}),
        (2, {"name": "amount"}),
        (4, {"constant": float("nan")}),
        (4, {"constant": True}),
        (4, {"notes": ["\x1b[31m"]}),
    ],
)
def test_inconsistent_columns_are_refused(i, change):
    written = learned(orders()).to_json()
    written[i].update(change)
    with pytest.raises(ValueError, match="xpected"):
        Columns.from_json(written)


# ------------------------------------------------------------- tables of pandas, polars and Arrow

MOMENT = dt.datetime(2024, 1, 31, 10, 30, 0, 250_000)
CELLS = {
    "float": [1.5, None, 3.0],
    "int": [1, None, 3],
    "bool": [True, None, False],
    "text": ["a", None, " "],
    "time": [MOMENT, None, MOMENT],
    "date": [dt.date(2024, 1, 1), None, dt.date(2024, 1, 2)],
    "span": [dt.timedelta(seconds=1.5), None, dt.timedelta(1)],
    "clock": [dt.time(1, 2), None, dt.time(3)],
    "decimal": [Decimal("1.25"), None, Decimal("3.00")],
    "empty": [None] * 3,
    "large": [2**60 + 1, 7, 5],
}


def plain(table):
    return {
        name: cells.cells() if isinstance(cells, Texts) else (str(cells.dtype), cells.tolist())
        for name, cells in frame_of(table).columns.items()
    }


@pytest.mark.parametrize(
    "make",
    [
        pl.DataFrame,
        pd.DataFrame,
        lambda cells: pd.DataFrame(cells, dtype=object),
        lambda cells: pd.DataFrame(cells).convert_dtypes(),
        lambda cells: pa.table(cells).to_pandas(types_mapper=pd.ArrowDtype),
        lambda cells: pa.table(cells).to_batches()[0],
    ],
    ids=["polars", "pandas", "objects", "nullable", "ArrowDtype", "RecordBatch"],
)
def test_tables_of_all_libraries_give_equal_frames(make):
    expected = plain(pa.table(CELLS))
    assert str(plain(make(CELLS))) == str(expected)  # as text, since NaN is not NaN
    assert expected["bool"] == ["True", None, "False"]
    assert expected["text"] == ["a", None, None]
    assert expected["time"][1][0] == MOMENT
    assert str(expected["span"][1]) == "[1.5, nan, 86400.0]"
    assert expected["large"] == [str(2**60 + 1), "7", "5"]


def test_categorical_columns_are_text():
    for table in (
        pd.DataFrame({"x": pd.Categorical(["b", "a", None])}),
        pl.DataFrame({"x": ["b", "a", None]}, schema={"x": pl.Categorical}),
        pl.DataFrame({"x": ["b", "a", None]}, schema={"x": pl.Enum(["a", "b"])}),
        pa.table({"x": pa.array(["b", "a", None]).dictionary_encode()}),
    ):
        assert frame_of(table).columns["x"].cells() == ["b", "a", None]


def test_times_with_a_zone_are_those_on_its_clock():
    times = pd.Series(pd.to_datetime(["2024-07-01 10:00+00:00", None])).dt.tz_convert("Asia/Tokyo")
    for table in (
        times.to_frame("x"),
        times.astype(object).to_frame("x"),
        pl.DataFrame({"x": times}),
        pa.table({"x": pa.Array.from_pandas(times)}),
    ):
        cells = frame_of(table).columns["x"]
        assert cells.dtype == TIME
        assert cells.astype(str).tolist() == ["2024-07-01T19:00:00.000000", "NaT"]


def test_columns_of_objects_may_mix():
    mixed = ["a", 1, 2.0, Decimal("2.50"), True, np.int64(7), None, np.nan, pd.NA, MOMENT, ""]
    cells = frame_of(pd.DataFrame({"x": pd.Series(mixed, dtype=object)})).columns["x"].cells()
    assert cells == [
        *("a", "1", "2", "2.5", "True", "7", None, None, None, "2024-01-31 10:30:00.250000", None)
    ]
    periods = frame_of(pd.DataFrame({"x": pd.period_range("2024", "2025", freq="Y")}))
    assert periods.columns["x"].cells() == ["2024", "2025"]
    sparse = frame_of(pd.DataFrame({"x": pd.arrays.SparseArray([0.0, 2.0])}))
    assert sparse.columns["x"].tolist() == [0, 2]


@pytest.mark.parametrize("cell", [b"x", [1], {"a": 1}, 1j])
def test_cells_that_cannot_stand_in_a_table_are_refused(cell):
    with pytest.raises(ValueError, match=rf"Column 'x' holds {type(cell).__name__}"):
        frame_of(pd.DataFrame({"x": pd.Series([None, cell], dtype=object)}))
    if not isinstance(cell, complex):
        for table in (pl.DataFrame({"x": [cell]}), pa.table({"x": [cell]})):
            with pytest.raises(ValueError, match="Column 'x' holds"):
                frame_of(table)


def test_names_of_columns():
    assert frame_of(pd.DataFrame(np.zeros((2, 2)))).names == ["0", "1"]
    levels = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])
    assert frame_of(pd.DataFrame(np.zeros((2, 2)), columns=levels)).names == ["a_1", "a_2"]
    for columns in (["a", "a"], [1, "1"]):
        with pytest.raises(ValueError, match="several columns named"):
            frame_of(pd.DataFrame(np.zeros((2, 2)), columns=columns))
    with pytest.raises(ValueError, match="several columns named 'a'"):
        frame_of(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
    for table in (pd.DataFrame(index=[1, 2]), pl.DataFrame()):
        with pytest.raises(ValueError, match="no columns"):
            frame_of(table)


@pytest.mark.parametrize("thing", [np.zeros((2, 2)), [[1.0]], pd.Series([1]), pl.Series([1]), None])
def test_what_has_no_named_columns_is_no_frame(thing):
    assert frame_of(thing) is None


def test_the_frame_shares_no_memory_with_the_table():
    table = pd.DataFrame({"x": [1.0, 2.0]})
    frame_of(table).columns["x"][:] = 0
    assert table["x"].tolist() == [1, 2]
