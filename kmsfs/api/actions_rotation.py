"""Actions on the material of keys: rotation by the calendar and on demand."""

from typing import Final

from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.pagination import page
from kmsfs.api.refusal import Refusal
from kmsfs.keystore.model import KeySpec

_ROTATIONS_PAGE: Final = 100
_DONE: Final = None


def enable_key_rotation(call: ActionCall) -> Output:
    """Turn automatic rotation on, or change its period."""
    key = call.key(aliases=False)
    period = call.parameters.get("RotationPeriodInDays")
    assert period is None or isinstance(period, int)  # noqa: S101 - the shape has seen to it
    call.keystore.enable_key_rotation(key.arn, period_days=period, region=call.region)
    return _DONE


def disable_key_rotation(call: ActionCall) -> Output:
    """Turn automatic rotation off."""
    call.keystore.disable_key_rotation(call.key(aliases=False).arn, region=call.region)
    return _DONE


def get_key_rotation_status(call: ActionCall) -> Output:
    """Show whether and when a CMK rotates."""
    return call.key(aliases=False).rotation_status()


def rotate_key_on_demand(call: ActionCall) -> Output:
    """Give a CMK new material now."""
    key = call.keystore.rotate_key(call.key(aliases=False).arn, region=call.region)
    return {"KeyId": key.arn}


def list_key_rotations(call: ActionCall) -> Output:
    """List a CMK's rotations; on request its first material, too."""
    key = call.key(aliases=False)
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise Refusal("UnsupportedOperationException", f"{key.arn} is a key whose material does not rotate.")
    shown = call.text("IncludeKeyMaterial", "ROTATIONS_ONLY")
    entries = key.rotations(with_first=shown == "ALL_KEY_MATERIAL")
    place = [material.material_id.hex() for material in key.materials].index
    found, more = page(
        entries,
        lambda entry: [place(str(entry["KeyMaterialId"]))],
        call.parameters,
        default=_ROTATIONS_PAGE,
        scope=f"{key.key_id} {shown}",
    )
    return {"Rotations": found, **more}
