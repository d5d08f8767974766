"""README and the tutorial in a fresh environment, with exactly what they install."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
LEFT_BEHIND = shutil.ignore_patterns(".*", "build", "generated", "__pycache__", "*.egg-info")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.fixture
def shell(tmp_path):
    """Run a command in a copy of the repository, where no package but Python's own is there."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=LEFT_BEHIND)
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = [clone / ".venv" / "bin", Path(sys.executable).parent, kept["PATH"]]
    env = {**kept, "PATH": os.pathsep.join(map(str, path)), "COLUMNS": "80"}

    def run(command):
        done = subprocess.run(
            ["bash", "-c", command], cwd=clone, env=env, capture_output=True, text=True
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
    shell("python3 -m venv .venv")
    (install,) = re.findall(r"^\$ (.*)$", blocks(TUTORIAL, "console")[0], re.M)
    shell(install)
    shell(f"python - <<'END'\n{''.join(blocks(TUTORIAL, 'python'))}\nEND")
