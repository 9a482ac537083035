"""Two regions for the commands: a key in each, of the same alias."""

import pytest
from testkit.home import ALIAS, Home

US = "us-east-1"


@pytest.fixture
def us_key(home: Home) -> str:
    """A key of a second region."""
    home.ok("region", "add", US)
    return str(home.json("key", "create", "--region", US, "--alias", ALIAS)["Arn"])


@pytest.fixture
def eu_key(home: Home) -> str:
    """The key of the tree."""
    return str(home.json("key", "describe", ALIAS, "--region", "eu-west-1")["Arn"])
