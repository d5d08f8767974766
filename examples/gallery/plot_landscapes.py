"""
Score landscapes of AutoEncoder and VAE
=======================================

Rows form two clusters in the plane, and a few lie elsewhere. The shading is the anomaly score of
each point, as its rank among the scores drawn. The line is the threshold.

With ``score_head="euclidean"`` the score is the length of the residual alone. AutoEncoder, whose
latent code is one number here, reconstructs every point of a curve through both clusters, and the
curve goes on beyond them. VAE pulls every row towards the mean. ``"nearest_neighbor"`` also
compares the latent code with those of training rows, so the curve ends where these end.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import rankdata

from pyod_ae_plugin import VAE, AutoEncoder

rng = np.random.default_rng(0)
clusters = [rng.normal(center, 0.5, size=(190, 2)) for center in [(-2.5, -1.5), (2.5, 1.5)]]
X = np.vstack([*clusters, rng.uniform(-5, 5, size=(20, 2))])

# %%
# Four detectors, all fitted to the same rows
# -------------------------------------------
# The share of outliers is known here: 20 of 400 rows.

detectors = {
    f"{kind.__name__}, {score_head}": kind(
        contamination=0.05, score_head=score_head, device="cpu", verbose=0
    ).fit(X)
    for score_head in ("euclidean", "nearest_neighbor")
    for kind in (AutoEncoder, VAE)
}

# %%
# Scores in the plane
# -------------------

axis = np.linspace(-5.5, 5.5, 120)
plane = np.stack(np.meshgrid(axis, axis), axis=-1)

figure, panels = plt.subplots(2, 2, figsize=(8, 8), sharex=True, sharey=True, layout="constrained")
for axes, (name, detector) in zip(panels.flat, detectors.items(), strict=True):
    scores = detector.decision_function(plane.reshape(-1, 2))
    shades = rankdata(scores).reshape(120, 120) / scores.size
    axes.contourf(axis, axis, shades, levels=20, cmap="Greys", vmax=1.3)
    boundary = [detector.threshold_]
    axes.contour(axis, axis, scores.reshape(120, 120), levels=boundary, colors="#0072B2")
    outlier = detector.labels_ == 1
    axes.scatter(*X[~outlier].T, s=8, color="#0072B2")
    axes.scatter(*X[outlier].T, s=60, color="#D55E00", marker="X", edgecolor="white")
    axes.set(title=name, aspect="equal")
figure.suptitle("Dots: inliers. Crosses: outliers. Line: threshold. Darker: higher score.")
plt.show()
