"""What every test gets: ``testkit`` on the path, a home of its own, and a check that nothing is left."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from testkit.home import ALIAS, FORK_SERVER, REGION, SECOND_REGION, Home, add_region, make_home
from testkit.leftovers import mounts_below, processes_naming
from testkit.mounting import mounted, mounter, tree
from testkit.postgres import Postgres, running_postgres

# A busy machine is no failure. The profiles of property/ and fuzz/ build on this one.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the user's own keystore, PINs, debug switch or AWS configuration."""
    for name in [name for name in os.environ if name.startswith(("KMSFS_", "AWS_", "PG"))]:
        monkeypatch.delenv(name)
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("KMSFS_HOME", str(base / "no-home-was-set"))
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(base / "no-aws-configuration"))


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a mount or a process behind.

    Looked for below this run's temporary directory, so that other runs on the machine do not matter.
    """
    base = tmp_path_factory.getbasetemp()
    before = mounts_below(base) | processes_naming(base, but=FORK_SERVER.pid)
    yield
    left = (mounts_below(base) | processes_naming(base, but=FORK_SERVER.pid)) - before
    assert not left, f"left behind: {sorted(left)}"


@pytest.fixture(scope="session", autouse=True)
def _fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    FORK_SERVER.mark = f"{tmp_path_factory.getbasetemp()}/"
    yield
    FORK_SERVER.stop()


@pytest.fixture(scope="session")
def _prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("prepared") / "home")


@pytest.fixture(scope="session")
def _prepared_pair(_prepared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = _prepared_home.copy_to(tmp_path_factory.mktemp("prepared-pair") / "home")
    add_region(home, SECOND_REGION)
    return home


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A home of the test's own, with the region ``eu-west-1`` and the key ``alias/files``.

    For a test that asks for ``us_key``, with a second region that has a key of that alias, too.
    """
    prepared = "_prepared_pair" if "us_key" in request.fixturenames else "_prepared_home"
    made: Home = request.getfixturevalue(prepared)
    return made.copy_to(tmp_path / "home")


@pytest.fixture(scope="session")
def _arns(_prepared_pair: Home) -> dict[str, str]:
    return {
        region: _prepared_pair.json("key", "describe", ALIAS, "--region", region)["Arn"]
        for region in (REGION, SECOND_REGION)
    }


@pytest.fixture
def eu_key(_arns: dict[str, str]) -> str:
    """The ARN of the key in the home's first region."""
    return _arns[REGION]


@pytest.fixture
def us_key(_arns: dict[str, str]) -> str:
    """The ARN of the key in its second region."""
    return _arns[SECOND_REGION]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def empty_home(tmp_path: Path) -> Home:
    """A home that nobody has used."""
    return Home(tmp_path / "empty-home")


__all__ = ["mounted", "mounter", "tree"]
