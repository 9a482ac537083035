"""Actions that bring key material from outside, and take it away."""

from datetime import datetime
from typing import Final

from kmsfs.api.calls import ActionCall, Output
from kmsfs.ids import MaterialId
from kmsfs.keystore.imported import Arrival

_NEW: Final = {"NEW_KEY_MATERIAL": True, "EXISTING_KEY_MATERIAL": False}


def get_parameters_for_import(call: ActionCall) -> Output:
    """Make a public key under which material for a CMK may travel, and the token that belongs to it."""
    made = call.keystore.import_parameters(
        call.key(aliases=False).arn,
        call.text("WrappingAlgorithm"),
        call.text("WrappingKeySpec"),
        region=call.region,
    )
    return {
        "KeyId": made.key_arn,
        "ImportToken": made.token,
        "PublicKey": made.public_key,
        "ParametersValidTo": made.valid_to,
    }


def import_key_material(call: ActionCall) -> Output:
    """Take material in that was wrapped under such a public key."""
    key = call.key(aliases=False)
    until = call.parameters.get("ValidTo")
    arrival = Arrival(
        value=b"",
        expires_at=until.timestamp() if isinstance(until, datetime) else None,
        new=_NEW.get(call.text("ImportType")),
        material_id=_material_id(call),
        description=call.text("KeyMaterialDescription") or None,
    )
    material = call.keystore.import_wrapped_material(
        key.arn, call.blob("ImportToken"), call.blob("EncryptedKeyMaterial"), arrival, region=call.region
    )
    return {"KeyId": key.arn, "KeyMaterialId": material.material_id.hex()}


def delete_imported_key_material(call: ActionCall) -> Output:
    """Destroy imported material; the CMK cannot be used until the very same is imported again."""
    key, material_id = call.key(aliases=False), _material_id(call)
    call.keystore.delete_imported_material(key.arn, material_id, region=call.region)
    deleted = material_id or key.current_material_id
    return {"KeyId": key.arn, **({} if deleted is None else {"KeyMaterialId": deleted.hex()})}


def _material_id(call: ActionCall) -> MaterialId | None:
    named = call.text("KeyMaterialId")
    return MaterialId(bytes.fromhex(named)) if named else None
