"""Tokens for keystore tests: SoftHSM beside the embedded one, and a PKCS#11 module that misbehaves on demand."""

import os
import shutil
import subprocess
from pathlib import Path

from kmsfs.keystore.softhsm import find_module

SHIM_SOURCE = Path(__file__).with_name("pkcs11_shim.c")
PIN = "4711-0815"


def build_shim(directory: Path, *, beside_softhsm: bool = False) -> Path:
    """Compile the misbehaving module; KMSFS_SHIM says how it misbehaves, word by word (pkcs11_shim.c).

    It stands before SoftHSM, of which a process has one instance; before a copy, to serve ``beside_softhsm``.
    """
    options = []
    if beside_softhsm:
        copy = shutil.copy(find_module(), directory / "libsofthsm2-copy.so")
        options = [f'-DSOFTHSM="{copy}"']
    module = directory / "pkcs11_shim.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-O1", *options, "-o", module, SHIM_SOURCE, "-ldl"],
        check=True,
    )
    return module


def make_softhsm(directory: Path) -> Path:
    """Return the configuration of an empty SoftHSM of one's own."""
    (directory / "tokens").mkdir(parents=True)
    conf = directory / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {directory}/tokens\nlog.level = ERROR\n")
    return conf


def make_token(conf: Path, label: str) -> Path:
    """Initialise a token the way a user of an own module does; return its PIN file."""
    util = shutil.which("softhsm2-util")
    assert util is not None
    subprocess.run(
        [util, "--init-token", "--free", "--label", label, "--so-pin", "so-pin-of-a-test", "--pin", PIN],
        env={**os.environ, "SOFTHSM2_CONF": str(conf)},
        check=True,
        capture_output=True,
    )
    pin_file = conf.with_name(f"{label}.pin")
    pin_file.touch(mode=0o600)
    pin_file.write_text(PIN + "\n")
    return pin_file
