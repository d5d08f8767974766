"""What tables are read from: files that change meanwhile, are damaged, or are no regular files."""

import codecs
import io
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from pyod_ae_plugin import AutoEncoder
from pyod_ae_plugin.benchmarking.datasets import folder_datasets
from pyod_ae_plugin.tables import arrow, reading, textfiles
from pyod_ae_plugin.tables.reading import read_table

NAMES = list("abcdef")
KINDS = ["t.csv", "t.npy", "t.npz", "t.parquet", "t"]


@pytest.fixture
def at_once():
    """Fail where something is waited for."""

    def too_long(*_):
        pytest.fail("it waited")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def write(path, X):
    """Write rows to a new file of the kind of its ending, or to three files in a folder."""
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".npz":
        np.savez_compressed(path, X=X)
    elif path.suffix == ".csv":
        np.savetxt(path, X, fmt="%.17g", delimiter=",", header=",".join(NAMES), comments="")
    elif path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra arrow")
        columns = {name: X[:, i] for i, name in enumerate(NAMES)}
        parquet.write_table(arrow.pyarrow().table(columns), path)
    else:
        path.mkdir()
        for i, piece in enumerate(np.split(X, 3)):
            write(path / f"{i}.parquet", piece)
    return path


def last_file(path):
    return max(path.iterdir()) if path.is_dir() else path


# ------------------------------------------------------------------ files that change


def replace_by_a_shorter_one(path):
    new = write(path.with_name(f"new{path.suffix}"), np.zeros((30, 6)))
    os.replace(new, path)


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path):
    path.write_bytes(bytes(path.stat().st_size))


def append(path):
    with path.open("ab") as file:
        file.write(b"1,2,3,4,5,6\n")


def delete(path):
    path.unlink()


CHANGES = [replace_by_a_shorter_one, cut_off, overwrite, append, delete]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_while_it_is_read_is_an_error(kind, change, tmp_path, X, small_batches):
    path = write(tmp_path / kind, X)
    batches = iter(read_table(path))
    next(batches)
    change(last_file(path))
    with pytest.raises(ValueError, match=r"changed while it was read.*[Rr]un again") as caught:
        list(batches)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_between_two_passes_is_an_error(kind, tmp_path, X):
    path = write(tmp_path / kind, X)
    table = read_table(path)
    assert np.array_equal(table.values, X)
    assert np.array_equal(table.with_progress("again").values, X)
    os.utime(last_file(path), (1, 1))
    with pytest.raises(ValueError, match="changed while it was read"):
        _ = table.with_progress("again").values


def test_a_file_that_is_added_to_a_folder_meanwhile_is_an_error(tmp_path, X):
    path = write(tmp_path / "t", X)
    table = read_table(path)
    shutil.copy(path / "0.parquet", path / "3.parquet")
    with pytest.raises(ValueError, match=r"3\.parquet: the file changed while it was read"):
        list(table)


@pytest.mark.parametrize("n_rows", [299, 301])
def test_as_many_rows_must_come_as_the_file_says(n_rows, tmp_path, X):
    table = replace(read_table(write(tmp_path / "t.npy", X)), n_rows=n_rows)
    expected = rf"t\.npy: 300 of {n_rows} rows could be read\. .*run again"
    with pytest.raises(ValueError, match=expected):
        list(table)


@pytest.mark.parametrize("command", ["fit", "score", "report"])
def test_commands_refuse_a_file_that_changes(
    command, run, quick, tmp_path, X, small_batches, monkeypatch
):
    if command == "report":
        pytest.importorskip("bokeh", reason="needs bokeh, of the extra report")
    path = write(tmp_path / "t.npy", X)
    quick().fit(X).save(tmp_path / "model")
    read = reading.npy_batches

    def read_and_change(*arguments):
        batches = read(*arguments)
        yield next(batches)
        replace_by_a_shorter_one(path)
        yield from batches

    monkeypatch.setattr(reading, "npy_batches", read_and_change)
    output = tmp_path / {"fit": "out", "score": "out.csv", "report": "out.html"}[command]
    model = () if command == "fit" else ("--model", tmp_path / "model")
    status, _, err = run(command, path, *model, "-o", output)
    assert (status, err.count("changed while it was read")) == (1, 1)
    assert not output.exists()


# ------------------------------------------------------------------ what is no regular file


def fifo(path):
    os.mkfifo(path)


def link_to_a_fifo(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


def local_socket(path):
    # A path to a socket may not be long.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as new:
        new.bind(f"{folder}/s")
        path.hardlink_to(f"{folder}/s")


def broken_link(path):
    path.symlink_to("nowhere")


SPECIAL = {
    fifo: r"got a pipe \(FIFO\)",
    link_to_a_fifo: r"got a pipe \(FIFO\)",
    link_to_a_device: "got a device",
    local_socket: "got a socket",
    broken_link: "the link leads to no file",
}


@pytest.mark.parametrize("kind", ["t.csv", "t.npy", "t.npz", "t.parquet", "t/1.parquet", "t/1"])
@pytest.mark.parametrize(("make", "message"), SPECIAL.items())
def test_what_is_no_regular_file_is_refused_at_once(make, message, kind, tmp_path, X, at_once):
    path = table = tmp_path / kind
    if table.parent != tmp_path:
        table = write(table.parent, X)
        path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(
        (ValueError, FileNotFoundError), match=re.escape(str(path)) + ".*" + message
    ):
        read_table(table)


@pytest.mark.parametrize("command", ["fit", "score", "report"])
def test_commands_refuse_a_pipe_at_once(command, run, quick, tmp_path, X, at_once):
    if command == "report":
        pytest.importorskip("bokeh", reason="needs bokeh, of the extra report")
    quick().fit(X).save(tmp_path / "model")
    os.mkfifo(tmp_path / "t.csv")
    output = tmp_path / {"fit": "out", "score": "out.csv", "report": "out.html"}[command]
    model = () if command == "fit" else ("--model", tmp_path / "model")
    status, _, err = run(command, tmp_path / "t.csv", *model, "-o", output)
    assert (status, len(err.splitlines())) == (1, 1)
    assert "t.csv: expected a regular file, got a pipe (FIFO)." in err


def test_the_device_of_standard_input_is_refused(run, tmp_path):
    status, _, err = run("fit", "/dev/stdin", "-o", tmp_path / "model")
    assert (status, len(err.splitlines())) == (1, 1)
    assert "/dev/stdin: tables are read from .csv, " in err
    assert "standard input, which is called -." in err


def test_a_link_to_a_table_is_read(tmp_path, X):
    write(tmp_path / "t.npy", X)
    (tmp_path / "link.npy").symlink_to("t.npy")
    assert np.array_equal(read_table(tmp_path / "link.npy").values, X)


# ------------------------------------------------------------------ text that is no table

BAD_BYTES = {
    b"a,b\n1,2\n3," + b"x" * 200_000 + b"\n": "field larger than field limit (131072), in line 3",
    b"a,b" + b"b" * 200_000 + b"\n1,2\n": "field larger than field limit (131072), in line 1",
    b'a,b\n1,"2\n' + b"3,4\n" * 40_000: "field larger than field limit (131072), in line",
    b"a,b\n1,2\n3,\0\n": "line 3 holds a NUL byte",
    b"a,b\n1,2\n3,4\0\n": "line 3 holds a NUL byte",
    b"a,b\0\n1,2\n": "line 1 holds a NUL byte",
    bytes(1000): "line 1 holds a NUL byte",
    "a,b\n1,2\n".encode("utf-16-le"): "line 1 holds a NUL byte",
    codecs.BOM_UTF16_LE + b"a\0,\0b\0\n\0\0\xdc": "line 2: 'utf-16-le' codec can't decode",
    b"a,b\n1,2\n3,\xff\n": "line 3: 'utf-8' codec can't decode byte 0xff",
    b"a,gr\xf6\xdfe\n1,2\n": "line 1: 'utf-8' codec can't decode byte 0xf6",
    b"a,b\n1,2\n3,4\n\xe2\x82": "line 4: 'utf-8' codec can't decode bytes",
}


@pytest.mark.parametrize(("data", "message"), BAD_BYTES.items(), ids=BAD_BYTES.values())
def test_text_that_is_no_csv_is_located(data, message, tmp_path, either_reader):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        _ = read_table(tmp_path / "t.csv").values
    assert str(caught.value).startswith(str(tmp_path / "t.csv"))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("bad", [pytest.param(b"\0", marks=pytest.mark.slow), b"\xff"])
def test_bytes_that_are_no_text_count_in_columns_that_are_left_out(bad, tmp_path, either_reader):
    lines = b"1,2\n" * 300_000
    (tmp_path / "t.csv").write_bytes(b"a,b\n" + lines + b"3," + bad + b"\n")
    with pytest.raises(ValueError, match=r"t\.csv: line 300002"):
        list(read_table(tmp_path / "t.csv", without="b"))


def test_a_line_without_an_end_is_not_read_whole(tmp_path, either_reader, monkeypatch):
    monkeypatch.setattr(textfiles, "_LONGEST_LINE", 1000)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n" + "3," * 10**6)
    with pytest.raises(ValueError, match=r"t\.csv: line 3 is longer than 1,000 characters"):
        list(read_table(tmp_path / "t.csv"))


def test_text_beyond_ascii_is_read(tmp_path, either_reader):
    names = ["größe", "重量", "x" * 1000]
    (tmp_path / "t.csv").write_text(",".join(names) + "\n1,2,3\n", encoding="utf-8")
    assert read_table(tmp_path / "t.csv").names == names
    assert read_table(tmp_path / "t.csv").values.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("text", ['\n\n"a\nb",c\r\n1,2\n', "\n1,2\n", '"a\r\n\rb",c\r1,2\r', "1,2"])
def test_the_first_line_with_cells_is_the_first(text, tmp_path, either_reader):
    (tmp_path / "t.csv").write_text(text, newline="")
    assert read_table(tmp_path / "t.csv").values.tolist() == [[1, 2]]


# ------------------------------------------------------------------ many columns


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t.csv", "t.parquet"])
def test_the_time_grows_in_proportion_to_the_columns(kind, tmp_path, monkeypatch):
    names = [f"column{i}" for i in range(60_000)]
    monkeypatch.setattr(sys.modules[__name__], "NAMES", names)
    X = np.random.default_rng(0).normal(size=(2, len(names)))
    path = write(tmp_path / kind, X)
    began = time.process_time()
    table = read_table(path, columns=names[::-1])
    with pytest.raises(ValueError, match=r"no column 'no'.* and 59,990 more") as caught:
        read_table(path, without="no")
    assert len(str(caught.value)) < 500
    assert np.array_equal(table.values, X[:, ::-1])
    assert time.process_time() - began < 20  # a minute and more if each name is searched for


# ------------------------------------------------------------------ damaged archives


def npy(header, values=b"", version=1):
    """An NPY file with any text as its header."""
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + values


def described(shape, dtype="'<f8'"):
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n"


DAMAGED_ARRAYS = {
    "a header that claims 10^15 rows": npy(
        described("(10**15, 5)".replace("10**15", "1" + "0" * 15))
    ),
    "10^15 rows without columns": npy(described("(1000000000000000, 0)")),
    "negative heights": npy(described("(-1, -5)"), bytes(40)),
    "more rows than an int holds": npy(described("(" + "9" * 30 + ", 5)")),
    "fewer rows than there are": npy(described("(1, 5)"), bytes(80)),
    "more rows than there are": npy(described("(3, 5)"), bytes(80)),
    "a header without an end": npy("{'descr': '<f8', 'shape': ("),
    "a header of Python 2 without an end": npy("{'descr': '<f8', 'shape': (4L, ("),
    "a deep header": npy(described("(" + "-" * 4000 + "1, 5)")),
    "Python code": npy("__import__('os').abort()"),
    "pickled objects": npy(described("(1, 5)", "'|O'"), bytes(40)),
    "an unknown type": npy(described("(1, 5)", "'zz'"), bytes(40)),
    "items of a terabyte": npy(described("(1, 1)", "'|V999999999999'"), bytes(40)),
    "an unknown version": npy(described("(1, 5)"), bytes(40), version=7),
    "nothing": b"",
    "the first bytes": b"\x93NUM",
    "an archive": b"PK\x03\x04",
}


@pytest.mark.parametrize("how", ["npy", "stored", "deflated"])
@pytest.mark.parametrize("data", DAMAGED_ARRAYS.values(), ids=DAMAGED_ARRAYS)
def test_damaged_arrays_are_named(data, how, tmp_path, at_once):
    path = tmp_path / "t.npy"
    if how == "npy":
        path.write_bytes(data)
    else:
        path = tmp_path / "t.npz"
        method = zipfile.ZIP_STORED if how == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("X.npy", data)
            archive.writestr("y.npy", data)
        with pytest.raises(ValueError, match=r"^[^\n]*t\.npz[^\n]*$"):
            list(folder_datasets(tmp_path))
    with pytest.raises(ValueError, match=r"^[^\n]*t\.np[yz][^\n]*$"):
        list(read_table(path))


@pytest.mark.slow
def test_an_array_is_inflated_only_as_far_as_its_header_says(tmp_path, monkeypatch):
    data = npy(described("(2, 5)"), bytes(2**26))  # 64 MiB that take 64 KiB in the file
    with zipfile.ZipFile(tmp_path / "t.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", data)
    inflated = []
    read = zipfile.ZipExtFile.read

    def count(self, n=-1):
        inflated.append(read(self, n))
        return inflated[-1]

    monkeypatch.setattr(zipfile.ZipExtFile, "read", count)
    with pytest.raises(ValueError, match=r"t\.npz: array 'X': shape \(2, 5\) of float64 takes 80"):
        read_table(tmp_path / "t.npz")
    assert sum(map(len, inflated)) < 1000


def test_an_archive_that_says_too_much_is_refused(tmp_path):
    """The entry and its header claim a terabyte; the file has 40 bytes."""
    data = npy(described("(25000000000, 5)"), bytes(40))
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("X.npy", data)
        entry = archive.infolist()[0]
        entry.file_size += 10**12 - 40
    with pytest.raises(ValueError, match=r"t\.npz"):
        _ = read_table(tmp_path / "t.npz").values


@pytest.mark.parametrize("method", [1, 9, 12, 14, 97])
def test_unknown_and_wrong_compression_is_named(method, tmp_path, X):
    data = bytearray(write(tmp_path / "t.npz", X).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(signature) + offset] = method
    (tmp_path / "t.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"^[^\n]*t\.npz[^\n]*$"):
        list(read_table(tmp_path / "t.npz"))


def test_an_encrypted_archive_is_named(tmp_path, X):
    data = bytearray(write(tmp_path / "t.npz", X).read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "t.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"t\.npz.*password"):
        list(read_table(tmp_path / "t.npz"))


@pytest.mark.parametrize("keep", [0, 3, 4, 8, 200, -1, -4, -8, -200])
def test_parquet_that_is_cut_off_is_named(keep, tmp_path, X):
    data = write(tmp_path / "t.parquet", X).read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"^[^\n]*t\.parquet[^\n]*$"):
        list(read_table(tmp_path / "t.parquet"))


def test_headers_that_python_2_wrote_are_read_without_a_warning(tmp_path):
    (tmp_path / "t.npy").write_bytes(npy(described("(1L, 5L)"), bytes(40)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_table(tmp_path / "t.npy").values.tolist() == [[0.0] * 5]


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i2", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_are_read_as_numpy_wrote_them(
    version, dtype, order, kind, tmp_path, X, small_batches
):
    values, held = np.asarray(X.astype(dtype), order=order), io.BytesIO()
    np.lib.format.write_array(held, values, version=version)
    path = tmp_path / f"t.{kind}"
    if kind == "npy":
        path.write_bytes(held.getvalue())
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("X.npy", held.getvalue())
    table = read_table(path)
    assert table.n_rows == 300
    assert np.array_equal(table.values, values)
    assert {batch.dtype.newbyteorder("=") for batch in table} == {values.dtype.newbyteorder("=")}


def test_sums_that_overflow_are_no_warning(tmp_path):
    np.save(tmp_path / "t.npy", np.array([[1e308, 1e308], [-1e308, -1e308]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_table(tmp_path / "t.npy").values.shape == (2, 2)


def test_detectors_fit_tables_that_are_read_several_times(quick, tmp_path, X, small_batches):
    table = read_table(write(tmp_path / "t.npy", X))
    fitted = quick(AutoEncoder).fit_batches(table)
    assert np.array_equal(
        fitted.decision_scores_, quick(AutoEncoder).fit_batches([X]).decision_scores_
    )
