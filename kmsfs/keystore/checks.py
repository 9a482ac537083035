"""The keystore's self checks, for ``kmsfs doctor``: each one a finding, with the remedy when it fails."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kmsfs.errors import InsecureKeyError, KeyNotFoundError, KmsfsError
from kmsfs.ids import Region
from kmsfs.keystore.audit import audit_key_id
from kmsfs.keystore.authorize import parses
from kmsfs.keystore.finding import Finding
from kmsfs.keystore.home import load_region, region_names
from kmsfs.keystore.materials import KEY_LABEL_PREFIX
from kmsfs.keystore.model import ImportState, KeyMetadata, Material, Origin, RegionConfig
from kmsfs.keystore.pin import read_pin
from kmsfs.keystore.pkcs11_module import module_at
from kmsfs.keystore.policy.document import PolicyKind
from kmsfs.keystore.ports import TokenKey
from kmsfs.keystore.region import RegionService, integrity_key_id, report_key_id
from kmsfs.keystore.sealing import CREDENTIAL_KEY, IMPORT_KEY, sharing_key
from kmsfs.keystore.snapshot import MaterialEntry

_GONE = (ImportState.MISSING, ImportState.REMOVING, ImportState.DROPPING)


def check_keystore(home: Path, service: Callable[[str], RegionService]) -> list[Finding]:
    """Examine the home and every region in it."""
    names = region_names(home)
    if not names:
        return [Finding("regions", False, "no region is configured", "kmsfs region add REGION")]
    findings = [_home_mode(home)]
    for name in names:
        findings += _check_region(home, name, service)
    return [*findings, *_same_principals(names, service)]


def _check_region(home: Path, name: Region, service: Callable[[str], RegionService]) -> Iterator[Finding]:
    """Yield the findings of one region; a check that later ones stand on ends them when it fails."""
    try:
        config = load_region(home, name)
    except KmsfsError as error:
        yield _failed(f"{name}: configuration", error)
        return
    steps: list[tuple[str, Callable[[], str]]] = [
        ("module", lambda: str(module_at(config.module).path)),
        ("pin", lambda: _pin(config)),
        ("token", lambda: _token(service(name))),
        ("metadata", lambda: _metadata(service(name))),
        ("keys", lambda: _keys(service(name))),
    ]
    for step, run in steps:
        try:
            yield Finding(f"{name}: {step}", True, run())
        except KmsfsError as error:
            yield _failed(f"{name}: {step}", error)
            return
    yield _orphans(f"{name}: orphans", service(name))
    yield _policies(f"{name}: policies", service(name))


def _home_mode(home: Path) -> Finding:
    mode = home.stat().st_mode & 0o777
    hint = "" if not mode & 0o077 else f"chmod 700 {home}"
    return Finding("home", not mode & 0o077, f"{home} (mode {mode:04o})", hint)


def _pin(config: RegionConfig) -> str:
    read_pin(config.region, config.pin_file)
    return str(config.pin_file or "from the environment")


def _token(service: RegionService) -> str:
    label = service.config.token_label
    if not service.hsm.holds(integrity_key_id(service.config.region)):
        raise KeyNotFoundError(
            f"token {label} does not hold the region's integrity key",
            hint="it is another token of that label: connect the right one",
        )
    return f"{label} accepts the PIN"


def _metadata(service: RegionService) -> str:
    snapshot = service.ledger.reload()
    return f"{len(snapshot.keys)} keys and {len(snapshot.aliases)} aliases, all rows authentic"


def _keys(service: RegionService) -> str:
    in_token = {key.object_id: key for key in service.hsm.list_keys()}
    entries = service.snapshot.materials.values()
    gone = {e.material.material_id: _remedy(e) for e in entries if _is_gone(e.material)}
    brought = {e.material.material_id for e in entries if e.key.origin is Origin.EXTERNAL}
    for object_id in gone.keys() & in_token.keys():
        raise InsecureKeyError(
            f"key material {object_id.hex()} was deleted and is in the token",
            hint=gone[object_id],
        )
    wanted = [*_owned(service), *(name for name in service.snapshot.materials if name not in gone)]
    wanted += in_token.keys() & {report_key_id(service.config.region)}  # no row says whether there was one
    for name in wanted:
        _require_safe(name, in_token.get(name))
    said = f"{len(wanted)} keys, all sensitive and not extractable"
    imported = brought & set(wanted)
    shared = {e.material.material_id for e in entries if e.key.primary_region is not None}
    # Not an error: some modules say so of every key.
    unvouched = [name for name in wanted if not in_token[name].local and name not in imported | shared]
    said += f"; {len(imported)} imported" if imported else ""
    said += f"; {len(shared)} of multi-region keys" if shared else ""
    return said + (f"; the token does not vouch that it made {len(unvouched)} of them" if unvouched else "")


def _is_gone(material: Material) -> bool:
    return material.import_state in _GONE or material.retirement is not None


def _remedy(entry: MaterialEntry) -> str:
    return f"kmsfs key {'retire' if entry.material.retirement else 'delete-material'} {entry.key.arn}"


def _require_safe(object_id: bytes, key: TokenKey | None) -> None:
    if key is None:
        raise KeyNotFoundError(
            f"key material {object_id.hex()} is not in the token", hint="restore the token from its backup"
        )
    if key.extractable or not key.sensitive:
        raise InsecureKeyError(
            f"key material {object_id.hex()} is extractable or not sensitive",
            hint="somebody replaced it: restore the token from its backup",
        )


def _owned(service: RegionService) -> list[bytes]:
    """Return the ids of the keystore's own keys that must be there: made when they are first needed."""
    region, snapshot = service.config.region, service.snapshot
    sealing = [CREDENTIAL_KEY.object_id(region)] if snapshot.credentials else []
    audit = [audit_key_id(region)] if snapshot.audit_segments else []
    return [integrity_key_id(region), *sealing, *audit, *_sharing(region, snapshot.keys.values())]


def _sharing(region: Region, keys: Iterable[KeyMetadata]) -> list[bytes]:
    """Return the ids of what seals the material of multi-region keys."""
    shared = (key.key_id for key in keys if key.primary_region is not None)
    return [sharing_key(key_id).object_id(region) for key_id in shared]


def _policies(name: str, service: RegionService) -> Finding:
    """Look for policies that this version cannot read: they deny everything."""
    snapshot = service.snapshot
    for key_id, document in snapshot.key_policies.items():
        if not parses(document, PolicyKind.KEY):
            hint = f"kmsfs key policy put {key_id} FILE --as-owner --region {snapshot.region}"
            return Finding(
                name, False, f"policy of key {key_id} cannot be read: nobody may use the key", hint
            )
    for user, policies in snapshot.identity_policies.items():
        for policy, document in policies.items():
            if not parses(document, PolicyKind.IDENTITY):
                detail = f"policy {policy} of user {user} cannot be read: the user may do nothing"
                return Finding(
                    name, False, detail, f"kmsfs user policy put {user} FILE --policy-name {policy}"
                )
    own, grants = len(snapshot.key_policies), len(snapshot.grants)
    return Finding(name, True, f"{own} keys have a policy of their own; {grants} grants")


def _same_principals(names: Sequence[Region], service: Callable[[str], RegionService]) -> Iterator[Finding]:
    """Compare what belongs to the account and is written to every region."""
    seen = []
    for name in names:
        try:
            snapshot = service(name).snapshot
        except KmsfsError:
            continue  # it was reported
        credentials = {entry.access_key_id: entry.principal for entry in snapshot.credentials.values()}
        policies = {user: dict(found) for user, found in snapshot.identity_policies.items()}
        seen.append((name, (dict(snapshot.users), policies, credentials)))
    if not seen:
        return
    different = [name for name, found in seen if found != seen[0][1]]
    yield Finding(
        "principals",
        not different,
        f"regions {seen[0][0]} and {different[0]} hold different users, policies or access keys"
        if different
        else "every region holds the same users, policies and access keys",
        "a change was interrupted: repeat it" if different else "",
    )


def _orphans(name: str, service: RegionService) -> Finding:
    """Look for key objects of ours that no metadata row knows: the trace of rows that were taken away."""
    region = service.config.region
    condemned = service.snapshot.condemned.values()
    dying = (material.material_id for key in condemned for material in key.materials)
    own = (
        integrity_key_id(region),
        CREDENTIAL_KEY.object_id(region),
        IMPORT_KEY.object_id(region),
        audit_key_id(region),
        report_key_id(region),
        *_sharing(region, [*service.snapshot.keys.values(), *condemned]),
    )
    known = {*own, *service.snapshot.materials, *dying}
    ours = [key for key in service.hsm.list_keys() if key.label.startswith(KEY_LABEL_PREFIX)]
    labels = sorted({key.label for key in ours if key.object_id not in known})
    if not labels:
        return Finding(name, True, "every key object in the token is accounted for")
    return Finding(
        name,
        False,
        f"{len(labels)} objects in the token belong to no key: {', '.join(labels[:5])}",
        "they are of another KMSFS_HOME, or the metadata was set back: examine before deleting",
    )


def _failed(name: str, error: KmsfsError) -> Finding:
    return Finding(name, False, str(error), error.hint)
