"""From what users pass to a tensor of rows, without a copy where there is a choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite
from torch import Tensor

from pyod_ae_plugin.engine.rows import Rows

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn 1.5

    def validate_data(estimator: Any, X: Any, *, ensure_all_finite: bool, **kwargs: Any) -> Any:
        """Call what scikit-learn 1.6 turned into a function."""
        return estimator._validate_data(X, force_all_finite=ensure_all_finite, **kwargs)


_DLPACK_CPU = 1  # by the standard

_SHARED_DTYPES = frozenset(
    np.dtype(name)
    for name in [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "float16",
        "float32",
        "float64",
    ]
)


def validate_rows(
    estimator: BaseEstimator, X: Any, *, reset: bool, ensure_all_finite: bool = True
) -> np.ndarray[Any, Any]:
    """Return X as a numeric array of shape (n, n_features), or say what is wrong with it.

    Parameters
    ----------
    estimator : BaseEstimator
        Whose ``n_features_in_`` and ``feature_names_in_`` are set (``reset``) or checked.
    X : array-like of shape (n, n_features)
    reset : bool
        Whether X is training data.
    ensure_all_finite : bool, default=True
        Raise on NaN and infinity.

    Raises
    ------
    ValueError, TypeError
        For sparse, complex, non-numeric, non-finite, empty or not two-dimensional data, and for
        data that do not fit the training data.
    """
    if not (reset or ensure_all_finite) and _is_plain(estimator, X):
        return X  # type: ignore[no-any-return]
    try:
        # scikit-learn adds all numbers up, which may be the largest floats and their negatives
        with np.errstate(invalid="ignore", over="ignore"):
            X = validate_data(
                estimator, X, reset=reset, dtype="numeric", ensure_all_finite=ensure_all_finite
            )
            # Lists with None and numbers too large come through this check as objects.
            converted = X.dtype.kind == "O" or X.dtype.itemsize > 8
            X = X.astype(np.float64) if converted else X
    except OverflowError as error:
        raise ValueError(f"X holds a number too large for float64: {error}.") from error
    if converted:
        assert_all_finite(X, estimator_name=type(estimator).__name__, input_name="X")
    elif X.dtype.kind not in "biuf":
        raise TypeError(f"X must hold numbers, got {X.dtype}. Convert it to numbers first.")
    rows: np.ndarray[Any, Any] = X
    return rows


class TrainingRows:
    """Checks training rows, batch by batch, and leaves the estimator as it is.

    Parameters
    ----------
    estimator : BaseEstimator
    reset : bool, default=True
        Whether the first batch says what the features are; if not, the earlier fit does.
    """

    def __init__(self, estimator: BaseEstimator, reset: bool = True) -> None:
        # scikit-learn notes the features on what it is given
        self._noted = object.__new__(type(estimator))
        self._noted.__dict__.update(vars(estimator))
        self._reset = reset

    def check(self, X: Any) -> np.ndarray[Any, Any]:
        """Return a batch as :func:`validate_rows` does."""
        rows = validate_rows(self._noted, X, reset=self._reset)
        self._reset = False
        return rows

    @property
    def n_features(self) -> int:
        """Features of the rows that were checked."""
        n: int = self._noted.n_features_in_
        return n

    @property
    def feature_names(self) -> np.ndarray[Any, Any] | None:
        """Names of the features, where the first batch has names."""
        return getattr(self._noted, "feature_names_in_", None)


def _is_plain(estimator: BaseEstimator, X: Any) -> bool:
    """Whether X plainly is what the estimator was fitted to; spares small tables the long check."""
    return (
        type(X) is np.ndarray
        and X.dtype in (np.float64, np.float32)
        and X.ndim == 2
        and X.shape[1] == estimator.n_features_in_
        and len(X) > 0
        and not hasattr(estimator, "feature_names_in_")
    )


def device_rows(estimator: BaseEstimator, X: Any) -> Tensor | None:
    """Return rows that lie on a GPU as a tensor, without a copy; None if X lies on the host.

    Taken are tensors and whatever offers ``__cuda_array_interface__`` or ``__dlpack__``, such as
    arrays of CuPy.

    Raises
    ------
    ValueError, TypeError
        If they are not numbers in as many columns as the estimator was fitted to.
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
    return rows


def check_tensor(estimator: BaseEstimator, rows: Tensor) -> None:
    """Raise unless rows are a tensor [n, n_features] and hold real numbers."""
    if not isinstance(rows, Tensor):
        raise TypeError(f"Rows must be a torch.Tensor here, got a {type(rows).__name__}.")
    if rows.is_complex():
        raise TypeError(f"X must hold real numbers, got {rows.dtype}.")
    n_features = estimator.n_features_in_
    if rows.ndim != 2 or rows.shape[1] != n_features or len(rows) == 0:
        raise ValueError(
            f"X has the shape {tuple(rows.shape)}, but {type(estimator).__name__} was fitted to "
            f"{n_features} features; expected [n, {n_features}] with n >= 1."
        )


def assert_device_rows_finite(rows: Tensor) -> None:
    """Raise on NaN and infinity in rows on a GPU."""
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("X holds NaN or infinity. Fill or drop such rows.")


def as_rows(X: np.ndarray[Any, Any]) -> Rows:
    """View a numeric array as a tensor, read only; what torch cannot view is converted by parts."""
    if X.dtype not in _SHARED_DTYPES or any(stride < 0 for stride in X.strides):
        return _ConvertedRows(X)
    return torch.from_numpy(X if X.flags.writeable else np.asarray(_Writeable(X)))


class _ConvertedRows:
    """Rows of which those that are asked for become float64 tensors."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
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
    """An array's memory declared writeable.

    torch warns when it wraps a read-only array, as memory maps and joblib's shared arrays are.
    Nothing here writes to rows.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array  # keeps the memory alive
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
