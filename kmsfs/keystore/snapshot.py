"""A region's verified rows as the values of the model: one immutable snapshot for each change. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kmsfs.errors import AliasNotFoundError, KeyNotFoundError
from kmsfs.format.blob import BlobHead, Suite, head_prefix
from kmsfs.ids import KeyId, MaterialId, Region
from kmsfs.keystore.arn import alias_arn, key_arn
from kmsfs.keystore.audit import Checkpoint, Segment
from kmsfs.keystore.model import (
    AliasEntry,
    CredentialEntry,
    KeyManager,
    KeyMetadata,
    KeyState,
    Material,
    RotationType,
)
from kmsfs.keystore.ports import KEY_COLUMNS, Row, Value
from kmsfs.keystore.rows import CONDEMNED, DELETED, MICROSECONDS, Values


@dataclass(frozen=True, slots=True)
class MaterialEntry:
    """What using a material takes: its key, and the head, without nonce, that all its blobs begin with."""

    key: KeyMetadata
    material: Material
    prefix: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A region's verified metadata as of one change counter. Never changed, only replaced."""

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
    condemned: Mapping[KeyId, KeyMetadata]  # deletion has begun: their material is being destroyed
    next_due: float  # when the first rotation or deletion is due

    def key(self, key_id: KeyId) -> KeyMetadata:
        """Return the CMK or raise KeyNotFoundError."""
        found = self.keys.get(key_id)
        if found is None:
            raise KeyNotFoundError(
                f"key {key_id} is not in region {self.region}", hint="kmsfs key list shows the keys"
            )
        return found

    def alias(self, name: str) -> AliasEntry:
        """Return the alias or raise AliasNotFoundError."""
        found = self.aliases.get(name)
        if found is None:
            raise AliasNotFoundError(f"{name} does not exist in region {self.region}")
        return found


def build_snapshot(state: Row, rows: Iterable[Row]) -> Snapshot:
    """Turn verified rows into a snapshot."""
    region, account = Region(str(state.values["region"])), str(state.values["account"])
    by_table: dict[str, list[Values]] = {table: [] for table in KEY_COLUMNS}
    for row in rows:
        by_table[row.table].append(row.values)
    materials: dict[KeyId, list[Material]] = {}
    uses: dict[MaterialId, int] = {}
    for values in sorted(by_table["materials"], key=lambda v: (_int(v["created_at"]), str(v["material_id"]))):
        material = _material(values)
        materials.setdefault(KeyId(str(values["key_id"])), []).append(material)
        uses[material.material_id] = _int(values["uses_reserved"])
    condemned = _keys_of(by_table["keys"], CONDEMNED, region, account, materials)
    keys = _keys_of(by_table["keys"], None, region, account, materials)
    entries = {
        material.material_id: MaterialEntry(
            key,
            material,
            head_prefix(BlobHead(material.suite, key.arn, material.material_id)),
        )
        for key in keys
        for material in key.materials
    }
    aliases = {alias.name: alias for alias in (_alias(v, region, account) for v in by_table["aliases"])}
    return Snapshot(
        region,
        account,
        _int(state.values["counter"]),
        MappingProxyType({key.key_id: key for key in keys}),
        MappingProxyType(entries),
        MappingProxyType(aliases),
        MappingProxyType(uses),
        MappingProxyType({found.segment_id: found for found in map(_segment, by_table["audit_segments"])}),
        MappingProxyType({str(v["access_key_id"]): _credential(v) for v in by_table["credentials"]}),
        MappingProxyType(_tags(by_table["tags"])),
        MappingProxyType({key.key_id: key for key in condemned}),
        min((_due(key) for key in keys), default=math.inf) if not condemned else -math.inf,
    )


def _due(key: KeyMetadata) -> float:
    """When something is to be done with a key by itself."""
    if key.state is KeyState.PENDING_DELETION and key.deletion_at is not None:
        return key.deletion_at
    if key.state is KeyState.ENABLED and key.next_rotation_at is not None:
        return key.next_rotation_at
    return math.inf


def _tags(rows: Iterable[Values]) -> dict[KeyId, Mapping[str, str]]:
    tags: dict[KeyId, dict[str, str]] = {}
    for values in rows:
        key_id, _, name = str(values["tag_id"]).partition("/")
        tags.setdefault(KeyId(key_id), {})[name] = str(values["tag_value"])
    return {key_id: MappingProxyType(found) for key_id, found in tags.items()}


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
    period = values.get("rotation_period_days")
    return KeyMetadata(
        key_id=key_id,
        arn=key_arn(region, account, key_id),
        region=region,
        account=account,
        description=str(values["description"]),
        state=KeyState.PENDING_DELETION if values["state"] == CONDEMNED else KeyState(str(values["state"])),
        manager=KeyManager(str(values["manager"])),
        created_at=_int(values["created_at"]) / MICROSECONDS,
        current_material_id=MaterialId(bytes.fromhex(str(values["current_material"]))),
        materials=tuple(materials.get(key_id, ())),
        deletion_at=_time(values.get("deletion_at")),
        rotation_period_days=None if period is None else _int(period),
        next_rotation_at=_time(values.get("next_rotation_at")),
    )


def _material(values: Values) -> Material:
    rotation = values.get("rotation_type")
    return Material(
        MaterialId(bytes.fromhex(str(values["material_id"]))),
        Suite(_int(values["suite"])),
        _int(values["created_at"]) / MICROSECONDS,
        None if rotation is None else RotationType(str(rotation)),
    )


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


def _int(value: Value) -> int:
    assert isinstance(value, int)  # noqa: S101 - the row is authentic, so the column has its type
    return value
