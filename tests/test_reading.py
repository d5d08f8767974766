"""Files as they occur: how they are written is found out, said, or asked for, but never guessed."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyod_ae_plugin.columns.frames import TIME, Texts
from pyod_ae_plugin.tables.cells import GAPS, is_gap, number
from pyod_ae_plugin.tables.reading import ReadOptions, read_table

BODY = "1.5,20\n2.5,10\n0.5,40\n"


@pytest.fixture
def read(tmp_path, either_reader):
    """Read a table from the text or the bytes of a file."""

    def read(data, name="t.csv", **options):
        data = data.encode() if isinstance(data, str) else data
        (tmp_path / name).write_bytes(data)
        return read_table(tmp_path / name, options=ReadOptions(**options), allow_gaps=True)

    return read


def cells(table):
    """The columns of a table as lists; None for a gap."""
    found = {}
    for frame in table.frames():
        for name, column in frame.columns.items():
            found.setdefault(name, []).extend(as_list(column))
    return found


def as_list(column):
    if isinstance(column, Texts):
        return column.cells()
    return [None if x != x else x for x in column.tolist()]


# ------------------------------------------------------------------ compression and encoding


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt"])
@pytest.mark.parametrize(
    ("ending", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".XZ", lzma.compress)],
)
def test_text_may_be_compressed(kind, ending, compress, read):
    table = read(compress(b"a,b\n" + BODY.encode()), f"t.{kind}{ending}")
    assert cells(table) == {"a": [1.5, 2.5, 0.5], "b": [20, 10, 40]}


def test_a_compressed_file_that_is_cut_off_is_an_error(read):
    with pytest.raises(ValueError, match=r"t\.csv\.gz: .*end-of-stream"):
        read(gzip.compress(b"a,b\n" + BODY.encode())[:-9], "t.csv.gz").values  # noqa: B018


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_told_by_its_mark(encoding, read):
    table = read("größe,b\n1,ü\n3,é\n".encode(encoding))
    assert cells(table) == {"größe": [1, 3], "b": ["ü", "é"]}
    assert table.options.encoding == "utf-8"


def test_other_encodings_are_asked_for(read):
    data = "größe,b\n1.5,ü\n".encode("latin-1")
    with pytest.raises(ValueError, match=r"line 1: .* is not UTF-8; try --encoding latin-1"):
        read(data)
    assert cells(read(data, encoding="latin-1")) == {"größe": [1.5], "b": ["ü"]}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
def test_bytes_that_are_no_text_are_located_behind_the_first_block(encoding, read):
    lines = "1,ä\r\n" * 300_000
    data = f"a,b\r\n{lines}".encode(encoding) + b"\x00\xdc\xff"
    with pytest.raises(ValueError, match=r"line 300002: 'utf-.*can't decode|line 300002 holds"):
        cells(read(data))


# ------------------------------------------------------------------ separators and decimals


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", " "])
def test_every_separator_is_found(sep, read):
    table = read(f"a,b\n{BODY}".replace(",", sep))
    assert cells(table) == {"a": [1.5, 2.5, 0.5], "b": [20, 10, 40]}
    assert (table.options.sep, table.options.decimal) == (sep, ".")
    assert len(table.notes) == (sep != ",")


@pytest.mark.parametrize("header", ["a;b\n", ""])
def test_decimal_commas_are_found(header, read):
    table = read(header + "917,16;7,5\n1318,85;NA\n;-1,5e3\n")
    assert [*cells(table).values()] == [[917.16, 1318.85, None], [7.5, None, -1500]]
    assert "Cells are separated by ';' and decimals by ','." in table.notes


def test_decimal_commas_are_found_in_one_column(read):
    assert cells(read("temp\n1,5\n\n2,25\n")) == {"temp": [1.5, None, 2.25]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b\n1,234;5\n2,345;6\n", r"'1,234' may come before decimals.* --decimal ','"),
        ("a;b\n1,5;2.5\n", "--decimal"),
        ("a;b,c\nx;y,z\n", r"may be separated by any of \[',', ';'\].* --sep ','"),
        ("a\n1.5   2.5\n", "separated by several blanks"),
        ("1.5  2.5\n3.5  4.5\n", "separated by several blanks"),
    ],
)
def test_what_is_in_doubt_is_asked_for(text, message, read):
    with pytest.raises(ValueError, match=rf"t\.csv: .*{message}"):
        read(text)


def test_options_settle_what_is_in_doubt(read):
    text = "a;b\n1,234;5\n"
    assert cells(read(text, decimal=",")) == {"a": [1.234], "b": [5]}
    assert cells(read(text, decimal=".")) == {"a": ["1,234"], "b": [5]}
    assert cells(read("a;b,c\nx;y,z\n", sep=";")) == {"a": ["x"], "b,c": ["y,z"]}


@pytest.mark.parametrize("cell", ["1,234.50", "$5", "5 EUR", "1_000", "12%", "0x10"])
def test_what_is_no_plain_number_is_text(cell, read):
    table = read(f'a,b\n"{cell}",1\n')
    assert cells(table) == {"a": [cell], "b": [1]}
    with pytest.raises(ValueError, match=r"line 2, column 'a': .* is not a number"):
        table.values  # noqa: B018


def test_lines_on_top_are_skipped_and_said(read):
    table = read("# logger 3.1\n\n#units: m, s\na,b\n" + BODY)
    assert table.names == ["a", "b"]
    assert table.notes == (
        "Lines 1 to 3 are skipped, since they are blank or comments: '#units: m, s'.",
    )
    assert read("#,b\n" + BODY).names == ["#", "b"]
    assert cells(read("sep=;\na|b;c\nx|y;1\n")) == {"a|b": ["x|y"], "c": [1]}


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0,1,2\n9.5,8,7\n6,1,3\n", ["0", "1", "2"]),
        ("1,2\n9.5,8\n6.5,7\n", ["1", "2"]),
        (",0,1,2\n0,9,8,7\n1,5,6,1\n", ["", "0", "1", "2"]),
        (" a, 2020\n1,2\n", ["a", "2020"]),
        ("0,1,2\n1,2,3\n2,3,4\n", None),
        ("10,20,30\n40,50,60\n", None),
        ("5,7\n6,3\n", None),
        ("0\n1\n1\n", None),
        ("0.1,5,2\n3,1,4\n", None),
        (",5,2\n3,1,4\n", None),
        ("1,2\n", None),
    ],
)
def test_names_are_told_from_values(text, names, read):
    assert read(text).names == names


@pytest.mark.parametrize(
    "text",
    [
        "0,tcp,SF,1.5\n2,udp,S0,2.5\n",
        "0,tcp,SF,1.5\n",
        "10,20,30\n9,8,1\n",
        "400.0,410.0,420.0,430.0\n0.1,0.3,0.2,0.1\n",
        "0,1\n1,0\n0,0\n",
        "0\n9.5\n8.25\n",
        "NA,NA\n1,2\n",
    ],
)
def test_names_that_may_be_values_are_asked_for(text, read):
    with pytest.raises(ValueError, match=r"line 1 may hold names or values: .*--no-header"):
        read(text)
    n_lines = text.count("\n")
    assert sum(map(len, read(text + "7\n" * 0, header=False).frames())) == n_lines
    if n_lines > 1 and "NA" not in text:
        table = read(text, header=True)
        assert table.names == text.split("\n")[0].split(",")


def test_columns_without_names_are_called_by_their_numbers(read):
    table = read("5,7\n6,3\n")
    assert table.names is None
    assert cells(table) == {"1": [5, 6], "2": [7, 3]}
    assert table.notes == ("The first line holds no names; columns are called by their numbers.",)


def test_options_are_kept_as_json():
    options = ReadOptions(sep="\t", decimal=",", encoding="latin-1", header=False)
    assert ReadOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


@pytest.mark.parametrize(
    "change",
    [
        {"sep": ""}, {"sep": ",,"}, {"sep": "\n"}, {"sep": 1}, {"decimal": "'"}, {"header": 1},
        {"encoding": "no such"}, {"encoding": "zlib"}, {"encoding": 5}, {"more": None},
    ],
)  # fmt: skip
def test_forged_options_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        ReadOptions.from_json(ReadOptions().to_json() | change)
    with pytest.raises(ValueError, match="expected"):
        ReadOptions.from_json([])


# ------------------------------------------------------------------ gaps and numbers


@pytest.mark.parametrize("word", sorted(GAPS))
@pytest.mark.parametrize("spelled", [str, str.upper, str.title, " {} ".format])
def test_words_for_a_missing_value_are_gaps(word, spelled, read):
    table = read(f"a,b,c\n1,x,2\n{spelled(word)},{spelled(word)},3\n")
    assert cells(table) == {"a": [1, None], "b": ["x", None], "c": [2, 3]}


def test_gaps_are_an_error_unless_they_are_allowed(read, tmp_path):
    assert np.isnan(read("a,b\n1,2\n,3\n").values[1, 0])
    with pytest.raises(ValueError, match=r"nan in row 2, column 'a' \(line 3\), is not a finite"):
        read_table(tmp_path / "t.csv").values  # noqa: B018


@pytest.mark.parametrize("text", ["inf", "-Infinity", "1e999"])
def test_an_infinity_is_an_error(text, read):
    table = read(f"a,b\nx,1\ny,{text}\n")
    with pytest.raises(ValueError, match=r"inf in row 2, column 'b' \(line 3\)"):
        list(table.frames())


def test_a_blank_line_in_one_column_is_a_gap(read):
    assert cells(read("temp\n1\n\n2\n\n\n3\n\n")) == {"temp": [1, None, 2, None, None, 3]}
    assert cells(read('t\r\n"x"\r\n\r\n"y\r\n"\r\n')) == {"t": ["x", None, "y\r\n"]}


def test_a_blank_line_in_one_column_is_a_gap_at_the_border_of_blocks(read, monkeypatch):
    monkeypatch.setattr("pyod_ae_plugin.tables.csvfiles._BLOCK_BYTES", 5)
    assert cells(read("temp\n" + "1.5\n\n\n" * 9)) == {"temp": ([1.5, None, None] * 9)[:-1]}


def test_all_columns_that_are_no_numbers_are_named(read):
    names = [f"c{i}" for i in range(13)]
    table = read(",".join(["n", *names]) + "\n1" + ",x" * 13 + "\n")
    with pytest.raises(ValueError, match="line 2, column 'c0': 'x' is not a number; ") as caught:
        table.values  # noqa: B018
    assert str(caught.value).count("is not a number") == 10
    assert "; and 3 more columns." in str(caught.value)


def test_a_file_that_shrinks_before_an_error_is_located_is_said_to_have_changed(read, tmp_path):
    batches = iter(read("a,b\n1,2\nx,3\n").frames())
    table = read("a,b\n1,2\nx,3\n")
    frame = next(batches)
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="the file changed while it was read"):
        table._check_kinds(frame, 0)


def test_integers_that_would_be_rounded_stay_text(read):
    table = read("key,n\n9007199254740993,9007199254740992\n1,20000000000000000\n")
    assert cells(table) == {"key": ["9007199254740993", "1"], "n": [2.0**53, 2e16]}
    with pytest.raises(ValueError, match="'9007199254740993' is an integer that float64 would"):
        table.values  # noqa: B018


CELLS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
    st.floats(allow_infinity=False).map(repr),
    st.integers().map(str),
    st.sampled_from(
        ['"', '""', ",", "\n", "\r\n", "\r", ' "x"', "+1", " 1.5 ", "\uff11", "1e5", "."]
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=9)
    ),
    st.sampled_from(",;\t| "),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
@example([['a"b', "x"], ["\n", "1"]], ",", csv.QUOTE_MINIMAL, "\r\n")
def test_what_csv_writes_comes_back(either_reader, tmp_path_factory, rows, sep, quoting, end):
    names = [f"n{i}" for i in range(len(rows[0]))]
    if quoting == csv.QUOTE_MINIMAL:  # which, in Python before 3.12, quotes the line ends of `end`
        unquoted = dict.fromkeys(map(ord, {"\r", "\n"} - set(end)))
        rows = [[cell.translate(unquoted) for cell in row] for row in rows]
    held = io.StringIO(newline="")
    csv.writer(held, delimiter=sep, quoting=quoting, lineterminator=end).writerows([names, *rows])
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(held.getvalue(), newline="", encoding="utf-8")
    options = ReadOptions(sep, ".", "utf-8", True)
    expected = [[*column] for column in zip(*rows, strict=True)]
    if any(np.isinf(number(c) or 0) for row in rows for c in row):
        return
    frames = list(read_table(path, options=options).frames())
    got = [as_list(frames[0].columns[name]) for name in names]
    for column, found in zip(expected, got, strict=True):
        wanted = [None if is_gap(c) else c for c in column]
        if all(c is None or number(c) is not None for c in wanted):
            wanted = [None if c is None else float(c) for c in wanted]
        assert found == wanted


# ------------------------------------------------------------------ folders and standard input


def test_folders_of_csv_files_are_one_table(tmp_path, either_reader):
    for i, year in enumerate([2023, 2024]):
        folder = tmp_path / f"year={year}" / "kind=a%20b"
        folder.mkdir(parents=True)
        (folder / "x.csv").write_text(f"# {i}\n" * i + f"a,b\n{i}.5,1\n")
    table = read_table(tmp_path)
    assert cells(table) == {
        "a": [0.5, 1.5], "b": [1, 1], "year": [2023, 2024], "kind": ["a b", "a b"],
    }  # fmt: skip
    assert table.notes == ("The names of folders make the columns ['year', 'kind'].",)
    assert cells(read_table(tmp_path, columns=["year"])) == {"year": [2023, 2024]}
    (folder / "x.csv").write_text("a,c\n1,1\n")
    with pytest.raises(ValueError, match=r"x\.csv: the columns are \['a', 'c'\]; expected"):
        read_table(tmp_path)


def test_a_folder_of_two_kinds_is_refused(tmp_path):
    (tmp_path / "a.csv").touch()
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match="found files of both kinds"):
        read_table(tmp_path)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_standard_input_can_be_read_several_times(compress, monkeypatch, either_reader):
    data = compress(f"a,b\n{BODY}".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    table = read_table(Path("-"), without="b")
    assert len(table.values) == len(table.values) == len(read_table(Path("-")).values) == 3
    with pytest.raises(ValueError, match=r"^-: there is no column 'c'"):
        read_table(Path("-"), without="c")


# ------------------------------------------------------------------ typed files


def test_parquet_comes_with_its_types(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")
    noon = datetime(2024, 7, 1, 10, tzinfo=timezone.utc)
    columns = {
        "decimal": pa.array([Decimal("1.25"), None]),
        "bool": pa.array([True, None]),
        "small": pa.array([1, None], pa.int8()),
        "key": pa.array([2**53 + 1, None]),
        "half": pa.array(np.array([1, 2], np.float16)),
        "word": pa.array(["NA", None]),
        "kind": pa.array(["x", None]).dictionary_encode(),
        "code": pa.array([7, None]).dictionary_encode(),
        "day": pa.array([date(2024, 1, 2), None]),
        "zoned": pa.array([noon, None], pa.timestamp("ns", "Europe/Berlin")),
        "nothing": pa.nulls(2),
    }
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert cells(table) == {
        "decimal": [1.25, None], "bool": ["True", None], "small": [1, None],
        "key": [str(2**53 + 1), None], "half": [1, 2], "word": ["NA", None], "kind": ["x", None],
        "code": [7, None], "day": [datetime(2024, 1, 2), None],
        "zoned": [datetime(2024, 7, 1, 12), None], "nothing": [None, None],
    }  # fmt: skip
    parquet.write_table(pa.table({"a": [[1], [2]]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column 'a' holds list.* Leave the column out"):
        list(read_table(tmp_path / "t.parquet").frames())


def test_partitions_of_parquet_are_columns(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra arrow")
    from pyarrow import parquet

    parquet.write_to_dataset(
        pa.table({"a": [1.5, 2.5, 3.5], "k": ["x", "y", None]}), tmp_path / "d", ["k"]
    )
    table = read_table(tmp_path / "d")
    assert sorted(zip(*cells(table).values(), strict=True), key=str) == [
        (1.5, "x"), (2.5, "y"), (3.5, None),
    ]  # fmt: skip
    assert sorted(cells(read_table(tmp_path / "d", columns=["k"]))["k"], key=str) == [
        None,
        "x",
        "y",
    ]


def write_sheet(path, rows, more=()):
    openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl, of the extra excel")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for title in more:
        book.create_sheet(title)
    book.save(path)


def test_excel_comes_with_its_types(tmp_path):
    day = datetime(2024, 1, 2)
    rows = [
        [], [" a", "b", "day", "on"],
        [1, "x", day, True], [], [2.5, "NA", None, False], ["-", 3, date(2024, 1, 3), None],
    ]  # fmt: skip
    write_sheet(tmp_path / "t.xlsx", rows, ["Notes"])
    table = read_table(tmp_path / "t.xlsx")
    assert cells(table) == {
        "a": [1, None, 2.5, None], "b": ["x", None, None, "3"],
        "day": [day, None, None, datetime(2024, 1, 3)], "on": ["True", None, "False", None],
    }  # fmt: skip
    assert table.notes == ("The sheet 'Sheet' is read, the first of ['Sheet', 'Notes'].",)
    assert next(table.frames()).columns["day"].dtype == TIME
    write_sheet(tmp_path / "t.xlsx", [["a"], [1.5], ["x"]])
    with pytest.raises(ValueError, match="line 3, column 'a': 'x' is not a number"):
        read_table(tmp_path / "t.xlsx").values  # noqa: B018
    (tmp_path / "t.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=r"t\.xlsx: "):
        read_table(tmp_path / "t.xlsx")


def test_excel_without_openpyxl_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(ImportError, match=r"pip install 'pyod-ae-plugin\[excel\]'"):
        read_table(tmp_path / "t.xlsx")


def test_an_array_of_objects_is_refused_with_a_remedy(tmp_path):
    np.save(tmp_path / "t.npy", np.array([[1.5, "x"]], dtype=object))
    with pytest.raises(ValueError, match=r"Python objects .* X\.astype\(float\)"):
        read_table(tmp_path / "t.npy")


def test_arrays_are_frames_of_numbered_columns(tmp_path):
    np.save(tmp_path / "t.npy", np.array([[1, 2], [3, 4]]))
    assert cells(read_table(tmp_path / "t.npy")) == {"1": [1, 3], "2": [2, 4]}
