"""``kmsfs key``: multi-region keys."""

import base64

from testkit.home import REGION, Home, refused

US = "us-east-1"


def test_a_key_is_replicated_and_used_where_its_primary_is_away(home: Home) -> None:
    home.ok("region", "add", US)
    key = home.json("key", "create", "--region", REGION, "--multi-region", "--alias", "alias/shared")
    assert key["KeyId"].startswith("mrk-")
    replica = home.json("key", "replicate", key["Arn"], "--to", US, "--description", "its replica")
    assert (replica["KeyId"], replica["Description"]) == (key["KeyId"], "its replica")
    assert replica["MultiRegionConfiguration"]["PrimaryKey"] == {"Arn": key["Arn"], "Region": REGION}
    said = home.ok("key", "describe", key["Arn"])
    assert f"primary in   {REGION}" in said
    assert f"replicas in  {US}" in said
    made = home.json("generate-data-key", "--key", key["Arn"])
    blob = home.path / "blob"
    blob.write_bytes(base64.b64decode(made["CiphertextBlob"]))
    (token,) = home.path.glob(f"regions/{REGION}.json")
    token.rename(home.path / "away")
    opened = home.json("decrypt", blob, "--region", US)
    assert opened["Plaintext"] == made["Plaintext"]
    assert opened["KeyId"] == replica["Arn"]


def test_the_primary_is_another_and_is_deleted_last(home: Home) -> None:
    home.ok("region", "add", US)
    key = home.json("key", "create", "--region", REGION, "--multi-region", "--alias", "alias/shared")
    single = home.json("key", "create", "--region", REGION)
    refused(home.run("key", "replicate", single["Arn"], "--to", US), 16)
    refused(home.run("key", "replicate", key["Arn"], "--to", "us-west-2"), 2)
    refused(home.run("key", "set-primary", key["Arn"], "--to", US), 2)
    assert f"replicas in  {US}" in home.ok("key", "replicate", "alias/shared", "--region", REGION, "--to", US)
    refused(home.run("key", "replicate", key["Arn"], "--to", US), 4)
    moved = home.json("key", "set-primary", key["Arn"], "--to", US)
    assert moved["MultiRegionConfiguration"]["MultiRegionKeyType"] == "PRIMARY"
    refused(home.run("key", "rotate", key["Arn"]), 16)
    assert home.ok("key", "rotate", moved["Arn"])
    said = home.json("key", "schedule-deletion", moved["Arn"], "--days", "7")
    assert said == {"KeyId": moved["Arn"], "KeyState": "PendingReplicaDeletion", "PendingWindowInDays": 7}
    assert "7 days after its last replica" in home.ok("key", "describe", moved["Arn"])
