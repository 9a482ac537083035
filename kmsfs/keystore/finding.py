"""What one self check found. Apart from the checks, so that who prints findings need not load an HSM module."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one self check, with the remedy when it failed."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
