"""
Credit-card fraud
=================

Two days of card payments, 284,807 of them, of which 492 are frauds (Dal Pozzolo et al., 2015).
The columns V1 to V28 are principal components of what the bank knows. Frauds are rare and change,
so the detector learns what normal payments look like; labels only help to choose a threshold.

Run it with the data of OpenML, or with ``creditcard.csv``, the file that Kaggle has::

    python examples/credit_card_fraud.py
    python examples/credit_card_fraud.py --data creditcard.csv --output figures
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot
from sklearn.datasets import fetch_openml
from sklearn.metrics import precision_score, recall_score

from pyod_ae_plugin import AutoEncoder
from pyod_ae_plugin.plots import plot_precision_recall, plot_scores, plot_top
from pyod_ae_plugin.thresholds import MeanStd, TopN

parser = argparse.ArgumentParser(description="Find frauds among card payments.")
parser.add_argument("--data", type=Path, help="creditcard.csv; without it, OpenML's data set 1597")
parser.add_argument("--output", type=Path, help="folder for the figures; without it, a window")
parser.add_argument("--review", type=int, default=100, help="payments a reviewer has time for")
parser.add_argument("--cost-missed", type=float, default=120, help="of a fraud that is missed")
parser.add_argument("--cost-false", type=float, default=5, help="of a false alarm")
options = parser.parse_args()


# %%
# The data
# --------
# OpenML leaves the column Time out; the rows are in the order of time.


def load(path: Path | None) -> tuple[pd.DataFrame, pd.Series]:
    """Payments in the order of time, and whether each is a fraud."""
    if path is not None:
        frame = pd.read_csv(path)
    else:
        try:
            frame = fetch_openml(data_id=1597, as_frame=True, parser="auto").frame
        except OSError as error:
            raise SystemExit(
                f"OpenML did not give the data ({error}). Download creditcard.csv from "
                "https://www.kaggle.com/datasets/mlg-ulb/creditcardfraud and pass "
                "--data creditcard.csv."
            ) from error
    expected = {*(f"V{i}" for i in range(1, 29)), "Amount", "Class"}
    if missing := expected - set(frame.columns):
        raise SystemExit(f"{path} has no column {', '.join(sorted(missing))}.")
    if "Time" in frame:
        frame = frame.sort_values("Time", kind="stable").drop(columns="Time")
    fraud = frame.pop("Class").astype(int)
    # A few payments are a thousand times as large as most.
    frame["Amount"] = np.log1p(frame["Amount"])
    return frame, fraud


payments, fraud = load(options.data)
print(f"{len(payments)} payments, {fraud.sum()} of them frauds")

# %%
# Three parts, one after the other as in use: the detector learns from the first, the threshold is
# chosen on the second, and the third says what it is worth.

first, second = int(0.6 * len(payments)), int(0.8 * len(payments))
X_train = payments[:first][fraud[:first] == 0]
X_choose, y_choose = payments[first:second], fraud[first:second]
X_test, y_test = payments[second:], fraud[second:]

# %%
# A detector of normal payments
# -----------------------------
# All training rows are normal, so ``novelty=True``. The threshold is the mean plus two standard
# deviations of the scores of rows held out from training: the network reconstructs the rows it was
# trained on a little better than others.

rule = MeanStd(k=2)
held_out = {"held_out_threshold": 0.2}
detector = AutoEncoder(novelty=True, contamination=rule, **held_out, verbose=0).fit(X_train)
alarms = detector.predict(X_test)
print(f"\nThreshold mean + 2 sd = {detector.threshold_:.3g}, on the last {len(X_test)} payments:")
kinds = y_test.map({0: "normal", 1: "fraud"}).rename("payment")
print(pd.crosstab(kinds, alarms, colnames=["alarm"]).to_string())
precision, recall = precision_score(y_test, alarms), recall_score(y_test, alarms)
print(f"precision {precision:.3f}, recall {recall:.3f}")

# %%
# The top of the list
# -------------------
# Where people look at alarms, it is their time that sets the threshold.

scores = detector.decision_function(X_test)
reviewed = TopN(options.review).fit(scores).labels_ == 1
n_found = y_test[reviewed].sum()
print(f"\nThe {reviewed.sum()} highest scores hold {n_found} of {y_test.sum()} frauds")

# %%
# What alarms cost
# ----------------
# A missed fraud costs what was paid, a false alarm costs work and an annoyed customer. The
# threshold that costs least is found on the second part and judged on the third.


def costs(threshold: float, scores: np.ndarray, labels: pd.Series) -> dict[str, float]:
    """Of rows with scores above a threshold."""
    flagged = scores > threshold
    false, missed = int((flagged & (labels == 0)).sum()), int((~flagged & (labels == 1)).sum())
    cost = missed * options.cost_missed + false * options.cost_false
    return {"alarms": flagged.sum(), "false": false, "missed": missed, "cost": cost}


steps = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
thresholds = [MeanStd(k=k).fit(detector.held_out_scores_).thresh_ for k in steps]
chosen_on = detector.decision_function(X_choose)
table = pd.DataFrame([costs(t, chosen_on, y_choose) for t in thresholds], index=steps)
print("\nmean + k sd, on the payments before those:")
print(table.rename_axis("k").to_string(float_format="%.0f"))
cheapest = table["cost"].idxmin()
cost = costs(thresholds[steps.index(cheapest)], scores, y_test)["cost"]
print(f"Cheapest: k = {cheapest}. On the last payments it costs {cost:.0f}, ", end="")
print(f"no alarms at all {y_test.sum() * options.cost_missed:.0f}")

# %%
# Figures
# -------

figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
plot_scores(detector, X_test, y_test, ax=left)
plot_precision_recall(detector, X_test, y_test, ax=right)
top = plot_top(detector, X_test, 10).figure

if options.output:
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output / "fraud_scores.png")
    top.savefig(options.output / "fraud_top.png")
pyplot.show()
