"""README and the tutorial in a fresh environment, with exactly what they install.

Only this package is installed by pip. What it requires is linked from the environment of the
tests, which takes a second instead of minutes. ``.ci/release`` lets pip install all.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="runs bash and makes symbolic links"),
]

ROOT = Path(__file__).parents[1]
README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
LEFT_BEHIND = shutil.ignore_patterns(".*", "build", "generated", "__pycache__", "*.egg-info")
OWN = "pyod-ae-plugin"
PIP = [sys.executable, "-m", "pip"]
ALONE = ["--quiet", "--no-deps", "--no-index"]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def required(requirement, found):
    """Add the names of the distributions to ``found`` that a requirement asks for, with extras."""
    wanted = Requirement(requirement)
    key = canonicalize_name(wanted.name), frozenset(wanted.extras)
    if key in found:
        return
    found.add(key)
    for other in map(Requirement, distribution(wanted.name).requires or ()):
        extras = wanted.extras or {""}
        if other.marker is None or any(other.marker.evaluate({"extra": e}) for e in extras):
            required(str(other), found)


def link(names, folder):
    """Link the files of distributions into a folder."""
    for held in map(distribution, names):
        for file in held.files:
            target = folder / file
            if ".." not in file.parts and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(held.locate_file(file))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the repository, and a wheel of it in ``dist``."""
    clone = tmp_path_factory.mktemp("first_steps") / "clone"
    shutil.copytree(ROOT, clone, ignore=LEFT_BEHIND)
    build = [*PIP, "wheel", *ALONE, "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run(build, cwd=clone, check=True)
    return clone


@pytest.fixture
def shell(clone, tmp_path):
    """Run a command in a copy of the repository, with no packages but those that it installs."""
    folder = tmp_path / "clone"
    shutil.copytree(clone, folder)
    environment = folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = environment / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = os.pathsep.join([str(environment / "bin"), kept["PATH"]])

    def install(words):
        found = set()
        for word in shlex.split(words):
            if word not in ("-c", "constraints.txt", "-q"):
                required(re.sub(r"^\.", OWN, word), found)
        names = {name for name, _ in found}
        if OWN in names:
            (wheel,) = (clone / "dist").glob("*.whl")
            into = [*PIP, "--python", environment, "install", *ALONE, wheel]
            subprocess.run(into, env=kept, check=True)
        link(names - {OWN}, site)

    def run(command):
        command = command.strip().removeprefix("python3 -m venv .venv && ")
        pattern = r"(?:\S*pip install (.+?)(?: && |$))?(.*)"
        packages, rest = re.fullmatch(pattern, command, re.S).groups()
        if packages:
            install(packages)
        done = subprocess.run(
            ["bash", "-c", rest],
            cwd=folder,
            env={**kept, "PATH": path, "COLUMNS": "80"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run


def without_numbers(text):
    """Its lines, without numbers and spaces, which differ a little where the processor does."""
    return [re.sub(r"[\s\d.,─━]+", "", line) for line in text.splitlines()]


def test_the_readme(shell):
    shell(blocks(README, "sh")[0])
    for part in blocks(README, "console")[0].split("\n\n"):
        command, printed = part.split("\n", 1)
        assert set(without_numbers(printed)) <= set(without_numbers(shell(command[2:])))
    shell("pip install -q -c constraints.txt pandas")
    (code,) = blocks(README, "python")
    shell(f"python - <<'END'\n{code}\nEND")


def test_the_tutorial(shell):
    (install,) = re.findall(r"^\$ (.*)$", blocks(TUTORIAL, "console")[0], re.M)
    shell(install)
    shell(f"python - <<'END'\n{''.join(blocks(TUTORIAL, 'python'))}\nEND")
