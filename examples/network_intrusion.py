"""
Network intrusion
=================

The report "Deep Learning for Anomaly Detection" of Cloudera Fast Forward (2020) compares
autoencoders, PCA and one-class SVMs on the connections of KDD Cup 1999. Each is trained on normal
connections only, gets the threshold that is most accurate on labelled ones, and is judged on 8,000
normal ones and 2,000 attacks. Here is that with the detectors of this package, on all 41 columns
instead of 18, and with thresholds chosen on other rows.

Run it with the data that scikit-learn downloads, or with a file in the format of ``kddcup.data``::

    python examples/network_intrusion.py
    python examples/network_intrusion.py --data kddcup.data_10_percent.gz --output figures
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot
from pyod.models.ocsvm import OCSVM
from pyod.models.pca import PCA
from sklearn.datasets import fetch_kddcup99
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyod_ae_plugin import VAE, AutoEncoder
from pyod_ae_plugin.plots import plot_explanation, plot_scores

parser = argparse.ArgumentParser(description="Compare detectors of network attacks.")
parser.add_argument("--data", type=Path, help="file like kddcup.data[.gz]; else it is downloaded")
parser.add_argument("--output", type=Path, help="folder for the figures; without it, a window")
options = parser.parse_args()

# %%
# The data
# --------

COLUMNS = """
    duration protocol_type service flag src_bytes dst_bytes land wrong_fragment urgent hot
    num_failed_logins logged_in num_compromised root_shell su_attempted num_root num_file_creations
    num_shells num_access_files num_outbound_cmds is_host_login is_guest_login count srv_count
    serror_rate srv_serror_rate rerror_rate srv_rerror_rate same_srv_rate diff_srv_rate
    srv_diff_host_rate dst_host_count dst_host_srv_count dst_host_same_srv_rate
    dst_host_diff_srv_rate dst_host_same_src_port_rate dst_host_srv_diff_host_rate
    dst_host_serror_rate dst_host_srv_serror_rate dst_host_rerror_rate dst_host_srv_rerror_rate
    labels""".split()
CATEGORIES = ["protocol_type", "service", "flag"]


def load(path: Path | None) -> tuple[pd.DataFrame, pd.Series]:
    """Connections, and what kind each is: ``normal`` or the name of an attack."""
    if path is not None:
        frame = pd.read_csv(path, header=None)
        if frame.shape[1] != len(COLUMNS):
            raise SystemExit(f"{path} has {frame.shape[1]} columns, not {len(COLUMNS)}.")
        frame.columns = COLUMNS
    else:
        try:
            frame = fetch_kddcup99(percent10=True, as_frame=True).frame
        except OSError as error:
            raise SystemExit(
                f"No download ({error}). Get kddcup.data_10_percent.gz from "
                "https://kdd.ics.uci.edu/databases/kddcup99 and pass it as --data."
            ) from error
        texts = [*CATEGORIES, "labels"]
        frame[texts] = frame[texts].map(bytes.decode)
    kinds = frame.pop("labels").str.rstrip(".")
    return frame.astype(dict.fromkeys(frame.columns.drop(CATEGORIES), float)), kinds


connections, kinds = load(options.data)
print(f"{len(connections)} connections, {np.mean(kinds != 'normal'):.0%} of them attacks")

# %%
# Rows to learn from, to choose thresholds on and to judge by. In the last two a fifth are attacks.

rng = np.random.default_rng(0)
normal = rng.permutation(np.flatnonzero(kinds == "normal"))
attacks = rng.permutation(np.flatnonzero(kinds != "normal"))
n = min(10_000, len(normal) // 2)
train, rest = normal[:n], normal[n : 2 * n]
choose = np.r_[rest[: n // 5], attacks[: n // 20]]
judge = np.r_[rest[n // 5 :], attacks[n // 20 : n // 4]]

# %%
# Categories become columns of 0 and 1, amounts their logarithms.

X = pd.get_dummies(connections, columns=CATEGORIES, dtype=float)
amounts = ["duration", "src_bytes", "dst_bytes"]
X[amounts] = np.log1p(X[amounts])
X_train, X_choose, X_judge = (X.iloc[rows] for rows in (train, choose, judge))
y_choose, y_judge = ((kinds.iloc[rows] != "normal").to_numpy(int) for rows in (choose, judge))
print(f"{len(X_train)} training rows of {X_train.shape[1]} features, {len(X_judge)} to judge by")

# %%
# The comparison
# --------------
# PyOD's PCA divides by the variance of each component. Some have none, as columns of a category sum
# to 1 and others are constant on normal connections. Those that hold 99% of the variance are kept.

detectors = {
    "AutoEncoder": AutoEncoder(novelty=True, verbose=0),
    "VAE": VAE(novelty=True, verbose=0),
    "PyOD's PCA": PCA(n_components=0.99),
    "PyOD's OCSVM": make_pipeline(StandardScaler(), OCSVM()),
}
scores, table = {}, {}
for name, detector in detectors.items():
    start = time.perf_counter()
    scores[name] = detector.fit(X_train).decision_function(X_judge)
    seconds = time.perf_counter() - start
    false, true, thresholds = roc_curve(y_choose, detector.decision_function(X_choose))
    accuracies = true * y_choose.mean() + (1 - false) * (1 - y_choose.mean())
    found = scores[name] >= thresholds[accuracies.argmax()]
    table[name] = {
        "ROC AUC": roc_auc_score(y_judge, scores[name]),
        "accuracy": accuracy_score(y_judge, found),
        "precision": precision_score(y_judge, found),
        "recall": recall_score(y_judge, found),
        "seconds": seconds,
    }
print(pd.DataFrame(table).T.to_string(float_format="%.3f"))

# %%
# Figures
# -------
# The rate of false alarms is on a logarithmic axis: on a busy network one in a thousand is many.

figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
for (name, values), line in zip(scores.items(), ["-", "--", "-.", ":"], strict=True):
    left.plot(*roc_curve(y_judge, values)[:2], line, label=name)
left.set(xscale="log", xlabel="False positive rate", ylabel="True positive rate", title="ROC")
left.legend(loc="lower right")
plot_scores(detectors["AutoEncoder"], X_judge, y_judge, ax=right)
worst = int(scores["AutoEncoder"].argmax())
print(f"Most abnormal: {kinds.iloc[judge[worst]]}, see what makes it so")
why = plot_explanation(detectors["AutoEncoder"], X_judge, worst).figure

if options.output:
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output / "intrusion_curves.png")
    why.savefig(options.output / "intrusion_explanation.png")
pyplot.show()
