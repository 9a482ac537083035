"""Setting up a region: its token, its PIN, its own keys, its state row, and last its configuration.

A region exists once its configuration file does. Every step before that can be repeated, so an interrupted
``region add`` is simply run again.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kmsfs.errors import AlreadyExistsError, InvalidRequestError
from kmsfs.format.blob import Suite
from kmsfs.ids import Region
from kmsfs.keystore import softhsm
from kmsfs.keystore.audit_key import make_audit_key
from kmsfs.keystore.home import (
    load_region,
    make_private,
    region_names,
    regions_path,
    save_region,
    write_new,
)
from kmsfs.keystore.model import RegionConfig
from kmsfs.keystore.pin import read_pin, read_pin_file
from kmsfs.keystore.pkcs11_hsm import Pkcs11Hsm
from kmsfs.keystore.pkcs11_module import Pkcs11Module, init_softhsm_token, module_at, token_serial
from kmsfs.keystore.ports import KeyKind, MetadataStore
from kmsfs.keystore.region import RegionService, integrity_key_id
from kmsfs.keystore.sealing import SEALING_KEYS
from kmsfs.keystore.stores import create_store

DEFAULT_ACCOUNT = "000000000000"
INTEGRITY_LABEL_PREFIX = "kmsfs:integrity:"


def connect(home: Path, config: RegionConfig) -> Pkcs11Hsm:
    """Return the region's token. Loads no module and reads no PIN yet."""
    place = None
    if config.token_dir is not None:
        softhsm.write_conf(home)
        place = softhsm.SoftHsmToken(softhsm.conf_path(home), str(config.token_dir))
    return Pkcs11Hsm(
        module_at(config.module),
        config.token_label,
        lambda: read_pin(config.region, config.pin_file),
        anchor=integrity_key_id(config.region),
        place=place,
    )


def add_region(
    home: Path,
    store: MetadataStore,
    region: Region,
    *,
    module: Path | None,
    token_label: str | None,
    pin_file: Path | None,
    populate: Callable[[RegionService], None],
) -> RegionConfig:
    """Set up ``region``; without a module, on a new embedded SoftHSM token.

    ``populate`` gives it what every region has. The region is there when that is done, or not at all.
    """
    if module is None and (token_label or pin_file):
        raise InvalidRequestError("a token label or PIN file needs a module", hint="name it with --module")
    if module is not None and token_label is None:
        raise InvalidRequestError("a module needs a token label", hint="name the token with --token")
    make_private(regions_path(home))
    with exclusive(home):
        if region in region_names(home):
            raise AlreadyExistsError(f"region {region} is configured already")
        create_store(home)
        if module is None or token_label is None:
            config = _embedded_token(home, region)
        else:
            _require_own_token(home, module, token_label)
            path = None if pin_file is None else pin_file.absolute()
            config = RegionConfig(
                region, module.absolute(), token_label, path, Suite.HSM_GCM, DEFAULT_ACCOUNT, None
            )
        with store.exclusively():  # other hosts may have the same token
            config = _prepare_token(home, store, config, populate)
        save_region(home, config)
    return config


def _prepare_token(
    home: Path, store: MetadataStore, config: RegionConfig, populate: Callable[[RegionService], None]
) -> RegionConfig:
    hsm = connect(home, config)
    try:
        config = replace(config, suite=hsm.probe_suite())
        anchor, label = integrity_key_id(config.region), INTEGRITY_LABEL_PREFIX + config.region
        labels = {key.label for key in hsm.list_keys() if key.label.startswith(INTEGRITY_LABEL_PREFIX)}
        if labels - {label}:
            raise InvalidRequestError(
                f"token {config.token_label} belongs to another region already",
                hint="one token for each region",
            )
        if label not in labels:
            hsm.generate(KeyKind.HMAC, anchor, label)
        make_audit_key(config.region, hsm)
        for key in SEALING_KEYS:  # now, while no other host can be at it
            key.make(hsm, config.region)
        service = RegionService(config, hsm, store)
        service.ledger.initialize()
        populate(service)
    finally:
        hsm.close()
    return config


def _require_own_token(home: Path, module: Path, label: str) -> None:
    for name in region_names(home):
        other = load_region(home, name)
        if other.module.resolve() == module.resolve() and other.token_label == label:
            raise InvalidRequestError(
                f"token {label} is that of region {name} already", hint="one token for each region"
            )


def _embedded_token(home: Path, region: Region) -> RegionConfig:
    softhsm.prepare(home)
    label = f"kmsfs-{region}"
    pin_file = regions_path(home) / f"{region}.pin"
    path = softhsm.find_module()
    module = module_at(path)
    module.acquire()
    try:
        serial = token_serial(module, softhsm.conf_path(home), label) or _new_token(
            home, module, label, pin_file
        )
    finally:
        module.release()
    directory = softhsm.token_directory(home, serial)
    return RegionConfig(region, path, label, pin_file, Suite.HSM_GCM, DEFAULT_ACCOUNT, directory)


def _new_token(home: Path, module: Pkcs11Module, label: str, pin_file: Path) -> str:
    if not pin_file.exists():  # it is written first: a token without its PIN would be lost
        write_new(pin_file, secrets.token_urlsafe(24) + "\n")
    conf = softhsm.conf_path(home)
    # The security officer could only reset the user PIN, so nobody needs to know that PIN again.
    init_softhsm_token(module, conf, label, so_pin=secrets.token_urlsafe(24), pin=read_pin_file(pin_file))
    serial = token_serial(module, conf, label)
    assert serial is not None  # noqa: S101 - it was initialised a moment ago
    return serial


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """One process at a time sets up regions."""
    descriptor = os.open(regions_path(home) / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
