"""One server with two regions for the tests that only talk to it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testkit.home import Home, make_home
from testkit.serving import Serving, serving

US, EU = "us-east-1", "eu-west-1"


@pytest.fixture(scope="module")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    path = tmp_path_factory.mktemp("served") / "home"
    home = make_home(path)
    home.ok("region", "add", US)
    yield home
    shutil.rmtree(Path(path))


@pytest.fixture(scope="module")
def served(server_home: Home) -> Iterator[Serving]:
    with serving(server_home) as running:
        yield running


@pytest.fixture
def us(served: Serving) -> Any:
    return served.client(US)


@pytest.fixture
def eu(served: Serving) -> Any:
    return served.client(EU)


@pytest.fixture
def key(us: Any) -> Any:
    return us.create_key(Description="a key")["KeyMetadata"]
