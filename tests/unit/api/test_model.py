"""The tables of actions and shapes are AWS's service model, as botocore carries it."""

from typing import Any

import pytest
from botocore.loaders import Loader

from kmsfs.api.actions import ACTIONS, UNSUPPORTED
from kmsfs.api.model import KeySpec as KeySpecs
from kmsfs.api.model import KeyUsageType
from kmsfs.api.rules import USAGES
from kmsfs.api.shapes import Blob, Boolean, Integer, ListOf, MapOf, Shape, Structure, Text, Timestamp
from kmsfs.api.wire import TARGET_PREFIX
from kmsfs.keystore.model import KeySpec
from kmsfs.keystore.policy.actions import GRANT_OPERATIONS, KMS_ACTIONS
from kmsfs.keystore.specs import SPECS

MODEL: dict[str, Any] = Loader().load_service_model("kms", "service-2", "2014-11-01")
SHAPES: dict[str, Any] = MODEL["shapes"]


def described(shape: Shape) -> dict[str, Any]:
    """Return a shape of ours in the terms of the model, what it refers to included."""
    match shape:
        case Text():
            row = {"type": "string", "min": shape.minimum, "max": shape.maximum, "pattern": shape.pattern}
            row["enum"] = sorted(shape.values) or None  # AWS lists them in another order than its model
        case Blob():
            row = {"type": "blob", "min": shape.minimum, "max": shape.maximum}
        case Integer():
            row = {"type": "integer", "min": shape.minimum, "max": shape.maximum}
        case Boolean():
            row = {"type": "boolean"}
        case Timestamp():
            row = {"type": "timestamp"}
        case ListOf():
            row = {
                "type": "list",
                "min": shape.minimum,
                "max": shape.maximum,
                "member": described(shape.member),
            }
        case MapOf():
            row = {"type": "map", "key": described(shape.key), "value": described(shape.value)}
        case Structure():
            row = {"type": "structure", "required": list(shape.required) or None}
            row["members"] = {name: described(member) for name, member in shape.members.items()}
        case _:
            raise AssertionError(shape)
    return {name: value for name, value in row.items() if value is not None}


def expected(name: str) -> dict[str, Any]:
    """Return a shape of the model with its references followed."""
    shape = SHAPES[name]
    row = {key: shape[key] for key in ("type", "min", "max", "pattern", "enum", "required") if shape.get(key)}
    row |= {key: 0 for key in ("min",) if shape.get(key) == 0}
    row |= {key: sorted(shape[key]) for key in ("enum",) if key in shape}
    for key in ("member", "key", "value"):
        if key in shape:
            row[key] = expected(shape[key]["shape"])
    if "members" in shape:
        row["members"] = {name: expected(member["shape"]) for name, member in shape["members"].items()}
    return row


@pytest.mark.parametrize("action", ACTIONS)
def test_input_is_the_models(action: str) -> None:
    assert described(ACTIONS[action]) == expected(MODEL["operations"][action]["input"]["shape"])


def test_every_action_of_the_model_is_done_or_known() -> None:
    assert set(ACTIONS) | UNSUPPORTED == set(MODEL["operations"])
    assert not set(ACTIONS) & UNSUPPORTED


def test_target_prefix_is_the_models() -> None:
    assert f"{MODEL['metadata']['targetPrefix']}." == TARGET_PREFIX


def test_policies_can_name_every_action() -> None:
    # ReEncrypt is two permissions, and one permission belongs to no call.
    named = {action.removeprefix("kms:") for action in KMS_ACTIONS}
    assert named - {"ReEncryptFrom", "ReEncryptTo", "SynchronizeMultiRegionKey"} == set(
        MODEL["operations"]
    ) - {"ReEncrypt"}


def test_grants_can_allow_what_the_model_lists() -> None:
    assert set(SHAPES["GrantOperation"]["enum"]) == GRANT_OPERATIONS


def test_every_key_spec_has_its_usages() -> None:
    assert set(USAGES) == set(KeySpecs.values)
    assert {usage for usages in USAGES.values() for usage in usages} == set(KeyUsageType.values)


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_made_here_is_for_what_aws_says(spec: KeySpec) -> None:
    assert USAGES[spec.value] == (SPECS[spec].usage.value,)
