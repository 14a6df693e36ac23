"""Which extra of the package to install, in the error that a missing library causes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def naming_the_extra(name: str, extra: str | None) -> Iterator[None]:
    """Turn a missing library into an ImportError with the command that installs it for ``name``.

    ``extra`` is None for a name that needs the package's plain dependencies only. A missing module
    of usageledger itself is a defect of ours, and its ModuleNotFoundError passes unchanged.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "usageledger"):
            raise
        requirement = "usageledger" if extra is None else f"usageledger[{extra}]"
        raise ImportError(
            f'{name} needs {library}: pip install "{requirement}"', name=error.name
        ) from error
