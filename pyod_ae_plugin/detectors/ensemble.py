"""The ensemble of autoencoders."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from os import PathLike
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from pyod_ae_plugin.detectors.base import NeuralDetector, fitted_of
from pyod_ae_plugin.detectors.fit import Start, fit_model, rescored
from pyod_ae_plugin.detectors.inputs import TrainingRows
from pyod_ae_plugin.detectors.parameters import (
    COMMON_CONSTRAINTS,
    as_value,
    check_widths,
    seed_of,
)
from pyod_ae_plugin.detectors.recipe import (
    Recipe,
    build_head,
    corruptor,
    head_of,
    make_recipe,
    trim_of,
)
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.devices import default_settings
from pyod_ae_plugin.engine.objectives import (
    DrawnCodes,
    NegativeElbo,
    Objective,
    ReconstructionLoss,
)
from pyod_ae_plugin.engine.options import Corruption
from pyod_ae_plugin.engine.rows import Rows
from pyod_ae_plugin.fitted import Fitted
from pyod_ae_plugin.networks import Network, stacked_mlp
from pyod_ae_plugin.scoring import CombinedHead, ScoreHead
from pyod_ae_plugin.scoring.heads import COMBINATIONS

# The bottleneck is narrow where the members must not learn to reconstruct outliers.
_WIDTHS, _WIDTHS_FOR_NOVELTY = (64, 8), (64, 32)
_CORRUPTION, _CORRUPTION_FOR_NOVELTY = Corruption(mask=0.3), Corruption(noise=0.2)
# Widths of the codes of the variational members, in turn.
_VARIATIONAL_CODES = (3, 2, 4)


class AutoEncoderEnsemble(NeuralDetector):
    """Outlier detection by different autoencoders, trained at the same time as one stack.

    Every other member is a variational autoencoder, unless ``novelty=True``. Each has its own
    initial weights, training rows and batches, and they differ in bottleneck and corruption, so
    their errors differ [1]_ [3]_ [4]_. Their log scores are put on one scale, by those of the
    training rows, and combined.

    Parameters
    ----------
    n_estimators : int, default=3
        Members.
    contamination : float in (0, 0.5] or thresholder, default=0.1
        Share of outliers in the training rows, which sets the threshold; or a rule of
        :mod:`pyod_ae_plugin.thresholds` or a thresholder of :mod:`pyod.models.thresholds`.
    max_samples : int or None, default=4096
        Rows that each member is trained on, drawn without replacement for each; None is all. A
        fit then takes hardly longer for more rows.
    combination : {'average', 'maximization', 'median', 'aom', 'moa'}, default='average'
        How the members' scores are combined; see :mod:`pyod.models.combination`.
    warm_start : bool, default=False
        Whether a second call of fit keeps the members there are and adds new ones, up to
        ``n_estimators``.
    preprocessing : bool or 'robust', default=True
        Scale each feature: True by mean and standard deviation, 'robust' by median and quartiles.
        Extreme values count little in either, and a discrete feature's unit is at least its step
        over the square root of 2; see :class:`~pyod_ae_plugin.scoring.Standardize`.
    lr : float or None, default=None
        Highest learning rate; it rises to this in the first 30% of the steps, then falls to 0.
        Default: 2e-3 for a batch of 32 rows, growing with the square root of the batch size.
    epoch_num : int or None, default=None
        Passes over the training rows. Default: as many as make about 500 steps, but at least 5.
    batch_size : int or None, default=None
        Rows in a training step, in an ensemble for each member. None grows with the number of
        rows from 32 to 1,024.
    optimizer_name : {'adam', 'adamw', 'sgd'}, default='adam'
        Optimizer.
    device : str, torch.device or None, default=None
        Where to train and score; None is CUDA if there is a GPU, else the CPU.
    random_state : int, RandomState instance or None, default=42
        Seed of all random draws; an int gives the same detector each time.
    verbose : {0, 1, 2}, default=1
        Silent, a progress bar, or a line for each epoch.
    optimizer_params : dict or None, default=None
        ``weight_decay``, ``adam_eps``, ``sgd_momentum`` and ``sgd_nesterov``; each optimizer uses
        those that it has. Default: ``{'weight_decay': 1e-5}``.
    hidden_neuron_list : sequence of int or None, default=None
        Widths of the encoder's layers, the last of them the bottleneck, which is linear; the
        decoder mirrors them.
    hidden_activation_name : str, default='silu'
        One of 'elu', 'gelu', 'identity', 'leaky_relu', 'relu', 'sigmoid', 'silu', 'softmax',
        'softplus', 'tanh'.
    novelty : bool, default=False
        Whether the training rows are all normal. If not, ``trim`` keeps the network from learning
        to reconstruct outliers.
    trim : float in [0, 1) or None, default=None
        Share of the highest-loss rows of each batch that is left out of the gradient. Default: 0.3,
        or 0 with ``novelty=True``.
    corruption : Corruption, dict or None, default=None
        :class:`~pyod_ae_plugin.Corruption` of the encoder's input while training; the decoder has
        to reconstruct the uncorrupted rows (denoising autoencoder [2]_).
    score_head : str or None, default=None
        Name of a registered score head: 'euclidean', the length of the residual, as in PyOD;
        'mahalanobis', its length in the metric of the training residuals; 'joint_mahalanobis',
        that of residual and latent code; 'nearest_neighbor', the distance of both from the nearest
        of a sample of training rows; 'kernel', the distance of row and residual from their
        kernel regression on a sample of training rows; 'nll', the negative log likelihood
        (not in ensembles); 'reconstruction_probability' and 'elbo' (only in a VAE). Default:
        'joint_mahalanobis', or 'kernel' with ``novelty=True``.
    checkpoint : str, PathLike or None, default=None
        File for the state of training after each epoch. An interrupted fit resumes from it, to
        the same bits; a finished fit deletes it. Needs an int as ``random_state``.
    precision : {'float32', 'tf32', 'bfloat16'}, default='float32'
        Precision of the factors in matrix products when a GPU scores rows. A lower one is faster
        and changes scores; ``benchmarks/gpu.py`` prints by how much.
    held_out_threshold : bool, float in (0, 1) or None, default=None
        Keep this share of the rows from training, and set the threshold by their scores, which
        memorised rows do not lower. True: a tenth of the rows; with ``novelty=True`` at least 150
        of them, or half. None: True with ``novelty=True``, else False. Enables
        :meth:`predict_p_value`.
    on_divergence : {'raise', 'restart'}, default='raise'
        When the loss is not finite, raise a :class:`FloatingPointError`; or restart from the
        same initial weights at a tenth of the learning rate, at most three times, with warnings.
        'restart' also restarts where rows end up reconstructed worse than by their mean.
    missing : {'refuse', 'mask'} or None, default=None
        Treat NaN in X as an error, or as a missing value. A missing value is hidden from the
        encoder and left out of the loss. To score a row, it is filled by what the network
        reconstructs from the other values. Default: 'refuse', or 'mask' with ``columns``.
    columns : 'auto', dict or None, default=None
        Take tables of pandas, polars or Arrow as they are, with categories, times, gaps and ids:
        'auto' determines the role of each column, see :class:`~pyod_ae_plugin.columns.Columns`; a
        dict gives the roles of some columns, such as ``{'zip': 'category', 'note': 'drop'}``, and
        the others are determined. Default: X holds numbers.

    See Also
    --------
    pyod_ae_plugin.detectors.NeuralDetector : Attributes after fit, and methods.
    AutoEncoder : A single one, which is faster.

    Notes
    -----
    ``hidden_neuron_list`` is by default (64, 8), or (64, 32) with ``novelty=True``. The bottlenecks
    of variational members are 3, 2 and 4, by turns. Every other plain member is trained with
    ``corruption``, by default ``Corruption(mask=0.3)``, or ``Corruption(noise=0.2)`` with
    ``novelty=True``. The score head 'kernel' scores the members together, so that ``combination``
    has no effect.

    References
    ----------
    .. [1] Chen, J., Sathe, S., Aggarwal, C., & Turaga, D. (2017). Outlier Detection with
           Autoencoder Ensembles. SDM.
    .. [2] Vincent, P., et al. (2008). Extracting and Composing Robust Features with Denoising
           Autoencoders. ICML.
    .. [3] Ding, X., Zhao, L., & Akoglu, L. (2022). Hyperparameter Sensitivity in Deep Outlier
           Detection: Analysis and a Scalable Hyper-Ensemble Solution. NeurIPS.
    .. [4] Aggarwal, C. C., & Sathe, S. (2015). Theoretical Foundations and Algorithms for
           Outlier Ensembles. SIGKDD Explorations 17(1).

    Examples
    --------
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin import AutoEncoderEnsemble
    >>> X_train, X_test, y_train, y_test = generate_data(
    ...     n_train=500, n_test=100, n_features=5, random_state=0)
    >>> detector = AutoEncoderEnsemble(verbose=0, device="cpu").fit(X_train)
    >>> detector.decision_function(X_test).shape, detector.transform(X_test).shape
    ((100,), (100, 24))
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
    }

    def __init__(
        self,
        n_estimators: int = 3,
        contamination: Any = 0.1,
        max_samples: int | None = 4096,
        combination: str = "average",
        warm_start: bool = False,
        preprocessing: bool | str = True,
        lr: float | None = None,
        epoch_num: int | None = None,
        batch_size: int | None = None,
        optimizer_name: str = "adam",
        device: str | torch.device | None = None,
        random_state: Any = 42,
        verbose: int = 1,
        optimizer_params: Mapping[str, Any] | None = None,
        hidden_neuron_list: Sequence[int] | None = None,
        hidden_activation_name: str = "silu",
        novelty: bool = False,
        trim: float | None = None,
        corruption: Corruption | Mapping[str, float] | None = None,
        score_head: str | None = None,
        checkpoint: str | PathLike[str] | None = None,
        precision: Precision = "float32",
        held_out_threshold: bool | float | None = None,
        on_divergence: str = "raise",
        missing: str | None = None,
        columns: str | Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(contamination=contamination)
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.combination = combination
        self.warm_start = warm_start
        self.preprocessing = preprocessing
        self.lr = lr
        self.epoch_num = epoch_num
        self.batch_size = batch_size
        self.optimizer_name = optimizer_name
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.optimizer_params = optimizer_params
        self.hidden_neuron_list = hidden_neuron_list
        self.hidden_activation_name = hidden_activation_name
        self.novelty = novelty
        self.trim = trim
        self.corruption = corruption
        self.score_head = score_head
        self.checkpoint = checkpoint
        self.precision = precision
        self.held_out_threshold = held_out_threshold
        self.on_divergence = on_divergence
        self.missing = missing
        self.columns = columns

    def _check_params(self) -> None:
        super()._check_params()
        check_widths("hidden_neuron_list", self._widths())

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        n_members = len(next(v for name, v in state.items() if name.startswith("network.")))
        if n_members != self.n_estimators:
            raise ValueError(f"there are {n_members} members, and n_estimators={self.n_estimators}")

    def _widths(self) -> Sequence[int]:
        if self.hidden_neuron_list is not None:
            return self.hidden_neuron_list
        return _WIDTHS_FOR_NOVELTY if self.novelty else _WIDTHS

    def _recipe(self, n_features: int, members: range | None = None) -> Recipe:
        """What the parameters ask of a fit of all members, or of the members that are added."""
        members = range(self.n_estimators) if members is None else members
        n = len(members)
        largest = as_value(Corruption, self.corruption)
        if largest is None:
            largest = _CORRUPTION_FOR_NOVELTY if self.novelty else _CORRUPTION
        seed = seed_of(self.random_state) + members.start  # members that are added differ
        widths = self._widths()
        made = [member(i, widths[-1], largest, self.novelty) for i in members]
        codes = [m.n_latent for m in made]
        variational = None if self.novelty else [m.variational for m in made]
        corrupt = corruptor([m.corruption for m in made])
        objective: Objective = ReconstructionLoss(corrupt)
        if variational is not None:
            drawn = [m.n_latent * m.variational for m in made]
            objective = NegativeElbo(corrupt=corrupt, drawn=DrawnCodes(drawn, widths[-1]))

        def network(generator: torch.Generator, device: torch.device) -> Network:
            activation = self.hidden_activation_name
            with device:
                return stacked_mlp(n_features, widths, codes, variational, activation, generator)

        def head(network: Network) -> ScoreHead:
            of_members = build_head(head_of(self), network, n_features, (self.n_estimators,))
            if of_members.combines_members:
                return of_members
            return CombinedHead(of_members, self.n_estimators, self.combination)

        return make_recipe(
            self,
            network,
            head,
            objective,
            seed=seed,
            trim=[trim_of(self)] * n,
            n_members=n,
            rows_per_member=self.max_samples,
        )

    @default_settings()
    def _fit_function(self, rows: Rows, training: TrainingRows) -> Callable[[], Fitted]:
        if not self.warm_start or not hasattr(self, "scoring_module_"):
            return super()._fit_function(rows, training)
        earlier = self.scoring_module_
        n_before = len(next(earlier.network.parameters()))
        n_features = earlier.standardize.n_features
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
        recipe = self._recipe(n_features, range(n_before, self.n_estimators))
        if n_before == self.n_estimators:
            warnings.warn(
                f"There are {n_before} members already; raise n_estimators to add some.",
                stacklevel=3,
            )
            return partial(rescored, fitted_of(self), rows, recipe, **training.described)
        added = recipe.build_network(torch.Generator(), torch.device("meta"))
        if _structure(added) != _structure(earlier.network):
            raise ValueError(
                "warm_start=True adds members like those there are. Set hidden_neuron_list, "
                "hidden_activation_name and novelty back, or set warm_start=False."
            )
        standardize = copy.deepcopy(earlier.standardize).cpu()
        start = Start(standardize, members=earlier.network)
        return partial(fit_model, rows, recipe, start=start, **training.described)


def _structure(network: Network) -> list[object]:
    """Kinds of layers and widths, which members of one stack have in common."""
    kinds = [type(module) for module in network.modules()]
    return [*kinds, *(parameter.shape[1:] for parameter in network.parameters())]


@dataclass(frozen=True)
class Member:
    """What sets a member of an ensemble apart.

    Attributes
    ----------
    n_latent : int
        Width of its latent code.
    variational : bool
    corruption : Corruption
    """

    n_latent: int
    variational: bool
    corruption: Corruption


def member(i: int, bottleneck: int, corruption: Corruption, novelty: bool) -> Member:
    """The member with index ``i``, from 0.

    Examples
    --------
    >>> kinds = [member(i, 8, Corruption(mask=0.3), False) for i in range(4)]
    >>> [(m.n_latent, m.variational, m.corruption.mask) for m in kinds]
    [(8, False, 0.0), (3, True, 0.0), (8, False, 0.3), (2, True, 0.0)]
    """
    turn, is_odd = divmod(i, 2)
    if is_odd and not novelty:
        n_latent = min(_VARIATIONAL_CODES[turn % len(_VARIATIONAL_CODES)], bottleneck)
        return Member(n_latent, True, Corruption())
    is_corrupted = is_odd if novelty else turn % 2
    return Member(bottleneck, False, corruption if is_corrupted else Corruption())
