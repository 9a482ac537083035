"""A region's verified rows as the values of the model: one immutable snapshot for each change. Pure."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeVar

from kmsfs.errors import AliasNotFoundError, KeyNotFoundError
from kmsfs.format.blob import BlobHead, Suite, head_prefix
from kmsfs.ids import KeyArn, KeyId, MaterialId, Region
from kmsfs.keystore.arn import alias_arn, key_arn, root_arn, user_arn
from kmsfs.keystore.audit import Checkpoint, Segment
from kmsfs.keystore.model import (
    AliasEntry,
    CredentialEntry,
    GrantEntry,
    ImportState,
    KeyManager,
    KeyMetadata,
    KeySpec,
    KeyState,
    KeyUsage,
    Material,
    Origin,
    Retirement,
    RotationType,
    UserEntry,
)
from kmsfs.keystore.policy.grants import Constraints, Grant
from kmsfs.keystore.ports import KEY_COLUMNS, Row, Value
from kmsfs.keystore.rows import CONDEMNED, DELETED, MICROSECONDS, Values
from kmsfs.keystore.transitions import Purpose

_Entry = TypeVar("_Entry")
_OWNED: Final = KeyManager.OWNED


@dataclass(frozen=True, slots=True)
class MaterialEntry:
    """What using a material takes: its key, and the heads, without nonce, that its blobs begin with.

    By the ARN in the head: the key's own, and those of its related keys in other regions, if it has any.
    """

    key: KeyMetadata
    material: Material
    prefixes: Mapping[KeyArn, bytes]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A region's verified metadata as of one change counter. Never changed, only replaced.

    ``standing`` and ``admitted`` only remember what follows from the rest.
    """

    region: Region
    account: str
    counter: int
    keys: Mapping[KeyId, KeyMetadata]
    materials: Mapping[MaterialId, MaterialEntry]
    aliases: Mapping[str, AliasEntry]
    uses_reserved: Mapping[MaterialId, int] = field(repr=False)
    audit_segments: Mapping[str, Segment] = field(repr=False)
    credentials: Mapping[str, CredentialEntry] = field(repr=False)
    tags: Mapping[KeyId, Mapping[str, str]]
    users: Mapping[str, UserEntry]
    identity_policies: Mapping[str, Mapping[str, str]] = field(repr=False)  # documents by user and name
    key_policies: Mapping[KeyId, str] = field(repr=False)  # documents of keys that have not the default one
    grants: Mapping[str, GrantEntry] = field(repr=False)
    condemned: Mapping[KeyId, KeyMetadata]  # deletion has begun: their material is being destroyed
    next_due: float  # when the first rotation or deletion is due
    #: What is allowed while these are the metadata, as (name, action, key id): see ``require_standing``.
    standing: set[tuple[str, str, KeyId]] = field(default_factory=set, repr=False, compare=False)
    #: What uses were admitted to for as long, by purpose and key or material: see ``Admission``.
    admitted: dict[tuple[Purpose, KeyId | MaterialId], MaterialEntry] = field(
        default_factory=dict, repr=False, compare=False
    )

    def key(self, key_id: KeyId) -> KeyMetadata:
        """Return the CMK or raise KeyNotFoundError."""
        found = self.keys.get(key_id)
        if found is None:
            raise self._not_found(key_id)
        return found

    def shown_key(self, key_id: KeyId) -> KeyMetadata:
        """Return a CMK that people may see; the keystore's own keys are not there for them."""
        found = self.keys.get(key_id)
        if found is None or found.manager is _OWNED:
            raise self._not_found(key_id)
        return found

    def _not_found(self, key_id: KeyId) -> KeyNotFoundError:
        return KeyNotFoundError(
            f"key {key_id} is not in region {self.region}", hint="kmsfs key list shows the keys"
        )

    def alias(self, name: str) -> AliasEntry:
        """Return the alias or raise AliasNotFoundError."""
        found = self.aliases.get(name)
        if found is None:
            raise AliasNotFoundError(
                f"{name} does not exist in region {self.region}", hint="kmsfs alias list shows the aliases"
            )
        return found


def build_snapshot(state: Row, rows: Iterable[Row]) -> Snapshot:
    """Turn verified rows into a snapshot."""
    region, account = Region(str(state.values["region"])), str(state.values["account"])
    by_table: dict[str, list[Values]] = {table: [] for table in KEY_COLUMNS}
    for row in rows:
        by_table[row.table].append(row.values)
    materials = _materials(by_table["materials"])
    condemned = _keys_of(by_table["keys"], CONDEMNED, region, account, materials)
    keys = _keys_of(by_table["keys"], None, region, account, materials)
    return Snapshot(
        region=region,
        account=account,
        counter=_int(state.values["counter"]),
        keys=MappingProxyType({key.key_id: key for key in keys}),
        materials=_entries(keys),
        aliases=_by("name", by_table["aliases"], lambda values: _alias(values, region, account)),
        uses_reserved=MappingProxyType(
            {_material_id(values): _int(values["uses_reserved"]) for values in by_table["materials"]}
        ),
        audit_segments=_by("segment_id", by_table["audit_segments"], _segment),
        credentials=_by("access_key_id", by_table["credentials"], _credential),
        tags=_tags(by_table["tags"]),
        users=_by("name", by_table["users"], lambda values: _user(values, account)),
        identity_policies=_identity_policies(by_table["identity_policies"]),
        key_policies=MappingProxyType(
            {KeyId(str(values["key_id"])): str(values["document"]) for values in by_table["key_policies"]}
        ),
        grants=_by("grant_id", by_table["grants"], lambda values: _grant(values, region, account)),
        condemned=MappingProxyType({key.key_id: key for key in condemned}),
        next_due=min((_due(key) for key in keys), default=math.inf) if not condemned else -math.inf,
    )


def _by(column: str, rows: Iterable[Values], make: Callable[[Values], _Entry]) -> Mapping[str, _Entry]:
    return MappingProxyType({str(values[column]): make(values) for values in rows})


def _materials(rows: Iterable[Values]) -> dict[KeyId, list[Material]]:
    """Return the material of each key, oldest first."""
    found: dict[KeyId, list[Material]] = {}
    for values in sorted(rows, key=lambda v: (_int(v["created_at"]), str(v["material_id"]))):
        found.setdefault(KeyId(str(values["key_id"])), []).append(_material(values))
    return found


def _entries(keys: Iterable[KeyMetadata]) -> Mapping[MaterialId, MaterialEntry]:
    return MappingProxyType(
        {
            material.material_id: MaterialEntry(key, material, _prefixes(key, material))
            for key in keys
            for material in key.materials
        }
    )


def _prefixes(key: KeyMetadata, material: Material) -> Mapping[KeyArn, bytes]:
    arns = [key.arn, *map(key.arn_in, (*key.related_regions, *key.former_regions))]
    return {arn: head_prefix(BlobHead(material.suite, arn, material.material_id)) for arn in arns}


def _due(key: KeyMetadata) -> float:
    """When something is to be done with a key or its material by itself."""
    return min([_key_due(key), *map(_material_due, key.materials)])


def _material_due(material: Material) -> float:
    if material.import_state in (ImportState.REMOVING, ImportState.DROPPING):
        return -math.inf
    if material.retirement is Retirement.RETIRING:
        return -math.inf
    return math.inf if material.expires_at is None else material.expires_at


def _key_due(key: KeyMetadata) -> float:
    if key.pending_material is not None:
        return -math.inf
    if key.state is KeyState.PENDING_DELETION and key.deletion_at is not None:
        return key.deletion_at
    if key.state is KeyState.ENABLED and key.next_rotation_at is not None and not key.is_replica:
        return key.next_rotation_at
    return math.inf


def _tags(rows: Iterable[Values]) -> Mapping[KeyId, Mapping[str, str]]:
    tags: dict[KeyId, dict[str, str]] = {}
    for values in rows:
        key_id, _, name = str(values["tag_id"]).partition("/")
        tags.setdefault(KeyId(key_id), {})[name] = str(values["tag_value"])
    return MappingProxyType({key_id: MappingProxyType(found) for key_id, found in tags.items()})


def _identity_policies(rows: Iterable[Values]) -> Mapping[str, Mapping[str, str]]:
    policies: dict[str, dict[str, str]] = {}
    for values in rows:
        user, _, name = str(values["policy_id"]).partition("/")
        policies.setdefault(user, {})[name] = str(values["document"])
    return MappingProxyType({user: MappingProxyType(found) for user, found in policies.items()})


def _keys_of(
    rows: Iterable[Values],
    end: str | None,
    region: Region,
    account: str,
    materials: Mapping[KeyId, list[Material]],
) -> list[KeyMetadata]:
    """Return the keys that are in the state ``end`` of their deletion; None: those that are not in any."""
    found = []
    for values in rows:
        state = values["state"] if values["state"] in (CONDEMNED, DELETED) else None
        if state == end:
            found.append(_key(values, region, account, materials))
    return found


def _key(
    values: Values, region: Region, account: str, materials: Mapping[KeyId, list[Material]]
) -> KeyMetadata:
    key_id = KeyId(str(values["key_id"]))
    period, current = values.get("rotation_period_days"), str(values["current_material"])
    primary, days = values.get("primary_region"), values.get("deletion_days")
    return KeyMetadata(
        key_id=key_id,
        arn=key_arn(region, account, key_id),
        region=region,
        account=account,
        description=str(values["description"]),
        state=KeyState.PENDING_DELETION if values["state"] == CONDEMNED else KeyState(str(values["state"])),
        manager=KeyManager(str(values["manager"])),
        created_at=_int(values["created_at"]) / MICROSECONDS,
        current_material_id=MaterialId(bytes.fromhex(current)) if current else None,
        materials=tuple(materials.get(key_id, ())),
        deletion_at=_time(values.get("deletion_at")),
        rotation_period_days=None if period is None else _int(period),
        next_rotation_at=_time(values.get("next_rotation_at")),
        usage=KeyUsage(str(values.get("key_usage") or KeyUsage.ENCRYPT_DECRYPT)),
        spec=KeySpec(str(values.get("key_spec") or KeySpec.SYMMETRIC_DEFAULT)),
        origin=Origin(str(values.get("origin") or Origin.AWS_KMS)),
        primary_region=None if primary is None else Region(str(primary)),
        replica_regions=_regions(values.get("replica_regions")),
        former_regions=_regions(values.get("former_regions")),
        deletion_days=None if days is None else _int(days),
    )


def _material(values: Values) -> Material:
    rotation, imported = values.get("rotation_type"), values.get("import_state")
    retirement = values.get("retirement")
    return Material(
        _material_id(values),
        Suite(_int(values["suite"])),
        _int(values["created_at"]) / MICROSECONDS,
        None if rotation is None else RotationType(str(rotation)),
        expires_at=_time(values.get("expires_at")),
        import_state=None if imported is None else ImportState(str(imported)),
        description=_text(values.get("description")),
        sealed=_text(values.get("sealed")),
        retirement=None if retirement is None else Retirement(str(retirement)),
    )


def _material_id(values: Values) -> MaterialId:
    return MaterialId(bytes.fromhex(str(values["material_id"])))


def _regions(value: Value) -> tuple[Region, ...]:
    return tuple(Region(name) for name in str(value or "").split(",") if name)


def _text(value: Value) -> str | None:
    return None if value is None else str(value)


def _time(value: Value) -> float | None:
    return None if value is None else _int(value) / MICROSECONDS


def _alias(values: Values, region: Region, account: str) -> AliasEntry:
    name = str(values["name"])
    return AliasEntry(
        name=name,
        arn=alias_arn(region, account, name),
        region=region,
        target_key_id=KeyId(str(values["key_id"])),
        created_at=_int(values["created_at"]) / MICROSECONDS,
        updated_at=_int(values["updated_at"]) / MICROSECONDS,
    )


def _segment(values: Values) -> Segment:
    closed_at = values["closed_at"]
    return Segment(
        segment_id=str(values["segment_id"]),
        opened_at=_int(values["opened_at"]) / MICROSECONDS,
        closed_at=None if closed_at is None else _int(closed_at) / MICROSECONDS,
        checkpoint=Checkpoint(
            _int(values["records"]), _int(values["size"]), bytes.fromhex(str(values["last_mac"]))
        ),
    )


def _credential(values: Values) -> CredentialEntry:
    return CredentialEntry(
        access_key_id=str(values["access_key_id"]),
        principal=str(values["principal"]),
        sealed_secret=str(values["sealed_secret"]),
        created_at=_int(values["created_at"]) / MICROSECONDS,
    )


def _user(values: Values, account: str) -> UserEntry:
    name = str(values["name"])
    return UserEntry(
        name, str(values["user_id"]), user_arn(account, name), _int(values["created_at"]) / MICROSECONDS
    )


def _grant(values: Values, region: Region, account: str) -> GrantEntry:
    key_id, name, retiring = KeyId(str(values["key_id"])), values["name"], values["retiring"]
    grant = Grant(
        grant_id=str(values["grant_id"]),
        grantee=str(values["grantee"]),
        operations=frozenset(str(values["operations"]).split(",")),
        constraints=Constraints(_pairs(values["context_equals"]), _pairs(values["context_subset"])),
        retiring_principal=None if retiring is None else str(retiring),
    )
    return GrantEntry(
        grant=grant,
        key_id=key_id,
        key_arn=key_arn(region, account, key_id),
        account_arn=root_arn(account),
        name=None if name is None else str(name),
        created_at=_int(values["created_at"]) / MICROSECONDS,
    )


def _pairs(value: Value) -> Mapping[str, str] | None:
    return None if value is None else MappingProxyType(json.loads(str(value)))


def _int(value: Value) -> int:
    assert isinstance(value, int)  # noqa: S101 - the row is authentic, so the column has its type
    return value
