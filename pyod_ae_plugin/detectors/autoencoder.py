"""The autoencoder detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar

import torch

from pyod_ae_plugin.detectors.base import NeuralDetector
from pyod_ae_plugin.detectors.parameters import COMMON_CONSTRAINTS, check_widths
from pyod_ae_plugin.detectors.recipe import (
    NetworkFactory,
    Recipe,
    check_image,
    corruptor,
    single_network_recipe,
)
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.objectives import ReconstructionLoss
from pyod_ae_plugin.engine.options import Corruption, EarlyStopping

# The bottleneck is narrow where the network must not learn to reconstruct outliers.
_WIDTHS, _WIDTHS_FOR_NOVELTY = (64, 8), (64, 32)


class AutoEncoder(NeuralDetector):
    """Outlier detection by the reconstruction error of an autoencoder.

    An encoder narrows a row to a small latent code and a decoder reconstructs the row from it.
    Trained on mostly normal rows, the network reconstructs ordinary rows well and strange ones
    badly, so the reconstruction error is the anomaly score [1]_. The keywords of
    :class:`pyod.models.auto_encoder.AutoEncoder` are all accepted and mean the same.

    Parameters
    ----------
    contamination : float in (0, 0.5] or thresholder, default=0.1
        Share of outliers in the training rows, which sets the threshold; or a rule of
        :mod:`pyod_ae_plugin.thresholds` or a thresholder of :mod:`pyod.models.thresholds`.
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
    use_compile : bool, default=False
        Train through :func:`torch.compile`.
    compile_mode : str, default='default'
        Mode of :func:`torch.compile`.
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
    batch_norm : bool, default=False
        Normalise hidden layers over the batch while training.
    dropout_rate : float in [0, 1), default=0.0
        Share of hidden outputs zeroed while training.
    novelty : bool, default=False
        Whether the training rows are all normal. If not, ``trim`` keeps the network from learning
        to reconstruct outliers.
    trim : float in [0, 1) or None, default=None
        Share of the highest-loss rows of each batch that is left out of the gradient. Default: 0.3,
        or 0 with ``novelty=True``.
    corruption : Corruption, dict or None, default=None
        :class:`~pyod_ae_plugin.Corruption` of the encoder's input while training; the decoder has
        to reconstruct the uncorrupted rows (denoising autoencoder [2]_).
    network : str or callable, default='mlp'
        Name of a registered network, or a function from ``n_features`` to a
        :class:`torch.nn.Module` with ``encode`` and ``decode``, in a VAE also ``posterior``. It may
        name further parameters of the detector, which are passed to it.
    input_shape : tuple of int or None, default=None
        Shape of the image in a row, (height, width) or (channels, height, width), for the networks
        'conv' and 'variational_conv'. Their convolutions have as many channels as hidden layers
        have units, and each halves height and width.
    score_head : str or None, default=None
        Name of a registered score head: 'euclidean', the length of the residual, as in PyOD;
        'mahalanobis', its length in the metric of the training residuals; 'joint_mahalanobis',
        that of residual and latent code; 'nearest_neighbor', the distance of both from the nearest
        of a sample of training rows; 'kernel', the distance of row and residual from their
        kernel regression on a sample of training rows; 'nll', the negative log likelihood
        (not in ensembles); 'reconstruction_probability' and 'elbo' (only in a VAE). Default:
        'joint_mahalanobis', or 'kernel' with ``novelty=True``.
    early_stopping : bool, EarlyStopping or dict, default=False
        Stop when the loss of rows kept from training no longer falls, and return to the best
        epoch; True stands for the defaults of :class:`~pyod_ae_plugin.EarlyStopping`.
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
    VAE : The latent code as a distribution.
    AutoEncoderEnsemble : Several different autoencoders.

    Notes
    -----
    ``hidden_neuron_list`` is by default (64, 8), too narrow for the outliers among the training
    rows, or (64, 32) with ``novelty=True``. By default there is no corruption.

    References
    ----------
    .. [1] Aggarwal, C. C. (2015). Outlier Analysis, chapter 3. Springer.
    .. [2] Vincent, P., et al. (2008). Extracting and Composing Robust Features with Denoising
           Autoencoders. ICML.

    Examples
    --------
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin import AutoEncoder
    >>> X_train, X_test, y_train, y_test = generate_data(
    ...     n_train=500, n_test=100, n_features=5, random_state=0)
    >>> detector = AutoEncoder(verbose=0, device="cpu").fit(X_train)
    >>> detector.decision_function(X_test).shape, detector.transform(X_test).shape
    ((100,), (100, 8))
    >>> int(detector.labels_.sum())
    50
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **COMMON_CONSTRAINTS,
        "hidden_neuron_list": ["array-like", None],
    }

    def __init__(
        self,
        contamination: Any = 0.1,
        preprocessing: bool | str = True,
        lr: float | None = None,
        epoch_num: int | None = None,
        batch_size: int | None = None,
        optimizer_name: str = "adam",
        device: str | torch.device | None = None,
        random_state: Any = 42,
        use_compile: bool = False,
        compile_mode: str = "default",
        verbose: int = 1,
        optimizer_params: Mapping[str, Any] | None = None,
        hidden_neuron_list: Sequence[int] | None = None,
        hidden_activation_name: str = "silu",
        batch_norm: bool = False,
        dropout_rate: float = 0.0,
        novelty: bool = False,
        trim: float | None = None,
        corruption: Corruption | Mapping[str, float] | None = None,
        network: str | NetworkFactory = "mlp",
        input_shape: Sequence[int] | None = None,
        score_head: str | None = None,
        early_stopping: bool | EarlyStopping | Mapping[str, Any] = False,
        checkpoint: str | PathLike[str] | None = None,
        precision: Precision = "float32",
        held_out_threshold: bool | float | None = None,
        on_divergence: str = "raise",
        missing: str | None = None,
        columns: str | Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(contamination=contamination)
        self.preprocessing = preprocessing
        self.lr = lr
        self.epoch_num = epoch_num
        self.batch_size = batch_size
        self.optimizer_name = optimizer_name
        self.device = device
        self.random_state = random_state
        self.use_compile = use_compile
        self.compile_mode = compile_mode
        self.verbose = verbose
        self.optimizer_params = optimizer_params
        self.hidden_neuron_list = hidden_neuron_list
        self.hidden_activation_name = hidden_activation_name
        self.batch_norm = batch_norm
        self.dropout_rate = dropout_rate
        self.novelty = novelty
        self.trim = trim
        self.corruption = corruption
        self.network = network
        self.input_shape = input_shape
        self.score_head = score_head
        self.early_stopping = early_stopping
        self.checkpoint = checkpoint
        self.precision = precision
        self.held_out_threshold = held_out_threshold
        self.on_divergence = on_divergence
        self.missing = missing
        self.columns = columns

    def _check_params(self) -> None:
        super()._check_params()
        check_image(self.network, self.input_shape)
        if self.hidden_neuron_list is not None:
            check_widths("hidden_neuron_list", self.hidden_neuron_list)

    def _recipe(self, n_features: int) -> Recipe:
        widths = self.hidden_neuron_list
        if widths is None:
            widths = _WIDTHS_FOR_NOVELTY if self.novelty else _WIDTHS
        return single_network_recipe(
            self,
            n_features,
            lambda corruption, learn_variance: ReconstructionLoss(
                corruptor([corruption]), learn_variance
            ),
            hidden_neuron_list=widths,
        )
