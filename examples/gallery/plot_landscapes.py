"""
Score landscapes of AutoEncoder and VAE
=======================================

Two clusters of rows in two dimensions, and a few rows elsewhere. The shading is the anomaly score
of each point of the plane, by its rank among the scores drawn, and the line is the threshold.

By ``score_head="euclidean"`` the score is the reconstruction error alone. AutoEncoder, whose latent
code is one number here, rebuilds whatever lies on a curve through both clusters, and the curve goes
on beyond them. VAE pulls every row towards the mean. The default, ``"nearest_neighbor"``, also asks
whether a latent code is like those of training rows, and so ends the curve where these end.
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
# What they make of the plane
# ---------------------------

axis = np.linspace(-5, 5, 120)
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
    axes.scatter(*X[outlier].T, s=36, color="#D55E00", marker="x")
    axes.set(title=name, aspect="equal")
figure.suptitle(
    "Dots: labelled inliers. Crosses: labelled outliers. The darker, the more abnormal."
)
plt.show()
