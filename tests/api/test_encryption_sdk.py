"""A file encrypted and decrypted through the AWS Encryption SDK, and through boto3, with an encryption context."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aws_encryption_sdk as esdk
import pytest
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError
from botocore.session import Session
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from testkit.serving import Serving, refused

CONTEXT = {"project": "files", "stage": "test"}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file of several frames of the SDK, and not a whole number of them."""
    path = tmp_path / "plain"
    path.write_bytes(bytes(range(256)) * 300 + b"end")
    return path


@pytest.fixture
def provider(served: Serving, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what makes a key provider of the SDK; it finds the server as applications do, by environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", served.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", served.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", served.secret)

    def make(*arns: str) -> Any:
        return esdk.StrictAwsKmsMasterKeyProvider(key_ids=list(arns), botocore_session=Session())

    return make


def write(source: Path, target: Path, provider: Any) -> None:
    client = esdk.EncryptionSDKClient()
    with (
        source.open("rb") as clear,
        target.open("wb") as sealed,
        client.stream(mode="e", source=clear, key_provider=provider, encryption_context=CONTEXT) as encryptor,
    ):
        for chunk in encryptor:
            sealed.write(chunk)


def read(sealed: Path, provider: Any) -> tuple[bytes, dict[str, str]]:
    client = esdk.EncryptionSDKClient()
    with sealed.open("rb") as source, client.stream(mode="d", source=source, key_provider=provider) as stream:
        return stream.read(), dict(stream.header.encryption_context)


def test_a_file_through_the_encryption_sdk(
    plain: Path, tmp_path: Path, key: Any, provider: Callable[..., Any]
) -> None:
    sealed = tmp_path / "sealed"
    write(plain, sealed, provider(key["Arn"]))
    assert plain.read_bytes()[:64] not in sealed.read_bytes()
    found, context = read(sealed, provider(key["Arn"]))
    assert found == plain.read_bytes()
    assert CONTEXT.items() <= context.items()


def test_a_file_for_two_regions(
    plain: Path, tmp_path: Path, key: Any, eu: Any, provider: Callable[..., Any]
) -> None:
    """The SDK wraps its data key under both; either region alone then reads the file."""
    other = eu.create_key()["KeyMetadata"]
    sealed = tmp_path / "sealed"
    write(plain, sealed, provider(key["Arn"], other["Arn"]))
    for arn in (key["Arn"], other["Arn"]):
        assert read(sealed, provider(arn))[0] == plain.read_bytes()


def test_a_file_whose_context_was_changed_is_refused(
    plain: Path, tmp_path: Path, key: Any, provider: Callable[..., Any]
) -> None:
    sealed = tmp_path / "sealed"
    write(plain, sealed, provider(key["Arn"]))
    message = sealed.read_bytes()
    assert message.count(b"files") == 1
    sealed.write_bytes(message.replace(b"files", b"filez"))
    with pytest.raises(AWSEncryptionSDKClientError):
        read(sealed, provider(key["Arn"]))


def test_a_file_under_a_data_key_of_boto3(plain: Path, us: Any, key: Any) -> None:
    """What every application does by itself: the file under the data key, the wrapped data key beside it."""
    made = us.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_256", EncryptionContext=CONTEXT)
    sealed = AESGCM(made["Plaintext"]).encrypt(b"n" * 12, plain.read_bytes(), None)
    found = us.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert AESGCM(found["Plaintext"]).decrypt(b"n" * 12, sealed, None) == plain.read_bytes()
    for context in ({}, {**CONTEXT, "stage": "live"}):
        wrong = refused(
            lambda context=context: us.decrypt(
                CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context
            )
        )
        assert wrong == ("InvalidCiphertextException", "")
