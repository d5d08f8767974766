"""What this package adds, by name. Imports are inside, so that listing names stays cheap."""

from pyod_ae_plugin import hookimpl


@hookimpl
def pyod_ae_detectors() -> dict[str, type]:
    """Detectors, each under the name of its class."""
    from ae_template.detector import TiedAutoEncoder

    return {"TiedAutoEncoder": TiedAutoEncoder}


@hookimpl
def pyod_ae_networks() -> dict[str, type]:
    """Networks, for ``network=``."""
    from ae_template.network import TiedNetwork

    return {"tied": TiedNetwork}


@hookimpl
def pyod_ae_score_heads() -> dict[str, type]:
    """Score heads, for ``score_head=``."""
    from ae_template.score_head import ScaledL1

    return {"scaled_l1": ScaledL1}
