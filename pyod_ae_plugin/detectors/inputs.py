"""Checks of X, and its view as a tensor of rows, without a copy where possible."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyod_ae_plugin.columns.frames import TIME, Cells, Frame, Texts, frame_of
from pyod_ae_plugin.columns.matrix import Columns
from pyod_ae_plugin.columns.profiles import Profiler
from pyod_ae_plugin.engine.rows import Rows

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn 1.5

    def validate_data(estimator: Any, X: Any, *, ensure_all_finite: bool, **kwargs: Any) -> Any:
        """Call what scikit-learn 1.6 turned into a function."""
        return estimator._validate_data(X, force_all_finite=ensure_all_finite, **kwargs)


_DLPACK_CPU = 1  # by the standard

# Types of NumPy that torch has, too.
_SHARED_DTYPES = set(map(np.dtype, ("?", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8")))

Array = np.ndarray[Any, Any]


def validate_rows(
    estimator: BaseEstimator, X: Any, *, reset: bool, ensure_all_finite: bool = True
) -> Array:
    """Return X as a numeric array [n, n_features], or raise a ValueError or TypeError.

    With ``reset`` X is training data, and ``n_features_in_`` and ``feature_names_in_`` of the
    estimator are set; otherwise X is compared with them. Where the estimator learns from the
    columns of a table, X is such a table, and what it is encoded to is returned.
    """
    takes_tables = estimator.columns is not None if reset else hasattr(estimator, "columns_")
    if takes_tables:
        return _encoded(estimator, X, reset)
    if not (reset or ensure_all_finite) and _is_plain(estimator, X):
        return X  # type: ignore[no-any-return]
    X = _in_order(estimator, X) if not reset else X
    try:
        X = _table_of(X, allows_gaps(estimator))
        # scikit-learn sums all numbers, which may be the largest floats and their negatives
        with np.errstate(invalid="ignore", over="ignore"):
            X = validate_data(estimator, X, reset=reset, dtype="numeric", ensure_all_finite=False)
            # Lists with None and very large numbers pass this check as objects.
            converted = X.dtype.kind == "O" or X.dtype.itemsize > 8
            X = X.astype(np.float64) if converted else X
    except OverflowError as error:
        raise ValueError(f"X holds a number too large for float64: {error}.") from error
    except (TypeError, ValueError) as error:
        remedy = _remedy(str(error)) or _about_columns(X)
        if remedy is None:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{remedy} ({error})") from error
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X must hold numbers, got {X.dtype}. Convert it to numbers first.")
    if ensure_all_finite or converted:
        check_finite(estimator, X)
    rows: Array = X
    return rows


def allows_gaps(estimator: Any) -> bool:
    """Whether NaN in the rows of a detector stands for a gap."""
    if estimator.missing is None:
        return estimator.columns is not None
    return bool(estimator.missing == "mask")


def check_finite(estimator: BaseEstimator, X: Array) -> None:
    """Raise a ValueError that names the first cell of X with infinity, or with NaN if no gap."""
    if X.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(X.sum()):  # which takes no memory
            return
    unusable = np.isinf(X) if allows_gaps(estimator) else ~np.isfinite(X)
    if not unusable.any():
        return
    row, column = (int(i) for i in np.unravel_index(unusable.argmax(), X.shape))
    names, columns = (getattr(estimator, n, None) for n in ("feature_names_in_", "columns_"))
    if columns is not None:
        names = columns.matrix_names
    name = column if names is None else repr(names[column])
    if np.isnan(X[row, column]):
        raise ValueError(
            f"Input X contains NaN, {int(np.isnan(X).sum()):,} in all, the first in row {row}, "
            f"column {name}. Values that are missing are hidden from the network with "
            "missing='mask'; or fill them, or drop their rows."
        )
    raise ValueError(
        f"Input X contains infinity, or a number too large for {X.dtype}: {X[row, column]} in row "
        f"{row}, column {name}. Correct it, or drop the row."
    )


# ------------------------------------------------------------------ tables with named columns


def _encoded(estimator: Any, X: Any, reset: bool) -> Array:
    """The matrix [n, width] that a table is encoded to; with ``reset`` its columns are learned."""
    frame = frame_given(X, None if reset else estimator.columns_)
    if reset:
        profiler = Profiler(asked_roles(estimator.columns))
        profiler.add(frame)
        _learn(estimator, profiler.columns())
    matrix: Array = estimator.columns_.encode(frame)
    check_finite(estimator, matrix)
    return matrix


def frame_given(X: Any, learned: Columns | None = None) -> Frame:
    """A table that a user passed; a TypeError or ValueError says what it should be.

    Where all columns that were learned from are numbers, it may be an array of these.
    """
    frame = frame_of(X)
    if frame is None and learned is not None and learned.only_numbers:
        numbers = np.asarray(_table_of(X, True), dtype=np.float64)
        if numbers.ndim == 2 and numbers.shape[1] == learned.width:
            frame = Frame(dict(zip(learned.features, numbers.T, strict=True)))
    if frame is None:
        raise TypeError(
            "Expected a table with named columns, of pandas, polars or Arrow, since columns= is "
            f"set; got a {type(X).__name__}. For an array of numbers leave out columns=."
        )
    if len(frame) == 0:
        raise ValueError("X has no rows.")
    return frame


def _learn(estimator: Any, columns: Columns) -> None:
    """Set scikit-learn's attributes of the features, which are the columns learned from."""
    estimator.columns_ = columns
    estimator.n_features_in_ = len(columns.features)
    estimator.feature_names_in_ = np.array(columns.features, dtype=object)


def asked_roles(columns: str | Mapping[str, str]) -> Mapping[str, str]:
    """The roles in the parameter ``columns``, by name of the column."""
    return {} if isinstance(columns, str) else columns


def _in_order(estimator: Any, X: Any) -> Any:
    """A table with the features of fit in another order, in the order of fit."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or not hasattr(X, "columns"):
        return X
    given, expected = list(X.columns), list(names)
    return X[expected] if given != expected and sorted(given) == sorted(expected) else X


def _about_columns(X: Any) -> str | None:
    """A message on the columns of a table that are not numbers, with the remedy; None if none."""
    frame = frame_of(X)
    if frame is None:
        return None
    held = [f"{name!r} ({kind})" for name, cells in frame.columns.items() if (kind := _kind(cells))]
    if not held:
        return None
    return (
        f"X has columns that are not numbers: {', '.join(held)}. columns='auto' learns from "
        "categories and times as well; or leave these columns out."
    )


def _kind(cells: Cells) -> str | None:
    """The content of a column that is not of numbers, in words."""
    if isinstance(cells, Texts):
        return f"text, such as {cells.values[0]!r}" if cells.values else "no values"
    return "times" if cells.dtype == TIME else None


# ------------------------------------------------------------------- what X may be on the host


def _table_of(X: Any, has_gaps: bool) -> Any:
    """X in a form that scikit-learn checks, such as an array or a table.

    Tensors become arrays, and masked values NaN if there may be gaps. Anything else is refused if
    scikit-learn's message would not tell what to pass.
    """
    if isinstance(X, (DataLoader, Dataset, Iterator)) and not hasattr(X, "__array__"):
        raise TypeError(
            f"X must be one table of rows [n, n_features], got a {type(X).__name__}. Batches of "
            "rows, such as those of a DataLoader, are what fit_batches and score_batches take."
        )
    if has_gaps and isinstance(X, np.ma.MaskedArray):
        X = np.ma.filled(X.astype(np.float64), np.nan)
    _check_unmasked(X)
    if isinstance(X, (list, tuple)):
        X = _of_tensors(X) if X and all(isinstance(x, Tensor) for x in X) else np.asarray(X)
    if isinstance(X, Tensor):
        X = _as_array(X)
    _check_dimensions(getattr(X, "shape", ()))
    return X


def _check_unmasked(X: Any) -> None:
    """Raise where an array, or a row of a list, has masked values: NumPy would drop the mask."""
    rows = X if isinstance(X, (list, tuple)) else [X]
    if any(isinstance(row, np.ma.MaskedArray) and np.ma.is_masked(row) for row in rows):
        raise ValueError(
            "X has masked values. With missing='mask' they are hidden from the network; or fill "
            "them, X.filled(X.mean(axis=0)), or drop their rows, "
            "X[~np.ma.getmaskarray(X).any(axis=1)]."
        )


def _of_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """The rows in a list of tensors: one for each row, or the batch of a DataLoader."""
    first, *others = tensors
    if not others and first.ndim >= 2:  # of a TensorDataset
        return first
    if all(x.ndim == 1 and x.shape == first.shape for x in tensors):
        return torch.stack([x.detach() for x in tensors])
    shapes = " and ".join(str(list(x.shape)) for x in tensors[:2])
    raise TypeError(
        f"X is a list of {len(tensors)} tensors of the shapes {shapes}; expected one table of rows "
        "[n, n_features]. Of a DataLoader of rows and labels pass the rows: (rows for rows, _ in "
        "loader). Of sequences make rows: torch.stack(X).flatten(1)."
    )


def _as_array(rows: Tensor) -> Array:
    """A tensor on any device as an array on the host, without its gradient."""
    _check_dense(rows)
    _check_has_values(rows)
    if rows.is_floating_point() and rows.dtype not in (torch.float16, torch.float32, torch.float64):
        rows = rows.float()  # NumPy has no bfloat16
    array: Array = rows.numpy(force=True)
    return array


def _check_dense(rows: Tensor) -> None:
    if rows.layout != torch.strided:
        raise TypeError(f"X is a sparse tensor ({rows.layout}). Pass X.to_dense().")


def _check_has_values(rows: Tensor) -> None:
    if rows.is_meta:
        raise TypeError("X is a tensor on the device 'meta', which holds no values. Pass numbers.")


def _check_dimensions(shape: Sequence[int]) -> None:
    """Raise on sequences and images, which have to be reshaped to rows."""
    if len(shape) <= 2:
        return
    features = math.prod(shape[1:])
    raise ValueError(
        f"X has {len(shape)} dimensions, {tuple(shape)}, but a detector takes rows "
        f"[n, n_features]. Make each sequence or image one row of {features} features, "
        "X.reshape(len(X), -1), in every call. A convolutional network sees them as they were, by "
        f"network='conv' (of a VAE 'variational_conv') and input_shape={tuple(shape[1:])}."
    )


def _remedy(happened: str) -> str | None:
    """The remedy for an error of NumPy, whose message does not mention rows, or None."""
    if "setting an array element with a sequence" in happened:
        return (
            "Cells or rows of X are sequences, or differ in length. Cut or pad them to one length, "
            "and make each of them one row: np.stack(sequences).reshape(n, -1)."
        )
    if "float() argument must be" in happened:
        return (
            "X holds something that is not a number. Make missing values NaN and fit with "
            "missing='mask', or drop their rows."
        )
    return None


# --------------------------------------------------------------------------------- training rows


def warn_about_labels(estimator: BaseEstimator, y: Any) -> None:
    """Warn that a fit ignores labels, as PyOD does; a y of None holds no labels."""
    if y is None or all(label is None for label in np.asarray(y, dtype=object).ravel()):
        return
    warnings.warn(
        f"y should not be presented in unsupervised learning: {type(estimator).__name__} ignores "
        "it. To keep rows that are known to be outliers from training, leave them out, "
        "fit(X[y == 0]); if no outlier is left, novelty=True suits the rows best.",
        stacklevel=3,
    )


class TrainingRows:
    """Checks training rows, batch by batch, without changing the estimator.

    With ``reset`` the first batch defines the features, otherwise the earlier fit does.
    """

    def __init__(self, estimator: BaseEstimator, reset: bool = True) -> None:
        # scikit-learn sets n_features_in_ and feature_names_in_ on this copy.
        self._copy = object.__new__(type(estimator))
        self._copy.__dict__.update(vars(estimator))
        if reset:
            self._copy.__dict__.pop("columns_", None)
        self._reset = reset

    def learn_columns(self, batches: Iterable[Any]) -> None:
        """Learn the columns of tables, if the estimator learns from columns, from all batches."""
        if self._copy.columns is None:
            return
        if isinstance(batches, Iterator):
            raise TypeError(
                "columns= reads the batches once more, to learn what the columns hold. Pass an "
                "iterable that can be read again, such as a list; got a "
                f"{type(batches).__name__}."
            )
        profiler = Profiler(asked_roles(self._copy.columns))
        for batch in batches:
            profiler.add(frame_given(batch))
        _learn(self._copy, profiler.columns())
        self._reset = False

    def check(self, X: Any) -> Array:
        """Return a batch as :func:`validate_rows` does."""
        rows = validate_rows(self._copy, X, reset=self._reset)
        self._reset = False
        return rows

    @property
    def n_features(self) -> int:
        """Width of the rows that were checked."""
        columns = self.described["columns"]
        n: int = self._copy.n_features_in_ if columns is None else columns.width
        return n

    @property
    def described(self) -> dict[str, Any]:
        """Arguments of a fit that describe the rows: names of features and columns, or None."""
        names = ("feature_names_in", "columns")
        return {name: getattr(self._copy, f"{name}_", None) for name in names}


def _is_plain(estimator: BaseEstimator, X: Any) -> bool:
    """Whether X needs no further check; scikit-learn's takes as long as scoring a small table."""
    return (
        type(X) is np.ndarray
        and X.dtype in (np.float64, np.float32)
        and X.ndim == 2
        and X.shape[1] == estimator.n_features_in_
        and len(X) > 0
        and not hasattr(estimator, "feature_names_in_")
    )


def device_rows(estimator: BaseEstimator, X: Any) -> Tensor | None:
    """Return rows on a GPU as a tensor, without a copy; None if X is on the host.

    X may be a tensor or anything with ``__cuda_array_interface__`` or ``__dlpack__``, such as an
    array of CuPy.
    """
    if isinstance(X, torch.Tensor):
        rows = X.detach()
    elif hasattr(X, "__cuda_array_interface__"):
        rows = torch.as_tensor(X, device="cuda")
    elif hasattr(X, "__dlpack_device__") and X.__dlpack_device__()[0] != _DLPACK_CPU:
        rows = torch.utils.dlpack.from_dlpack(X)
    else:
        return None
    if rows.device.type == "cpu":
        return None
    check_tensor(estimator, rows)
    _check_has_values(rows)
    return rows


def check_tensor(estimator: BaseEstimator, rows: Tensor) -> None:
    """Raise unless rows are a tensor [n, n_features] of real numbers."""
    if not isinstance(rows, Tensor):
        raise TypeError(f"Rows must be a torch.Tensor here, got a {type(rows).__name__}.")
    _check_dense(rows)
    if rows.is_complex():
        raise TypeError(f"X must hold real numbers, got {rows.dtype}.")
    _check_dimensions(rows.shape)
    n_features = estimator.scoring_module_.standardize.n_features
    if rows.ndim != 2 or rows.shape[1] != n_features or len(rows) == 0:
        raise ValueError(
            f"X has the shape {tuple(rows.shape)}, but {type(estimator).__name__} was fitted to "
            f"{n_features} features; expected [n, {n_features}] with n >= 1."
        )


def check_finite_on_device(estimator: BaseEstimator, rows: Tensor) -> None:
    """Raise on infinity in rows on a GPU, and on NaN that stands for no gap."""
    if allows_gaps(estimator):
        rows = rows.nan_to_num(0.0, torch.inf, -torch.inf)
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            "X contains NaN or infinity. Drop such rows; missing='mask' hides NaN from the network."
        )


def as_rows(X: Array) -> Rows:
    """View a numeric array as a tensor to read from; types unknown to torch are cast on access."""
    if X.dtype not in _SHARED_DTYPES or any(stride < 0 for stride in X.strides):
        return _ConvertedRows(X)
    return torch.from_numpy(X if X.flags.writeable else np.asarray(_Writeable(X)))


class _ConvertedRows:
    """Rows that are cast to float64 tensors when they are accessed."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self.shape = array.shape

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: slice) -> Tensor:
        return torch.from_numpy(self._array[rows].astype(np.float64))

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        # not take(), which converts the whole array first
        return torch.from_numpy(self._array[index.numpy()].astype(np.float64))


class _Writeable:
    """An array's memory, declared writeable: torch warns about read-only arrays.

    Memory maps and joblib's shared arrays are read-only. Nothing here writes to rows.
    """

    def __init__(self, array: Array) -> None:
        self._array = array  # keeps the memory alive
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
