"""Settings of an S3 profile: every argument, in Python, JSON, a URL and the environment, and invalid values."""

import base64
import dataclasses
import json
import subprocess
import sys
import textwrap
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from flask import Flask

from flask_storage import (
    ConfigurationError,
    InvalidPathError,
    S3Preset,
    S3Storage,
    ShareLinkOperation,
    Storage,
    StorageError,
    StorageUnavailableError,
)
from flask_storage.backends.s3.client import ClientSettings
from flask_storage.backends.s3.presets import PRESETS, UNKNOWN, preset_of
from tests.s3_storages import make_storage
from tests.services.s3_servers import free_port
from tests.services.scripted_proxy import ScriptedProxy

pytest_plugins = ["tests.services.s3"]

MIB = 1 << 20
KEYS: Any = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "not-for-the-logs"}
CUSTOMER_KEY = bytes(range(32))
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch, tmp_path):
    """No credentials except those that a test sets: none in the environment, the home or an instance role."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def from_profile(spec):
    """Return the storage that an application makes of a profile."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = {"docs": spec}
    return Storage(app).for_app(app)["docs"]


def config_of(storage):
    """Return the settings of the boto3 client."""
    return storage.client.meta.config


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"bucket": ""}, "bucket must be the name of a bucket"),
        ({"bucket": None}, "bucket must be the name of a bucket"),
        ({"bucket": 5}, "bucket must be the name of a bucket"),
        ({"bucket": "bucket\n"}, "bucket must be the name of a bucket"),
        ({"bucket": "bucket/prefix"}, "bucket must be the name of a bucket"),
        ({"bucket": "s3://bucket"}, 'bucket must be the name of a bucket, without "s3://"'),
        ({"bucket": "två"}, "bucket must be the name of a bucket"),
        ({"aws_region": "eu central 1"}, "aws_region must be the name of a region"),
        ({"aws_region": "eu-central-1\n"}, "aws_region must be"),
        ({"aws_region": "eu-central-1-"}, "aws_region must be the name of a region"),
        ({"aws_access_key_id": "only-one"}, "are needed together"),
        ({"aws_secret_access_key": "only-one"}, "are needed together"),
        ({"preset": "nonsense"}, "unknown preset 'nonsense': use one of aws, b2, ceph, gcs, minio, r2, spaces"),
        ({"addressing_style": "nonsense"}, "addressing_style must be one of auto, path, virtual"),
        ({"checksums": "always"}, "checksums must be one of when_required, when_supported"),
        ({"verify_downloads": "perhaps"}, "verify_downloads must be true or false"),
        ({"server_side_encryption": "rot13"}, "server_side_encryption must be one of AES256, aws:kms, aws:kms:dsse"),
        (
            {"server_side_encryption": "AES256", "kms_key_id": "some-key"},
            'kms_key_id requires server_side_encryption "aws:kms"',
        ),
        ({"customer_key": b"too-short"}, "customer_key must be 32 bytes, or the base64 of 32 bytes"),
        ({"customer_key": "no base64!"}, "customer_key must be 32 bytes"),
        ({"customer_key": "schlüssel"}, "customer_key must be 32 bytes"),
        ({"customer_key": base64.b64encode(b"too-short").decode()}, "customer_key must be 32 bytes"),
        ({"customer_key": 5}, "customer_key must be 32 bytes"),
        ({"chunk_size": 5 * MIB - 1}, "chunk_size must be a whole number of at least 5242880"),
        ({"chunk_size": "many"}, "chunk_size must be a whole number"),
        ({"chunk_size": None}, "chunk_size must be a whole number"),
        ({"chunk_size": 5.5 * MIB + 0.5}, "chunk_size must be a whole number"),
        ({"chunk_size": float("inf")}, "chunk_size must be a whole number"),
        ({"concurrency": 0}, "concurrency must be a whole number of at least 1"),
        ({"concurrency": True}, "concurrency must be a whole number"),
        ({"max_attempts": 0}, "max_attempts must be a whole number of at least 1"),
        ({"max_connections": -1}, "max_connections must be a whole number of at least 1"),
        ({"connect_timeout": 0}, "connect_timeout must be a number of seconds"),
        ({"connect_timeout": "soon"}, "connect_timeout must be a number of seconds"),
        ({"read_timeout": -1}, "read_timeout must be a number of seconds"),
        ({"read_timeout": float("nan")}, "read_timeout must be a number of seconds"),
        ({"read_timeout": float("inf")}, "read_timeout must be a number of seconds"),
        ({"read_timeout": None}, "read_timeout must be a number of seconds"),
        ({"link_rounding": -1}, "link_rounding must be a number of seconds"),
        ({"link_rounding": timedelta(seconds=-1)}, "link_rounding must be a number of seconds"),
        ({"link_credentials": "AKID:not-for-the-logs"}, 'link_credentials must be {"access_key": …, "secret_key": …}'),
        ({"link_credentials": {"access_key": "AKID"}}, "link_credentials must be"),
        ({"link_credentials": {"access_key": "AKID", "secret_key": 5}}, "link_credentials must be"),
        (
            {"link_credentials": {"access_key": "A", "secret_key": "not-for-the-logs", "x": "y"}},
            "link_credentials must be",
        ),
        ({"base_url": 5}, "base_url"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, text):
    """The message says what is valid, and never shows a secret value."""
    given = {"bucket": "bucket", **arguments}

    with pytest.raises(ConfigurationError) as caught:
        S3Storage(**given)

    assert text in str(caught.value)
    assert "not-for-the-logs" not in "".join(traceback.format_exception_only(caught.value))


@pytest.mark.parametrize("name", ["endpoint_url", "link_endpoint_url"])
@pytest.mark.parametrize(
    "address",
    [
        "s3.example.com",
        "ftp://s3.example.com",
        "https://",
        "https://AKID:not-for-the-logs@s3.example.com",
        "https://:not-for-the-logs@s3.example.com",
        "https://s3.example.com?secret=not-for-the-logs",
        "https://s3.example.com#part",
        "https://[half-a-bracket",
        "https://s3.example.com:99999",
        "https://s3.example.com:port",
        "https://s3.example.com:0",
        5,
    ],
)
def test_an_invalid_endpoint_is_rejected(name, address):
    """A password in it would appear in logs."""
    with pytest.raises(ConfigurationError, match=f"{name} must be a URL like") as caught:
        S3Storage("bucket", **{name: address})

    assert "not-for-the-logs" not in str(caught.value)


@pytest.mark.parametrize("name", ["endpoint_url", "link_endpoint_url"])
@pytest.mark.parametrize(
    ("bucket", "address"),
    [
        ("files", "https://account.r2.cloudflarestorage.com/files"),
        ("files", "https://account.r2.cloudflarestorage.com/files/"),
        ("files", "https://files.account.r2.cloudflarestorage.com"),
        ("files", "https://files.s3.eu-central-1.amazonaws.com"),
        ("Files", "https://Files.s3-eu-west-1.amazonaws.com"),
        ("files", "https://files.s3.us-west-004.backblazeb2.com"),
        ("files", "https://files.nyc3.digitaloceanspaces.com"),
        ("files", "https://files.storage.googleapis.com"),
    ],
)
def test_an_endpoint_with_the_bucket_in_it_is_rejected(name, bucket, address):
    """Every key would begin with the name of the bucket, and listings would fail."""
    with pytest.raises(ConfigurationError, match=f"^{name} must be the address of the service, without the bucket"):
        S3Storage(bucket, **{name: address})


@pytest.mark.parametrize(
    ("bucket", "address"),
    [
        ("minio", "https://minio.example.com"),
        ("storage", "https://storage.googleapis.com"),
        ("nyc3", "https://nyc3.digitaloceanspaces.com"),
        ("bucket", "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com"),
        ("files", "https://example.com/files/s3"),
        ("arn:aws:s3:eu-central-1:123456789012:accesspoint/files", "https://s3.eu-central-1.amazonaws.com"),
    ],
)
def test_an_endpoint_may_begin_like_the_bucket(bucket, address):
    """Where the rest of it is not the address of a service."""
    assert S3Storage(bucket, endpoint_url=address).bucket == bucket


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9000", "https://s3.example.com/below/a/path", "https://[::1]:9000", "https://h/"]
)
def test_an_endpoint_may_have_a_port_and_a_path(address):
    """And may be an IP address."""
    storage = S3Storage("bucket", endpoint_url=address, **KEYS)

    assert storage.client.meta.endpoint_url == address


def test_a_prefix_must_be_a_valid_directory():
    """Other text is rejected."""
    with pytest.raises(InvalidPathError):
        S3Storage("bucket", prefix="a/../b")


@pytest.mark.parametrize("prefix", ["a/b", "/a/b", "a/b/"])
def test_slashes_around_a_prefix_are_ignored(prefix):
    """At its start and its end."""
    storage = S3Storage("bucket", prefix=prefix, **KEYS, aws_region="eu-central-1")

    link = storage.link_to("c.txt", ShareLinkOperation.download, DAY)

    assert "/a/b/c.txt?" in link


def test_the_path_limit_includes_the_prefix():
    """A key has 1,024 bytes at most, and includes the prefix."""
    storage = S3Storage("bucket", prefix="p" * 200, **KEYS)
    directories = "/".join(["f" * 200] * 5)

    with pytest.raises(InvalidPathError, match="with its prefix the path is longer than 1024 bytes"):
        storage.write(directories, b"")


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"session": boto3.session.Session()}, "client already has a session and an endpoint"),
        ({"endpoint_url": "https://s3.example.com"}, "client already has a session and an endpoint"),
        (KEYS, "session or client already has credentials"),
        ({"aws_profile": "other"}, "session or client already has credentials"),
    ],
    ids=["session", "address", "keys", "profile"],
)
def test_arguments_that_a_client_already_has_are_rejected(other, text):
    """They would need another client."""
    client = boto3.client("s3", region_name="us-east-1", **KEYS)

    with pytest.raises(ConfigurationError, match=text):
        S3Storage("bucket", client=client, **other)


@pytest.mark.parametrize("other", [KEYS, {"aws_profile": "other"}], ids=["keys", "profile"])
def test_credentials_beside_a_session_are_rejected(other):
    """The session already has some."""
    with pytest.raises(ConfigurationError, match="session or client already has credentials"):
        S3Storage("bucket", session=boto3.session.Session(), **other)


def test_an_acl_is_rejected_where_objects_cannot_have_one():
    """By the constructor rather than by the service with the first file."""
    with pytest.raises(ConfigurationError, match="does not support ACLs of single objects: remove acl"):
        S3Storage("bucket", preset="minio", acl="public-read")


def test_timeouts_may_be_timedeltas():
    """They are converted to seconds."""
    timeouts: Any = {"connect_timeout": timedelta(seconds=3), "read_timeout": timedelta(minutes=1)}
    storage = S3Storage("bucket", aws_region="us-east-1", **KEYS, **timeouts)

    config = config_of(storage)

    assert (config.connect_timeout, config.read_timeout) == (3, 60)


def test_settings_are_passed_to_the_client():
    """Under the names of boto3."""
    storage = S3Storage(
        "bucket",
        aws_region="eu-central-1",
        addressing_style="path",
        checksums="when_required",
        connect_timeout=1.5,
        read_timeout=2.5,
        max_attempts=7,
        max_connections=9,
        **KEYS,
    )

    config = config_of(storage)

    assert storage.client.meta.region_name == "eu-central-1"
    assert config.s3["addressing_style"] == "path"
    assert config.request_checksum_calculation == "when_required"
    assert (config.connect_timeout, config.read_timeout) == (1.5, 2.5)
    assert config.retries["total_max_attempts"] == 7
    assert config.max_pool_connections == 9
    assert config.signature_version == "s3v4"


def test_default_settings():
    """An operation ends within a minute, and 50 threads have a connection each."""
    config = config_of(S3Storage("bucket", aws_region="us-east-1", **KEYS))

    assert (config.connect_timeout, config.read_timeout) == (10, 15)
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}
    assert config.max_pool_connections == 50


# -- presets ----------------------------------------------------------------------------------------------------------


def test_the_default_preset_is_aws():
    """With the endpoint of another service it is that of an unknown one."""
    assert S3Storage("bucket").preset == PRESETS["aws"]
    assert S3Storage("bucket", endpoint_url="https://s3.example.com").preset == UNKNOWN


def _in_environment(name):
    return lambda monkeypatch, config: monkeypatch.setenv(name, "https://s3.example.com")


def _in_config(text):
    return lambda monkeypatch, config: config.write_text(text)


def _own_client(monkeypatch, config):
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    return {"client": boto3.client("s3", "moon-1", endpoint_url="https://s3.example.com", config=config, **KEYS)}


SERVICES = "services = mine\n[services mine]\ns3 =\n  endpoint_url = https://s3.example.com\n"
SOURCES = {
    "argument": lambda monkeypatch, config: {"endpoint_url": "https://s3.example.com"},
    "environment, S3": _in_environment("AWS_ENDPOINT_URL_S3"),
    "environment": _in_environment("AWS_ENDPOINT_URL"),
    "profile": _in_config("[default]\nendpoint_url = https://s3.example.com\n"),
    "services": _in_config(f"[default]\n{SERVICES}"),
    "services of a named profile": lambda monkeypatch, config: (
        config.write_text(f"[profile other]\n{SERVICES}") and {"aws_profile": "other"}
    ),
    "session": lambda monkeypatch, config: (
        config.write_text(f"[profile other]\n{SERVICES}") and {"session": boto3.session.Session(profile_name="other")}
    ),
    "client": _own_client,
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_preset_follows_the_endpoint_that_the_client_uses(source, monkeypatch, tmp_path):
    """Wherever boto3 finds it. A service that is taken for AWS could ignore a condition, and overwrite files."""
    keys = "aws_access_key_id = AKID\naws_secret_access_key = not-for-the-logs\n"
    (tmp_path / "credentials").write_text(f"[default]\n{keys}[other]\n{keys}")
    arguments = SOURCES[source](monkeypatch, tmp_path / "config")
    arguments = arguments if isinstance(arguments, dict) else {}

    storage = S3Storage("bucket", **arguments)

    assert storage.preset == UNKNOWN
    assert not storage.capabilities.exclusive
    assert not storage.capabilities.if_match
    assert storage.client.meta.endpoint_url == "https://s3.example.com"
    assert storage.link_to("a", "download", DAY).startswith("https://s3.example.com/bucket/a?")


def test_save_overwrites_nothing_on_a_service_from_the_environment(rclone_s3, monkeypatch):
    """It ignores conditions, so each name gets a suffix."""
    bucket = rclone_s3.make_bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", rclone_s3.http)
    storage = S3Storage(bucket, rclone_s3.region, rclone_s3.access_key, rclone_s3.secret_key)

    paths = [storage.save("cv.pdf", content) for content in (b"A", b"B")]

    assert [storage.read(path) for path in paths] == [b"A", b"B"]


def test_an_endpoint_that_is_set_after_the_storage_was_created_is_ignored(monkeypatch):
    """The capabilities were determined for the earlier one."""
    storage = S3Storage("bucket", "us-east-1", **KEYS)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")

    assert storage.client.meta.endpoint_url == "https://s3.amazonaws.com"


def test_configured_endpoints_can_be_ignored(monkeypatch):
    """By boto3's own setting."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")

    storage = S3Storage("bucket", "us-east-1", **KEYS)

    assert storage.preset == PRESETS["aws"]
    assert storage.client.meta.endpoint_url == "https://s3.amazonaws.com"


def test_the_region_of_a_configured_endpoint_is_used(monkeypatch):
    """If aws_region is not set; the region in the same place belongs to the service."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "moon-1")

    regions = [S3Storage("bucket", region, **KEYS).client.meta.region_name for region in (None, "mars-1")]

    assert regions == ["moon-1", "mars-1"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[default]\nservices = missing\n", "boto3's configuration cannot be read"),
        ("[default]\nservices = mine\n[services mine]\ns3 = https://s3.example.com\n", "cannot be read"),
        ("[default]\nendpoint_url = s3.example.com\n", "must be a URL like"),
        ("not a configuration", r"check aws_profile and ~/\.aws/config"),
    ],
    ids=["missing section", "not a section", "no URL", "no INI file"],
)
def test_an_invalid_configuration_of_boto3_is_rejected(tmp_path, text, error):
    """By the constructor, with a message that says where to look."""
    (tmp_path / "config").write_text(text)

    with pytest.raises(ConfigurationError, match=error):
        S3Storage("bucket")


def test_an_invalid_region_in_the_environment_is_a_configuration_error(monkeypatch):
    """And not a service that is unavailable."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu central 1")

    with pytest.raises(ConfigurationError, match="is not the name of a region: set aws_region"):
        S3Storage("bucket", **KEYS).list()


@pytest.mark.parametrize(
    ("address", "preset"),
    [
        ("https://s3.eu-central-1.amazonaws.com", PRESETS["aws"]),
        ("https://s3.cn-north-1.amazonaws.com.cn", PRESETS["aws"]),
        ("https://S3.AmazonAWS.com:443", PRESETS["aws"]),
        ("https://s3.amazonaws.com.example.com", UNKNOWN),
        ("https://not-amazonaws.com", UNKNOWN),
    ],
)
def test_an_endpoint_of_aws_has_the_preset_aws(address, preset):
    """As boto3's own endpoint has."""
    assert S3Storage("bucket", endpoint_url=address).preset == preset


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_chosen_by_name(name):
    """It determines the settings of the client."""
    storage = S3Storage("bucket", endpoint_url="https://s3.example.com", preset=name, **KEYS)

    config = config_of(storage)

    assert storage.preset == PRESETS[name]
    assert config.request_checksum_calculation == PRESETS[name].checksums
    assert config.s3["addressing_style"] == PRESETS[name].addressing
    assert storage.client.meta.region_name == (PRESETS[name].region or "us-east-1")


def test_a_custom_preset_is_used_unchanged():
    """For a service without a built-in preset."""
    custom = S3Preset(region="moon-1", put_conditions=True, complete_conditions=True)

    storage = S3Storage("bucket", endpoint_url="https://s3.example.com", preset=custom, **KEYS)

    assert preset_of(custom, None) is custom
    assert storage.preset == custom
    assert storage.client.meta.region_name == "moon-1"
    assert storage.capabilities.exclusive


def test_arguments_take_precedence_over_the_preset():
    """Checksums, addressing and region."""
    storage = S3Storage(
        "bucket",
        "eu-north-1",
        endpoint_url="https://s3.example.com",
        preset="spaces",
        checksums="when_supported",
        addressing_style="path",
        **KEYS,
    )

    config = config_of(storage)

    assert storage.preset.checksums == "when_supported"
    assert config.request_checksum_calculation == "when_supported"
    assert config.s3["addressing_style"] == "path"
    assert storage.client.meta.region_name == "eu-north-1"


@pytest.mark.parametrize(
    ("preset", "exclusive", "on_copy", "forms"),
    [
        ("aws", True, True, True),
        ("minio", True, False, True),
        ("r2", True, False, False),
        ("b2", False, False, False),
        ("gcs", False, False, False),
        ("ceph", False, False, True),
        ("spaces", False, False, False),
        ("wasabi", False, False, False),
    ],
)
def test_capabilities_follow_the_preset(preset, exclusive, on_copy, forms):
    """Conditions are supported only if multipart uploads honor them too; forms need POST policies."""
    capabilities = S3Storage("bucket", preset=preset).capabilities

    assert (capabilities.exclusive, capabilities.if_match, capabilities.multipart_conditions) == (
        exclusive,
        exclusive,
        exclusive,
    )
    assert capabilities.copy_conditions == on_copy
    assert ("max_size" in capabilities.upload_constraints) == forms


# -- from text --------------------------------------------------------------------------------------------------------

AS_TEXT = {
    "aws_region": "eu-central-1",
    "endpoint_url": "https://s3.example.com",
    "preset": "minio",
    "addressing_style": "path",
    "verify_downloads": "no",
    "guess_content_type": "false",
    "chunk_size": str(6 * MIB),
    "concurrency": "4",
    "connect_timeout": "1.5",
    "read_timeout": "20",
    "max_attempts": "2",
    "max_connections": "7",
    "verify": "false",
    "link_rounding": "60",
    "portable": "yes",
}


def _check_parsed_settings(storage):
    config = config_of(storage)
    assert isinstance(storage, S3Storage)
    assert storage.name == "docs"
    assert storage.bucket == "bucket"
    assert storage.client.meta.region_name == "eu-central-1"
    assert storage.client.meta.endpoint_url == "https://s3.example.com"
    assert storage.preset == PRESETS["minio"]
    assert config.s3["addressing_style"] == "path"
    assert (config.connect_timeout, config.read_timeout) == (1.5, 20)
    assert config.retries["total_max_attempts"] == 2
    assert config.max_pool_connections == 7
    assert storage.capabilities.guesses_content_type is False
    assert storage.portable is True
    assert "/bucket/a/b/c.txt?" in storage.link_to("c.txt", ShareLinkOperation.download, DAY)


def test_a_profile_may_be_a_url(monkeypatch):
    """``region`` is short for ``aws_region``; numbers and flags are parsed."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-the-logs")
    query = "&".join(f"{'region' if name == 'aws_region' else name}={value}" for name, value in AS_TEXT.items())

    storage = from_profile(f"s3://bucket/a/b?{query}")

    _check_parsed_settings(storage)


def test_a_profile_may_be_json():
    """With JSON numbers and flags."""
    numbers = {"chunk_size": 6 * MIB, "concurrency": 4, "connect_timeout": 1.5, "read_timeout": 20, "max_attempts": 2}
    flags = {"verify_downloads": False, "guess_content_type": False, "verify": False, "portable": True}
    spec = {"backend": "s3", "bucket": "bucket", "prefix": "a/b", **AS_TEXT, **numbers, **flags, **KEYS}
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = json.dumps({"docs": spec})

    storage = Storage(app).for_app(app)["docs"]

    _check_parsed_settings(storage)


def test_a_profile_may_come_from_the_environment(monkeypatch):
    """One variable for each value; Flask parses those that are JSON."""
    spec = {"backend": "s3", "bucket": "bucket", "prefix": "a/b", **AS_TEXT, **KEYS}
    for name, value in spec.items():
        monkeypatch.setenv(f"FLASK_STORAGE_PROFILES__docs__{name}", value)
    monkeypatch.setenv("FLASK_STORAGE_DEFAULT_PROFILE", "docs")
    monkeypatch.setenv(
        "FLASK_STORAGE_PROFILES__docs__link_credentials",
        json.dumps({"access_key": "LINKSONLY", "secret_key": "not-for-the-logs"}),
    )
    app = Flask(__name__)
    app.config.from_prefixed_env()

    storage = Storage(app).for_app(app)["docs"]

    _check_parsed_settings(storage)
    assert "LINKSONLY" in storage.link_to("c.txt", ShareLinkOperation.download, DAY)


def test_a_profile_may_be_a_pair_as_in_keg_storage():
    """A class and its arguments, in the order of keg-storage."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = [(S3Storage, {"name": "docs", "bucket": "bucket", "aws_region": "us-west-2"})]

    storage = Storage(app).for_app(app)["docs"]
    assert isinstance(storage, S3Storage)
    positional = S3Storage("bucket", "us-west-2", "AKIDEXAMPLE", "not-for-the-logs", None, "docs")

    assert storage.name == positional.name == "docs"
    assert storage.bucket == positional.bucket == "bucket"
    assert positional.client.meta.region_name == "us-west-2"


@pytest.mark.parametrize(
    "url",
    [
        "s3:///only/a/path",
        "s3:",
        "s3://AKID:not-for-the-logs@bucket/prefix",
        "s3://AKID@bucket",
        "s3://bucket:9000/prefix",
    ],
)
def test_a_url_without_a_bucket_or_with_credentials_is_rejected(url):
    """Credentials in a URL would appear in logs; the message says where to set them."""
    with pytest.raises(
        ConfigurationError, match=r"s3://bucket/prefix\?region=…; pass credentials as arguments"
    ) as caught:
        from_profile(url)

    assert "not-for-the-logs" not in str(caught.value)


def test_the_prefix_of_a_url_is_unquoted():
    """As paths of URLs are."""
    storage = from_profile("s3://bucket/a%20folder/?region=eu-central-1")

    assert storage._gateway.prefix == "a folder/"


def test_an_unknown_argument_of_a_url_is_rejected():
    """The message suggests a known one."""
    with pytest.raises(ConfigurationError, match="S3Storage has no argument 'buckets': did you mean 'bucket'"):
        from_profile("s3://bucket?buckets=2")


@pytest.mark.parametrize("name", ["guess_content_type", "portable"])
def test_an_invalid_flag_is_rejected(name):
    """It is not taken as true."""
    with pytest.raises(ConfigurationError, match=f"{name} must be true or false"):
        from_profile(f"s3://bucket?{name}=perhaps")


@pytest.mark.parametrize(("text", "verify"), [("false", False), ("TRUE", True), (__file__, __file__)])
def test_verify_is_a_flag_or_a_file(text, verify):
    """Text for a flag is one; other text is the path of a file."""
    storage = S3Storage("bucket", verify=text)

    assert storage._clients.settings.verify == verify


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_repr_of_a_storage():
    """Nor in the repr of its parts."""
    storage = S3Storage(
        "bucket",
        aws_session_token="token-not-for-the-logs",
        customer_key=b"not-for-the-logs" * 2,
        link_credentials={"access_key": "LINKS", "secret_key": "link-not-for-the-logs", "token": "not-for-the-logs"},
        **KEYS,
    )

    shown = [repr(storage), str(storage), repr(storage._clients.settings), repr(storage._gateway.object_settings)]
    shown += [repr(value) for value in vars(storage).values()]

    assert not [text for text in shown if "not-for-the-logs" in text or "AKID" in text]


def test_no_secret_is_in_the_repr_of_the_settings():
    """A traceback with local variables shows it."""
    settings = ClientSettings(access_key="AKID", secret_key="not-for-the-logs", token="not-for-the-logs")

    shown = f"{settings!r} {settings}"

    assert "not-for-the-logs" not in shown
    assert "AKID" not in shown


# -- credentials ------------------------------------------------------------------------------------------------------


def with_keys(server, **arguments):
    """Return a storage with explicit credentials."""
    return make_storage(
        server, aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key, **arguments
    )


def without_keys(server, **arguments):
    """Return a storage without explicit credentials, in a new bucket."""
    return make_storage(server, aws_access_key_id=None, aws_secret_access_key=None, **arguments)


def write_profile(tmp_path, name, server, region=None):
    """Write a profile in the format of the AWS tools."""
    (tmp_path / "credentials").write_text(
        f"[{name}]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    )
    (tmp_path / "config").write_text(f"[profile {name}]\nregion = {region or server.region}\n")


def test_explicit_keys_are_used(s3):
    """The server verifies signatures."""
    storage = with_keys(s3)

    storage.write("a.txt", b"1")

    assert storage.read("a.txt") == b"1"


def test_explicit_keys_take_precedence_over_the_environment(s3, monkeypatch):
    """Keys in the environment may be for another service."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-the-logs")
    storage = with_keys(s3)

    storage.write("a.txt", b"1")

    assert storage.exists("a.txt")


def test_keys_from_the_environment_are_used(s3, monkeypatch):
    """If there are no other credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    storage = without_keys(s3)

    storage.write("a.txt", b"1")

    assert storage.exists("a.txt")


def test_a_named_profile_is_used(s3, tmp_path):
    """Its credentials and its region."""
    write_profile(tmp_path, "files", s3)
    storage = without_keys(
        s3, aws_profile="files", aws_region=None, preset=dataclasses.replace(PRESETS["ceph"], region=None)
    )

    storage.write("a.txt", b"1")

    assert storage.exists("a.txt")
    assert storage.client.meta.region_name == s3.region


def test_the_region_of_a_profile_is_used(tmp_path, s3):
    """On AWS, unless aws_region is set."""
    write_profile(tmp_path, "files", s3, region="ap-southeast-2")

    found = S3Storage("bucket", aws_profile="files").client.meta.region_name
    explicit = S3Storage("bucket", "eu-west-3", aws_profile="files").client.meta.region_name

    assert (found, explicit) == ("ap-southeast-2", "eu-west-3")


def test_an_unknown_profile_is_rejected_by_the_constructor():
    """Before the first operation; the message says where to look."""
    with pytest.raises(ConfigurationError, match=r"profile \(missing\) could not be found.*~/\.aws/config"):
        S3Storage("bucket", aws_profile="missing")


def test_a_session_of_the_application_is_used(s3):
    """For its credentials and its region."""
    session = boto3.session.Session(s3.access_key, s3.secret_key, region_name=s3.region)
    storage = without_keys(s3, session=session)

    storage.write("a.txt", b"1")

    assert storage.exists("a.txt")
    assert storage.session is session


def test_a_client_of_the_application_is_used(s3):
    """With all of its settings."""
    client = s3.client()
    bucket = s3.make_bucket()
    storage = S3Storage(bucket, client=client, preset="ceph")

    storage.write("a.txt", b"1")

    assert storage.client is client
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a.txt"]


@pytest.fixture
def proxied(s3):
    """A scripted proxy before the server, and the server as seen through it."""
    host, _, port = s3.http.removeprefix("http://").partition(":")
    with ScriptedProxy(host, int(port)) as proxy:
        yield proxy, dataclasses.replace(s3, http=proxy.url)


def test_a_session_token_is_sent(proxied):
    """And signed, with every request."""
    proxy, server = proxied
    storage = with_keys(server, bucket="any-bucket", aws_session_token="the-token", max_attempts=1)

    with pytest.raises(StorageError):
        storage.list()

    headers = proxy.exchanges[0].request.headers
    assert headers["X-Amz-Security-Token"] == "the-token"
    assert "x-amz-security-token" in headers["Authorization"]


# -- requests of the constructor --------------------------------------------------------------------------------------


def test_the_constructor_sends_no_request():
    """Nothing listens at the endpoint, and only the first operation fails."""
    storage = S3Storage("bucket", endpoint_url=f"http://127.0.0.1:{free_port()}", preset="ceph", max_attempts=1, **KEYS)

    with pytest.raises(
        StorageUnavailableError, match="the service cannot be reached: check the endpoint_url and the network"
    ):
        storage.list()


def test_the_constructor_needs_no_credentials():
    """They may be configured later."""
    storage = S3Storage("bucket")

    assert repr(storage) == "<S3Storage 's3'>"


# -- checksums --------------------------------------------------------------------------------------------------------


def test_no_checksums_are_sent_over_https_by_default(s3):
    """With them Ceph reports a missing length, in single and multipart requests."""
    storage = make_storage(s3, https=True, preset=None)

    storage.write("small", b"1")
    storage.write("large", bytes(5 * MIB + 1))

    assert storage.size("small") == 1
    assert storage.size("large") == 5 * MIB + 1


def test_unsupported_checksums_are_reported(rgw):
    """The message names the two arguments to set."""
    storage = make_storage(rgw, https=True, checksums="when_supported")

    with pytest.raises(StorageError, match='checksums="when_required"'):
        storage.write("small", b"1")


def test_checksums_are_stored_by_services_that_support_them(localstack):
    """Over http and https."""
    bucket = localstack.make_bucket()
    plain, secure = (make_storage(localstack, https=https, bucket=bucket) for https in (False, True))

    plain.write("a", b"hello")
    secure.write("b", b"hello")

    assert plain.stat("a").checksums == {"crc32": "3610a686"}
    assert secure.stat("b").checksums == {"crc32": "3610a686"}


# -- without boto3 ----------------------------------------------------------------------------------------------------


def _without_boto3(script):
    hidden = "import sys\nfor name in ('boto3', 'botocore', 's3transfer'):\n    sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", hidden + textwrap.dedent(script)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_package_works_without_boto3():
    """``import *`` omits the names that need it."""
    output = _without_boto3("""
        from flask_storage import *
        import flask_storage
        print("S3Storage" in globals(), "S3Storage" in flask_storage.__all__, LocalFSStorage.__name__)
    """)

    assert output == "False False LocalFSStorage\n"


@pytest.mark.parametrize("name", ["S3Storage", "S3Reader", "S3Writer", "S3FileBase", "S3Preset"])
def test_an_import_without_boto3_names_the_extra(name):
    """When a class of the backend is imported by name."""
    output = _without_boto3(f"""
        try:
            from flask_storage import {name}
        except ImportError as error:
            print(error)
    """)

    assert output == "S3Storage needs boto3: pip install 'flask-storage-profiles[s3]'\n"


def test_a_profile_without_boto3_names_the_extra():
    """When the application starts."""
    output = _without_boto3("""
        from flask import Flask
        from flask_storage import ConfigurationError, Storage
        app = Flask("app")
        app.config["STORAGE_PROFILES"] = {"docs": "s3://bucket"}
        try:
            Storage(app)
        except ConfigurationError as error:
            print(error)
    """)

    assert "pip install 'flask-storage-profiles[s3]'" in output


# -- links of a client of the application -----------------------------------------------------------------------------


def test_links_use_the_endpoint_of_a_client_of_the_application():
    """Also with other credentials, and with another endpoint for browsers."""
    client = boto3.client(
        "s3",
        region_name="eu-central-1",
        endpoint_url="https://s3.example.com",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        **KEYS,
    )
    link_credentials = {"access_key": "LINKSONLY", "secret_key": "not-for-the-logs"}

    plain = S3Storage("bucket", client=client)
    paired = S3Storage("bucket", client=client, link_credentials=link_credentials)
    elsewhere = S3Storage("bucket", client=client, link_endpoint_url="https://files.example.com")
    links = [storage.link_to("a.txt", "download", DAY) for storage in (plain, paired, elsewhere)]

    assert links[0].startswith("https://s3.example.com/bucket/a.txt?")
    assert links[1].startswith("https://s3.example.com/bucket/a.txt?")
    assert links[2].startswith("https://files.example.com/bucket/a.txt?")
    assert ["LINKSONLY" in link for link in links] == [False, True, False]
    assert ["AKIDEXAMPLE" in link for link in links] == [True, False, True]
    assert all("eu-central-1" in link for link in links)


def test_links_of_a_client_without_credentials_raise_an_error():
    """The message says what links need."""
    client = boto3.client("s3", region_name="eu-central-1", config=Config(signature_version="s3v4"))
    storage = S3Storage("bucket", client=client, link_endpoint_url="https://files.example.com")

    with pytest.raises(ConfigurationError, match="credentials"):
        storage.link_to("a.txt", "download", DAY)


def test_links_use_link_endpoint_url_and_link_credentials():
    """Without a client of the application."""
    link_credentials = {"access_key": "LINKSONLY", "secret_key": "not-for-the-logs", "token": "the-token"}
    storage = S3Storage(
        "bucket",
        "eu-central-1",
        endpoint_url="https://s3.internal",
        addressing_style="path",
        link_endpoint_url="https://files.example.com",
        link_credentials=link_credentials,
        **KEYS,
    )

    link = storage.link_to("a.txt", "download", DAY)

    assert link.startswith("https://files.example.com/bucket/a.txt?")
    assert "LINKSONLY" in link
    assert "X-Amz-Security-Token=the-token" in link


@pytest.mark.parametrize(
    "arguments",
    [
        {"verify": 0},
        {"verify": []},
        {"verify": ""},
        {"link_credentials": {"access_key": "", "secret_key": ""}},
        {"aws_access_key_id": "", "aws_secret_access_key": ""},
        {"cache_control": "a\r\nx-amz-acl: public-read"},
        {"content_type": 5},
        {"storage_class": 5},
        {"kms_key_id": [1]},
        {"aws_region": 5},
        {"read_timeout": 1e300},
        {"max_connections": 10**30},
    ],
    ids=str,
)
def test_empty_and_odd_values_are_rejected(arguments):
    """An unset variable must neither disable certificate checks nor select other credentials."""
    with pytest.raises(ConfigurationError):
        S3Storage("bucket", endpoint_url="https://s3.example.com", **arguments)


def test_a_client_that_signs_with_version_2_is_rejected():
    """boto3 creates such clients by default, and their links leave much unsigned."""
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="AKID", aws_secret_access_key="secret")
    storage = S3Storage("bucket", client=client)

    with pytest.raises(ConfigurationError, match="s3v4"):
        storage.link_to("a", "download", timedelta(hours=1))
