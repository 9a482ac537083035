"""Two hosts that set up one region on one empty token at the same moment, with one PostgreSQL database."""

import json
import subprocess
from pathlib import Path

import pytest
from testkit.home import KMSFS, Home
from testkit.postgres import Postgres
from testkit.tokens import make_softhsm, make_token

from kmsfs.cli.exitcodes import ExitCode
from kmsfs.keystore.softhsm import find_module

US = "us-east-1"


@pytest.mark.parametrize("attempt", range(3))
def test_the_token_gets_each_key_once(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    conf = make_softhsm(tmp_path / "own")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    pin_file = make_token(conf, "own")
    url = postgres.url(postgres.new_database())
    homes = []
    for name in ("one", "two"):
        homes.append(Home(tmp_path / name))
        homes[-1].path.mkdir(mode=0o700)
        (homes[-1].path / "config.json").write_text(json.dumps({"metadata_url": url}))
    token = ("--module", find_module(), "--token", "own", "--pin-file", pin_file)
    add = ("region", "add", US, *map(str, token))
    adding = [
        subprocess.Popen(
            [KMSFS, *add],
            env=home.env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for home in homes
    ]
    said_by = [process.communicate()[1] for process in adding]
    for process, home, said in zip(adding, homes, said_by, strict=True):
        if process.returncode == ExitCode.TOKEN_NOT_FOUND:
            home.ok(*add)  # SoftHSM does not show a token while another process writes to it
        else:
            assert (process.returncode, said) == (0, "")
    made = homes[0].json("key", "create", "--alias", "alias/a")
    assert homes[1].json("key", "describe", "alias/a")["Arn"] == made["Arn"]
    for home in homes:
        assert home.json("credential", "create", "root")["AccessKeyId"]
        assert home.ailments() == []
