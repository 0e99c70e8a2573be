"""Servers for DVC remotes on loopback ports, each with one valid credential."""

import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/alice.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""
ALLOWED = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass(frozen=True)
class Store:
    """How a team member configures a remote.

    Attributes:
        url: The remote's address.
        shared: Options of `dvc remote modify` that are the same for all and are committed.
        own: Options of `dvc remote modify --local`, with the credentials.
        wrong: Those of them that hold the credential, with an invalid one.
        secret: The credential, which must never be committed.
    """

    url: str
    shared: dict[str, str]
    own: dict[str, str]
    wrong: dict[str, str]
    secret: str


@contextmanager
def ssh(root: Path) -> Iterator[Store]:
    """Run Debian's openssh-server, which accepts one key."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if sshd is None:
        pytest.skip("openssh-server is not installed")
    for name in ("host", "alice", "mallory"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # Debian's service creates it
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (root / "sshd_config").write_text(SSHD.format(port=port, folder=root), encoding="utf-8")
    command = [sshd, "-D", "-E", root / "sshd.log", "-f", root / "sshd_config"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_for_port(port, server)
        yield Store(
            f"ssh://127.0.0.1/{root.relative_to('/').as_posix()}/store",
            {"port": str(port)},
            {"user": getpass.getuser(), "keyfile": str(root / "alice")},
            {"keyfile": str(root / "mallory")},
            secret=str(root / "alice"),
        )
    finally:
        server.terminate()
        server.wait(30)


def wait_for_port(port: int, server: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Return once a server listens."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)


@contextmanager
def s3(root: Path) -> Iterator[Store]:
    """Run Moto's server with a bucket and a user, who are created before it checks signatures."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        at = {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"}
        anyone = {"aws_access_key_id": "anyone", "aws_secret_access_key": "any"}
        iam = boto3.client("iam", **at, **anyone)
        iam.create_user(UserName="alice")
        iam.put_user_policy(UserName="alice", PolicyName="team", PolicyDocument=json.dumps(ALLOWED))
        key = iam.create_access_key(UserName="alice")["AccessKey"]
        boto3.client("s3", **at, **anyone).create_bucket(Bucket="team")
        check_signatures_after(b"0", at["endpoint_url"])
        yield Store(
            "s3://team/gems",
            {"endpointurl": at["endpoint_url"]},
            {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]},
            {"secret_access_key": "wrong"},
            secret=key["SecretAccessKey"],
        )
        check_signatures_after(b"inf", at["endpoint_url"])  # moto's setting outlives its server
    finally:
        server.stop()


def check_signatures_after(requests: bytes, address: str) -> None:
    """Set the number of requests that a moto server accepts before it checks their signatures."""
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset-auth", requests, plain)).close()


@contextmanager
def webdav(root: Path) -> Iterator[Store]:
    """Run WsgiDAV on cheroot, which accepts one user."""
    from cheroot.wsgi import Server
    from wsgidav.wsgidav_app import WsgiDAVApp

    (root / "shared" / "gems").mkdir(parents=True)  # DVC does not create the folder of the URL
    password = secrets.token_urlsafe()
    app = WsgiDAVApp(
        {
            "provider_mapping": {"/": str(root / "shared")},
            "simple_dc": {"user_mapping": {"*": {"alice": {"password": password}}}},
            "logging": {"enable": False},
        }
    )
    server = Server(("127.0.0.1", 0), app)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield Store(
            f"webdav://127.0.0.1:{server.bind_addr[1]}/gems",
            {},
            {"user": "alice", "password": password},
            {"password": "wrong"},
            secret=password,
        )
    finally:
        server.stop()
        thread.join(30)
