"""A plugin that wants the names of others."""

from pyod_ae_plugin import VAE, hookimpl


@hookimpl
def pyod_ae_detectors():
    return {"AutoEncoder": VAE}


@hookimpl
def pyod_ae_networks():
    return {"conv": None}
