"""How the key commands print a key, for people and for programs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from kmsfs.cli.terminal import local_time, print_fields, print_json

if TYPE_CHECKING:
    from kmsfs.keystore.last_use import KeyUsageHistory
    from kmsfs.keystore.model import KeyMetadata


def print_key(key: "KeyMetadata", as_json: bool, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Print a key with AWS's field names, or as a list of its properties."""
    if as_json:
        print_json(key.to_aws())
        return
    fields = {
        "key id": key.key_id,
        "arn": key.arn,
        "region": key.region,
        "state": key.state.value,
        "created": local_time(key.created_at),
        "description": key.description,
        "manager": key.manager.value,
        "usage": key.usage.value,
        "material": "none yet" if key.current_material_id is None else key.current_material_id.hex(),
    }
    if key.current_material is not None and key.current_material.expires_at is not None:
        fields["material expires"] = local_time(key.current_material.expires_at)
    if key.primary_region is not None:
        fields["primary in"] = key.primary_region
        fields["replicas in"] = ", ".join(key.replica_regions) or "none yet"
    if key.deletion_days is not None:
        fields["deleted"] = f"{key.deletion_days} days after its last replica"
    if key.deletion_at is not None:
        fields["deleted on"] = local_time(key.deletion_at)
    print_fields({**fields, **more})


def last_use(history: "KeyUsageHistory") -> dict[str, str]:
    """Return what a person is shown of when a key was last used."""
    if history.last is None:
        return {"last used": f"not since {local_time(history.tracked_since)}"}
    return {"last used": f"{local_time(history.last.at)}, {history.last.operation}"}
