"""A private Ceph with its S3 gateway (RGW): a real distributed store, in memory, gone when the tests are."""

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
    PrivateFolder,
    S3Server,
    free_port,
    make_certificate,
    refuse_if_answered,
    started,
    wait_until,
)

_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
# Debian's Ceph is run by Debian's Python; what is set for the Python of the tests is not for it.
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
run_dir = {folder}/run
crash_dir = {folder}/run
keyring = {folder}/keyring
mon_data = {folder}/mon
mgr_data = {folder}/mgr
osd_data = {folder}/osd$id
log_file = {folder}/logs/$name.log
# The path of a socket may have 107 characters, that of a temporary folder more.
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
# All replicas lie on one host, as there is no other.
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 0
paxos_propose_interval = 0.01
[client]
# The default is "secure", which without keys is tried for ever.
ms_mon_client_mode = crc crc
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
rgw_override_bucket_index_max_shards = 1
# Each test has a bucket of its own.
rgw_user_max_buckets = 100000
# 16.2.15 deletes several objects of a list at once, and crashes over it now and then.
rgw_multi_obj_del_max_aio = 1
# What was deleted is freed soon: it lies in memory.
rgw_gc_obj_min_wait = 5
rgw_gc_processor_period = 10
"""


class RgwCluster:
    """A cluster that nobody else uses: ``server`` for most tests, ``gateways`` and ``kill_osd`` for a few.

    Args:
        osds: How many processes hold the data.
        replicas: On how many of them each object lies. All but one of these have to be up, and at least one.
        gateways: How many processes speak S3. They share all that is stored.
        bluestore: Whether the data is on disk, so that an OSD finds it again; otherwise it is in memory.
        mgr: Whether there is a manager, as a real cluster has. The gateways do not need one.
    """

    def __init__(
        self, *, osds: int = 1, replicas: int = 1, gateways: int = 1, bluestore: bool = False, mgr: bool = False
    ) -> None:
        missing = [name for name in (*_PROGRAMS, "ceph-mgr") if not shutil.which(name, path=_ENVIRONMENT["PATH"])]
        if missing:
            raise RuntimeError(f"these tests need Ceph ({', '.join(missing)}): run tests/services/provision")
        self._private = PrivateFolder("rgw")
        self._daemons: dict[str, Daemon] = {}
        self.gateways: list[S3Server] = []
        """What each gateway is reached by. The first is :attr:`server`."""
        try:
            self._configure(replicas, bluestore)
            self._start_monitor()
            if mgr:
                self._run("mgr.x", "ceph-mgr", "-i", "x")
            for number in range(osds):
                self._make_osd(number)
            self._certificate, self._tls = make_certificate(self.folder)
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
    def folder(self) -> Path:
        """Where everything lies."""
        return self._private.path

    @property
    def server(self) -> S3Server:
        """The first gateway."""
        return self.gateways[0]

    def processes(self) -> dict[str, int]:
        """The process numbers of all that runs, by name: ``mon.a``, ``osd.0``, ``gateway.0`` and so on."""
        return {name: daemon.pid for name, daemon in self._daemons.items() if daemon.runs}

    def kill_osd(self, number: int) -> None:
        """Kill an OSD as a crash would, and return when it is dead: the cluster has yet to notice."""
        self._daemons.pop(f"osd.{number}").kill()

    def start_osd(self, number: int) -> None:
        """Start an OSD that was killed, and return when it has joined; on bluestore it has what it had."""
        assert f"osd.{number}" not in self._daemons, "already running"
        self._start_osd(number)
        self._wait_for_osds()

    def osds_up(self) -> int:
        """How many OSDs the cluster believes to be up."""
        return int(json.loads(self._call("ceph", "osd", "stat", "-f", "json"))["num_up_osds"])

    def other_user(self) -> S3Server:
        """Make another user, whom nothing of ``server`` is open to, and return the server as that user sees it."""
        access_key, secret_key = self._make_user(f"other-{uuid.uuid4().hex}")
        return dataclasses.replace(self.server, access_key=access_key, secret_key=secret_key)

    def limited_user(self, bucket: str, *actions: str) -> S3Server:
        """Make another user, who may do *actions* in a bucket of ``server``, and nothing else.

        Args:
            bucket: The bucket. It gets a policy, in place of the one it may have.
            *actions: What is allowed: ``s3:GetObject``, ``s3:ListBucket`` …
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
        """Stop, and remove everything but the logs when these may still be wanted."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()  # asked kindly, each puts in order for seconds what nobody will look at
        self._private.remove(keep_log=keep_log)

    def _configure(self, replicas: int, bluestore: bool) -> None:
        self._port = free_port()
        self._fsid = str(uuid.uuid4())
        for name in ("mon", "mgr", "run"):
            (self.folder / name).mkdir()
        text = _CONFIGURATION.format(
            fsid=self._fsid,
            port=self._port,
            folder=self.folder,
            store="bluestore" if bluestore else "memstore",
            replicas=replicas,
            needed=max(1, replicas - 1),
        )
        (self.folder / "ceph.conf").write_text(text, "utf-8")

    def _start_monitor(self) -> None:
        monitors, keyring = str(self.folder / "monmap"), str(self.folder / "keyring")
        address = f"[v2:127.0.0.1:{self._port}]"
        self._call("ceph-authtool", keyring, "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._call("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, monitors)
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
        refuse_if_answered(self._port)
        self._run("mon.a", "ceph-mon", "-i", "a")

    def _make_osd(self, number: int) -> None:
        name = str(uuid.uuid4())
        self._call("ceph", "osd", "new", name)
        (self.folder / f"osd{number}").mkdir()
        self._call("ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", name)
        self._start_osd(number)

    def _start_osd(self, number: int) -> None:
        self._run(f"osd.{number}", "ceph-osd", "-i", str(number))

    def _wait_for_osds(self) -> None:
        expected = sum(name.startswith("osd.") for name in self._daemons)
        wait_until(lambda: self.osds_up() == expected, *self._daemons.values())

    def _make_user(self, name: str) -> tuple[str, str]:
        # The first one has to wait for all its replicas; and a cluster that starts with fewer would not show it.
        if not self.gateways:
            self._wait_for_osds()
        access_key, secret_key = f"key{secrets.token_hex(8)}", secrets.token_hex(20)
        keys = [f"--access-key={access_key}", f"--secret-key={secret_key}"]
        self._call("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        return access_key, secret_key

    def _start_gateway(self, number: int) -> S3Server:
        port, tls_port = free_port(), free_port()
        for each in (port, tls_port):
            refuse_if_answered(each)
        frontend = (
            # Without tcp_nodelay a small download takes 40 ms.
            f"beast tcp_nodelay=1 endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port}"
            f" ssl_certificate={self._tls} ssl_private_key={self._tls}"
        )
        daemon = self._run(
            f"gateway.{number}", "radosgw", "-n", f"client.gateway{number}", f"--rgw_frontends={frontend}"
        )
        wait_until(lambda: _answers(port), daemon)
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
        command = [program, "-f", "-c", str(self.folder / "ceph.conf"), *arguments]
        daemon = Daemon(name, command, self._private.logs / f"{name}.out", self._environment)
        self._daemons[name] = daemon
        return daemon

    def _call(self, program: str, *arguments: str) -> bytes:
        """Run to the end, and return what it printed."""
        command = [program, "-c", str(self.folder / "ceph.conf"), *arguments]
        monitor = [daemon for name, daemon in self._daemons.items() if name == "mon.a"]
        with subprocess.Popen(
            command,
            env=self._environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                # It would wait for ever for a monitor that has ended.
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
        return {**_ENVIRONMENT, "HOME": str(self.folder)}


def _ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    finally:
        connection.close()


@pytest.fixture(scope="session")
def rgw_cluster(request: pytest.FixtureRequest) -> Iterator[RgwCluster]:
    """A running :class:`RgwCluster` in memory, one for the whole run."""
    cluster = started(RgwCluster)
    yield cluster
    cluster.close(keep_log=bool(request.session.testsfailed))


@pytest.fixture(scope="session")
def rgw(rgw_cluster: RgwCluster) -> S3Server:
    """Ceph's S3 gateway, which checks every signature."""
    return rgw_cluster.server


@pytest.fixture
def distributed_rgw(request: pytest.FixtureRequest) -> Iterator[RgwCluster]:
    """A cluster for one test, to be damaged: every object on each of three OSDs, two gateways, on disk."""
    cluster = started(lambda: RgwCluster(osds=3, replicas=3, gateways=2, bluestore=True, mgr=True))
    yield cluster
    cluster.close(keep_log=bool(request.session.testsfailed))
