"""The exit-code table is total, and its codes are distinct where people act differently."""

import pytest

from kmsfs import errors
from kmsfs.cli.boundary import describe
from kmsfs.cli.exitcodes import EXIT_CODES, ExitCode, exit_code


def leaves(base: type[errors.KmsfsError] = errors.KmsfsError) -> list[type[errors.KmsfsError]]:
    below = base.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] if below else [base]


# Bases that are raised themselves: an alias or region that exists, bytes that do not parse, a malformed alias or
# tag, a key that is not there, for something else or not in the right state, a quota, a policy, what no key can do.
RAISED_BASES = [
    errors.AlreadyExistsError,
    errors.FormatError,
    errors.InvalidAliasError,
    errors.InvalidKeyUsageError,
    errors.KeyNotFoundError,
    errors.KeyStateError,
    errors.LimitExceededError,
    errors.MalformedPolicyError,
    errors.TagError,
    errors.UnsupportedOperationError,
]


@pytest.mark.parametrize("leaf", [*leaves(), *RAISED_BASES])
def test_every_leaf_has_a_named_code(leaf: type[errors.KmsfsError]) -> None:
    code = exit_code(leaf("x"))
    assert code is EXIT_CODES[leaf]
    assert code not in (ExitCode.DONE, ExitCode.FAILED)
    failure = describe(leaf("the message", hint="the hint"))
    assert (failure.message, failure.hint, failure.code) == ("the message", "the hint", code)


def test_the_table_holds_nothing_else() -> None:
    assert set(EXIT_CODES) == {*leaves(), *RAISED_BASES}


def test_a_base_class_counts_as_a_plain_failure() -> None:
    assert exit_code(errors.KeystoreError("x")) is ExitCode.FAILED


def test_codes_leave_the_shells_own_alone() -> None:
    reserved = {126, 127, 128}
    assert not reserved & set(ExitCode)
    assert all(0 <= code < 256 for code in ExitCode)
