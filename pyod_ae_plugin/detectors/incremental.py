"""Fitting and scoring rows that come piece by piece."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyod_ae_plugin.detectors.base import Plan
from pyod_ae_plugin.detectors.parameters import seed_of
from pyod_ae_plugin.detectors.reporting import ReportingDetector
from pyod_ae_plugin.detectors.rows import as_rows, validate_rows
from pyod_ae_plugin.detectors.running import unchanged_on_error
from pyod_ae_plugin.detectors.scoring import Array
from pyod_ae_plugin.engine.fitting import check_range
from pyod_ae_plugin.engine.rows import Rows, RowSample, row_tiles
from pyod_ae_plugin.networks import Network
from pyod_ae_plugin.scoring import Moments, Standardize

if TYPE_CHECKING:
    from typing_extensions import Self

# Values of the rows that are kept: 64 MiB of float64.
_CELLS_KEPT = 2**23
_LEAST_ROWS_KEPT = 1024


class Stream(NamedTuple):
    """What is kept of rows that came piece by piece.

    Attributes
    ----------
    sample : RowSample
    moments : Moments or None
        None where the standardisation is that of an earlier fit.
    generator : torch.Generator
        Draws the sample.
    network : torch.nn.Module or None
        As it was trained; None before that.
    """

    sample: RowSample
    moments: Moments | None
    generator: torch.Generator
    network: Network | None

    def added(self, X: Array) -> Stream:
        """Return what is kept of these rows as well."""
        rows, moments, sample = as_rows(X), copy.deepcopy(self.moments), self.sample
        for tile in row_tiles(rows):
            if moments is not None:
                moments.update(tile)
            sample = sample.added(tile, self.generator)
        return self._replace(sample=sample, moments=moments)


class IncrementalDetector(ReportingDetector):
    """Base class of detectors that learn from data larger than memory, or not yet complete.

    Of the rows a uniform sample is kept, of 64 MiB of float64 numbers (2**23 of them), and the
    moments of all. The network learns from the sample. As long as it holds all rows, the detector
    is that of a fit to them.

    Examples
    --------
    >>> from pyod_ae_plugin import VAE
    >>> from pyod_ae_plugin.detectors import IncrementalDetector
    >>> isinstance(VAE(), IncrementalDetector)
    True
    """

    def fit_batches(self, batches: Iterable[Any]) -> Self:
        """Fit the detector to rows that come in batches.

        Mean and standard deviation are those of all rows [1]_. The network is trained on a uniform
        sample of 2**23 values, or on all rows if they are fewer; ``fit`` would then give the same
        detector. If they are more, a second pass over the batches scores them all.

        Parameters
        ----------
        batches : iterable of array-likes of shape (n, n_features)
            Gone through twice at most. If it can be gone through only once, as a generator can,
            and has more rows than are kept, then ``decision_scores_``, ``threshold_`` and
            ``labels_`` are those of the sample.

        Returns
        -------
        self : object
            The detector, as ``fit`` returns it.

        Raises
        ------
        ValueError, TypeError
            If a parameter or a batch is not usable; the detector stays as it was.

        References
        ----------
        .. [1] Chan, T. F., Golub, G. H., & LeVeque, R. J. (1983). Algorithms for Computing the
               Sample Variance: Analysis and Recommendations. The American Statistician 37(3).

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> batches = np.random.default_rng(0).normal(size=(10, 100, 5))
        >>> detector = AutoEncoder(verbose=0).fit_batches(batches)
        >>> detector.decision_scores_.shape
        (1000,)
        """
        with unchanged_on_error(self):
            self._check_params()
            self.__dict__.pop("_stream", None)
            stream: Stream | None = None
            for batch in batches:
                X = validate_rows(self, batch, reset=stream is None)
                stream = (stream or self._new_stream(X.shape[1])).added(X)
            if stream is None:
                raise ValueError("fit_batches was given no batches.")
            sample, rows = stream.sample, stream.sample.rows()
            completed, held_out = self._fit_stream(stream, rows)
            if sample.is_complete or isinstance(batches, Iterator):
                scores = self._score(rows.numpy())
            else:
                scores = self._scores_of_all(batches, sample.n_seen)
            self._set_scores(scores, held_out)
        self._end_fit(completed)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Go on learning from more rows.

        The first call fits the detector to X. Each later one updates mean and standard deviation
        and the sample of all rows seen so far, trains the network further on the sample, for a
        share of the usual passes that is the share of the rows that are new, and fits score head
        and threshold to the sample anew. ``decision_scores_`` and ``labels_`` are those of the
        sample, which is all rows, in order, up to 2**23 values.

        After ``fit``, and after loading, no earlier rows are there: the network goes on from what
        it was, the standardisation stays, and score head and threshold are learned from the rows
        given since. So give as many as describe the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The rows to learn from besides those of earlier calls.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : object
            The detector, as ``fit`` returns it.

        Raises
        ------
        ValueError, TypeError
            If a parameter or X is not usable; the detector stays as it was.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> rng = np.random.default_rng(0)
        >>> detector = AutoEncoder(verbose=0)
        >>> for day in range(2):
        ...     detector = detector.partial_fit(rng.normal(size=(200, 5)))
        >>> detector.decision_scores_.shape
        (400,)
        """
        with unchanged_on_error(self):
            self._check_params()
            first = not hasattr(self, "scoring_module_")
            X = validate_rows(self, X, reset=first)
            stream = getattr(self, "_stream", None)
            if stream is None:
                stream = self._new_stream(X.shape[1])
                if not first:
                    network = copy.deepcopy(self.scoring_module_.network).requires_grad_(True)
                    stream = stream._replace(moments=None, network=network)
            stream = stream.added(X)
            rows, share = stream.sample.rows(), len(X) / stream.sample.n_seen
            completed, held_out = self._fit_stream(stream, rows, share=share, keep=True)
            self._set_scores(self._score(rows.numpy()), held_out)
        self._end_fit(completed)
        return self

    def score_batches(self, batches: Iterable[Any]) -> Iterator[Array]:
        """Anomaly scores of rows that come in batches, as they come.

        Parameters
        ----------
        batches : iterable of array-likes of shape (n, n_features)
            Gone through once, one batch at a time.

        Returns
        -------
        iterator of ndarray of shape (n,)
            What ``decision_function`` gives for each batch, when it is asked for.

        Examples
        --------
        >>> import numpy as np
        >>> from pyod_ae_plugin import AutoEncoder
        >>> batches = np.random.default_rng(0).normal(size=(4, 100, 5))
        >>> detector = AutoEncoder(verbose=0).fit_batches(batches)
        >>> [len(scores) for scores in detector.score_batches(batches)]
        [100, 100, 100, 100]
        """
        check_is_fitted(self, "scoring_module_")
        return map(self.decision_function, batches)

    def _scores_of_all(self, batches: Iterable[Any], n: int) -> Array:
        scores, stop = np.empty(n), 0
        for of_batch in self.score_batches(batches):
            start, stop = stop, stop + len(of_batch)
            if stop <= n:
                scores[start:stop] = of_batch
        if stop != n:
            raise ValueError(
                f"The batches held {n} rows in the first pass and {stop} in the second. Pass what "
                "gives the same batches each time it is gone through."
            )
        return scores

    def _new_stream(self, n_features: int) -> Stream:
        capacity = max(_CELLS_KEPT // n_features, _LEAST_ROWS_KEPT)
        generator = torch.Generator().manual_seed(seed_of(self.random_state))
        moments = Moments(n_features) if self.preprocessing else None
        return Stream(RowSample(capacity), moments, generator, None)

    def _fit_stream(
        self, stream: Stream, sample: Tensor, share: float = 1.0, keep: bool = False
    ) -> tuple[bool, Rows | None]:
        """Fit the scoring module to the sample of a stream.

        Return whether training came to its end, and the rows that were held out.
        """
        self._set_drift_reference(sample)
        rows, held_out = self._split(sample)
        standardize = self._standardize_for(stream, rows.shape[1])
        if stream.moments is None:
            check_range(rows, standardize)

        def plan(n_features: int, seed: int, generator: torch.Generator) -> Plan:
            planned = self._plan(n_features, seed, generator)
            if stream.network is None:
                return planned
            generator.manual_seed(seed + stream.sample.n_seen)
            options = replace(planned.options, epoch_fraction=share)
            return Plan(copy.deepcopy(stream.network), planned.objective, options)

        with self._private_randomness():
            trained = self._train(rows, standardize, plan, resumable=stream.network is None)
            if keep:
                self._stream = stream._replace(network=copy.deepcopy(trained.network))
            self._set_module(rows, trained)
        return trained.completed, held_out

    def _standardize_for(self, stream: Stream, n_features: int) -> Standardize:
        if stream.moments is None and stream.network is not None and self.preprocessing:
            return copy.deepcopy(self.scoring_module_.standardize).cpu()
        standardize = Standardize(n_features)
        if stream.moments is not None:
            standardize.fit(stream.moments)
        return standardize
