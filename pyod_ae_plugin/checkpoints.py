"""The state of a fit in a file, from which it can go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError

from pyod_ae_plugin.files import read_tensors, write_tensors

FORMAT = "1"


class Checkpoint:
    """A file that holds how far one fit has come.

    Parameters
    ----------
    path : Path
        Written anew each time, beside and then renamed.
    fit : str
        What tells this fit from others: the state of another one is refused.
    """

    def __init__(self, path: Path, fit: str) -> None:
        self.path = path
        self._described = {"format": FORMAT, "fit": fit}

    def save(self, state: Mapping[str, torch.Tensor]) -> None:
        """Write a state.

        Raises
        ------
        OSError
            If it cannot be written, as on a full disk; the one before stays as it is.
        """
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        try:
            write_tensors(self.path, tensors, self._described)
        except OSError as error:
            reason = error.__cause__ or error  # what safetensors said, without the path again
            raise OSError(
                f"The checkpoint {self.path} could not be written: {reason}. The fit ends, so that "
                "no more is lost. Make room and fit again: it goes on from the last checkpoint "
                "that could be written."
            ) from error

    def remove(self) -> None:
        """Delete the file if there is one."""
        self.path.unlink(missing_ok=True)

    def load(self) -> dict[str, torch.Tensor] | None:
        """Return the state that was written last, None if there is no file.

        Raises
        ------
        ValueError
            If the file is damaged or holds something else.
        """
        if not self.path.exists():
            return None
        remedy = "Delete it to start anew, or name another file."
        try:
            state, described = read_tensors(self.path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"The checkpoint {self.path} is damaged: {error}. {remedy}") from error
        if described != self._described:
            raise ValueError(
                f"The checkpoint {self.path} is of a fit with other parameters or other data. "
                + remedy
            )
        return state
