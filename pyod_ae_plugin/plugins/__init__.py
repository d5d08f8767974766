"""The plugin system: other packages add detectors, networks and score heads by name."""

from pyod_ae_plugin.plugins.hookspecs import hookimpl
from pyod_ae_plugin.plugins.manager import create_detector, detector_names

__all__ = ["create_detector", "detector_names", "hookimpl"]
