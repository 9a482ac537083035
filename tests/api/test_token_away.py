"""The token fails under a running server: an error that says so, nothing lost, and it works again without a restart."""

import pytest
from botocore.exceptions import ClientError
from testkit.home import REGION, Home
from testkit.serving import serving

US = "us-east-1"


def test_the_token_away_and_back(home: Home) -> None:
    home.ok("region", "add", US)
    tokens = home.path / "softhsm" / "tokens"
    with serving(home) as served:
        client, other = served.client(REGION), served.client(US)
        key = client.create_key()["KeyMetadata"]["KeyId"]
        blob = client.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
        tokens.rename(tokens.with_name("away"))
        for call in (
            lambda: client.encrypt(KeyId=key, Plaintext=b"x"),
            lambda: client.decrypt(CiphertextBlob=blob),
            lambda: client.create_key(),
            lambda: other.generate_random(NumberOfBytes=8) and other.create_key(),
        ):
            with pytest.raises(ClientError) as caught:
                call()
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in (500, 503)
            assert caught.value.response["Error"]["Code"] in (
                "KeyUnavailableException",
                "DependencyTimeoutException",
                "KMSInternalException",
            )
        tokens.with_name("away").rename(tokens)
        assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"secret"
        assert client.create_key()["KeyMetadata"]["KeyState"] == "Enabled"
        assert len(client.list_keys()["Keys"]) == 3
        assert served.stop() == 0
