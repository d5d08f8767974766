"""How often explain() finds the feature that was corrupted.

    python benchmarks/explanations.py [--shift 6]

Fits our detectors to made-up data of eight kinds (factors, clusters, curves and independent
features; 8 and 30 columns), shifts one feature of each of 300 fresh rows by so many standard
deviations, and prints in how many rows that feature contributes most: by ``explain``, and by the
squared residual of the network. Writes the figures to ``benchmarks/results``
(``explanations.csv``, ``.json``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from figures import Figures, parser_of

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.benchmarking.summary import environment
from pyod_ae_plugin.detectors import NeuralDetector

N_TRAINING, N_ROWS = 800, 300
Generator = np.random.Generator


def factors(n: int, d: int, rng: Generator, fixed: Generator) -> np.ndarray:
    """Rows that three factors make, with a little noise."""
    return rng.normal(size=(n, 3)) @ fixed.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d))


def clusters(n: int, d: int, rng: Generator, fixed: Generator) -> np.ndarray:
    """Three clusters apart from each other."""
    centers = 4 * fixed.normal(size=(3, d))
    return centers[rng.integers(0, 3, n)] + rng.normal(size=(n, d))


def curves(n: int, d: int, rng: Generator, fixed: Generator) -> np.ndarray:
    """A closed curve through all dimensions, with a little noise."""
    angle = rng.uniform(0, 2 * np.pi, size=(n, 1))
    frequency, phase = fixed.integers(1, 4, d), fixed.uniform(0, 2 * np.pi, d)
    return np.sin(frequency * angle + phase) + 0.1 * rng.normal(size=(n, d))


def independent(n: int, d: int, rng: Generator, fixed: Generator) -> np.ndarray:
    """Features that have nothing to do with each other."""
    return rng.normal(size=(n, d))


KINDS: tuple[Callable[..., np.ndarray], ...] = (factors, clusters, curves, independent)
WIDTHS = (8, 30)
DETECTORS: dict[str, Callable[..., NeuralDetector]] = {
    "AutoEncoder": AutoEncoder,
    "VAE": VAE,
    "AutoEncoderEnsemble": AutoEncoderEnsemble,
}
# None is the default head, joint_mahalanobis or with novelty=True kernel.
HEADS: dict[str, tuple[str | None, ...]] = {
    "AutoEncoder": (None, "euclidean"),
    "VAE": (None, "elbo"),
    "AutoEncoderEnsemble": (None,),
}
CASES = [
    (name, head, novelty)
    for name, heads in HEADS.items()
    for head in heads
    for novelty in (False, True)
]


def shares_found(
    name: str,
    head: str | None,
    novelty: bool,
    kind: Callable[..., np.ndarray],
    d: int,
    shift: float,
) -> tuple[float, float]:
    """Share of rows whose corrupted feature is on top, by explain and by the squared residual."""
    rng = np.random.default_rng(0)
    X = kind(N_TRAINING, d, rng, np.random.default_rng(1))
    rows = kind(N_ROWS, d, rng, np.random.default_rng(1))
    corrupted, sign = rng.integers(0, d, N_ROWS), rng.choice([-1, 1], N_ROWS)
    rows[np.arange(N_ROWS), corrupted] += sign * shift * X.std(0)[corrupted]
    detector = DETECTORS[name](score_head=head, novelty=novelty, device="cpu", verbose=0).fit(X)
    squares = ((detector.reconstruct(rows) - rows) / X.std(0)) ** 2
    found = (parts.argmax(1) == corrupted for parts in (detector.explain(rows), squares))
    by_explain, by_residual = (float(np.mean(hit)) for hit in found)
    return by_explain, by_residual


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--shift", type=float, default=6.0, help="in standard deviations")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    figures = Figures()
    for name, head, novelty in CASES:
        found = [
            shares_found(name, head, novelty, kind, d, arguments.shift)
            for kind in KINDS
            for d in WIDTHS
        ]
        case = f"{name}{'(novelty=True)' if novelty else ''}, {head or 'default head'}"
        for way, shares in zip(
            ("explain", "squared residual"), zip(*found, strict=True), strict=True
        ):
            figures.add(f"{case}: {way}, mean", float(np.mean(shares)))
            figures.add(f"{case}: {way}, lowest", min(shares))
    described = {**environment("explanations"), "shift": arguments.shift}
    figures.write(arguments.results / "explanations.csv", described)


if __name__ == "__main__":
    main()
