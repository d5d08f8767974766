"""
Network intrusion
=================

The report "Deep Learning for Anomaly Detection" of Cloudera Fast Forward (2020) compares
autoencoders, PCA and one-class SVMs on the connections of KDD Cup 1999. Each is trained on normal
connections only, gets the threshold that is most accurate on labelled connections, and is judged on
8,000 normal ones and 2,000 attacks. Here is that comparison with the detectors of this package. The
report took 18 of the columns and chose thresholds on the rows it judged by; here are all 41 columns,
and rows of their own for the thresholds.

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
from sklearn.compose import make_column_transformer
from sklearn.datasets import fetch_kddcup99
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from pyod_ae_plugin import VAE, AutoEncoder
from pyod_ae_plugin.plots import plot_explanation, plot_scores

parser = argparse.ArgumentParser(description="Compare detectors of network attacks.")
parser.add_argument("--data", type=Path, help="file like kddcup.data[.gz]; else it is downloaded")
parser.add_argument("--output", type=Path, help="folder for the figures; without it, a window")
parser.add_argument("--n-train", type=int, default=10_000, help="normal connections to learn from")
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
    labels
""".split()
CATEGORIES = ["protocol_type", "service", "flag"]
HEAVY_TAILS = ["duration", "src_bytes", "dst_bytes"]


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
                f"The data could not be downloaded ({error}). Get kddcup.data_10_percent.gz from "
                "https://kdd.ics.uci.edu/databases/kddcup99 and pass it as --data."
            ) from error
        for column in [*CATEGORIES, "labels"]:
            frame[column] = frame[column].str.decode("ascii")
    kinds = frame.pop("labels").str.rstrip(".")
    numbers = frame.columns.drop(CATEGORIES)
    return frame.astype(dict.fromkeys(numbers, float)), kinds


connections, kinds = load(options.data)
print(f"{len(connections)} connections, {np.mean(kinds != 'normal'):.0%} of them attacks")

# %%
# Rows to learn from, rows to choose thresholds on, rows to judge by. In the last two, one in five is
# an attack.

rng = np.random.default_rng(0)
normal = rng.permutation(np.flatnonzero(kinds == "normal"))
attacks = rng.permutation(np.flatnonzero(kinds != "normal"))
n_train = min(options.n_train, len(normal) // 2)
n_choose, n_judge = min(2_000, (len(normal) - n_train) // 5), 8_000
train, choose, judge = np.split(
    normal[: n_train + n_choose + n_judge], [n_train, n_train + n_choose]
)
choose = np.r_[choose, attacks[: len(choose) // 4]]
judge = np.r_[judge, attacks[n_choose // 4 :][: len(judge) // 4]]

# %%
# Categories become columns of 0 and 1, amounts their logarithms.

encode = make_column_transformer(
    (OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORIES),
    (FunctionTransformer(np.log1p, feature_names_out="one-to-one"), HEAVY_TAILS),
    remainder="passthrough",
    verbose_feature_names_out=False,
).set_output(transform="pandas")
X_train = encode.fit_transform(connections.iloc[train])
X_choose, X_judge = (encode.transform(connections.iloc[rows]) for rows in (choose, judge))
y_choose, y_judge = ((kinds.iloc[rows] != "normal").to_numpy(int) for rows in (choose, judge))
print(
    f"{X_train.shape[0]} training rows of {X_train.shape[1]} features, {len(X_judge)} to judge by"
)

# %%
# The comparison
# --------------
# All but the one-class SVM put the features on one scale themselves. PyOD's PCA divides by the
# variance of each component. Some have none, as columns of a category sum to 1 and some columns are
# constant on normal connections; it keeps those that hold 99% of the variance.

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
worst = int(np.where(y_judge == 1, scores["AutoEncoder"], -np.inf).argmax())
print(f"Most abnormal: {kinds.iloc[judge[worst]]}, see what makes it so")
why = plot_explanation(detectors["AutoEncoder"], X_judge, worst).figure

if options.output:
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output / "intrusion_curves.png")
    why.savefig(options.output / "intrusion_explanation.png")
pyplot.show()
