"""How often check_drift alarms where nothing has drifted, and where something has.

    python benchmarks/drift.py [--seeds 20]

Fits our detectors to made-up rows of several shapes, the first third of the features discrete, and
checks 1,000 fresh rows of the same distribution at alpha=0.05: by the features alone, by features
and scores with half of the rows held out, and, as check_drift does not, by the scores of the rows
that the detector was trained on. Then shifts one feature of 30 by so many of its standard
deviations. Writes the figures to ``benchmarks/results`` (``drift.csv``, ``.json``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from figures import RESULTS, Figures
from scipy.stats import ks_2samp

from pyod_ae_plugin import VAE, AutoEncoder
from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.detectors import NeuralDetector

ALPHA, N_NEW = 0.05, 1_000
SHAPES = ((100, 5), (1_000, 30), (10_000, 5), (10_000, 100))
DETECTORS: dict[str, Callable[..., NeuralDetector]] = {
    "AutoEncoder": AutoEncoder,
    "AutoEncoder, novelty": lambda **params: AutoEncoder(novelty=True, **params),
    "VAE": VAE,
}


def drawn(seed: int, *counts: int, d: int) -> list[np.ndarray]:
    """So many rows, again and again, of a distribution that a seed makes."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(max(d // 5, 2), d))
    tables = []
    for n in counts:
        rows = rng.normal(size=(n, len(mixing))) @ mixing + 0.3 * rng.normal(size=(n, d))
        rows[:, : d // 3] = rows[:, : d // 3].round()
        tables.append(rows)
    return tables


def false_alarms(name: str, n: int, d: int, seeds: int, figures: Figures) -> None:
    found: dict[str, list[bool]] = {"features": [], "rows held out": [], "scores of training": []}
    for seed in range(seeds):
        X, new = drawn(seed, n, N_NEW, d=d)
        params = {"verbose": 0, "device": "cpu", "random_state": seed}
        plain = DETECTORS[name](**params).fit(X)
        apart = DETECTORS[name](held_out_threshold=0.5, **params).fit(X)
        found["features"].append(plain.check_drift(new, ALPHA).drifted)
        found["rows held out"].append(apart.check_drift(new, ALPHA).drifted)
        compared = ks_2samp(plain.decision_scores_, plain.decision_function(new), method="asymp")
        found["scores of training"].append(compared.pvalue <= ALPHA)
    for what, alarms in found.items():
        figures.add(f"{name}, {n} x {d}, false alarms, {what}", float(np.mean(alarms)))


def power(shift: float, n_new: int, seeds: int, figures: Figures) -> None:
    found = []
    for seed in range(seeds):
        X, new = drawn(seed, 3_000, n_new, d=30)
        new[:, 20] += shift * X[:, 20].std()
        detector = AutoEncoder(verbose=0, device="cpu", epoch_num=1).fit(X)
        found.append("x20" in detector.check_drift(new, ALPHA).drifted_features)
    figures.add(
        f"{n_new} rows, one feature of 30 shifted by {shift} sd, found", float(np.mean(found))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    figures = Figures()
    for name in DETECTORS:
        for n, d in SHAPES:
            false_alarms(name, n, d, seeds, figures)
    for shift in (0.1, 0.2, 0.5):
        for n_new in (100, 1_000, 10_000):
            power(shift, n_new, seeds, figures)
    figures.write(RESULTS / "drift.csv", {**environment("drift"), "seeds": seeds})


if __name__ == "__main__":
    main()
