"""The metadata's tables, and how a database of an older version becomes one of this version.

Columns are text and integers; ids and MACs are hex. A new column must be NULLable: rows written before it
keep their MACs, which leave NULLs out (rows.py).
"""

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

SCHEMA_VERSION: Final = 6

SCHEMA = sa.MetaData()
INFO = sa.Table("schema_info", SCHEMA, sa.Column("version", sa.Integer, primary_key=True))
TABLES: Final = {
    "region_state": sa.Table(
        "region_state",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("account", sa.String(12), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("rows_digest", sa.String(64), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "keys": sa.Table(
        "keys",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("manager", sa.String(32), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),  # microseconds since 1970, as all times here
        sa.Column("current_material", sa.String(64), nullable=False),  # "" until the first import
        sa.Column("deletion_at", sa.BigInteger),
        sa.Column("rotation_period_days", sa.Integer),
        sa.Column("next_rotation_at", sa.BigInteger),
        sa.Column("key_usage", sa.String(32)),  # NULL: ENCRYPT_DECRYPT
        sa.Column("key_spec", sa.String(32)),  # NULL: SYMMETRIC_DEFAULT
        sa.Column("origin", sa.String(32)),  # NULL: AWS_KMS
        sa.Column("primary_region", sa.String(32)),  # NULL: no multi-region key
        sa.Column("replica_regions", sa.Text),  # with commas between them, as the next one
        sa.Column("former_regions", sa.Text),  # that had a replica once
        sa.Column("deletion_days", sa.Integer),  # of a primary whose replicas are to be deleted first
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "materials": sa.Table(
        "materials",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("material_id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(36), nullable=False),
        sa.Column("suite", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("uses_reserved", sa.BigInteger, nullable=False),  # encryptions that may have been made
        sa.Column("rotation_type", sa.String(32)),
        sa.Column("expires_at", sa.BigInteger),  # NULL: never
        sa.Column("import_state", sa.String(32)),  # NULL: in use; else model.ImportState
        sa.Column("description", sa.Text),  # what an import said of it
        sa.Column("sealed", sa.Text),  # multi-region keys: a copy under an owned key of the token
        sa.Column("retirement", sa.String(32)),  # NULL: in use; else model.Retirement
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "aliases": sa.Table(
        "aliases",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("key_id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "tags": sa.Table(
        "tags",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("tag_id", sa.String(256), primary_key=True),  # key id, "/" and tag key
        sa.Column("tag_value", sa.Text, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "audit_segments": sa.Table(
        "audit_segments",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("segment_id", sa.String(64), primary_key=True),
        sa.Column("opened_at", sa.BigInteger, nullable=False),
        sa.Column("closed_at", sa.BigInteger),  # NULL while records may still be added
        sa.Column("records", sa.BigInteger, nullable=False),  # at the last checkpoint, as the next two
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("last_mac", sa.String(64), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "credentials": sa.Table(
        "credentials",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("access_key_id", sa.String(20), primary_key=True),
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("sealed_secret", sa.String(256), nullable=False),  # credentials.py seals it
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "users": sa.Table(
        "users",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "identity_policies": sa.Table(
        "identity_policies",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("policy_id", sa.String(256), primary_key=True),  # user's name, "/" and policy's name
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "key_policies": sa.Table(  # a key without a row has the default policy
        "key_policies",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.String(36), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
    "grants": sa.Table(
        "grants",
        SCHEMA,
        sa.Column("region", sa.String(32), primary_key=True),
        sa.Column("grant_id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(256)),
        sa.Column("grantee", sa.String(256), nullable=False),
        sa.Column("retiring", sa.String(256)),
        sa.Column("operations", sa.Text, nullable=False),  # with commas between them
        sa.Column("context_equals", sa.Text),  # JSON, as the next one
        sa.Column("context_subset", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    ),
}


def _to_2(connection: sa.Connection) -> None:
    TABLES["audit_segments"].create(connection)


def _to_3(connection: sa.Connection) -> None:
    for table in ("credentials", "tags", "users", "identity_policies", "key_policies", "grants"):
        TABLES[table].create(connection)
    for column in (
        "keys ADD COLUMN deletion_at BIGINT",
        "keys ADD COLUMN rotation_period_days INTEGER",
        "keys ADD COLUMN next_rotation_at BIGINT",
        "materials ADD COLUMN rotation_type VARCHAR(32)",
    ):
        connection.exec_driver_sql(f"ALTER TABLE {column}")


def _to_4(connection: sa.Connection) -> None:
    for column in (
        "keys ADD COLUMN key_usage VARCHAR(32)",
        "keys ADD COLUMN key_spec VARCHAR(32)",
        "keys ADD COLUMN origin VARCHAR(32)",
        "keys ADD COLUMN primary_region VARCHAR(32)",
        "keys ADD COLUMN replica_regions TEXT",
        "materials ADD COLUMN expires_at BIGINT",
        "materials ADD COLUMN import_state VARCHAR(32)",
        "materials ADD COLUMN description TEXT",
        "materials ADD COLUMN sealed TEXT",
    ):
        connection.exec_driver_sql(f"ALTER TABLE {column}")


def _to_5(connection: sa.Connection) -> None:
    for column in ("keys ADD COLUMN former_regions TEXT", "keys ADD COLUMN deletion_days INTEGER"):
        connection.exec_driver_sql(f"ALTER TABLE {column}")


def _to_6(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE materials ADD COLUMN retirement VARCHAR(32)")


_UPGRADES: Final[dict[int, Callable[[sa.Connection], None]]] = {
    1: _to_2,
    2: _to_3,
    3: _to_4,
    4: _to_5,
    5: _to_6,
}
"""What makes a database of that version one of the next."""


def can_upgrade(version: int | None) -> bool:
    """Return whether ``upgrade`` knows that version."""
    return version in _UPGRADES


def upgrade(connection: sa.Connection, version: int) -> None:
    """Bring the tables from ``version`` to SCHEMA_VERSION; the caller holds the write lock."""
    while version != SCHEMA_VERSION:
        _UPGRADES[version](connection)
        version += 1
    connection.execute(sa.update(INFO).values(version=version))
