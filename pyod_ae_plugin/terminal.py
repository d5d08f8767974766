"""What the command line prints: names of files, columns and the like cannot act on the terminal."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

# Control characters, separators of lines, marks and overrides of direction, and lone surrogates,
# which stand for bytes of file names that are no text.
_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: object) -> str:
    r"""The text with what would act on a terminal as escapes, such as ``\x1b``."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(line: object, fg: str | None = None, err: bool = False) -> None:
    """Print one line, in a colour where the terminal has colours."""
    typer.secho(visible(line), fg=fg, err=err)


def console() -> Console:
    """A console of rich that prints text as it is, visibly."""
    from rich.console import Console

    class VisibleConsole(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(visible(text), **options)

    return VisibleConsole(markup=False, emoji=False, highlight=False)


class Commands(TyperGroup):
    """Commands that print usage errors and warnings visibly."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _visible_messages():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _visible_messages():
            return super().invoke(ctx)


@contextmanager
def _visible_messages() -> Iterator[None]:
    formatted = warnings.formatwarning

    def visibly(message: Warning | str, *where: Any, **line: Any) -> str:
        return formatted(visible(message), *where, **line)

    warnings.formatwarning = visibly
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):  # of a usage error
            error.message = visible(error.message)  # type: ignore[attr-defined]
        raise
    finally:
        warnings.formatwarning = formatted
