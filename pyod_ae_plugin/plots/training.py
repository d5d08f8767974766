"""The training curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn.utils.validation import check_is_fitted

from pyod_ae_plugin.plots.style import BLUE, ORANGE, new_axes, without_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyod_ae_plugin.detectors.base import NeuralDetector


def plot_history(detector: NeuralDetector, ax: Axes | None = None) -> Axes:
    """Draw the loss of each epoch, and with early stopping that of the rows held out.

    Parameters
    ----------
    detector : AutoEncoder, VAE or AutoEncoderEnsemble
        Fitted.
    ax : matplotlib.axes.Axes or None, default=None
        Where to draw; None is the axes of a new figure of :mod:`matplotlib.pyplot`.

    Returns
    -------
    matplotlib.axes.Axes
        Those that were given, or the new ones.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from pyod_ae_plugin import AutoEncoder
    >>> from pyod_ae_plugin.plots import plot_history
    >>> X = np.random.default_rng(0).normal(size=(300, 5))
    >>> detector = AutoEncoder(epoch_num=20, device="cpu", verbose=0).fit(X)
    >>> axes = plot_history(detector, ax=Figure().add_subplot())
    >>> len(axes.lines[0].get_xdata())
    20
    """
    check_is_fitted(detector, "history_")
    ax = new_axes() if ax is None else ax
    history = detector.history_
    epochs = range(1, len(history["loss"]) + 1)
    ax.plot(epochs, history["loss"], color=BLUE, marker=".", label="training rows")
    if "validation_loss" in history:
        ax.plot(
            epochs,
            history["validation_loss"],
            color=ORANGE,
            linestyle="--",
            marker="x",
            label="rows held out",
        )
        ax.legend(frameon=False)
    ax.locator_params(axis="x", integer=True)
    ax.set(xlabel="Epoch", ylabel="Loss", title=f"Training of {type(detector).__name__}")
    without_frame(ax)
    return ax
