"""Detectors whose network is a model of the rows: what it codes, rebuilds and makes."""

from __future__ import annotations

import warnings
from functools import partial
from numbers import Integral
from typing import Any, overload

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.detectors.base import Trained
from pyod_ae_plugin.detectors.building import check_posterior
from pyod_ae_plugin.detectors.parameters import seed_of
from pyod_ae_plugin.detectors.scoring import Array
from pyod_ae_plugin.detectors.single import SingleNetworkDetector
from pyod_ae_plugin.engine.fitting import sample_tiles
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring.likelihood import (
    latent_usage,
    posterior,
    reconstruction_moments,
    sample,
)


class GenerativeDetector(SingleNetworkDetector):
    """Base class of the detectors whose codes have a posterior, and a standard normal prior."""

    kl_: Array
    active_units_: Array

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """Draw new rows from the learned distribution.

        A code is drawn from the standard normal prior, and a row from the normal distribution
        that the decoder gives for it: its mean and its variance per feature [1]_. What was learned
        is the distribution of the rows that training kept: fit with ``novelty=True`` where all
        rows shall count, else the ``trim`` share that is rebuilt worst is missing.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState instance or None, default=None
            An int gives the same rows at each call, None others. No global generator is touched.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the units of the training rows, float64.

        References
        ----------
        .. [1] Kingma, D. P., & Welling, M. (2014). Auto-Encoding Variational Bayes. ICLR.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import VAE
        >>> X = np.random.default_rng(0).normal([0, 50], [1, 10], size=(1000, 2))
        >>> rows = VAE(novelty=True, device="cpu", verbose=0).fit(X).sample(500, random_state=0)
        >>> rows.shape, bool(abs(rows[:, 1].mean() - 50) < 2)
        ((500, 2), True)
        """
        check_is_fitted(self, "scoring_module_")
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        generator = torch.Generator().manual_seed(seed_of(random_state))
        with torch.inference_mode():
            rows: Array = sample(self.scoring_module_, int(n_samples), generator).numpy()
        return rows

    def latent(self, X: Any) -> tuple[Array, Array]:
        """Posterior distributions of the codes of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows or others.

        Returns
        -------
        mu : ndarray of shape (n_samples, n_latent)
            Means, which :meth:`transform` gives, too.
        sigma : ndarray of shape (n_samples, n_latent)
            Standard deviations. In a latent dimension that is not used, mu is near 0 and sigma
            near 1 for every row.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import VAE
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> mu, sigma = VAE(latent_dim=2, device="cpu", verbose=0).fit(X).latent(X)
        >>> mu.shape, sigma.shape, bool((sigma > 0).all())
        ((300, 2), (300, 2), True)
        """
        check_is_fitted(self, "scoring_module_")
        moments = self._map(partial(posterior, self.scoring_module_), X)
        return moments[:, 0], moments[:, 1]

    @overload
    def reconstruct(self, X: Any, n_draws: None = None) -> Array: ...

    @overload
    def reconstruct(self, X: Any, n_draws: int) -> tuple[Array, Array]: ...

    def reconstruct(self, X: Any, n_draws: int | None = None) -> Array | tuple[Array, Array]:
        """Rows as the network rebuilds them, and how sure it is of each cell.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_draws : int or None, default=None
            None decodes the posterior mean. An int decodes so many draws from the posterior, and
            gives mean and standard deviation of what a row is rebuilt as, over codes and decoder.
            Draws are shared by all rows and the same at every call, so that a row has one answer.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_features)
            In the units of X, and finite; of values far out as in :meth:`transform`.
        std : ndarray of shape (n_samples, n_features)
            Only with ``n_draws``. The variance is that of the decoder's means plus the mean of
            the decoder's variances.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import VAE
        >>> X = np.random.default_rng(0).normal(size=(300, 5))
        >>> detector = VAE(device="cpu", verbose=0).fit(X)
        >>> mean, std = detector.reconstruct(X, n_draws=20)
        >>> mean.shape, std.shape, detector.reconstruct(X).shape
        ((300, 5), (300, 5), (300, 5))
        """
        if n_draws is None:
            return super().reconstruct(X)
        check_is_fitted(self, "scoring_module_")
        check_scalar(n_draws, "n_draws", Integral, min_val=1)
        # Not of random_state, which need not be a seed: they are nodes of an integral, as good
        # for one detector as for another.
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(int(n_draws), self._n_features_out, generator=generator)
        moments = self._map(partial(reconstruction_moments, self.scoring_module_, draws), X)
        return moments[:, 0], moments[:, 1]

    def _build_network(self, n_features: int, generator: torch.Generator) -> Network:
        network = super()._build_network(n_features, generator)
        check_posterior(network, n_features)
        return network

    def _learns_variance(self) -> bool:
        return True

    def _set_module(self, rows: Rows, trained: Trained) -> None:
        super()._set_module(rows, trained)
        module = self.scoring_module_
        with torch.inference_mode():
            usage = latent_usage(module.network, sample_tiles(rows, module), self._trim())
        self.kl_, self.active_units_ = (of_dimensions.cpu().numpy() for of_dimensions in usage)
        if not self.active_units_.any():
            warnings.warn(
                "Posterior collapse: no latent dimension is active, so that every row is rebuilt "
                "as about the same row. If the features depend on each other, a lower beta or a "
                "kl_warmup lets the network use its code; if not, there is nothing to code.",
                ConvergenceWarning,
                stacklevel=4,  # the line that calls fit, fit_batches or partial_fit
            )
        elif self.verbose == 2:
            print(
                f"Active latent dimensions: {self.active_units_.sum()} of {len(self.kl_)}, "
                f"KL={self.kl_.sum():.2f} nats"
            )
