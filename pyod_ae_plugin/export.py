"""Fitted detectors as programs of torch.export and as ONNX files, from raw row to label."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pyod_ae_plugin import __version__
from pyod_ae_plugin.engine.devices import default_settings
from pyod_ae_plugin.fitted import Fitted
from pyod_ae_plugin.scoring import ScoringModule
from pyod_ae_plugin.storage import atomic_write

_LEAST_TORCH_FOR_ONNX = "2.11"  # the oldest that was tried and worked
_LARGEST_ONNX = 2**31  # protobuf's limit, in bytes


def _any_number_of_rows() -> dict[str, dict[int, Any]]:
    # A constant would make each import of this package load sympy, which takes 0.3 s.
    return {"X": {0: Dim("n")}}


class LabelledScores(nn.Module):
    """Scores [n] (float32) and labels [n] (int64) of raw rows [n, n_features]."""

    def __init__(self, module: ScoringModule, threshold: float) -> None:
        super().__init__()
        self.module = module
        self.threshold = float(threshold)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        scores: Tensor = self.module(X)
        return scores, (scores.double() > self.threshold).long()


@default_settings()
def export_program(fitted: Fitted) -> ExportedProgram:
    """Export what was fitted, on the CPU, for float64 rows of any number.

    The program takes X [n, n_features] and returns scores [n] and labels [n]. The scoring module
    stays as it is. Raises ValueError if torch cannot export the network or the score head, or if
    labels are not set by a threshold on the score.
    """
    if not fitted.is_labelled_by_score:
        raise ValueError(
            f"{type(fitted.thresholder).__name__} labels rows by a scale of its own and not by a "
            "threshold on the score, so its labels cannot be exported. Fit with a share of "
            "outliers, or with a rule of pyod_ae_plugin.thresholds, as contamination; or set "
            "threshold_ on the fitted detector."
        )
    module = fitted.scoring_module
    labelled = LabelledScores(copy.deepcopy(module).cpu(), fitted.threshold).eval()
    # Two rows, since torch takes the sizes 0 and 1 for constants.
    rows = torch.zeros(2, fitted.n_features, dtype=torch.float64)
    try:
        return torch.export.export(
            labelled, (rows,), dynamic_shapes=_any_number_of_rows(), strict=False
        )
    except Exception as error:  # torch raises whatever its parts do
        raise _not_exportable(module, "torch.export", error) from error


@default_settings()
def write_onnx(fitted: Fitted, path: Path, detector: str) -> None:
    """Write what was fitted to an ONNX file of opset 18, atomically.

    The file's properties hold the name of the detector, the threshold and the feature names. Raises
    as :func:`export_program`, ImportError if torch is too old, and ValueError if the weights are
    too large for ONNX.
    """
    if torch.__version__ < _LEAST_TORCH_FOR_ONNX:
        raise ImportError(
            f"ONNX files need torch {_LEAST_TORCH_FOR_ONNX} or later, and torch is "
            f"{torch.__version__}: pip install 'torch>={_LEAST_TORCH_FOR_ONNX}'."
        )
    translations = _translations()
    module = fitted.scoring_module
    n_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    if n_bytes >= _LARGEST_ONNX:
        raise ValueError(
            f"The scoring module has {n_bytes / 2**30:.1f} GiB of tensors, and an ONNX file holds "
            "at most 2. Use to_torch_export, or smaller layers."
        )
    program = export_program(fitted)
    try:
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=["X"],
            output_names=["scores", "labels"],
            dynamic_shapes=_any_number_of_rows(),
            opset_version=18,
            custom_translation_table=translations,
            verbose=False,
        )
    except Exception as error:  # as above
        raise _not_exportable(module, "ONNX", error) from error
    assert exported is not None
    model = exported.model
    model.producer_name, model.producer_version = "pyod-ae-plugin", __version__
    properties = {"detector": detector, "threshold": repr(float(fitted.threshold))}
    if fitted.module_names is not None:
        properties["feature_names"] = json.dumps(fitted.module_names)
    model.metadata_props.update(properties)
    with atomic_write(path) as new:
        new.write_bytes(exported.model_proto.SerializeToString())


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations to ONNX that take the place of those of torch.

    Torch takes Clip for a clamp with one bound. Its other bound is then the largest float32, so
    that an infinite score would become a finite one.
    """
    try:
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ImportError("ONNX needs onnxscript: pip install 'pyod-ae-plugin[onnx]'.") from error

    def at_least(x: Any, min: Any) -> Any:
        return op.Max(x, op.CastLike(min, x))

    def at_most(x: Any, max: Any) -> Any:
        return op.Min(x, op.CastLike(max, x))

    def between(x: Any, min: Any = None, max: Any = None) -> Any:
        x = x if min is None else at_least(x, min)
        return x if max is None else at_most(x, max)

    aten = torch.ops.aten
    clamps = ((aten.clamp, between), (aten.clamp_min, at_least), (aten.clamp_max, at_most))
    return {
        overload: translation
        for operator, translation in clamps
        for overload in (operator.default, operator.Tensor)
    }


def _not_exportable(module: ScoringModule, form: str, error: Exception) -> ValueError:
    network, head = type(module.network).__name__, type(module.head).__name__
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    first_line = (str(cause).strip() or repr(cause)).splitlines()[0]
    return ValueError(
        f"The network {network} with the score head {head} cannot be exported to {form}: "
        f"{first_line} What they do with rows must be operations of torch, for any number of rows: "
        "x.shape[0] and not len(x), torch.where and not an if that looks at values."
    )
