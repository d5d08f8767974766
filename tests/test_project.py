"""Files of the project say the same of version, licence, address, Pythons and checks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyod_ae_plugin

yaml = pytest.importorskip("yaml", reason="comes with the extra docs")

ROOT = Path(__file__).parents[1]


def read(name):
    return (ROOT / name).read_text()


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    return tomllib.loads(read("pyproject.toml"))["project"]


def test_the_citation_is_of_this_version(project):
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == pyod_ae_plugin.__version__
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    assert citation["keywords"] == project["keywords"]
    assert citation["repository-code"] == project["urls"]["Source"]


def test_the_repository_has_one_address(project):
    source = project["urls"]["Source"]
    assert all(url.startswith(source) for url in project["urls"].values())
    form = yaml.safe_load(read(".github/ISSUE_TEMPLATE/config.yml"))
    assert form["contact_links"][0]["url"].startswith(f"{source}/security/")


def test_the_changelog_has_a_section_of_this_version():
    unreleased, *released = re.findall(r"^## (.+)$", read("CHANGELOG.md"), re.M)
    assert unreleased == "Unreleased"
    assert all(re.fullmatch(r"[\d.]+ \((\d{4}-\d\d-\d\d|not tagged yet)\)", r) for r in released)
    if ".dev" not in pyod_ae_plugin.__version__:
        assert released[0].split()[0] == pyod_ae_plugin.__version__


def test_pythons_that_are_claimed_are_tested(project):
    classifier = "Programming Language :: Python :: "
    claimed = re.findall(rf"{classifier}(3\.\d+)", "\n".join(project["classifiers"]))
    assert project["requires-python"] == f">={claimed[0]}"
    assert f"PYTHONS = {claimed}".replace("'", '"') in read("noxfile.py")
    job = yaml.safe_load(read(".github/workflows/tests.yml"))["jobs"]["quick"]
    run = job["strategy"]["matrix"]["python"]
    assert [python for python in run if python not in job["continue-on-error"]] == claimed
    for page in ("README.md", "CONTRIBUTING.md"):
        assert f"Python {claimed[0]} to {claimed[-1]}" in read(page)


def test_checks_before_a_commit_are_those_of_ci():
    (local,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    checks = [hook["entry"] for hook in local["hooks"]]
    assert " && ".join(checks) in read("CONTRIBUTING.md")
    assert "\n".join(checks) in read(".ci/run")


@pytest.mark.slow
def test_gpu_day_says_without_a_gpu_why_each_step_is_skipped(tmp_path):
    script = ROOT / "benchmarks" / "gpu_day.sh"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hidden = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(script), "all", str(tmp_path / "out")]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    steps = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    names = re.findall(r"^ *(?:step|measure) (\S+) \d+", script.read_text(), re.M)
    for tool in re.findall(r"for tool in (.+); do", script.read_text())[0].split():
        names.insert(names.index('"$tool"'), tool)
    names.remove('"$tool"')
    assert [line.split()[0] for line in steps] == names
    assert len(names) > 10
    for line in steps:
        assert line.endswith("skipped: torch sees no CUDA device"), line
