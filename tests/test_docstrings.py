"""Every public name has a numpydoc docstring that says all a caller needs, with an example.

Public are the names on ``docs/reference.md``. The rule for methods: those that a user calls, which
are the public methods and properties that this package gives to detectors and threshold rules. The
methods of torch modules are called by the engine; the class says what they map.
"""

import inspect
import re
from ast import literal_eval
from importlib import import_module
from pathlib import Path

import pytest
from numpydoc.validate import validate

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference.md").read_text()

# What numpydoc checks and is not asked for here.
SWITCHED_OFF = {
    "GL01",  # the summary stands in the line of the quotes, as ruff's D212 has it
    "ES01",  # a summary may say all there is
    "SA01",  # not everything has a counterpart to see
    "SS05",  # "Reconstructions of rows" is no third person
    "RT02",  # "self : object", as in scikit-learn
    "PR09",  # a description may end in a bracket
    "GL08",  # ruff's D rules hold that there is a docstring
}
# The parameters of these are those of every detector, which documents them.
BASES = {"pyod_ae_plugin.detectors.NeuralDetector", "pyod_ae_plugin.detectors.IncrementalDetector"}
# How load_detector puts a detector together; no user calls them.
FOR_LOADING = {"fitted_attributes", "restore"}


def public_names():
    for module, block in re.findall(r"currentmodule:: ([\w.]+)\n(.*?)```", PAGE, re.S):
        for name in re.findall(r"^   ([\w.]+)$", block, re.M):
            yield f"{module}.{name}"


def called_by_users():
    from pyod_ae_plugin.detectors import NeuralDetector
    from pyod_ae_plugin.thresholds import ThresholdRule

    seen = set()  # methods, which several classes inherit
    for name in public_names():
        yield name
        thing = found(name)
        if inspect.isclass(thing) and issubclass(thing, NeuralDetector | ThresholdRule):
            for member, value in inspect.getmembers(thing):
                function = getattr(value, "__func__", getattr(value, "fget", value))
                ours = str(getattr(function, "__module__", "")).startswith("pyod_ae_plugin")
                if ours and not member.startswith("_") and member not in FOR_LOADING | seen:
                    seen.add(member)
                    yield f"{name}.{member}"


def found(name):
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def test_the_page_names_all_that_the_packages_export():
    listed = set(public_names())
    for package in ("", ".detectors", ".networks", ".scoring", ".plugins"):
        module = import_module(f"pyod_ae_plugin{package}")
        things = {name: getattr(module, name) for name in module.__all__}
        listed_things = [found(name) for name in listed]
        missing = [
            name
            for name, thing in things.items()
            if name != "Network"  # stands for any module
            and (inspect.isclass(thing) or inspect.isfunction(thing))
            and thing not in listed_things
        ]
        assert not missing, f"not on docs/reference.md: {missing}"


@pytest.mark.parametrize("name", list(called_by_users()))
def test_docstring(name):
    report = validate(name)
    off = SWITCHED_OFF | ({"PR01"} if name in BASES else set())
    errors = [(code, what) for code, what in report["errors"] if code not in off]
    assert not errors, errors


def test_defaults_are_those_of_the_signature():
    for name in public_names():
        thing = found(name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        parameters = inspect.signature(thing).parameters
        text = inspect.getdoc(thing) or ""
        for names, default in re.findall(r"^([\w, ]+) : .*default=(.+)$", text, re.M):
            for parameter in set(names.split(", ")) & set(parameters):
                expected = parameters[parameter].default
                assert literal_eval(default) == expected, f"{name}: {parameter}={expected!r}"
