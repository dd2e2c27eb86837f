"""An S3 server with an empty bucket."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from unittest import mock

import boto3
import fsspec
from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def make_bucket() -> Iterator[str]:
    """Yield the URL of an empty bucket on a new S3 server, whose address the environment has meanwhile."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "finch",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with mock.patch.dict(os.environ, address):
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # they have the address of the server of another test
        name = f"finch-{secrets.token_hex(4)}"  # all servers of one process have the same buckets
        boto3.client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}/artifacts"
    server.stop()
