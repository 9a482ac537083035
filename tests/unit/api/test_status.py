"""Every error has one name, status and message on the wire."""

import pytest
from botocore.loaders import Loader

from kmsfs import errors
from kmsfs.api.status import WIRE_ERRORS, refusal_of, wire_error

ARN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MODEL = Loader().load_service_model("kms", "service-2", "2014-11-01")
COMMON = {
    "AccessDeniedException",
    "ValidationException",
    "InvalidAliasNameException",
    "NotAuthorizedException",
}


def every_error(base: type[errors.KmsfsError] = errors.KmsfsError) -> list[type[errors.KmsfsError]]:
    return [base, *(error for below in base.__subclasses__() for error in every_error(below))]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_row(kind: type[errors.KmsfsError]) -> None:
    refusal = refusal_of(kind("some words"), ARN)
    assert refusal.status in (400, 500, 503)
    assert refusal.code in MODEL["shapes"] or refusal.code in COMMON


@pytest.mark.parametrize("kind", [error for error in every_error() if wire_error(error("x")).status >= 500])
def test_a_failure_of_ours_tells_nothing_of_its_reason(kind: type[errors.KmsfsError]) -> None:
    assert "some words" not in refusal_of(kind("some words"), ARN).message


def test_words_that_were_recorded_from_aws() -> None:
    told = {kind: refusal_of(kind("some words"), ARN).message for kind in WIRE_ERRORS}
    assert told[errors.KeyDisabledError] == f"{ARN} is disabled."
    assert told[errors.KeyPendingDeletionError] == f"{ARN} is pending deletion."
    assert told[errors.KeyPendingImportError] == f"{ARN} is pending import."
    assert told[errors.KeyNotFoundError] == f"Key '{ARN}' does not exist"
    assert told[errors.KeyNotPendingDeletionError] == f"{ARN} is not pending deletion."
    assert told[errors.ReservedTagError] == "Tags beginning with aws: are reserved"
    assert told[errors.DuplicateTagError] == "Duplicate tag keys"
    assert told[errors.TooManyTagsError] == "Too many tags"
    assert told[errors.InvalidCiphertextError] == ""
    assert told[errors.IncorrectKeyError].startswith("The key ID in the request does not identify a CMK")


def test_paths_of_trees_reach_no_client() -> None:
    told = refusal_of(errors.KeyInUseError("in use by /srv/tree"), ARN).message
    assert "/srv" not in told
    assert "kmsfs:allow-deletion" in told


def test_braces_in_a_name_are_no_template() -> None:
    assert refusal_of(errors.KeyDisabledError("x"), "{text}").message == "{text} is disabled."
