"""The scripts in examples/ run as written, on small files of the format of the public data."""

import gzip
import hashlib
import io
import json
import re
import runpy
import sys
import time
from pathlib import Path
from urllib.request import ProxyHandler, build_opener, install_opener

import joblib
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

pytestmark = pytest.mark.slow

matplotlib.use("agg")
EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
PUBLIC = ("credit_card_fraud", "handwritten_letters", "network_intrusion")


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Run a script with arguments in an empty folder; what it prints, and its figures by name."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        script = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), "--output", "figures"])
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out, {
            path.name: pyplot.imread(path) for path in Path("figures").iterdir()
        }

    yield run
    pyplot.close("all")


def assert_drawn(figures, *names):
    assert set(figures) == set(names)
    for name, image in figures.items():
        assert min(image.shape[:2]) > 200, name
        assert (image[..., :3] < 0.9).any(axis=2).mean() > 0.005, f"{name} is blank"


def number_after(text, label):
    return float(text.split(label)[1].split()[0].strip("|,;"))


# ------------------------------------------------------------------------------ credit card


def payments(n=3000, n_frauds=60):
    """Such rows as creditcard.csv has; frauds differ in V14 and V4, as many of the real ones."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(n, 6))
    V = factors @ rng.normal(size=(6, 28)) + 0.3 * rng.normal(size=(n, 28))
    fraud = np.zeros(n, dtype=int)
    fraud[rng.choice(n, n_frauds, replace=False)] = 1
    V[fraud == 1, 13] -= 6
    V[fraud == 1, 3] += 4
    frame = pd.DataFrame(V, columns=[f"V{i}" for i in range(1, 29)])
    frame.insert(0, "Time", np.sort(rng.uniform(0, 172_792, n)).round())
    return frame.assign(Amount=rng.lognormal(3, 1.5, n).round(2), Class=fraud)


def test_credit_card_fraud(example, tmp_path):
    frame = payments()
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "creditcard.csv", index=False)
    out, figures = example("credit_card_fraud", "--data", "creditcard.csv", "--review", 12)
    last = frame["Class"][int(0.8 * len(frame)) :].sum()
    assert "3000 payments, 60 of them frauds" in out
    assert f"of {last} frauds" in out, "the test rows are the last ones in time"
    assert number_after(out, "recall ") > 0.9
    assert number_after(out, "12 highest scores hold ") > 0.8 * min(12, last)
    assert number_after(out, "it costs ") < number_after(out, "no alarms at all ")
    assert_drawn(figures, "fraud_scores.png", "fraud_top.png")


def test_other_columns_than_those_of_payments_are_refused(example, tmp_path):
    payments(50, 5).drop(columns=["V3", "Amount"]).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(SystemExit, match=r"other\.csv has no column Amount, V3"):
        example("credit_card_fraud", "--data", "other.csv")


# ---------------------------------------------------------------------------------- letters


def strokes(letter, rng):
    """An image of A or H: three strokes of a pen, a little different each time."""
    top = rng.normal({"A": (14, 14), "H": (8, 20)}[letter], 0.8)
    foot = rng.normal((8, 20), 0.8)
    left, right = [(5, top[0]), (23, foot[0])], [(5, top[1]), (23, foot[1])]
    bar = [np.add(np.mean(side, axis=0), (2, 0)) for side in (left, right)]
    rows, columns = np.mgrid[:28, :28]
    image, width = np.zeros((28, 28)), rng.uniform(1, 1.8)
    for start, end in (left, right, bar):
        for t in np.linspace(0, 1, 30):
            y, x = np.multiply(start, 1 - t) + np.multiply(end, t)
            image = np.maximum(image, np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / width))
    return (255 * image).astype(np.uint8)


def idx(array):
    """The IDX file that holds an array of bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


IMAGES, LABELS = (f"emnist-letters-train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))


def images_and_labels(n):
    """Images stored column by column, as EMNIST's are, and 1 for A and 8 for H."""
    rng = np.random.default_rng(0)
    labels = np.tile([1, 8], n).astype(np.uint8)
    return np.stack([strokes("AH"[label // 8], rng).T for label in labels]), labels


@pytest.fixture
def letters(tmp_path):
    """A folder with the files of EMNIST's letters, one of them gzipped, as both are found."""
    images, labels = images_and_labels(120)
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / LABELS).write_bytes(idx(labels))
    return tmp_path


def test_handwritten_letters(example, letters):
    out, figures = example("handwritten_letters", "--data", letters)
    assert "120 images of A, 120 of H" in out
    for network in ("dense", "convolutional"):
        assert number_after(out, f"{network}: ROC AUC ") > 0.99
    assert_drawn(figures, "letters_reconstructed.png", "letters_scores.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file of bytes"),
        (bytes([0, 0, 13, 1]) + bytes(8), "starts with 00 00 0d 01, not 00 00 08"),
        (bytes([0, 0, 8, 3]) + bytes(4), "should have"),
        (idx(np.zeros((3, 28, 28), np.uint8))[:-1], "has 2367 bytes; with its shape .3, 28, 28. "),
        (idx(np.zeros((3, 28, 28), np.uint8)), "240 labels do not go with images"),
    ],
)
def test_files_that_hold_no_such_images_are_refused(example, letters, content, message):
    (letters / f"{IMAGES}.gz").write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        example("handwritten_letters", "--data", letters)


def test_missing_letters_are_asked_for(example, letters):
    with pytest.raises(SystemExit, match="take a letter from A to Z"):
        example("handwritten_letters", "--data", letters, "--anomaly", "Z")
    (letters / LABELS).unlink()
    with pytest.raises(SystemExit, match=f"no file {LABELS}"):
        example("handwritten_letters", "--data", letters)


# -------------------------------------------------------------------------------- intrusion


def connections(n=3000, n_attacks=600):
    """Rows in the format of kddcup.data: attacks flood one service with connections."""
    rng = np.random.default_rng(0)
    attack = rng.permutation(n) < n_attacks
    rates = np.round(rng.beta(1, 12, size=(n, 15)), 2)
    rates[attack, :2] = np.round(rng.beta(2, 3, size=(n_attacks, 2)), 2)
    counts = rng.poisson(np.where(attack, rng.lognormal(3.5, 1, n), 8)[:, None], size=(n, 2))
    size = rng.lognormal(6, 1.5, size=(n, 2)).astype(int)
    size[attack, 1] = 0
    flags = np.where(attack & (rng.random(n) < 0.5), "S0", rng.choice(["SF", "SF", "REJ"], n))
    frame = pd.DataFrame(0, index=range(n), columns=range(42), dtype=object)
    frame[1] = rng.choice(["tcp", "udp"], n)
    frame[2] = rng.choice(["http", "smtp", "domain_u", "private"], n)
    frame[3] = flags
    frame[[4, 5]], frame[[22, 23]] = size, counts
    frame[[*range(24, 31), *range(33, 41)]] = rates
    frame[[31, 32]] = rng.integers(0, 256, size=(n, 2))
    frame[41] = np.where(attack, "neptune.", "normal.")
    return frame


def test_network_intrusion(example, tmp_path):
    file = tmp_path / "kddcup.data.gz"
    connections().to_csv(file, header=False, index=False)
    out, figures = example("network_intrusion", "--data", file)
    assert "3000 connections, 20% of them attacks" in out
    rows = [line for line in out.splitlines() if line.startswith(("Auto", "VAE", "PyOD's"))]
    assert [line.split()[0] for line in rows] == ["AutoEncoder", "VAE", "PyOD's", "PyOD's"]
    measures = np.array([line.split()[-5:-1] for line in rows], dtype=float)
    assert ((measures > 0.5) & (measures <= 1)).all(), out
    assert (measures[:2] > 0.85).all(), out
    assert "Most abnormal: neptune" in out
    assert_drawn(figures, "intrusion_curves.png", "intrusion_explanation.png")


def test_files_of_other_columns_are_refused(example, tmp_path):
    pd.DataFrame(np.zeros((5, 41))).to_csv(tmp_path / "x.csv", header=False, index=False)
    with pytest.raises(SystemExit, match=r"x\.csv has 41 columns, not 42"):
        example("network_intrusion", "--data", tmp_path / "x.csv")


# --------------------------------------------------------------------- ensemble and sensors


def test_pyod_ensemble(example):
    out, figures = example("pyod_ensemble", "--draws", 1)
    means = {
        line.split("  ")[0]: float(line.split()[-1]) for line in out.splitlines() if "  0." in line
    }
    worst = min(means[part] for part in ("AutoEncoder", "VAE", "IForest", "KNN"))
    assert means["average"] > worst
    assert means["average of logs"] > worst
    # SUOD averages, too; what it draws at random for its projections has no seed
    assert means["SUOD"] == pytest.approx(means["average"], abs=0.05)
    assert_drawn(figures, "ensemble.png")


def test_sensor_monitoring(example):
    out, figures = example("sensor_monitoring")
    alarms = [line for line in out.splitlines() if "ALARM" in line]
    first = {}
    for alarm in alarms:  # the slow drift of the flow may set it off more than once
        first.setdefault(alarm.rpartition(" ")[2], alarm)
    assert list(first) == ["pressure", "vibration", "flow"]
    assert first["pressure"].startswith("2024-03-12 14:")
    assert first["vibration"].startswith("2024-03-14 03:")
    assert "2024-03-14 20:00" < first["flow"][:16] < "2024-03-15 08:00"
    assert_drawn(figures, "sensor_explanation.png", "sensor_scores.png")


def readings(n=600):
    rng = np.random.default_rng(0)
    load = rng.normal(size=n)
    frame = pd.DataFrame({"in": load, "out": -load, "power": load**2})
    frame += 0.05 * rng.normal(size=frame.shape)
    frame.loc[500:520, "power"] += 4
    return frame.set_index(pd.date_range("2024-01-01", periods=n, freq="h", name="time"))


class LineByLine(io.StringIO):
    """A pipe that nobody fills any further: to ask for more than a line would be to wait."""

    def read(self, size=-1):
        raise AssertionError("waits for the end of the stream")


def test_sensors_of_one_s_own_come_through_a_pipe(example, monkeypatch):
    monkeypatch.setattr(sys, "stdin", LineByLine(readings().to_csv()))
    out, _ = example("sensor_monitoring", "--data", "-", "--fit-days", 18)
    alarms = [line for line in out.splitlines() if "ALARM" in line]
    assert len(alarms) == 1
    assert alarms[0].startswith(str(readings().index[502]))
    assert alarms[0].endswith("look at power")
    assert "alarm over" in out


def test_a_stream_that_ends_too_early_is_refused(example, tmp_path):
    readings().to_csv(tmp_path / "sensors.csv")
    with pytest.raises(SystemExit, match=r"ended before 2024-01-31.*lower --fit-days"):
        example("sensor_monitoring", "--data", "sensors.csv", "--fit-days", 30)


# --------------------------------------------------------------------------- what all share


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Every download is refused, and nothing was downloaded before."""
    dead = dict.fromkeys(("http", "https"), "http://127.0.0.1:9")  # port 9: discard
    install_opener(build_opener(ProxyHandler(dead)))
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "downloads"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between scikit-learn's retries
    yield
    install_opener(None)


def keep_openml(folder, data_id, frame, target, ignored=()):
    """Write what scikit-learn keeps of a data set of OpenML that it has downloaded."""
    kinds = {
        name: "{" + ",".join(f"'{value}'" for value in sorted(set(frame[name]))) + "}"
        if name == target
        else "REAL"
        for name in frame
    }
    attributes = "".join(f"@ATTRIBUTE {name} {kind}\n" for name, kind in kinds.items())
    rows = frame.astype({target: str}).assign(**{target: lambda f: "'" + f[target] + "'"})
    arff = f"@RELATION x\n{attributes}@DATA\n{rows.to_csv(header=False, index=False)}".encode()
    description = {
        "id": str(data_id),
        "name": "x",
        "description": "",
        "version": "1",
        "format": "ARFF",
        "status": "active",
        "url": f"https://www.openml.org/data/v1/download/{data_id}/x.arff",
        "default_target_attribute": target,
        "md5_checksum": hashlib.md5(arff, usedforsecurity=False).hexdigest(),
    }
    features = [
        {
            "index": str(index),
            "name": name,
            "data_type": "nominal" if name == target else "numeric",
            "is_target": str(name == target).lower(),
            "is_ignore": str(name in ignored).lower(),
            "is_row_identifier": "false",
            "number_of_missing_values": "0",
        }
        for index, name in enumerate(frame)
    ]
    qualities = [{"name": "NumberOfInstances", "value": str(len(frame))}]
    api = "api/v1/json/data"
    for path, content in {
        f"{api}/{data_id}": {"data_set_description": description},
        f"{api}/features/{data_id}": {"data_features": {"feature": features}},
        f"{api}/qualities/{data_id}": {"data_qualities": {"quality": qualities}},
        f"data/v1/download/{data_id}/x.arff": arff,
    }.items():
        file = folder / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        plain = content if isinstance(content, bytes) else json.dumps(content).encode()
        file.write_bytes(gzip.compress(plain))


@pytest.mark.usefixtures("offline")
def test_payments_from_openml_are_those_of_the_file(example, tmp_path):
    frame = payments(1000, 40)
    frame.to_csv(tmp_path / "creditcard.csv", index=False)
    keep_openml(tmp_path / "downloads", 1597, frame, "Class", ignored=["Time"])
    from_openml, _ = example("credit_card_fraud")
    assert from_openml == example("credit_card_fraud", "--data", "creditcard.csv")[0]


@pytest.mark.usefixtures("offline")
def test_letters_from_openml(example, tmp_path):
    images, labels = images_and_labels(40)
    frame = pd.DataFrame(images.reshape(-1, 784)).add_prefix("pixel")
    keep_openml(tmp_path / "downloads", 41039, frame.assign(**{"class": labels + 9}), "class")
    out, figures = example("handwritten_letters")
    assert "40 images of A, 40 of H" in out
    assert number_after(out, "dense: ROC AUC ") > 0.99
    assert_drawn(figures, "letters_reconstructed.png", "letters_scores.png")


@pytest.mark.usefixtures("offline")
def test_connections_from_scikit_learn_are_those_of_the_file(example, tmp_path):
    frame = connections(1000, 300)
    frame.to_csv(tmp_path / "kddcup.data", header=False, index=False)
    kept = tmp_path / "downloads" / "kddcup99_10-py3"
    kept.mkdir(parents=True)
    for column in (1, 2, 3, 41):
        frame[column] = [value.encode() for value in frame[column]]
    joblib.dump(frame.loc[:, :40].to_numpy(object), kept / "samples")
    joblib.dump(frame[41].to_numpy(object), kept / "targets")
    public, local = (
        re.sub(r" +[\d.]+$", "", example("network_intrusion", *data)[0], flags=re.M)  # no seconds
        for data in ((), ("--data", "kddcup.data"))
    )
    assert public == local


@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("ignore:.*[Rr]etry")
@pytest.mark.parametrize("name", PUBLIC)
def test_without_network_it_says_where_to_get_the_file(example, name):
    with pytest.raises(SystemExit, match=r"(?s)refused.*https://.*--data"):
        example(name)


def test_all_scripts_are_run_here():
    tested = Path(__file__).read_text()
    assert len(SCRIPTS) == 5
    for script in SCRIPTS:
        assert f'example("{script.stem}"' in tested
        assert script.stem in (EXAMPLES.parent / "docs" / "examples.md").read_text()
