"""A plugin whose hook raises."""

from pyod_ae_plugin import hookimpl


@hookimpl
def pyod_ae_detectors():
    raise KeyError("faulty on purpose")
