"""Write models of this version, which later versions must read: tests/test_earlier_models.py.

Run it once for each release, with the version that is released::

    python tests/data/make_models.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_earlier_models import CASES, MODELS, rows_of

from pyod_ae_plugin import __version__


def main() -> None:
    """Fit and save a small detector of each kind."""
    for name, make in CASES.items():
        detector = make()
        detector.fit(rows_of(detector)).save(MODELS / f"{__version__}-{name}.safetensors")


if __name__ == "__main__":
    main()
