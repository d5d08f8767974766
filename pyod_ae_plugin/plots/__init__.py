"""Figures of what a detector does, each drawn to one matplotlib Axes.

Colours are told apart by the colour-blind, and classes by markers and hatches as well, so that
nothing is lost in black and white.
"""

from pyod_ae_plugin.plots.curves import plot_precision_recall, plot_roc
from pyod_ae_plugin.plots.explanation import plot_explanation
from pyod_ae_plugin.plots.latent import plot_latent
from pyod_ae_plugin.plots.ranking import plot_top
from pyod_ae_plugin.plots.reconstruction import plot_images, plot_reconstruction
from pyod_ae_plugin.plots.scores import plot_scores
from pyod_ae_plugin.plots.training import plot_history

__all__ = [
    "plot_explanation",
    "plot_history",
    "plot_images",
    "plot_latent",
    "plot_precision_recall",
    "plot_reconstruction",
    "plot_roc",
    "plot_scores",
    "plot_top",
]
