"""Tables in memory, the roles of their columns, and columns as a matrix for the network."""

from pyod_ae_plugin.columns.frames import Frame, Texts, frame_of
from pyod_ae_plugin.columns.matrix import Columns

__all__ = ["Columns", "Frame", "Texts", "frame_of"]
