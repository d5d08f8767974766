"""Check what sdists and wheels hold.

python .ci/archives.py dist/*
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

NAME = "pyod_ae_plugin"


def problems(archive: str) -> list[str]:
    """Say what a wheel or an sdist lacks, and what it should not have."""
    if archive.endswith(".whl"):
        with zipfile.ZipFile(archive) as wheel:
            names = wheel.namelist()
        wanted = {f"{NAME}/__init__.py", f"{NAME}/py.typed", f"{NAME}/report/page.html"}
        metadata = f"{Path(archive).name.split('-py3')[0]}.dist-info/"
        wanted |= {f"{metadata}licenses/LICENSE", f"{metadata}entry_points.txt"}
        strange = [name for name in names if not name.startswith((f"{NAME}/", metadata))]
    else:
        with tarfile.open(archive) as sdist:
            names = [member.name.partition("/")[2] for member in sdist if member.isfile()]
        wanted = {"LICENSE", "README.md", "pyproject.toml", "setup.cfg", f"{NAME}/py.typed"}
        strange = [name for name in names if name.startswith(("benchmarks/", "docs/", "tests/"))]
    strange += [name for name in names if "__pycache__" in name]
    missing = sorted(wanted.difference(names))
    return [f"{archive} lacks {name}" for name in missing] + [
        f"{archive} should not have {name}" for name in strange
    ]


if __name__ == "__main__":
    sys.exit("\n".join(found for archive in sys.argv[1:] for found in problems(archive)) or None)
