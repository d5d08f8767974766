"""The rules of docs/architecture.md that import-linter cannot hold."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from numpydoc.docscrape import ClassDoc

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble

PACKAGE = Path(__file__).parents[1] / "pyod_ae_plugin"
DETECTORS = (AutoEncoder, VAE, AutoEncoderEnsemble)


@pytest.mark.parametrize("Detector", DETECTORS)
def test_a_detector_has_at_most_two_classes_of_ours_above_it(Detector):
    ours = [c for c in Detector.__mro__ if c.__module__.startswith("pyod_ae_plugin")]
    assert len(ours) <= 3


def test_no_two_modules_have_one_name():
    names = Counter(path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    assert [name for name, n in names.items() if n > 1] == []


def test_private_names_of_detectors_stay_in_their_room():
    for path in PACKAGE.rglob("*.py"):
        if "detectors" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    is_private = re.match("_(?!_)", node.attr)
                    assert not (node.value.id == "detector" and is_private), (path.name, node.attr)


def test_parameters_that_detectors_share_are_described_in_the_same_words():
    described = {}
    for Detector in DETECTORS:
        for name, _, text in ClassDoc(Detector)["Parameters"]:
            described.setdefault(name, set()).add(" ".join(text))
    assert {name: texts for name, texts in described.items() if len(texts) > 1} == {}
