"""Metadata rows as canonical bytes for their MAC, and the rows that the model's values become. Pure.

The encoding is injective over table, columns and values. Columns that are NULL are left out, so that a later
version can add a column without making every older row look edited.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from struct import Struct
from typing import Final

from kmsfs.errors import MetadataTamperedError
from kmsfs.ids import KeyId, Region
from kmsfs.keystore.audit import Segment
from kmsfs.keystore.model import (
    AliasEntry,
    CredentialEntry,
    GrantEntry,
    KeyMetadata,
    KeySpec,
    KeyUsage,
    Material,
    Origin,
    UserEntry,
)
from kmsfs.keystore.ports import Row, Value

MICROSECONDS: Final = 1_000_000  # times in rows are counts of them
CONDEMNED = "Deleting"  # a key's row from the moment that its material may be destroyed
DELETED = "Deleted"  # the tombstone
_DOMAIN = b"kmsfs metadata row v1"
_U32 = Struct(">I")

Values = Mapping[str, Value]


def row_bytes(table: str, values: Values) -> bytes:
    """Return what the row's MAC covers."""
    present = sorted((name, value) for name, value in values.items() if value is not None)
    parts = [_DOMAIN, table.encode(), _U32.pack(len(present))]
    for name, value in present:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise MetadataTamperedError(f"metadata table {table}: column {name} has a wrong type")
        tag = b"i" if isinstance(value, int) else b"s"
        parts += [name.encode(), tag + str(value).encode("utf-8", "surrogatepass")]
    return b"".join(_U32.pack(len(part)) + part for part in parts)


def tag_values(region: Region, key_id: KeyId, name: str, value: str) -> Values:
    """Return a tag's row."""
    return {"region": region, "tag_id": tag_id(key_id, name), "tag_value": value}


def tag_id(key_id: KeyId, name: str) -> str:
    """Return the primary key of a tag's row; a key id has no slash in it."""
    return f"{key_id}/{name}"


def rows_digest(rows: Iterable[Row]) -> str:
    """Return a digest over the set of rows; the state row carries it, so that none can be taken away."""
    digest = hashlib.sha256()
    for line in sorted(f"{row.table}\0{row.key[1]}\0{row.mac}\n" for row in rows):
        digest.update(line.encode())
    return digest.hexdigest()


def key_values(key: KeyMetadata) -> Values:
    """Return a CMK's row."""
    return {
        "region": key.region,
        "key_id": key.key_id,
        "state": key.state.value,
        "manager": key.manager.value,
        "description": key.description,
        "created_at": to_microseconds(key.created_at),
        "current_material": "" if key.current_material_id is None else key.current_material_id.hex(),
        "deletion_at": _moment(key.deletion_at),
        "rotation_period_days": key.rotation_period_days,
        "next_rotation_at": _moment(key.next_rotation_at),
        "key_usage": _unless(key.usage, KeyUsage.ENCRYPT_DECRYPT),
        "key_spec": _unless(key.spec, KeySpec.SYMMETRIC_DEFAULT),
        "origin": _unless(key.origin, Origin.AWS_KMS),
        "primary_region": key.primary_region,
        "replica_regions": ",".join(key.replica_regions) or None,
        "former_regions": ",".join(key.former_regions) or None,
        "deletion_days": key.deletion_days,
    }


def material_values(region: Region, key_id: KeyId, material: Material, uses_reserved: int) -> Values:
    """Return a key material's row."""
    return {
        "region": region,
        "material_id": material.material_id.hex(),
        "key_id": key_id,
        "suite": int(material.suite),
        "created_at": to_microseconds(material.created_at),
        "uses_reserved": uses_reserved,
        "rotation_type": None if material.rotation_type is None else material.rotation_type.value,
        "expires_at": _moment(material.expires_at),
        "import_state": None if material.import_state is None else material.import_state.value,
        "description": material.description,
        "sealed": material.sealed,
        "retirement": None if material.retirement is None else material.retirement.value,
    }


def alias_values(alias: AliasEntry) -> Values:
    """Return an alias's row."""
    return {
        "region": alias.region,
        "name": alias.name,
        "key_id": alias.target_key_id,
        "created_at": to_microseconds(alias.created_at),
        "updated_at": to_microseconds(alias.updated_at),
    }


def segment_values(region: Region, segment: Segment) -> Values:
    """Return the row of an audit log segment."""
    return {
        "region": region,
        "segment_id": segment.segment_id,
        "opened_at": to_microseconds(segment.opened_at),
        "closed_at": None if segment.closed_at is None else to_microseconds(segment.closed_at),
        "records": segment.checkpoint.records,
        "size": segment.checkpoint.size,
        "last_mac": segment.checkpoint.mac.hex(),
    }


def credential_values(region: Region, credential: CredentialEntry) -> Values:
    """Return an access key's row."""
    return {
        "region": region,
        "access_key_id": credential.access_key_id,
        "principal": credential.principal,
        "sealed_secret": credential.sealed_secret,
        "created_at": to_microseconds(credential.created_at),
    }


def user_values(region: Region, user: UserEntry) -> Values:
    """Return a user's row."""
    return {
        "region": region,
        "name": user.name,
        "user_id": user.user_id,
        "created_at": to_microseconds(user.created_at),
    }


def identity_policy_values(region: Region, user: str, policy: str, document: str) -> Values:
    """Return the row of a policy on a user."""
    return {"region": region, "policy_id": identity_policy_id(user, policy), "document": document}


def identity_policy_id(user: str, policy: str) -> str:
    """Return the primary key of an identity policy's row; a user's name has no slash in it."""
    return f"{user}/{policy}"


def key_policy_values(region: Region, key_id: KeyId, document: str) -> Values:
    """Return the row of a key's policy."""
    return {"region": region, "key_id": key_id, "document": document}


def grant_values(region: Region, entry: GrantEntry) -> Values:
    """Return a grant's row."""
    grant = entry.grant
    return {
        "region": region,
        "grant_id": grant.grant_id,
        "key_id": entry.key_id,
        "name": entry.name,
        "grantee": grant.grantee,
        "retiring": grant.retiring_principal,
        "operations": ",".join(sorted(grant.operations)),
        "context_equals": _pairs(grant.constraints.equals),
        "context_subset": _pairs(grant.constraints.subset),
        "created_at": to_microseconds(entry.created_at),
    }


def state_values(region: Region, account: str, counter: int, digest: str) -> Values:
    """Return the region's state row."""
    return {"region": region, "account": account, "counter": counter, "rows_digest": digest}


def _pairs(pairs: Mapping[str, str] | None) -> str | None:
    return None if pairs is None else json.dumps(dict(pairs), sort_keys=True)


def to_microseconds(timestamp: float) -> int:
    """Return a time as the integer that rows hold."""
    return round(timestamp * MICROSECONDS)


def _unless(value: StrEnum, usual: StrEnum) -> str | None:
    """Return the value, or None for what rows of before there was a choice stand for."""
    return None if value is usual else value.value


def _moment(timestamp: float | None) -> int | None:
    return None if timestamp is None else to_microseconds(timestamp)
