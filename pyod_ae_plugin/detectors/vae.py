"""The variational autoencoder detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, overload

import torch
from sklearn.utils import check_scalar
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.detectors.base import NeuralDetector
from pyod_ae_plugin.detectors.parameters import (
    COMMON_CONSTRAINTS,
    LARGEST,
    check_clip,
    check_widths,
    seed_of,
)
from pyod_ae_plugin.detectors.recipe import (
    NetworkFactory,
    Recipe,
    check_image,
    corruptor,
    single_network_recipe,
)
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.devices import default_settings
from pyod_ae_plugin.engine.objectives import NegativeElbo
from pyod_ae_plugin.engine.options import Corruption, EarlyStopping
from pyod_ae_plugin.fitted import Array
from pyod_ae_plugin.networks.activations import ACTIVATIONS
from pyod_ae_plugin.scoring.likelihood import posterior, reconstruction_moments, sample


class VAE(NeuralDetector):
    """Outlier detection by the reconstruction error of a variational autoencoder.

    The encoder maps a row to a normal distribution over latent codes, with mean mu and log
    variance logvar; the decoder reconstructs the row from a code drawn from it. Training maximises
    the evidence lower bound (ELBO) [1]_, so that the latent space is continuous and normally
    distributed. The decoder also learns a variance per feature. Scoring decodes the posterior
    mean and so gives the same score at each call. The keywords of :class:`pyod.models.vae.VAE`
    are all accepted.

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
    beta : float, default=1.0
        Weight of the KL divergence from the standard normal prior [3]_.
    capacity : float or None, default=None
        Target of the KL divergence in nats, reached by annealing from 0 in the course of
        training: the KL term is then ``beta * abs(KL - C)`` [4]_. None sets no target. (PyOD
        clamps the KL term to [0, capacity], which at its default of 0 leaves no KL term.)
    encoder_neuron_list : sequence of int, default=(64,)
        Widths of the hidden layers of the encoder.
    decoder_neuron_list : sequence of int, default=(64,)
        Widths of the hidden layers of the decoder.
    latent_dim : int, default=3
        Width of the latent code.
    hidden_activation_name : str, default='silu'
        One of 'elu', 'gelu', 'identity', 'leaky_relu', 'relu', 'sigmoid', 'silu', 'softmax',
        'softplus', 'tanh'.
    output_activation_name : str, default='identity'
        Activation of the decoder's output, by the same names.
    batch_norm : bool, default=False
        Normalise hidden layers over the batch while training.
    dropout_rate : float in [0, 1), default=0.0
        Share of hidden outputs zeroed while training.
    logvar_clip : tuple of two floats or None, default=(-30.0, 20.0)
        Bounds of the posterior's log variance; None sets none.
    kl_warmup : float in [0, 1), default=0.0
        Share of the training steps in which the weight of the KL term rises in proportion from 0
        to ``beta`` [5]_ [6]_, so that the decoder learns to use the code first.
    novelty : bool, default=False
        Whether the training rows are all normal. If not, ``trim`` keeps the network from learning
        to reconstruct outliers.
    trim : float in [0, 1) or None, default=None
        Share of the highest-loss rows of each batch that is left out of the gradient. Default: 0.3,
        or 0 with ``novelty=True``.
    corruption : Corruption, dict or None, default=None
        :class:`~pyod_ae_plugin.Corruption` of the encoder's input while training; the decoder has
        to reconstruct the uncorrupted rows (denoising autoencoder [2]_).
    network : str or callable, default='variational_mlp'
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

    Attributes
    ----------
    kl_ : ndarray of shape (n_latent,)
        KL divergence of the posterior from the prior in each latent dimension, in nats: the mean
        over training rows without the ``trim`` share that is reconstructed worst. Of large tables
        it is that of at most 16,384 rows, spread evenly.
    active_units_ : ndarray of bool of shape (n_latent,)
        Latent dimensions in which the posterior mean varies over these rows, by more than 0.01
        [7]_. In the others the posterior has collapsed to the prior: they carry nothing. If no
        dimension is active, ``fit`` warns.

    See Also
    --------
    pyod_ae_plugin.detectors.NeuralDetector : Attributes after fit, and methods.
    AutoEncoder : The latent code as a point.

    Notes
    -----
    By default there is no corruption.

    References
    ----------
    .. [1] Kingma, D. P., & Welling, M. (2014). Auto-Encoding Variational Bayes. ICLR.
    .. [2] Vincent, P., et al. (2008). Extracting and Composing Robust Features with Denoising
           Autoencoders. ICML.
    .. [3] Higgins, I., et al. (2017). beta-VAE: Learning Basic Visual Concepts with a
           Constrained Variational Framework. ICLR.
    .. [4] Burgess, C. P., et al. (2018). Understanding disentangling in beta-VAE.
           arXiv:1804.03599.
    .. [5] Bowman, S. R., et al. (2016). Generating Sentences from a Continuous Space. CoNLL.
    .. [6] Sonderby, C. K., et al. (2016). Ladder Variational Autoencoders. NeurIPS.
    .. [7] Burda, Y., Grosse, R., & Salakhutdinov, R. (2016). Importance Weighted Autoencoders.
           ICLR.

    Examples
    --------
    >>> from pyod.utils.data import generate_data
    >>> from pyod_ae_plugin import VAE
    >>> X_train, X_test, y_train, y_test = generate_data(
    ...     n_train=500, n_test=100, n_features=5, random_state=0)
    >>> detector = VAE(verbose=0, device="cpu").fit(X_train)
    >>> detector.decision_function(X_test).shape, detector.transform(X_test).shape
    ((100,), (100, 3))
    >>> int(detector.labels_.sum())
    50
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **COMMON_CONSTRAINTS,
        "beta": [Interval(Real, 0, LARGEST, closed="both")],
        "capacity": [Interval(Real, 0, LARGEST, closed="both"), None],
        "encoder_neuron_list": ["array-like"],
        "decoder_neuron_list": ["array-like"],
        "kl_warmup": [Interval(Real, 0, 1, closed="left")],
        "latent_dim": [Interval(Integral, 1, None, closed="left")],
        "output_activation_name": [StrOptions(set(ACTIVATIONS))],
    }

    kl_: Array
    active_units_: Array

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
        beta: float = 1.0,
        capacity: float | None = None,
        encoder_neuron_list: Sequence[int] = (64,),
        decoder_neuron_list: Sequence[int] = (64,),
        latent_dim: int = 3,
        hidden_activation_name: str = "silu",
        output_activation_name: str = "identity",
        batch_norm: bool = False,
        dropout_rate: float = 0.0,
        logvar_clip: tuple[float, float] | None = (-30.0, 20.0),
        kl_warmup: float = 0.0,
        novelty: bool = False,
        trim: float | None = None,
        corruption: Corruption | Mapping[str, float] | None = None,
        network: str | NetworkFactory = "variational_mlp",
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
        self.beta = beta
        self.capacity = capacity
        self.encoder_neuron_list = encoder_neuron_list
        self.decoder_neuron_list = decoder_neuron_list
        self.latent_dim = latent_dim
        self.hidden_activation_name = hidden_activation_name
        self.output_activation_name = output_activation_name
        self.batch_norm = batch_norm
        self.dropout_rate = dropout_rate
        check_clip(logvar_clip)  # here, as PyOD does
        self.logvar_clip = logvar_clip
        self.kl_warmup = kl_warmup
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
        check_widths("encoder_neuron_list", self.encoder_neuron_list)
        check_widths("decoder_neuron_list", self.decoder_neuron_list)
        check_clip(self.logvar_clip)

    def _recipe(self, n_features: int) -> Recipe:
        return single_network_recipe(
            self,
            n_features,
            lambda corruption, _: NegativeElbo(
                self.beta, self.capacity, corruptor([corruption]), self.kl_warmup
            ),
            variational=True,
        )

    @default_settings()
    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """Draw new rows from the learned distribution.

        A code is drawn from the standard normal prior, and a row from the normal distribution
        that the decoder gives for it: its mean and its variance per feature [1]_. What was learned
        is the distribution of the rows that training kept: fit with ``novelty=True`` where all
        rows shall count, else the ``trim`` share that is reconstructed worst is missing.

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
        moments = self._map(partial(posterior, self._fitted_module()), X)
        return moments[:, 0], moments[:, 1]

    @overload
    def reconstruct(self, X: Any, n_draws: None = None) -> Any: ...

    @overload
    def reconstruct(self, X: Any, n_draws: int) -> tuple[Array, Array]: ...

    @default_settings()
    def reconstruct(self, X: Any, n_draws: int | None = None) -> Any:
        """Reconstruct rows, on request with the standard deviation of each cell.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_draws : int or None, default=None
            None decodes the posterior mean. An int decodes that many draws from the posterior. The
            mean and the standard deviation are those over the draws and the decoder's variance. All
            rows and all calls share the same draws, so that a row always has the same answer.

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
        columns = getattr(self, "columns_", None)
        if columns is not None and not columns.only_numbers:
            raise ValueError(
                "n_draws= gives standard deviations, which the categories and times of a table do "
                "not have. Leave it out, or fit to the numbers of the table alone."
            )
        moments = self._map(partial(reconstruction_moments, self.scoring_module_, draws), X)
        return moments[:, 0], moments[:, 1]
