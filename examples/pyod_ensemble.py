"""
An ensemble with PyOD's detectors
=================================

On each data set another detector is best, and without labels one does not know which. A mix of
unlike ones may do well on all. Here our autoencoders, PyOD's isolation forest and its nearest
neighbours are combined: by averages of their scores, and by PyOD's SUOD. Each mix is compared with
its parts on data sets inside scikit-learn. All are trained on normal rows.

SUOD needs the extra ``ensembles``::

    python examples/pyod_ensemble.py --output figures
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot
from pyod.models.base import BaseDetector
from pyod.models.combination import average
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.suod import SUOD
from pyod.utils.utility import standardizer
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.metrics import average_precision_score

from pyod_ae_plugin import VAE, AutoEncoder
from pyod_ae_plugin.plots import plot_latent

parser = argparse.ArgumentParser(description="Combine our detectors with PyOD's.")
parser.add_argument("--output", type=Path, help="folder for the figures; without it, a window")
parser.add_argument("--draws", type=int, default=3, help="of training rows and of outliers")
options = parser.parse_args()

# %%
# The data
# --------
# Normal are benign tumours, two of three kinds of wine, and the digits 3, 5 and 8. Outliers are a
# few of the others.

SETS = {
    "breast cancer": (load_breast_cancer, [1]),
    "wine": (load_wine, [1, 2]),
    "digits": (load_digits, [3, 5, 8]),
}


def draw(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal rows for training, test rows, and the test rows' labels, 1 for outliers."""
    load, normal_classes = SETS[name]
    X, y = load(return_X_y=True)
    is_normal, rng = np.isin(y, normal_classes), np.random.default_rng(seed)
    normal, outliers = rng.permutation(X[is_normal]), rng.permutation(X[~is_normal])
    half = len(normal) // 2
    outliers = outliers[: max(half // 9, 8)]
    # Nearest neighbours need features on one scale; the others do not mind.
    X_train, X_test = standardizer(normal[:half], np.vstack([normal[half:], outliers]))
    return X_train, X_test, np.repeat([0, 1], [len(normal) - half, len(outliers)])


# %%
# The parts
# ---------


def new_parts(seed: int) -> dict[str, BaseDetector]:
    """Detectors that are not fitted."""
    return {
        "AutoEncoder": AutoEncoder(novelty=True, random_state=seed, verbose=0),
        "VAE": VAE(novelty=True, random_state=seed, verbose=0),
        "IForest": IForest(random_state=seed),
        "KNN": KNN(),
    }


# %%
# The mixes
# ---------
# Scores of different detectors are on different scales. ``standardizer`` measures those of the test
# rows in standard deviations of those of the training rows, and they are averaged. Where the scores
# of one detector have a long tail, the others have little say; so logarithms are averaged, too.
#
# SUOD averages as in the first case. It can fit in many processes (``n_jobs``), and saves time by
# random projections of the rows for PyOD's nearest neighbours.

results = []
for name in SETS:
    for seed in range(options.draws):
        X_train, X_test, y_test = draw(name, seed)
        parts = {part: new.fit(X_train) for part, new in new_parts(seed).items()}
        scores = {part: fitted.decision_function(X_test) for part, fitted in parts.items()}

        of_train = np.column_stack([part.decision_scores_ for part in parts.values()])
        of_test = np.column_stack(list(scores.values()))
        scores["average"] = average(standardizer(of_train, of_test)[1])
        lowest = of_train.min(axis=0)
        logs = np.log1p(of_train - lowest), np.log1p((of_test - lowest).clip(0))
        scores["average of logs"] = average(standardizer(*logs)[1])

        suod = SUOD(list(new_parts(seed).values()), n_jobs=1, bps_flag=False).fit(X_train)
        scores["SUOD"] = suod.decision_function(X_test)
        results += [(name, who, average_precision_score(y_test, s)) for who, s in scores.items()]

# %%
# Are the mixes better?
# ---------------------

results = pd.DataFrame(results, columns=["data", "detector", "average precision"])
table = results.pivot_table("average precision", "detector", "data", sort=False)
table["mean"] = table.mean(axis=1)
print(f"Average precision, mean of {options.draws} draws")
print(table.to_string(float_format="%.3f"))
is_part = table.index.isin(list(parts))
for title, rows in {"part": table[is_part], "mix": table[~is_part]}.items():
    best = rows["mean"].idxmax()
    print(f"Best {title} over all data sets: {best}, {rows['mean'].max():.3f}")

# %%
# Figures
# -------
# How far each is from the best on a data set. Right, what the autoencoder makes of the last digits.

behind = table.drop(columns="mean").rsub(table.drop(columns="mean").max())
figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
behind.plot.barh(ax=left, color=["#0072B2", "#E69F00", "#BBBBBB"], edgecolor="black", width=0.75)
left.axhline(is_part.sum() - 0.5, color="black", linestyle=":", linewidth=1)
left.invert_yaxis()
left.set(xlabel="Average precision below the best", ylabel="", title="Parts, and mixes of them")
left.spines[["top", "right"]].set_visible(False)
plot_latent(parts["AutoEncoder"], X_test, y_test, ax=right)

if options.output:
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output / "ensemble.png")
pyplot.show()
