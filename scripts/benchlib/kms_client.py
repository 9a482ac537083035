"""One of several clients at once: prepares a boto3 client, says so, waits for the start, and makes its requests.

Run as a program, in an environment that has boto3: kms_client.py ENDPOINT KEY_ID ACTION COUNT
"""

import sys
from collections.abc import Callable

import boto3
from botocore.config import Config


def main(endpoint: str, key_id: str, action: str, count: int) -> None:
    client = boto3.client("kms", endpoint_url=endpoint, config=Config(retries={"total_max_attempts": 1}))
    call = _call(client, key_id, action)
    call()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(count):
        call()
    print("done", flush=True)


def _call(client: "boto3.client", key_id: str, action: str) -> Callable[[], object]:
    context = {"purpose": "bench"}
    if action == "GenerateDataKey":
        return lambda: client.generate_data_key(KeyId=key_id, KeySpec="AES_256", EncryptionContext=context)
    made = client.generate_data_key(KeyId=key_id, KeySpec="AES_256", EncryptionContext=context)

    def decrypt() -> None:
        answer = client.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context)
        if answer["Plaintext"] != made["Plaintext"]:
            raise SystemExit("the answer is wrong")

    return decrypt


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
