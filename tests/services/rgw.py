"""A private Ceph cluster with its S3 gateway (RGW), in memory, which ends with the tests."""

from __future__ import annotations

import dataclasses
import http.client
import json
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.s3_servers import (
    REGION,
    Daemon,
    PortTakenError,
    PrivateDirectory,
    S3Server,
    free_port,
    make_certificate,
    raise_if_port_is_used,
    start_with_retry,
    wait_until,
)

_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
# Debian's Ceph uses Debian's Python; the environment of the tests' Python does not apply to it.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_CONFIGURATION = """
[global]
fsid = {fsid}
ms_bind_retry_delay = 1
mon_host = v2:127.0.0.1:{port}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {directory}/run
crash_dir = {directory}/run
keyring = {directory}/keyring
mon_data = {directory}/mon
mgr_data = {directory}/mgr
osd_data = {directory}/osd$id
log_file = {directory}/logs/$name.log
# The path of a socket has at most 107 characters, which a temporary directory may exceed.
admin_socket =
pid_file =
osd_objectstore = {store}
memstore_device_bytes = 8589934592
bluestore_block_size = 10737418240
bluestore_block_db_path =
bluestore_block_wal_path =
osd_memory_target = 1073741824
osd_pool_default_size = {replicas}
osd_pool_default_min_size = {needed}
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
# All replicas are on one host.
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 0
paxos_propose_interval = 0.01
[client]
# The default "secure" is retried for ever without keys.
ms_mon_client_mode = crc crc
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
rgw_override_bucket_index_max_shards = 1
# Each test has a bucket of its own.
rgw_user_max_buckets = 100000
# 16.2.15 deletes several objects of a list concurrently, and sometimes crashes then.
rgw_multi_obj_del_max_aio = 1
# Deleted objects are freed soon, as they are in memory.
rgw_gc_obj_min_wait = 5
rgw_gc_processor_period = 10
"""


class RgwCluster:
    """A private cluster: most tests use ``server``, a few ``gateways`` and ``kill_osd``.

    Args:
        osds: The number of processes that store the data.
        replicas: The number of OSDs that store each object. All but one of these, and at least one, must be up.
        gateways: The number of S3 gateways. They share all stored objects.
        bluestore: Whether the data is on disk, so that a restarted OSD has it; otherwise it is in memory.
        mgr: Whether there is a manager, as in a production cluster. The gateways do not need one.
    """

    def __init__(
        self, *, osds: int = 1, replicas: int = 1, gateways: int = 1, bluestore: bool = False, mgr: bool = False
    ) -> None:
        missing = [name for name in (*_PROGRAMS, "ceph-mgr") if not shutil.which(name, path=_ENVIRONMENT["PATH"])]
        if missing:
            raise RuntimeError(f"these tests need Ceph ({', '.join(missing)}): run tests/services/provision")
        self._private = PrivateDirectory("rgw")
        self._daemons: dict[str, Daemon] = {}
        self.gateways: list[S3Server] = []
        """The gateways. The first is :attr:`server`."""
        try:
            self._configure(replicas, bluestore)
            self._start_monitor()
            if mgr:
                self._run("mgr.x", "ceph-mgr", "-i", "x")
            for number in range(osds):
                self._make_osd(number)
            self._certificate, self._tls = make_certificate(self.directory)
            self._keys = self._make_user("tester")
            for number in range(gateways):
                self.gateways.append(self._start_gateway(number))
        except PortTakenError:
            self.close(keep_log=False)
            raise
        except BaseException:
            self.close(keep_log=True)
            raise

    @property
    def directory(self) -> Path:
        """The directory of all files of the cluster."""
        return self._private.path

    @property
    def server(self) -> S3Server:
        """The first gateway."""
        return self.gateways[0]

    def processes(self) -> dict[str, int]:
        """Return the process ids of everything that runs, by name: ``mon.a``, ``osd.0``, ``gateway.0`` and so on."""
        return {name: daemon.pid for name, daemon in self._daemons.items() if daemon.runs}

    def kill_osd(self, number: int) -> None:
        """Kill an OSD, and return when it has ended; the cluster notices later."""
        self._daemons.pop(f"osd.{number}").kill()

    def start_osd(self, number: int) -> None:
        """Start a killed OSD, and return when it has joined; with bluestore it has its data."""
        assert f"osd.{number}" not in self._daemons, "already running"
        self._start_osd(number)
        self._wait_for_osds()

    def osds_up(self) -> int:
        """Return how many OSDs the cluster considers up."""
        return int(json.loads(self._call("ceph", "osd", "stat", "-f", "json"))["num_up_osds"])

    def other_user(self) -> S3Server:
        """Create another user without access to ``server``, and return the server with the keys of that user."""
        access_key, secret_key = self._make_user(f"other-{uuid.uuid4().hex}")
        return dataclasses.replace(self.server, access_key=access_key, secret_key=secret_key)

    def limited_user(self, bucket: str, *actions: str) -> S3Server:
        """Create another user who may perform only *actions* in a bucket of ``server``.

        Args:
            bucket: The bucket. Its policy is replaced.
            *actions: The allowed actions: ``s3:GetObject``, ``s3:ListBucket`` …
        """
        name = f"limited-{uuid.uuid4().hex}"
        access_key, secret_key = self._make_user(name)
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": [f"arn:aws:iam:::user/{name}"]},
            "Action": list(actions),
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }
        client = self.server.client()
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
        client.close()
        return dataclasses.replace(self.server, access_key=access_key, secret_key=secret_key)

    def close(self, *, keep_log: bool) -> None:
        """Stop the cluster and remove its files, except the logs if *keep_log*."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()  # a graceful shutdown takes seconds and is not needed
        self._private.remove(keep_log=keep_log)

    def _configure(self, replicas: int, bluestore: bool) -> None:
        self._port = free_port()
        self._fsid = str(uuid.uuid4())
        for name in ("mon", "mgr", "run"):
            (self.directory / name).mkdir()
        text = _CONFIGURATION.format(
            fsid=self._fsid,
            port=self._port,
            directory=self.directory,
            store="bluestore" if bluestore else "memstore",
            replicas=replicas,
            needed=max(1, replicas - 1),
        )
        (self.directory / "ceph.conf").write_text(text, "utf-8")

    def _start_monitor(self) -> None:
        monitors, keyring = str(self.directory / "monmap"), str(self.directory / "keyring")
        address = f"[v2:127.0.0.1:{self._port}]"
        self._call("ceph-authtool", keyring, "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._call("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, monitors)
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
        raise_if_port_is_used(self._port)
        self._run("mon.a", "ceph-mon", "-i", "a")

    def _make_osd(self, number: int) -> None:
        name = str(uuid.uuid4())
        self._call("ceph", "osd", "new", name)
        (self.directory / f"osd{number}").mkdir()
        self._call("ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", name)
        self._start_osd(number)

    def _start_osd(self, number: int) -> None:
        self._run(f"osd.{number}", "ceph-osd", "-i", str(number))

    def _wait_for_osds(self) -> None:
        expected = sum(name.startswith("osd.") for name in self._daemons)
        wait_until(lambda: self.osds_up() == expected, *self._daemons.values())

    def _make_user(self, name: str) -> tuple[str, str]:
        # The first user needs all replicas, and a cluster that started with fewer OSDs would not report it.
        if not self.gateways:
            self._wait_for_osds()
        access_key, secret_key = f"key{secrets.token_hex(8)}", secrets.token_hex(20)
        keys = [f"--access-key={access_key}", f"--secret-key={secret_key}"]
        self._call("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        return access_key, secret_key

    def _start_gateway(self, number: int) -> S3Server:
        port, tls_port = free_port(), free_port()
        for each in (port, tls_port):
            raise_if_port_is_used(each)
        frontend = (
            # Without tcp_nodelay a small download takes 40 ms.
            f"beast tcp_nodelay=1 endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port}"
            f" ssl_certificate={self._tls} ssl_private_key={self._tls}"
        )
        daemon = self._run(
            f"gateway.{number}", "radosgw", "-n", f"client.gateway{number}", f"--rgw_frontends={frontend}"
        )
        wait_until(lambda: _is_ready(port), daemon)
        access_key, secret_key = self._keys
        return S3Server(
            name="rgw",
            http=f"http://127.0.0.1:{port}",
            https=f"https://127.0.0.1:{tls_port}",
            access_key=access_key,
            secret_key=secret_key,
            region=REGION,
            preset="ceph",
            ca=self._certificate,
        )

    def _run(self, name: str, program: str, *arguments: str) -> Daemon:
        command = [program, "-f", "-c", str(self.directory / "ceph.conf"), *arguments]
        daemon = Daemon(name, command, self._private.logs / f"{name}.out", self._environment)
        self._daemons[name] = daemon
        return daemon

    def _call(self, program: str, *arguments: str) -> bytes:
        """Run a program, and return its output."""
        command = [program, "-c", str(self.directory / "ceph.conf"), *arguments]
        monitor = [daemon for name, daemon in self._daemons.items() if name == "mon.a"]
        with subprocess.Popen(
            command,
            env=self._environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                # The program would wait for ever for a monitor that has ended.
                wait_until(lambda: _ended(process), *monitor)
                output, errors = process.communicate()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RuntimeError(f"{program} {arguments[0]} failed:\n{errors.decode('utf-8', 'replace')}")
        return output

    @property
    def _environment(self) -> dict[str, str]:
        return {**_ENVIRONMENT, "HOME": str(self.directory)}


def _ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    finally:
        connection.close()


@pytest.fixture(scope="session")
def rgw_cluster(request: pytest.FixtureRequest) -> Iterator[RgwCluster]:
    """A running :class:`RgwCluster` in memory, one for the whole run."""
    cluster = start_with_retry(RgwCluster)
    yield cluster
    cluster.close(keep_log=bool(request.session.testsfailed))


@pytest.fixture(scope="session")
def rgw(rgw_cluster: RgwCluster) -> S3Server:
    """Ceph's S3 gateway, which verifies every signature."""
    return rgw_cluster.server


@pytest.fixture
def distributed_rgw(request: pytest.FixtureRequest) -> Iterator[RgwCluster]:
    """A cluster for one test that damages it: each object on three OSDs, two gateways, data on disk."""
    cluster = start_with_retry(lambda: RgwCluster(osds=3, replicas=3, gateways=2, bluestore=True, mgr=True))
    yield cluster
    cluster.close(keep_log=bool(request.session.testsfailed))
