"""A real server on a free port, as the installed ``kmsfs serve``."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from testkit.aws_shapes import check_answer
from testkit.home import KMSFS, Home


@dataclass(frozen=True)
class Serving:
    """A running server and an access key of its account's root."""

    home: Home
    url: str
    access_key_id: str
    secret: str
    process: subprocess.Popen[str]
    said: tuple[str, ...]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(
        self,
        region: str,
        *,
        access_key_id: str | None = None,
        secret: str | None = None,
        verify: Any = None,
        validation: bool = True,
    ) -> Any:
        """Return a boto3 client for one region, which sees to it that every answer is one of AWS's shape.

        Without ``validation``, what AWS would refuse is sent all the same.
        """
        client = boto3.client(
            "kms",
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=access_key_id or self.access_key_id,
            aws_secret_access_key=secret or self.secret,
            config=Config(retries={"max_attempts": 0}, parameter_validation=validation),
            verify=verify,
        )
        client.meta.events.register("before-parse.kms", check_answer)
        return client

    def stop(self) -> int:
        """End the server as an operator does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


#: AWS answers with 400 whatever is refused but these.
STATUSES = {
    "DependencyTimeoutException": 503,
    "DryRunOperationException": 412,
    "KMSInternalException": 500,
    "KeyUnavailableException": 500,
}


def refused(call: Callable[[], object]) -> tuple[str, str]:
    """Return name and message of the error that a boto3 call must end with, and with AWS's status."""
    with pytest.raises(ClientError) as error:
        call()
    answer = error.value.response
    assert answer["ResponseMetadata"]["RequestId"]
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == STATUSES.get(answer["Error"]["Code"], 400)
    return answer["Error"]["Code"], answer["Error"]["Message"]


@contextmanager
def serving(home: Home, *options: str, first_key: tuple[str, str] | None = None) -> Iterator[Serving]:
    """Run ``kmsfs serve`` on a home whose root has no access key yet, or the one that is given."""
    process = subprocess.Popen(
        [KMSFS, "serve", *(options or ("--bind", "127.0.0.1:0"))],
        env={**os.environ, "KMSFS_HOME": str(home.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(1 if first_key else 4)]
        assert said[-1].startswith("serving on "), said
        key, secret = first_key or (said[1].split()[-1], said[2].split()[-1])
        yield Serving(home, said[-1].split()[-1], key, secret, process, tuple(said))
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        process.stdout.close()
