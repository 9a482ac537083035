"""A home with two regions, each with a key ``alias/main``: made once, copied for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from testkit.tokens import build_shim, make_softhsm, make_token

from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"


@pytest.fixture(scope="session")
def _two_regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keystore") / "home"
    with Keystore.open(path) as keystore:
        for region in (US, EU):
            keystore.add_region(region)
            keystore.create_key(region, description=f"main key of {region}", alias="alias/main")
    return path


@pytest.fixture
def ks_home(_two_regions: Path, tmp_path: Path) -> Path:
    """The path of a home of the test's own, with two regions."""
    return Path(shutil.copytree(_two_regions, tmp_path / "ks-home"))


@pytest.fixture
def keystore(ks_home: Path) -> Iterator[Keystore]:
    """The keystore of ``ks_home``."""
    with Keystore.open(ks_home) as opened:
        yield opened


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The PKCS#11 module that misbehaves when KMSFS_SHIM says so."""
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def own_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The PIN file of a token ``own`` in a SoftHSM that is not the embedded one."""
    conf = make_softhsm(tmp_path / "own")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    return make_token(conf, "own")
