"""Write docs/licences.md: the licences of what this package and its extras install.

    python .ci/licences.py

In an environment with all extras. Licences are what pip-licenses reads in the metadata of the
installed packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_FOR_USERS = ("all", "dev", "docs", "test")
PAGE = """# Licences

pyod_ae_plugin is under BSD 2-Clause. Below is what it installs, by which extra and under which
licence, as the metadata say of the versions in `constraints.txt` on Linux (x86-64, Python 3.11,
torch for CPUs). From PyPI torch also brings NVIDIA's CUDA libraries on Linux, which are not in the
list. `python .ci/licences.py` writes this page.

| Package | Licence | Installed by |
|---|---|---|
"""


def installed_by(requirements: Iterable[str], extras: Iterable[str] = ()) -> set[str]:
    """Names of the packages here that requirements install, and those that these require.

    ``extras`` are those of the package that has the requirements.
    """
    found: set[str] = set()
    waiting = [(Requirement(text), ("", *extras)) for text in requirements]
    seen = set()
    while waiting:
        requirement, asked = waiting.pop()
        name = canonicalize_name(requirement.name)
        marker, key = requirement.marker, (name, frozenset(requirement.extras))
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in asked):
            continue
        if key in seen:
            continue
        seen.add(key)
        try:
            its_own = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += [(Requirement(text), ("", *requirement.extras)) for text in its_own]
    return found


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"always": project["dependencies"], **project["optional-dependencies"]}
    by_group = {g: installed_by(r) for g, r in groups.items() if g not in NOT_FOR_USERS}
    names = sorted(set().union(*by_group.values()))
    read = subprocess.run(
        [sys.executable, "-m", "piplicenses", "--format", "json", "--packages", *names],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = []
    for package in json.loads(read.stdout):
        name = canonicalize_name(package["Name"])
        groups_of = [group for group, installed in by_group.items() if name in installed]
        by = "always" if "always" in groups_of else ", ".join(f"`{group}`" for group in groups_of)
        lines.append(f"| {package['Name']} | {package['License']} | {by} |\n")
    lines.sort(key=str.lower)
    (ROOT / "docs" / "licences.md").write_text(PAGE + "".join(lines))


if __name__ == "__main__":
    main()
