"""Key material that several regions' tokens hold: that of multi-region keys, and of no other keys.

It is made on the host, of random bytes of the token, put into the token as every key material is, sensitive and not
extractable, and kept a second time in the region's metadata, sealed under a key of that token, which is there for this
one key and is destroyed with it. So the token of one region opens what another region's token is to get, as long as it
has the key.
"""

from dataclasses import replace

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import IntegrityError, MetadataTamperedError
from kmsfs.format.blob import MATERIAL_ID_SIZE, Suite
from kmsfs.ids import KeyId, MaterialId, Region
from kmsfs.keystore.model import Material
from kmsfs.keystore.ports import Hsm, KeyKind
from kmsfs.keystore.sealing import sharing_key


def new_shared_material(
    hsm: Hsm, region: Region, key_id: KeyId, label: str, size: int, now: float
) -> Material:
    """Make material that can be shared; what the caller does not commit, it destroys. One process at a time.

    Always of suite 2: every module can do it, and no count of its uses has to be kept across regions.
    """
    sharing_key(key_id).make(hsm, region)
    material = Material(MaterialId(random_bytes(MATERIAL_ID_SIZE)), Suite.HSM_KDF, now)
    return _put(hsm, region, key_id, label, material, hsm.random(size))


def copied_material(
    source: tuple[Hsm, Region], target: tuple[Hsm, Region], key_id: KeyId, label: str, material: Material
) -> Material:
    """Put one region's material into another region's token; as for ``new_shared_material``."""
    value = _open(*source, key_id, material)
    sharing_key(key_id).make(*target)
    return _put(*target, key_id, label, material, value)


def _put(hsm: Hsm, region: Region, key_id: KeyId, label: str, material: Material, value: bytes) -> Material:
    name = material.material_id.hex()
    sealed = sharing_key(key_id).seal(hsm, region, value, material_id=name)
    if not hsm.holds(material.material_id):
        hsm.put(KeyKind.HMAC, material.material_id, label, value)
    elif (material.material_id, label) not in [(key.object_id, key.label) for key in hsm.list_keys()]:
        # It is not there since a crash between here and the commit: another region named what it does not own.
        raise foreign_material(material, region)
    return replace(material, sealed=sealed)


def foreign_material(material: Material, region: Region) -> MetadataTamperedError:
    """Return why material that is to come to a region is refused: what has its id there would be used in its place."""
    return MetadataTamperedError(
        f"key material {material.material_id.hex()} is that of another key in region {region}",
        hint="somebody wrote into the metadata of the region that it comes from",
    )


def _open(hsm: Hsm, region: Region, key_id: KeyId, material: Material) -> bytes:
    name, sealed = material.material_id.hex(), material.sealed
    assert sealed is not None  # noqa: S101 - every material of a multi-region key has a copy
    try:
        return sharing_key(key_id).open(hsm, region, sealed, material_id=name)
    except IntegrityError:
        raise IntegrityError(f"sealed copy of key material {name} is not authentic") from None
