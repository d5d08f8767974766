"""Thousands of damaged and forged models, checkpoints and tables: refused, or harmless.

To try other ones, and more: ``HOSTILE_FILES=10 pytest tests/test_hostile_files.py``.
"""

import copy
import io
import json
import os
import random
import resource
import signal
import warnings
import zipfile

import numpy as np
import pytest
import torch

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble, Corruption, load_detector
from pyod_ae_plugin.storage import Checkpoint, read_model, read_sealed, write_model, write_sealed
from pyod_ae_plugin.tables import arrow, reading
from pyod_ae_plugin.tables.reading import read_table

pytestmark = pytest.mark.slow

DETECTORS = {
    "AutoEncoder": AutoEncoder(epoch_num=1, verbose=0, device="cpu", hidden_neuron_list=[4, 2]),
    "VAE": VAE(epoch_num=1, verbose=0, device="cpu", score_head="elbo"),
    "conv": AutoEncoder(
        epoch_num=1, verbose=0, device="cpu", network="conv", input_shape=(2, 3), batch_norm=True
    ),
    "AutoEncoderEnsemble": AutoEncoderEnsemble(2, epoch_num=1, verbose=0, device="cpu"),
}
TIMES = int(os.environ.get("HOSTILE_FILES", "1"))
N_DAMAGED, N_FORGED = 800 * TIMES, 100 * TIMES  # of each detector
N_TABLES = 150 * TIMES  # of each kind of file
SECONDS = 60  # in which a file is read or refused, on a busy machine too
MOST_MEMORY = 2**29


@pytest.fixture(scope="module", params=DETECTORS)
def fitted(request):
    X = np.random.default_rng(0).normal(size=(60, 6))
    return DETECTORS[request.param].fit(X)


@pytest.fixture
def limited():
    """Fail where a file takes too long or much memory."""

    def too_long(*_):
        pytest.fail(f"a file took more than {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, too_long)
    yield
    signal.alarm(0)
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert taken < MOST_MEMORY


def is_refused(path):
    signal.alarm(SECONDS)
    try:
        return load_detector(path), None
    except ValueError as error:
        return None, error


def flip_bits(data, rng):
    for _ in range(rng.choice([1, 1, 1, 8, 100])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_bits_of_header(data, rng):
    for _ in range(rng.choice([1, 3])):
        data[rng.randrange(min(4000, len(data)))] ^= 1 << rng.randrange(8)


def truncate(data, rng):
    del data[rng.randrange(len(data)) :]


def cut(data, rng):
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 200)]


def insert(data, rng):
    start = rng.randrange(len(data))
    data[start:start] = rng.randbytes(rng.randrange(1, 200))


def repeat(data, rng):
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.randrange(1, 200)]


def blank(data, rng):
    start, n = rng.randrange(len(data)), rng.randrange(1, 2000)
    data[start : start + n] = bytes(len(data[start : start + n]))


def declare_another_length(data, rng):
    data[:8] = rng.choice([0, 1, 2**31, 2**63, rng.getrandbits(64)]).to_bytes(8, "little")


def change_a_digit(data, rng):
    digits = [i for i, byte in enumerate(data[:20000]) if chr(byte).isdigit()]
    if digits:
        data[rng.choice(digits)] = ord(rng.choice("0123456789"))


DAMAGES = [
    flip_bits,
    flip_bits_of_header,
    truncate,
    cut,
    insert,
    repeat,
    blank,
    declare_another_length,
    change_a_digit,
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["model.safetensors", "model"])
def test_damaged_files_give_no_wrong_score(fitted, tmp_path, limited, name, seed):
    fitted.save(tmp_path / name)
    files = [tmp_path / name] if name != "model" else sorted((tmp_path / name).iterdir())
    originals = {file: file.read_bytes() for file in files}
    rows = np.random.default_rng(1).normal(size=(5, 6))
    expected = fitted.decision_function(rows)
    rng = random.Random(f"{name} {seed}")
    n_refused = 0
    for _ in range(N_DAMAGED // 4):
        file = rng.choice(files)
        data = bytearray(originals[file])
        rng.choice(DAMAGES)(data, rng)
        file.write_bytes(data)
        loaded, refusal = is_refused(tmp_path / name)
        n_refused += refusal is not None
        if loaded is not None:
            assert np.array_equal(loaded.decision_function(rows), expected)
        file.write_bytes(originals[file])
    assert n_refused > 0.8 * (N_DAMAGED // 4)  # the others changed a blank, or nothing


HOSTILE_VALUES = [
    None,
    True,
    -1,
    0,
    1,
    3,
    10**9,
    10**30,
    0.5,
    -1e308,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "cuda:99",
    "meta",
    "../../etc/passwd",
    "__import__('os').abort()",
    "x" * 10**5,
    [],
    [0],
    [10**9],
    [10**6, 10**6],
    [1] * 10**5,
    [[1, 2], [3]],
    ["a", None],
    {},
    {"a": {"b": [1]}},
    {"tuple": 3},
    {"tuple": [10**7, 10**7]},
    {"threshold_rule": ["os.system", {}]},
    {"threshold_rule": ["TopN", {"n": -1}]},
    {"threshold_rule": "MeanStd"},
    json.loads("[" * 300 + "]" * 300),
]


def places(value, path=()):
    """Paths to all that a description holds."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from places(value[key], (*path, key))


def forge_description(description, rng):
    *path, last = rng.choice(list(places(description)))
    holder = description
    for key in path:
        holder = holder[key]
    if rng.random() < 0.1:
        del holder[last]
    else:
        holder[last] = rng.choice(HOSTILE_VALUES)


def forge_tensor(tensors, rng):
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    change = rng.randrange(8)
    if change == 0:
        del tensors[name]
    elif change == 1:
        tensors[rng.choice(["module.evil", "evil", "evil_", "labels_"])] = tensors.pop(name)
    elif change == 2:
        tensors[name] = torch.zeros(rng.choice([(0,), (), (1,), (7,), (3, 5), (1, 1, 1), (10**6,)]))
    elif change == 3:
        types = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.int64]
        tensors[name] = tensor.to(rng.choice(types))
    elif change == 4:
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other].clone(), tensor
    elif change == 5:
        tensors[name] = tensor.repeat(2, *[1] * max(tensor.ndim - 1, 0))
    elif tensor.is_floating_point():
        values = [torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 0.0]
        tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice(values)
    else:
        tensor.fill_(rng.choice([-1, 2, 2**31] if tensor.dtype is torch.int64 else [0, 1]))


@pytest.mark.parametrize("seed", range(2))
def test_forged_files_are_refused_or_score_finitely(fitted, tmp_path, limited, seed):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    original = path.read_bytes()
    rows = np.random.default_rng(1).normal(size=(5, 6))
    rng = random.Random(seed)
    n_refused = 0
    for _ in range(N_FORGED // 2):
        description, tensors = read_model(path)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        for _ in range(rng.choice([1, 1, 2])):
            if rng.random() < 0.5:
                forge_description(description, rng)
            else:
                forge_tensor(tensors, rng)
        write_model(path, description, tensors)
        loaded, refusal = is_refused(path)
        n_refused += refusal is not None
        if loaded is not None:
            scores = loaded.decision_function(rows)
            assert scores.shape == (5,)
            assert np.isfinite(scores).all()
            assert set(loaded.predict(rows)) <= {0, 1}
        path.write_bytes(original)
    assert n_refused > 0.5 * (N_FORGED // 2)


# -------------------------------------------------------------------------------- checkpoints

N_CHECKPOINTS = 80 * TIMES  # of each training, a half of them damaged and a half forged
TRAININGS = {
    "early stopping": AutoEncoder(
        epoch_num=6, early_stopping=True, batch_norm=True, corruption=Corruption(noise=0.1)
    ),
    "SGD, restarts": VAE(
        epoch_num=6,
        optimizer_name="sgd",
        optimizer_params={"sgd_momentum": 0.9},
        on_divergence="restart",
    ),
    "ensemble": AutoEncoderEnsemble(2, epoch_num=6),
}


@pytest.mark.filterwarnings("ignore:Training diverged")
@pytest.mark.parametrize("training", TRAININGS)
def test_damaged_and_forged_checkpoints_are_refused_or_harmless(
    training, tmp_path, limited, monkeypatch
):
    path = tmp_path / "state.safetensors"
    X = np.random.default_rng(0).normal(size=(60, 6))
    detector = TRAININGS[training].set_params(verbose=0, device="cpu", checkpoint=path)
    expected = copy.deepcopy(detector).set_params(checkpoint=None).fit(X).decision_scores_
    with monkeypatch.context() as patch:
        save = Checkpoint.save

        def save_and_fail(self, state):
            save(self, state)
            if len(state["history"]) == 3:
                raise InterruptedError

        patch.setattr(Checkpoint, "save", save_and_fail)
        with pytest.raises(InterruptedError):
            detector.fit(X)
    original = path.read_bytes()
    rng = random.Random(training)
    n_refused = 0
    for i in range(N_CHECKPOINTS):
        is_damaged = i % 2 == 1
        if is_damaged:
            data = bytearray(original)
            rng.choice(DAMAGES)(data, rng)
            path.write_bytes(data)
        else:
            path.write_bytes(original)
            description, tensors = read_sealed(path)
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
            forge_tensor(tensors, rng)
            write_sealed(path, description, tensors)
        signal.alarm(SECONDS)
        refusal = None
        try:
            detector.fit(X)
        except ValueError as error:
            refusal = str(error)
        except FloatingPointError:
            assert not is_damaged  # finite weights from which training diverges
            continue
        if refusal is not None:
            assert str(path) in refusal
            n_refused += 1
        elif is_damaged:
            assert np.array_equal(detector.decision_scores_, expected)
        else:
            assert np.isfinite(detector.decision_scores_).all()
    assert n_refused > 0.6 * N_CHECKPOINTS


# ------------------------------------------------------------------ tables


def table_files(kind, X):
    """A table in files of one kind, written in all ways that matter."""
    if kind == "csv":
        lines = [",".join(map(repr, row)) for row in X.tolist()]
        headers = ["a,b,c,d,e", '"a","b, c",c,d,"e"', "größe,b,c,d,e"]
        texts = [*("\n".join([header, *lines]) for header in headers), "\r\n".join(lines)]
        return [text.encode() for text in texts]
    files = []
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra arrow")
        columns = dict(zip("abcde", X.T, strict=True))
        for options in PARQUET_OPTIONS:
            files.append(io.BytesIO())
            parquet.write_table(arrow.pyarrow().table(columns), files[-1], **options)
        return [file.getvalue() for file in files]
    arrays = [X, np.asfortranarray(X), X.astype(">f4"), (100 * X).astype("<i8")]
    for i, array in enumerate(arrays):
        npy = io.BytesIO()
        np.lib.format.write_array(npy, array, version=((1, 0), (2, 0), (3, 0))[i % 3])
        files.append(npy.getvalue() if kind == "npy" else zipped({"X.npy": npy.getvalue()}, i))
    return files


PARQUET_OPTIONS = [
    {},
    {"compression": "zstd", "row_group_size": 15},
    {"compression": "gzip", "data_page_version": "2.0"},
    {"compression": "none", "use_dictionary": False},
    {"compression": "lz4", "use_dictionary": False, "use_byte_stream_split": True},
]
COMPRESSIONS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def zipped(entries, i):
    """The bytes of an archive; ``i`` chooses how it is compressed."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", COMPRESSIONS[i % 4]) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return held.getvalue()


SHAPES = [
    "(40, 5)", "(1000000000000000, 5)", "(1000000000000000, 0)", "(" + "9" * 30 + ", 5)",
    "(-1, -200)", "(40, 0)", "(0, 5)", "(40,)", "(40, 5, 1)", "40", "None", "(40.0, 5)",
    "(True, 200)", "('a', 5)", "(10, 5)", "(200, 1)", "(40L, 5L)", "(4",
    "(" * 300 + "1" + ")" * 300, "-" * 3000 + "1",
]  # fmt: skip
TYPES = [
    "'<f8'", "'>f8'", "'|b1'", "'<i8'", "'<f16'", "'<c16'", "'|O'", "'<U8'", "'|S0'", "'|V8'",
    "'<M8[s]'", "'<V999999999999'", "'zz'", "'f8,f8'", "('<f8', (5,))", "[('a', '<f8')]", "None",
    "8", "{}", "[]", "__import__('os').abort()",
]  # fmt: skip
HEADERS = [
    "",
    "{",
    "[]",
    "{'descr': '<f8'}",
    "{**{}}",
    "\n",
    "é",
    '"""',
    "{'a':" * 100,
    " " * 20000,
]


def forged_npy(values, rng):
    """An array behind a header that says anything."""
    order = rng.choice(["True", "False", "1", "None"])
    described = [rng.choice(choices) for choices in (TYPES, SHAPES)]
    if rng.random() < 0.5:
        described[0] = "'<f8'"
    dtype, shape = described
    header = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}}}\n"
    if rng.random() < 0.1:
        header = rng.choice([*HEADERS, 3 * header, header.replace("'", '"')])
    version, data = rng.choice([1, 1, 1, 2, 3, 4, 255]), header.encode()
    length = len(data).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + data + values.tobytes()


def insert_many(data, rng):
    """Insert so much of one character that a cell or a line becomes too long."""
    start, character = rng.randrange(len(data)), rng.choice(b'1x0 ",\n\r\x00\xff')
    data[start:start] = bytes([character]) * rng.choice([1, 2, 131071, 131073, 1200000])


def change_the_end(data, rng):
    """Change what Parquet files and archives say of themselves."""
    for _ in range(rng.choice([1, 3])):
        data[-1 - rng.randrange(min(900, len(data)))] = rng.choice([0, 1, 9, 127, 128, 255])


def change_an_entry(data, rng):
    """Change what an archive says of an entry: flags, compression, sizes, names."""
    signatures = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")
    found = [i for i in range(len(data) - 50) if bytes(data[i : i + 4]) in signatures]
    if found:
        start, n = rng.choice(found) + rng.randrange(4, 46), rng.choice([1, 2, 4])
        data[start : start + n] = rng.choice([b"\xff" * n, bytes(n), rng.randbytes(n)])


TABLE_DAMAGES = {
    "csv": [insert_many, insert_many],
    "npy": [],
    "npz": [change_the_end, change_an_entry, change_an_entry],
    "parquet": [change_the_end, change_the_end],
}


def damage_a_table(kind, files, X, rng):
    """The bytes of a table that was damaged, spliced with another, or forged."""
    data = bytearray(rng.choice(files))
    what = rng.random()
    if what < 0.1:
        other = rng.choice(files)
        data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]
    elif what < 0.4 and kind == "npy":
        data = forged_npy(X, rng)
    elif what < 0.4 and kind == "npz":
        names = rng.choice([["X"], ["X", "y"], ["y"], ["y", "z"], ["\x1b"], []])
        entries = {f"{name}.npy": forged_npy(X, rng) for name in names}
        data = zipped(entries, rng.randrange(4))
    else:
        rng.choice(DAMAGES + 2 * TABLE_DAMAGES[kind])(data, rng)
    return bytes(data)


def is_refused_as_table(path):
    signal.alarm(SECONDS)
    try:
        return read_table(path).values, None
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("kind", ["csv", "csv without pyarrow", "npy", "npz", "parquet"])
def test_damaged_and_forged_tables_are_refused_or_finite(kind, tmp_path, limited, monkeypatch):
    if kind == "csv without pyarrow":
        kind = "csv"
        monkeypatch.setattr(reading, "find_spec", lambda name: None)
    X = np.random.default_rng(0).normal(size=(40, 5))
    path, rng = tmp_path / f"t.{kind}", random.Random(kind)
    files = table_files(kind, X)
    n_refused = 0
    for _ in range(N_TABLES):
        path.write_bytes(damage_a_table(kind, files, X, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values, refusal = is_refused_as_table(path)
        if refusal is None:
            assert values.ndim == 2
            assert values.size
            assert np.isfinite(values).all()
        else:
            assert refusal.startswith(str(path))
            assert len(refusal.splitlines()) == 1
            n_refused += 1
    assert n_refused > 0.5 * N_TABLES
