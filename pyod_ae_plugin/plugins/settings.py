"""Creates detectors of any origin with what their callers set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyod.models.base import BaseDetector


def create_with(
    create: Callable[..., BaseDetector], n_features: int, **settings: Any
) -> BaseDetector:
    """Create a detector with those settings that it has.

    Parameters
    ----------
    create : callable
        Creates the detector of keywords.
    n_features : int
        Number of features of the rows that it will be given. Some detectors, such as PyOD's
        ``DeepSVDD``, cannot be created without it.
    **settings
        Keywords; those that the detector does not have are left out.

    Examples
    --------
    >>> from functools import partial
    >>> from pyod_ae_plugin import create_detector
    >>> create_with(partial(create_detector, "pyod.IForest"), 3, random_state=7).random_state
    7
    >>> create_with(partial(create_detector, "pyod.DeepSVDD"), 3, n_bins=5).n_features
    3
    """
    needed: dict[str, int] = {}
    try:
        detector = create()
    except TypeError:
        needed["n_features"] = n_features
        detector = create(**needed)
    known = detector.get_params(deep=False)
    # Anew, since PyOD's deep detectors take their seed when they are created.
    return create(**needed, **{k: v for k, v in settings.items() if k in known})
