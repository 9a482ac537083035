"""The signed report with which a migration ends."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kmsfs.errors import KmsfsError, UnsupportedOperationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kmsfs.keystore.service import Keystore


@contextmanager
def written_report(keystore: Keystore, journal: Path) -> Iterator[str | None]:
    """Write the report of the migration in ``journal``, and give its path to whoever tells what came of that.

    What is done is done, whether or not it can be reported: why not is raised when the rest has been told.
    """
    from kmsfs.tools import report

    try:
        path = str(report.write(keystore, journal).path)
    except (KmsfsError, OSError) as error:
        yield None
        sys.stdout.flush()  # what was told is to arrive: the error may be that of a full disk
        if isinstance(error, KmsfsError) and not isinstance(error, UnsupportedOperationError):
            error.hint = f"{error.hint}, then kmsfs report create TREE".removeprefix(", then ")
        raise
    yield path
