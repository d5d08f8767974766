"""The quick tests with other versions of Python and of the dependencies.

    nox -s lowest-3.11 newest-3.12

Without arguments the pinned versions are tested by each Python that there is. What follows ``--``
are further constraints: ``nox -s lowest -- torch==2.13.0``.
"""

from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

nox.options.sessions = ["pinned"]


# Old packages call what newer ones, on which they depend, deprecate.
OLD = ("-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning")


def asked(session: nox.Session) -> str:
    """Write the constraints behind ``--`` into a file; return its name."""
    file = Path(session.create_tmp(), "asked.txt")
    file.write_text("\n".join(session.posargs))
    return str(file)


def run_tests(session: nox.Session, *constraints: str, options: tuple[str, ...] = ()) -> None:
    """Install this package as files of constraints allow, and run the quick tests."""
    files = [word for file in (*constraints, asked(session)) for word in ("-c", file)]
    session.install(*files, "-e", ".[test]")
    session.run("python", "-m", "pytest", "-n", "auto", "-m", "not slow", *options)


@nox.session(python=PYTHONS)
def lowest(session: nox.Session) -> None:
    """Test with the lowest versions that pyproject.toml allows."""
    found = str(Path(session.create_tmp(), "lowest.txt"))
    session.install("uv")
    session.run(
        *("uv", "pip", "compile", "pyproject.toml", "--extra", "test", "--quiet"),
        *("--resolution", "lowest-direct", "--python-version", str(session.python)),
        *("--output-file", found, "-c", asked(session)),
    )
    run_tests(session, found, options=OLD)


@nox.session(python=PYTHONS)
def pinned(session: nox.Session) -> None:
    """Test with the versions of constraints.txt."""
    run_tests(session, "constraints.txt")


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """Test with the newest versions that there are."""
    run_tests(session)
