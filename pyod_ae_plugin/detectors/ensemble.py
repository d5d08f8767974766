"""The ensemble of autoencoders."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral
from os import PathLike
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from pyod_ae_plugin.detectors.base import Plan
from pyod_ae_plugin.detectors.building import build_head
from pyod_ae_plugin.detectors.incremental import IncrementalDetector
from pyod_ae_plugin.detectors.members import draw_members
from pyod_ae_plugin.detectors.parameters import COMMON_CONSTRAINTS, check_widths
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.fitting import check_range
from pyod_ae_plugin.engine.objectives import Corruption, ReconstructionLoss
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.networks import Network, joined, stacked_mlp
from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.scoring import CombinedHead, ScoreHead, ScoringModule
from pyod_ae_plugin.scoring.combination import COMBINATIONS

# A member is less wide than the widest by weights that are zero, and only with these stay zero.
_ACTIVATIONS = {name for name, a in ACTIVATIONS.items() if a.maps_zero_to_zero}

# The bottleneck is narrow where the members must not learn to rebuild outliers.
_WIDTHS, _WIDTHS_FOR_NOVELTY = (96, 48, 8), (96, 48, 32)
_CORRUPTION, _CORRUPTION_FOR_NOVELTY = (0.3, 0.2), (0.0, 0.3)  # mask and noise


class AutoEncoderEnsemble(IncrementalDetector):
    """Outlier detection by many unlike autoencoders, trained at the same time as one stack.

    Each member has its own initial weights, training rows, batches, layer widths, bottleneck and
    corruption, so that the members err differently [1]_ [2]_ [3]_. Their log scores are put on one
    scale, by those of the training rows, and combined.

    Parameters
    ----------
    n_estimators : int, default=16
        Members.
    contamination : float in (0, 0.5] or thresholder, default=0.1
        Share of outliers in the training rows, which sets the threshold; or an object of
        :mod:`pyod_ae_plugin.thresholds` or :mod:`pyod.models.thresholds`, which sets it from the
        scores.
    max_samples : int or None, default=1024
        Rows that each member is trained on, drawn without replacement for each; None is all. A
        fit then takes hardly longer for more rows.
    combination : {'average', 'maximization', 'median', 'aom', 'moa'}, default='average'
        How the members' scores are combined; see :mod:`pyod.models.combination`.
    warm_start : bool, default=False
        Whether a second call of fit keeps the members there are and adds new ones, up to
        ``n_estimators``.
    preprocessing : bool, default=True
        Standardise each feature to zero mean and unit variance.
    lr : float or None, default=None
        Highest learning rate; it rises to this in the first 30% of the steps, and falls to 0 in
        the others. None is 4e-3 for a batch of 128 rows and grows with the square root of the batch
        size.
    epoch_num : int or None, default=None
        Passes of each member over its rows; None makes about 500 steps, in no fewer than 5 passes.
    batch_size : int or None, default=128
        Rows of each member in a training step; None grows with its rows from 32 to 1,024.
    optimizer_name : {'adam', 'adamw', 'sgd'}, default='adam'
        Optimizer.
    device : str, torch.device or None, default=None
        Where to train and score; None is CUDA if there is a GPU, else the CPU.
    random_state : int, RandomState instance or None, default=42
        Seed of all that is drawn. An int gives the same detector each time. No global generator
        is touched.
    verbose : {0, 1, 2}, default=1
        Silent, a progress bar, or a line for each epoch.
    optimizer_params : dict or None, default=None
        ``weight_decay``, ``adam_eps``, ``sgd_momentum`` and ``sgd_nesterov``, as far as the
        optimizer has them; None is ``{'weight_decay': 1e-5}``.
    hidden_neuron_list : sequence of int or None, default=None
        Largest widths of the encoders' layers, the last of them the bottleneck. The first member
        has these; another has half to all of each hidden layer, and a bottleneck from 1 up. None
        is (96, 48, 8), or (96, 48, 32) with ``novelty=True``.
    hidden_activation_name : str, default='silu'
        One of 'elu', 'gelu', 'identity', 'leaky_relu', 'relu', 'silu', 'tanh'.
    novelty : bool, default=False
        Whether the training rows are all normal. If not, they may hold outliers, and ``trim``
        keeps the networks from learning to rebuild them.
    trim : float in [0, 1) or None, default=None
        Share of the highest-loss rows of each batch left out of the gradient; None is 0.4, or
        0 with ``novelty=True``.
    mask : float in [0, 1) or None, default=None
        Largest share of features hidden from a member's encoder while training; the members'
        shares are spread evenly from 0. None is 0.3, or 0 with ``novelty=True``.
    noise : float or None, default=None
        Largest standard deviation of the noise that a member's encoder is given, likewise. None
        is 0.2, or 0.3 with ``novelty=True``.
    score_head : str, default='nearest_neighbor'
        'euclidean', 'mahalanobis', 'joint_mahalanobis' or 'nearest_neighbor', for each member.
    checkpoint : str, PathLike or None, default=None
        File in which the state of training is kept after each epoch. A fit that was broken off goes
        on from there, to the same bits; it is deleted when the fit is finished. Needs an int as
        ``random_state``.
    precision : {'float32', 'tf32', 'bfloat16'}, default='float32'
        Of the factors in matrix products when rows are scored on a GPU. Less is faster and changes
        scores: ``benchmarks/gpu.py`` prints by how much.
    held_out_threshold : bool, default=False
        Keep rows from training, a share of ``validation_fraction``, and set the threshold by their
        scores, so that it is not too low by what the network has memorised. It gives
        :meth:`predict_p_value`, too.
    validation_fraction : float in (0, 1), default=0.1
        Share of the rows kept from training by ``held_out_threshold``.
    on_divergence : {'raise', 'restart'}, default='raise'
        When the loss is no longer finite, raise a :class:`FloatingPointError`; or train anew from
        the same initial weights at a tenth of the learning rate, three times at most, with a
        warning each time. The latter also where rows end up rebuilt worse than by their mean.

    Attributes
    ----------
    decision_scores_ : ndarray of shape (n_samples,)
        Scores of the training rows; the larger, the more abnormal. 0 is an ordinary row.
    threshold_ : float
        Rows with larger scores are outliers. With a thresholder, its own figure, on its scale.
    held_out_scores_ : ndarray of shape (n_held_out,)
        Scores, ascending, of the rows kept from training by ``held_out_threshold``.
    labels_ : ndarray of shape (n_samples,)
        0 for the inliers and 1 for the outliers among the training rows.
    model : torch.nn.Module
        The trained networks as one.
    scoring_module_ : pyod_ae_plugin.scoring.ScoringModule
        All that was learned, as one module from raw rows to scores.
    lr_ : float
        Highest learning rate that was trained at; less than ``lr`` after restarts.
    history_ : dict of str to list of float
        ``'loss'`` of each epoch, the mean of the members'.
    n_features_in_ : int
        Features seen in fit.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, where the training data had names.

    See Also
    --------
    AutoEncoder : A single one, which is faster.

    References
    ----------
    .. [1] Chen, J., Sathe, S., Aggarwal, C., & Turaga, D. (2017). Outlier Detection with
           Autoencoder Ensembles. SDM.
    .. [2] Ding, X., Zhao, L., & Akoglu, L. (2022). Hyperparameter Sensitivity in Deep Outlier
           Detection: Analysis and a Scalable Hyper-Ensemble Solution. NeurIPS.
    .. [3] Aggarwal, C. C., & Sathe, S. (2015). Theoretical Foundations and Algorithms for
           Outlier Ensembles. SIGKDD Explorations 17(1).

    Examples
    --------
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin import AutoEncoderEnsemble
    >>> X_train, X_test, y_train, y_test = generate_data(
    ...     n_train=500, n_test=100, n_features=5, random_state=0)
    >>> detector = AutoEncoderEnsemble(n_estimators=4, verbose=0, device="cpu").fit(X_train)
    >>> detector.decision_function(X_test).shape, detector.transform(X_test).shape
    ((100,), (100, 32))
    >>> int(detector.labels_.sum())
    50
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **COMMON_CONSTRAINTS,
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "max_samples": [Interval(Integral, 1, None, closed="left"), None],
        "combination": [StrOptions(set(COMBINATIONS))],
        "warm_start": ["boolean"],
        "hidden_neuron_list": ["array-like", None],
        "hidden_activation_name": [StrOptions(_ACTIVATIONS)],
    }

    def __init__(
        self,
        n_estimators: int = 16,
        contamination: Any = 0.1,
        max_samples: int | None = 1024,
        combination: str = "average",
        warm_start: bool = False,
        preprocessing: bool = True,
        lr: float | None = None,
        epoch_num: int | None = None,
        batch_size: int | None = 128,
        optimizer_name: str = "adam",
        device: str | torch.device | None = None,
        random_state: Any = 42,
        verbose: int = 1,
        optimizer_params: Mapping[str, Any] | None = None,
        hidden_neuron_list: Sequence[int] | None = None,
        hidden_activation_name: str = "silu",
        novelty: bool = False,
        trim: float | None = None,
        mask: float | None = None,
        noise: float | None = None,
        score_head: str = "nearest_neighbor",
        checkpoint: str | PathLike[str] | None = None,
        precision: Precision = "float32",
        held_out_threshold: bool = False,
        validation_fraction: float = 0.1,
        on_divergence: str = "raise",
    ) -> None:
        super().__init__(
            contamination=contamination,
            preprocessing=preprocessing,
            lr=lr,
            epoch_num=epoch_num,
            batch_size=batch_size,
            optimizer_name=optimizer_name,
            device=device,
            random_state=random_state,
            verbose=verbose,
            optimizer_params=optimizer_params,
            novelty=novelty,
            trim=trim,
            mask=mask,
            noise=noise,
            score_head=score_head,
            checkpoint=checkpoint,
            precision=precision,
            held_out_threshold=held_out_threshold,
            validation_fraction=validation_fraction,
            on_divergence=on_divergence,
        )
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.combination = combination
        self.warm_start = warm_start
        self.hidden_neuron_list = hidden_neuron_list
        self.hidden_activation_name = hidden_activation_name

    def _check_params(self) -> None:
        super()._check_params()
        check_widths("hidden_neuron_list", self._widths())

    def restore(
        self,
        attributes: Mapping[str, Any],
        module_state: Mapping[str, Tensor],
        device: torch.device | None = None,
    ) -> None:
        """Make this a fitted detector again, of what :func:`pyod_ae_plugin.load_detector` read."""
        n_members = len(module_state["head.location"])
        if n_members != self.n_estimators:
            raise ValueError(f"there are {n_members} members, and n_estimators={self.n_estimators}")
        super().restore(attributes, module_state, device)

    def _widths(self) -> Sequence[int]:
        if self.hidden_neuron_list is not None:
            return self.hidden_neuron_list
        return _WIDTHS_FOR_NOVELTY if self.novelty else _WIDTHS

    def _fit_rows(self, rows: Rows) -> bool:
        earlier = getattr(self, "scoring_module_", None) if self.warm_start else None
        if earlier is None:
            return super()._fit_rows(rows)
        n_before, n_features = _n_members(earlier), earlier.standardize.n_features
        if rows.shape[1] != n_features:
            raise ValueError(
                f"warm_start=True adds to members of {n_features} features, but X has "
                f"{rows.shape[1]}. Pass rows of the same features, or set warm_start=False."
            )
        if n_before > self.n_estimators:
            raise ValueError(
                f"n_estimators={self.n_estimators} is less than the {n_before} members that "
                "warm_start=True keeps. Raise it, or set warm_start=False."
            )
        if n_before == self.n_estimators:
            warnings.warn(
                f"There are {n_before} members already; raise n_estimators to add some.",
                stacklevel=3,
            )
            return True
        standardize = copy.deepcopy(earlier.standardize).cpu()
        check_range(rows, standardize)
        added = self._train(rows, standardize, partial(self._plan, earlier=earlier))
        network = copy.deepcopy(earlier.network).to(added.generator.device)
        self._set_module(rows, added._replace(network=joined(network, added.network)))
        return added.completed

    def _plan(
        self,
        n_features: int,
        seed: int,
        generator: torch.Generator,
        earlier: ScoringModule | None = None,
    ) -> Plan:
        n_before = 0 if earlier is None else _n_members(earlier)
        n_members = self.n_estimators - n_before
        generator.manual_seed(seed + n_before)  # members that are added differ from the first
        corruption = _CORRUPTION_FOR_NOVELTY if self.novelty else _CORRUPTION
        members = draw_members(
            n_members, self._widths(), *self._corruption_shares(*corruption), seed + n_before
        )
        widths = [member.widths for member in members]
        corrupt = Corruption([m.mask for m in members], [m.noise for m in members])
        with torch.device(generator.device):
            network = stacked_mlp(n_features, widths, self.hidden_activation_name, generator)
        if earlier is not None and _structure(network) != _structure(earlier.network):
            raise ValueError(
                "warm_start=True adds members like those there are. Set hidden_neuron_list and "
                "hidden_activation_name back, or set warm_start=False."
            )
        options = self._training_options(
            trim=[self._trim()] * n_members,
            n_members=n_members,
            rows_per_member=self.max_samples,
        )
        return Plan(network, ReconstructionLoss(corrupt), options)

    def _build_network(self, n_features: int, generator: torch.Generator) -> Network:
        widths = [self._widths()] * self.n_estimators
        return stacked_mlp(n_features, widths, self.hidden_activation_name, generator)

    def _build_head(self, network: Network, n_features: int) -> ScoreHead:
        members = (self.n_estimators,)
        head = build_head(self.score_head, network, n_features, members)
        return CombinedHead(head, self.n_estimators, self.combination)


def _n_members(module: ScoringModule) -> int:
    return len(next(module.network.parameters()))


def _structure(network: Network) -> list[object]:
    """Kinds of layers and widths, which members of one stack have in common."""
    kinds = [type(module) for module in network.modules()]
    return [*kinds, *(parameter.shape[1:] for parameter in network.parameters())]
