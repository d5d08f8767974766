"""
Outlier and novelty detection
=============================

The same autoencoder is trained in two ways on rows that hold outliers. With ``novelty=False``, the
default, each training step leaves out the rows with the highest losses, and the bottleneck is
narrow. With ``novelty=True`` all rows count as normal. The outliers here are all alike, which makes
them easy to learn.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

from pyod_ae_plugin import AutoEncoder

rng = np.random.default_rng(0)
mixing = rng.normal(size=(3, 12))


def rows(n, shift):
    """Return n rows of 12 features that depend on 3 factors, shifted by ``shift``."""
    return rng.normal(size=(n, 3)) @ mixing + 0.3 * rng.normal(size=(n, 12)) + shift


direction = 1.2 * rng.choice([-1, 1], size=12)
test = np.vstack([rows(500, 0), rows(500, direction)])
is_outlier = np.repeat([0, 1], 500)

# %%
# More and more outliers among 600 training rows
# ----------------------------------------------
# Both detectors score the same 1,000 other rows, half of them outliers of the same kind.

shares = [0, 0.02, 0.05, 0.1, 0.2, 0.3]
aucs = {False: [], True: []}
for share in shares:
    n_outliers = round(600 * share)
    train = np.vstack([rows(600 - n_outliers, 0), rows(n_outliers, direction)])
    for novelty, of_detector in aucs.items():
        detector = AutoEncoder(novelty=novelty, device="cpu", verbose=0).fit(train)
        of_detector.append(roc_auc_score(is_outlier, detector.decision_function(test)))

# %%
# Use novelty=True only with normal rows
# --------------------------------------
# With ``novelty=True`` even a few outliers among the training rows are learned. The default ignores
# them as long as their share is well below the share that it trims, 0.3 of each batch.

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.plot(shares, aucs[False], color="#0072B2", marker="o", label="novelty=False (default)")
axes.plot(shares, aucs[True], color="#D55E00", marker="s", linestyle="--", label="novelty=True")
axes.set(xlabel="Share of outliers among the training rows", ylabel="ROC AUC on other rows")
axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":", label="random scores")
axes.xaxis.set_major_formatter("{x:.0%}")
axes.legend()
axes.grid(alpha=0.3)
plt.show()
