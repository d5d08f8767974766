"""The autoencoder detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar

import torch

from pyod_ae_plugin.detectors.building import NetworkFactory
from pyod_ae_plugin.detectors.parameters import COMMON_CONSTRAINTS, check_widths
from pyod_ae_plugin.detectors.single import SingleNetworkDetector
from pyod_ae_plugin.engine.cuda.fused import Precision
from pyod_ae_plugin.engine.objectives import Objective, ReconstructionLoss

# The narrowest bottleneck there is cannot learn to rebuild the outliers among the training rows.
_WIDTHS, _WIDTHS_FOR_NOVELTY = (128, 64, 1), (128, 64, 32)


class AutoEncoder(SingleNetworkDetector):
    """Outlier detection by the reconstruction error of an autoencoder.

    An encoder narrows a row to a small latent code and a decoder rebuilds the row from it.
    Trained on mostly normal rows, the network rebuilds ordinary rows well and strange ones
    badly, so the reconstruction error is the anomaly score [1]_. The keywords of
    :class:`pyod.models.auto_encoder.AutoEncoder` are all accepted and mean the same.

    Parameters
    ----------
    contamination : float in (0, 0.5] or thresholder, default=0.1
        Share of outliers in the training rows, which sets the threshold; or an object of
        :mod:`pyod_ae_plugin.thresholds` or :mod:`pyod.models.thresholds`, which sets it from the
        scores.
    preprocessing : bool, default=True
        Standardise each feature to zero mean and unit variance.
    lr : float or None, default=None
        Highest learning rate; it rises to this in the first 30% of the steps, and falls to 0 in
        the others. None is 2e-3 for a batch of 32 rows and grows with the square root of the batch
        size.
    epoch_num : int or None, default=None
        Passes over the training rows; None makes about 500 steps, in no fewer than 5 passes.
    batch_size : int or None, default=None
        Rows in a training step; None grows with the data from 32 to 1,024.
    optimizer_name : {'adam', 'adamw', 'sgd'}, default='adam'
        Optimizer.
    device : str, torch.device or None, default=None
        Where to train and score; None is CUDA if there is a GPU, else the CPU.
    random_state : int, RandomState instance or None, default=42
        Seed of weights, shuffles and dropout. An int gives the same detector each time. No
        global generator is touched.
    use_compile : bool, default=False
        Train through :func:`torch.compile`.
    compile_mode : str, default='default'
        Mode of :func:`torch.compile`.
    verbose : {0, 1, 2}, default=1
        Silent, a progress bar, or a line for each epoch.
    optimizer_params : dict or None, default=None
        ``weight_decay``, ``adam_eps``, ``sgd_momentum`` and ``sgd_nesterov``, as far as the
        optimizer has them; None is ``{'weight_decay': 1e-5}``.
    hidden_neuron_list : sequence of int or None, default=None
        Widths of the encoder's layers, the last of them the bottleneck, which is linear; the
        decoder mirrors them. None is (128, 64, 1), too narrow for the outliers among the training
        rows, or (128, 64, 32) with ``novelty=True``.
    hidden_activation_name : str, default='silu'
        One of 'elu', 'gelu', 'identity', 'leaky_relu', 'relu', 'sigmoid', 'silu', 'softmax',
        'softplus', 'tanh'.
    batch_norm : bool, default=False
        Normalise hidden layers over the batch while training.
    dropout_rate : float in [0, 1), default=0.0
        Share of hidden outputs zeroed while training.
    novelty : bool, default=False
        Whether the training rows are all normal. If not, they may hold outliers, and ``trim``
        keeps the network from learning to rebuild them.
    trim : float in [0, 1) or None, default=None
        Share of the highest-loss rows of each batch left out of the gradient; None is 0.4, or
        0 with ``novelty=True``.
    mask : float in [0, 1) or None, default=None
        Share of the features of each row hidden from the encoder while training, at random; the
        decoder has to rebuild them (denoising autoencoder [2]_). None is 0.
    noise : float or None, default=None
        Standard deviation of normal noise added while training to what the encoder is given, in
        standard deviations of the features. None is 0.
    network : str or callable, default='mlp'
        Name of a registered network, or a function from ``n_features`` to a
        :class:`torch.nn.Module` with ``encode`` and ``decode``. It may name further parameters
        of the detector, which it is then given.
    input_shape : tuple of int or None, default=None
        Shape of the image in a row, (height, width) or (channels, height, width), for a network
        that asks for it. 'conv' does: it takes the widths of hidden layers for the channels of
        convolutions, each of which halves height and width.
    score_head : str, default='nearest_neighbor'
        Name of a registered score head: 'euclidean', the length of the residual, as PyOD has it;
        'mahalanobis', its length in the metric of the training residuals; 'joint_mahalanobis',
        that of residual and latent code together; 'nearest_neighbor', the distance of these from
        the nearest of a sample of training rows; 'nll', the negative log likelihood under a decoder
        that learns a variance per feature.
    early_stopping : bool, default=False
        Hold rows out and stop when their loss no longer falls; the best epoch is kept.
    validation_fraction : float in (0, 1), default=0.1
        Share of the training rows held out by early stopping, and, for themselves, by
        ``held_out_threshold``.
    n_iter_no_change : int, default=5
        Epochs without improvement after which early stopping stops.
    tol : float, default=1e-4
        Smallest change of the held-out loss that counts as improvement.
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
    on_divergence : {'raise', 'restart'}, default='raise'
        When the loss is no longer finite, raise a :class:`FloatingPointError`; or train anew from
        the same initial weights at a tenth of the learning rate, three times at most, with a
        warning each time. The latter also where rows end up rebuilt worse than by their mean.

    Attributes
    ----------
    decision_scores_ : ndarray of shape (n_samples,)
        Scores of the training rows; the larger, the more abnormal.
    threshold_ : float
        Rows with larger scores are outliers. With a thresholder, its own figure, on its scale.
    held_out_scores_ : ndarray of shape (n_held_out,)
        Scores, ascending, of the rows kept from training by ``held_out_threshold``.
    labels_ : ndarray of shape (n_samples,)
        0 for the inliers and 1 for the outliers among the training rows.
    model : torch.nn.Module
        The trained network.
    scoring_module_ : pyod_ae_plugin.scoring.ScoringModule
        All that was learned, as one module from raw rows to scores.
    lr_ : float
        Highest learning rate that was trained at; less than ``lr`` after restarts.
    history_ : dict of str to list of float
        ``'loss'`` of each epoch, and with early stopping ``'validation_loss'``.
    n_features_in_ : int
        Features seen in fit.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, where the training data had names.

    See Also
    --------
    VAE : The latent code as a distribution.
    AutoEncoderEnsemble : Many unlike ones.

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
    ((100,), (100, 1))
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
        preprocessing: bool = True,
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
        mask: float | None = None,
        noise: float | None = None,
        network: str | NetworkFactory = "mlp",
        input_shape: Sequence[int] | None = None,
        score_head: str = "nearest_neighbor",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        checkpoint: str | PathLike[str] | None = None,
        precision: Precision = "float32",
        held_out_threshold: bool = False,
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
            use_compile=use_compile,
            compile_mode=compile_mode,
            verbose=verbose,
            optimizer_params=optimizer_params,
            novelty=novelty,
            trim=trim,
            mask=mask,
            noise=noise,
            network=network,
            input_shape=input_shape,
            score_head=score_head,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            checkpoint=checkpoint,
            precision=precision,
            held_out_threshold=held_out_threshold,
            on_divergence=on_divergence,
        )
        self.hidden_neuron_list = hidden_neuron_list
        self.hidden_activation_name = hidden_activation_name
        self.batch_norm = batch_norm
        self.dropout_rate = dropout_rate

    def _check_params(self) -> None:
        super()._check_params()
        if self.hidden_neuron_list is not None:
            check_widths("hidden_neuron_list", self.hidden_neuron_list)

    def _network_params(self) -> dict[str, Any]:
        widths = self.hidden_neuron_list
        if widths is None:
            widths = _WIDTHS_FOR_NOVELTY if self.novelty else _WIDTHS
        return {**super()._network_params(), "hidden_neuron_list": widths}

    def _objective(self) -> Objective:
        return ReconstructionLoss(self._corruption(), self._learns_variance())
