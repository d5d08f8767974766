"""
Handwritten letters
===================

A detector learns one letter, written by many hands, and then judges images of it and of another
letter. The example compares a dense and a convolutional network, and shows what they reconstruct.

The letters are those of EMNIST (Cohen et al., 2017). OpenML has them in ``EMNIST_Balanced``. Files
of the split "letters" in the IDX format, as NIST distributes them, are read from a folder::

    python examples/handwritten_letters.py
    python examples/handwritten_letters.py --data gzip --normal O --anomaly Q --output figures
"""

import argparse
import gzip
import math
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from sklearn.datasets import fetch_openml
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import AutoEncoder
from pyod_ae_plugin.plots import plot_images, plot_scores

parser = argparse.ArgumentParser(description="Find a letter among images of another.")
parser.add_argument("--data", type=Path, help="folder of emnist-letters-train-*-ubyte[.gz]")
parser.add_argument("--normal", default="A", help="letter to learn from")
parser.add_argument("--anomaly", default="H", help="letter to find")
parser.add_argument("--output", type=Path, help="folder for the figures; without it, a window")
options = parser.parse_args()
SHAPE = (28, 28)

# %%
# The data
# --------
# An IDX file starts with two zero bytes, a byte for the type (8: unsigned bytes) and one for the
# number of dimensions. Their sizes follow, big-endian in four bytes each, and then the values.


def read_idx(path: Path) -> np.ndarray:
    """Array in an IDX file of unsigned bytes, gzipped or not."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise SystemExit(
            f"{path} is no IDX file of bytes: it starts with {content[:4].hex(' ')}, not 00 00 08."
        )
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist()) if len(content) >= start else ()
    if len(content) != start + math.prod(shape):
        raise SystemExit(
            f"{path} has {len(content)} bytes; with its shape {shape} it should have "
            f"{start + math.prod(shape)}. It was cut off, or is no IDX file."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def load(folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 784], strokes 1 on 0, and their letters [n]."""
    if folder is not None:
        files = [f"emnist-letters-train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        found = [next(folder.glob(f"{name}*"), None) for name in files]
        if None in found:
            raise SystemExit(f"{folder} has no file {files[found.index(None)]}[.gz].")
        images, labels = map(read_idx, found)
        if images.shape != (len(labels), *SHAPE):
            raise SystemExit(f"{len(labels)} labels do not go with images of shape {images.shape}.")
        first = 1  # A is 1, Z is 26
    else:
        try:
            images, labels = fetch_openml(data_id=41039, as_frame=False, return_X_y=True)
        except OSError as error:
            raise SystemExit(
                f"OpenML did not give the data ({error}). Download and unpack gzip.zip from "
                "https://www.nist.gov/itl/products-and-services/emnist-dataset and pass its folder "
                "as --data."
            ) from error
        first = 10  # 0 to 9 are digits, then come A to Z, then small letters
    letters = labels.astype(int) - first
    # EMNIST stores the columns of an image one after the other.
    images = images.reshape(-1, *SHAPE).transpose(0, 2, 1).reshape(-1, math.prod(SHAPE))
    return images / np.float32(255), letters


images, letters = load(options.data)
normal = images[letters == ord(options.normal) - ord("A")]
anomalies = images[letters == ord(options.anomaly) - ord("A")]
print(f"{len(normal)} images of {options.normal}, {len(anomalies)} of {options.anomaly}")
if min(len(normal), len(anomalies)) < 20:
    raise SystemExit("That is too few. --normal and --anomaly take a letter from A to Z.")

# %%
# Every fifth image is kept for the test, with as many of the other letter.

n_test = len(normal) // 5
X_train = normal[n_test:]
X_test = np.vstack([normal[:n_test], anomalies[:n_test]])
y_test = np.repeat([0, 1], [n_test, len(X_test) - n_test])

# %%
# Two networks
# ------------
# The convolutions have 16 and 32 channels; the code of both networks has 32 numbers. Pixels are on
# one scale already: with ``preprocessing=True``, a stray stroke where all training images are blank
# would count most. The threshold is what 5% of the normal images held out of training exceed.

shared = {"novelty": True, "preprocessing": False, "contamination": 0.05, "verbose": 0}
shared |= {"held_out_threshold": 0.2}
detectors = {
    "dense": AutoEncoder(hidden_neuron_list=[128, 64, 32], **shared),
    "convolutional": AutoEncoder(
        network="conv", input_shape=SHAPE, hidden_neuron_list=[16, 32, 32], **shared
    ),
}
for name, detector in detectors.items():
    scores = detector.fit(X_train).decision_function(X_test)
    found = detector.predict(X_test) == 1
    print(f"{name:>13}: ROC AUC {roc_auc_score(y_test, scores):.3f}, alarms at", end=" ")
    print(f"{found[y_test == 1].mean():.0%} of {options.anomaly}", end=" and ")
    print(f"{found[y_test == 0].mean():.0%} of {options.normal}")

# %%
# Reconstructions
# ---------------
# Each image, its reconstruction, and the residual. The number is the score.

some = np.r_[0:6, len(X_test) - 6 : len(X_test)]
reconstructions, axes = pyplot.subplots(2, 1, figsize=(12, 6.8), layout="constrained")
for ax, (name, detector) in zip(axes, detectors.items(), strict=True):
    plot_images(detector, X_test[some], SHAPE, ax=ax).set_title(name)

# %%
# How well they tell them apart
# -----------------------------

histograms, axes = pyplot.subplots(1, 2, figsize=(12, 4), layout="constrained")
for ax, (name, detector) in zip(axes, detectors.items(), strict=True):
    plot_scores(detector, X_test, y_test, ax=ax).set_title(name)

if options.output:
    options.output.mkdir(parents=True, exist_ok=True)
    reconstructions.savefig(options.output / "letters_reconstructed.png")
    histograms.savefig(options.output / "letters_scores.png")
pyplot.show()
