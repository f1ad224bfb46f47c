"""The settings of an Azure profile: every argument in Python, JSON, a URL and the environment, and invalid ones."""

import base64
import json
import logging
import subprocess
import sys
import textwrap
import traceback
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.identity import DefaultAzureCredential
from azure.storage.blob import (
    BlobSasPermissions,
    ContainerSasPermissions,
    LinearRetry,
    generate_blob_sas,
    generate_container_sas,
)
from flask import Flask

from flask_storage import (
    AzureStorage,
    ConfigurationError,
    InvalidPathError,
    ShareLinkOperation,
    Storage,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from flask_storage.backends.azure import account as azure_account
from flask_storage.backends.azure.account import resolve_account
from tests.azure_storages import make_storage
from tests.services.s3_servers import free_port

pytest_plugins = ["tests.services.azurite"]

MIB = 1 << 20
DAY = timedelta(days=1)
HIDDEN = "not-for-the-logs"
KEY = base64.b64encode(HIDDEN.encode() * 2).decode()
SAS = f"sv=2022-11-02&sig={HIDDEN}"
WITH_KEY: Any = {"account": "acct", "key": KEY, "bucket": "files"}
ACCOUNT_URL = "https://acct.blob.core.windows.net"
ARGUMENTS = ("account", "key", "bucket", "sas_container_url", "sas_blob_url")


class FakeIdentity:
    """A credential of azure.identity, as far as the constructor examines it."""

    def get_token(self, *scopes, **options):
        """Never called by these tests."""
        raise AssertionError(scopes)

    def __repr__(self):
        """Return a constant, because test ids contain it: an address would differ between processes."""
        return "FakeIdentity()"


def account(**arguments):
    """Return the account that these arguments describe."""
    unset: dict[str, Any] = dict.fromkeys([*ARGUMENTS, "credential", "connection_string", "endpoint_url"])
    return resolve_account(**{**unset, **arguments})


def from_profile(spec):
    """Return the storage that an app creates from a profile."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = {"docs": spec}
    return Storage(app).for_app(app)["docs"]


def settings_of(storage):
    """Return the settings of a storage's clients."""
    return storage._clients._settings


def shown_by(error):
    """Return what a log would show of an error."""
    return "".join(traceback.format_exception_only(error))


# -- arguments --------------------------------------------------------------------------------------------------------


def test_the_arguments_are_in_keg_storages_order():
    """Account, key, container, the two URLs with a signature, the chunk size, the name."""
    storage = AzureStorage("acct", KEY, "files", None, None, 6 * MIB, "docs")

    assert (storage._account.name, storage._account.key, storage.bucket) == ("acct", KEY, "files")
    assert (storage._account.url, storage._chunk_size, storage.name) == (ACCOUNT_URL, 6 * MIB, "docs")
    assert AzureStorage(None, None, None, f"{ACCOUNT_URL}/files?{SAS}").bucket == "files"
    assert AzureStorage(None, None, None, None, f"{ACCOUNT_URL}/files/a.txt?{SAS}").bucket == "files"
    assert AzureStorage("acct", KEY, "files").name == "azure"
    assert AzureStorage("acct", KEY, "files")._chunk_size == 5_242_880


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"bucket": None}, "Must provide a sas_container_url, a sas_blob_url, or a combination of account, key, and"),
        ({"account": None}, "Must provide a sas_container_url"),
        ({"key": None}, "Must provide a sas_container_url"),
        ({"bucket": ""}, "bucket must be one line of text"),
        ({"bucket": 5}, "bucket must be one line of text"),
        ({"account": ""}, "account must be one line of text"),
        ({"account": "acct.example.com/x"}, "account must be the name alone, of lower-case letters and digits"),
        ({"account": f"user:{HIDDEN}@acct"}, "account must be the name alone"),
        ({"account": ACCOUNT_URL}, "account must be the name alone"),
        ({"account": "Acct"}, "account must be the name alone"),
        ({"key": f"{HIDDEN}!"}, "access key as the portal shows it, in base64"),
        ({"key": f"schlüssel-{HIDDEN}"}, "access key as the portal shows it, in base64"),
        ({"key": "===="}, "access key as the portal shows it, in base64"),
        ({"key": ""}, "key must be one line of text"),
        ({"credential": FakeIdentity()}, "give a key or a credential, not both"),
        ({"connection_string": f"AccountKey={KEY}"}, "already contains account, key and endpoint"),
        ({"chunk_size": 0}, "chunk_size must be a whole number of at least 1"),
        ({"chunk_size": "many"}, "chunk_size must be a whole number"),
        ({"chunk_size": None}, "chunk_size must be a whole number"),
        ({"concurrency": 0}, "concurrency must be a whole number of at least 1"),
        ({"concurrency": True}, "concurrency must be a whole number"),
        ({"max_attempts": 0}, "max_attempts must be a whole number of at least 1"),
        ({"max_connections": -1}, "max_connections must be a whole number of at least 1"),
        ({"connect_timeout": 0}, "connect_timeout must be a number of seconds"),
        ({"connect_timeout": "soon"}, "connect_timeout must be a number of seconds"),
        ({"read_timeout": -1}, "read_timeout must be a number of seconds"),
        ({"read_timeout": None}, "read_timeout must be a number of seconds"),
        ({"check_content": "perhaps"}, "check_content must be true or false"),
        ({"link_https_only": "perhaps"}, "link_https_only must be true or false"),
        ({"verify": 0}, "verify must be one line of text"),
        ({"verify": ""}, "verify must be one line of text"),
        ({"encryption_scope": ""}, "encryption_scope must be one line of text"),
        ({"content_type": 5}, "content_type must be one line of text"),
        ({"cache_control": "a\r\nx-ms-blob-type: PageBlob"}, "cache_control must be one line of text"),
        ({"base_url": 5}, "base_url"),
        ({"verify": "/no/such/file"}, "the file of a certificate authority: the file does not exist"),
        ({"max_connections": 10**9}, "max_connections must be at most 10000"),
        ({"client_options": "x"}, "client_options must be a mapping with text keys"),
        ({"client_options": {1: 2}}, "client_options must be a mapping with text keys"),
        ({"client_options": {"transport": None}}, "client_options cannot contain a transport"),
        ({"metadata": "color=red"}, "metadata must be a mapping with text keys"),
        ({"metadata": {"number": 1}}, "metadata keys and values must be one line of text"),
        ({"metadata": {"a-b": "1"}}, "metadata key 'a-b' is not portable"),
        ({"metadata": {"_fs_write": "1"}}, "beginning with a letter"),
        ({"metadata": {"": "1"}}, "metadata key '' is not portable"),
        ({"metadata": {"a": "x" * 9000}}, "metadata must have at most"),
        ({"content_type": "tëxt"}, "content_type must be ASCII on this backend"),
        ({"cache_control": "日"}, "cache_control must be ASCII on this backend"),
        ({"guess_content_type": "perhaps"}, "guess_content_type must be true or false"),
        ({"key": None, "credential": FakeIdentity}, "or a credential object of azure.identity"),
    ],
    ids=str,
)
def test_an_invalid_argument_is_refused_by_the_constructor(arguments, text):
    """The message says what would be valid, and shows no secret."""
    with pytest.raises(ConfigurationError) as caught:
        AzureStorage(**{**WITH_KEY, **arguments})

    assert text in str(caught.value)
    assert HIDDEN not in shown_by(caught.value)


@pytest.mark.parametrize("name", ["endpoint_url", "link_endpoint_url"])
@pytest.mark.parametrize(
    "address",
    [
        "acct.blob.core.windows.net",
        "ftp://files.example.com",
        "https://",
        f"https://user:{HIDDEN}@files.example.com",
        f"https://files.example.com?sig={HIDDEN}",
        "https://[half-a-bracket",
        "https://files.example.com:99999",
        5,
    ],
)
def test_an_endpoint_url_is_valid_and_has_no_credentials(name, address):
    """Logs would show them."""
    with pytest.raises(ConfigurationError, match=f"{name} must be a URL like") as caught:
        AzureStorage(**{**WITH_KEY, name: address})

    assert HIDDEN not in shown_by(caught.value)


def test_time_outs_may_be_timedeltas_and_settings_reach_the_client():
    """A retry policy of the SDK replaces ours."""
    policy = LinearRetry(retry_total=1)
    time_outs: Any = {"connect_timeout": timedelta(seconds=3), "read_timeout": timedelta(minutes=1)}
    storage = AzureStorage(
        **WITH_KEY,
        **time_outs,
        max_attempts=7,
        max_connections=9,
        verify=__file__,
        retry_policy=policy,
        client_options={"api_version": "2021-12-02"},
    )

    settings = settings_of(storage)
    arguments = settings.arguments()

    assert (settings.connect_timeout, settings.read_timeout) == (3, 60)
    assert (settings.max_attempts, settings.max_connections) == (7, 9)
    assert (settings.verify, arguments["retry_policy"], arguments["api_version"]) == (__file__, policy, "2021-12-02")
    assert storage.client.api_version == "2021-12-02"
    assert storage._gateway.read_timeout == 60


def test_chunk_size_is_limited_to_100_mib():
    """Some accounts accept no larger blocks."""
    assert AzureStorage(**WITH_KEY, chunk_size=200 * MIB)._chunk_size == 100 * MIB


def test_content_is_checked_over_plain_http():
    """check_content overrides it."""
    local = "http://127.0.0.1:10000/acct"

    assert AzureStorage(**WITH_KEY)._gateway.check_content is False
    assert AzureStorage(**WITH_KEY, endpoint_url=local)._gateway.check_content is True
    assert AzureStorage(**WITH_KEY, check_content=True)._gateway.check_content is True
    assert AzureStorage(**WITH_KEY, check_content="no", endpoint_url=local)._gateway.check_content is False  # type: ignore[arg-type]  # from a URL


@pytest.mark.parametrize("prefix", ["a/b", "/a/b", "a/b/"])
def test_slashes_around_a_prefix_are_ignored(prefix):
    """An invalid prefix is refused."""
    link = AzureStorage(**WITH_KEY, prefix=prefix).link_to("c.txt", ShareLinkOperation.download, DAY)

    assert link.startswith(f"{ACCOUNT_URL}/files/a/b/c.txt?")
    with pytest.raises(InvalidPathError):
        AzureStorage(**WITH_KEY, prefix="a/../b")


@pytest.mark.parametrize("prefix", ["v1.", "v1./a"])
def test_a_prefix_with_a_segment_that_ends_in_a_dot_is_refused(prefix):
    """The service drops the dot, so it would be another one."""
    with pytest.raises(ConfigurationError, match="prefix has a segment that ends in a dot, which Azure drops"):
        AzureStorage(**WITH_KEY, prefix=prefix)


@pytest.mark.parametrize("blob", ["a.", "a%2E/b", "a%2F..%2Fb", "/a", "a%00", "e%CC%81"])
def test_a_blob_sas_url_of_a_blob_that_no_path_names_is_refused(blob):
    """No operation could access it."""
    with pytest.raises(ConfigurationError, match="sas_blob_url names a blob that no path can name"):
        AzureStorage(sas_blob_url=f"{ACCOUNT_URL}/files/{blob}?{SAS}")


def test_the_limit_of_a_path_includes_the_prefix():
    """A blob name has at most 1,024 bytes."""
    with pytest.raises(InvalidPathError, match="the path with its prefix is longer than 1024 bytes"):
        AzureStorage(**WITH_KEY, prefix="p" * 200).write("/".join(["f" * 200] * 5), b"")


# -- connection methods -----------------------------------------------------------------------------------------------


FOR_CONTAINER = {"sas_container_url": f"{ACCOUNT_URL}/files?{SAS}"}
FOR_BLOB = {"sas_blob_url": f"{ACCOUNT_URL}/files/a.txt?{SAS}"}


@pytest.mark.parametrize(
    "arguments",
    [
        {**FOR_CONTAINER, **FOR_BLOB},
        {**WITH_KEY, **FOR_CONTAINER},
        {"key": KEY, **FOR_BLOB},
        {"endpoint_url": ACCOUNT_URL, **FOR_CONTAINER},
        {"credential": FakeIdentity(), **FOR_CONTAINER},
        {"connection_string": "UseDevelopmentStorage=true", **FOR_CONTAINER},
        {"bucket": "other", **FOR_CONTAINER},
        {"account": "other", **FOR_BLOB},
    ],
)
def test_two_connection_methods_are_refused(arguments):
    """Files could otherwise be stored in one container and searched in another."""
    with pytest.raises(ConfigurationError, match=r"leave out the other|for another account or bucket"):
        account(**arguments)


def test_a_sas_url_may_be_given_with_its_account_and_container():
    """The names must be those in the URL."""
    first = account(account="acct", bucket="files", **FOR_CONTAINER)
    second = account(bucket="files", **FOR_BLOB)

    assert (first.container, first.key, first.sas, first.blob) == ("files", None, SAS, None)
    assert (second.container, second.key, second.sas, second.blob) == ("files", None, SAS, "a.txt")


@pytest.mark.parametrize(
    "bucket", ["ab", "a" * 64, "Files", "a_b", "a--b", "-ab", "ab-", "a/b", "a?b", "..", "ä" * 3, "a%2Fb", "$other"]
)
def test_a_bucket_that_is_no_container_name_is_refused(bucket):
    """Nothing below or beside a container."""
    with pytest.raises(ConfigurationError, match="bucket must be the name of a container"):
        account(**{**WITH_KEY, "bucket": bucket})


@pytest.mark.parametrize("bucket", ["abc", "a-b", "a" * 63, "1-2-3", "$root", "$web", "$logs", "$blobchangefeed"])
def test_every_valid_container_name_is_accepted(bucket):
    """Including the system containers."""
    assert account(**{**WITH_KEY, "bucket": bucket}).container == bucket


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (f"{ACCOUNT_URL}/files", "without a container"),
        (f"{ACCOUNT_URL}/acct", "without a container"),
        (f"{ACCOUNT_URL}/acct/files", "without a container"),
        ("http://127.0.0.1:10000/acct/files", "without a container"),
        ("http://127.0.0.1:10000", "must end with the name of the account"),
        ("http://azurite:10000/", "must end with the name of the account"),
        (f"{ACCOUNT_URL}?", "must be a URL like"),
        (f"{ACCOUNT_URL}#", "must be a URL like"),
        (f"{ACCOUNT_URL}\n", "must be a URL like"),
        (f" {ACCOUNT_URL}", "must be a URL like"),
        ("https://acct.dfs.core.windows.net", "another service of the account"),
        ("https://acct.z6.web.core.windows.net", "another service of the account"),
        ("https://acct.z6.table.storage.azure.net", "another service of the account"),
        ("https://other.blob.core.windows.net", "the URL of another account than the given one"),
        ("https://other-secondary.blob.core.chinacloudapi.cn", "the URL of another account than the given one"),
    ],
)
def test_an_endpoint_url_that_is_not_an_accounts_is_refused(endpoint, text):
    """An additional segment would become part of every blob name."""
    with pytest.raises(ConfigurationError, match=text):
        account(**{**WITH_KEY, "endpoint_url": endpoint})


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://ACCT.blob.core.windows.net",
        "https://acct-secondary.blob.core.windows.net",
        "https://acct.privatelink.blob.core.windows.net",
        "https://acct.z6.blob.storage.azure.net",
        "https://files.blob.example.com",
        "https://files.dfs.example.com",
    ],
)
def test_every_endpoint_url_of_an_account_is_accepted(endpoint):
    """Also a private or secondary one, and custom domains."""
    assert account(**{**WITH_KEY, "endpoint_url": endpoint}).url == endpoint


@pytest.mark.parametrize("parameters", ["&snapshot=2026-11-21", "&versionid=1"])
def test_a_sas_url_of_a_snapshot_or_version_is_refused(parameters):
    """It cannot be written."""
    with pytest.raises(ConfigurationError, match="is for one snapshot or version"):
        account(sas_blob_url=f"{ACCOUNT_URL}/files/a.txt?{SAS}{parameters}")


@pytest.mark.parametrize(
    ("host", "name"), [("https://acct-secondary.blob.core.windows.net", "acct"), ("https://files.example.com", "acct")]
)
def test_an_account_may_be_given_with_a_url_that_does_not_contain_it(host, name):
    """The URL of a secondary location, or of a custom domain."""
    assert account(account=name, bucket="files", sas_container_url=f"{host}/files?{SAS}").url == host


def test_a_sas_url_of_a_directory_is_refused():
    """Data Lake signs URLs of directories too."""
    with pytest.raises(ConfigurationError, match="sas_container_url must be https"):
        account(sas_container_url=f"{ACCOUNT_URL}/files/folder?{SAS}")


@pytest.mark.parametrize("parameters", ["&restype=container&comp=list"])
def test_a_sas_url_of_a_list_request_is_refused(parameters):
    """It was copied from a tool; the message does not show its signature."""
    with pytest.raises(ConfigurationError, match="is the URL of a request: remove") as caught:
        account(sas_container_url=f"{ACCOUNT_URL}/files?{SAS}{parameters}")

    assert "not-for-the-logs" not in str(caught.value)


def test_whitespace_around_a_signature_is_ignored():
    """A file or an environment variable may add it."""
    assert account(sas_container_url=f"{ACCOUNT_URL}/files?{SAS} \n").sas == SAS


@pytest.mark.parametrize(
    ("url", "name", "base", "container"),
    [
        (f"{ACCOUNT_URL}/files?{SAS}", "acct", ACCOUNT_URL, "files"),
        (f"{ACCOUNT_URL}/files/?{SAS}", "acct", ACCOUNT_URL, "files"),
        (f"https://cdn.example.com/$root?{SAS}", "cdn", "https://cdn.example.com", "$root"),
        (f"http://127.0.0.1:10000/acct/files?{SAS}", "acct", "http://127.0.0.1:10000/acct", "files"),
        (f"http://10.0.0.7:10000/acct/files?{SAS}", "acct", "http://10.0.0.7:10000/acct", "files"),
    ],
)
def test_a_container_sas_url_is_parsed(url, name, base, container):
    """Into account name, account URL, container and signature."""
    found = account(sas_container_url=url)

    assert (found.name, found.url, found.container, found.sas) == (name, base, container, SAS)


@pytest.mark.parametrize(
    ("url", "base", "container", "blob"),
    [
        (f"{ACCOUNT_URL}/files/a.txt?{SAS}", ACCOUNT_URL, "files", "a.txt"),
        (f"{ACCOUNT_URL}/files/a/b%20c/caf%C3%A9%2F%25%23%3F.txt?{SAS}", ACCOUNT_URL, "files", "a/b c/café/%#?.txt"),
        (f"https://cdn.example.com/files/a/b/c.txt?{SAS}", "https://cdn.example.com", "files", "a/b/c.txt"),
        (f"http://127.0.0.1:10000/acct/files/a/b?{SAS}", "http://127.0.0.1:10000/acct", "files", "a/b"),
        (f"http://10.0.0.7/acct/files/a/b?{SAS}", "http://10.0.0.7/acct", "files", "a/b"),
        (f"http://[::1]:10000/acct/files/a/b?{SAS}", "http://[::1]:10000/acct", "files", "a/b"),
        (f"http://azurite:10000/acct/files/a/b?{SAS}", "http://azurite:10000/acct", "files", "a/b"),
    ],
)
def test_a_blob_sas_url_is_parsed(url, base, container, blob):
    """Also with special characters in the blob name; the SDK's client gets the same values."""
    storage = AzureStorage(sas_blob_url=url)
    client = storage._clients.blob(blob)

    assert (storage._account.url, storage.bucket, storage._account.blob) == (base, container, blob)
    assert (client.container_name, client.blob_name) == (container, blob)
    assert storage._account.sas == SAS


@pytest.mark.parametrize("name", ["sas_container_url", "sas_blob_url"])
@pytest.mark.parametrize(
    "url",
    [
        f"acct.blob.core.windows.net/files/a?{SAS}",
        f"ftp://acct.blob.core.windows.net/files/a?{SAS}",
        f"https:///files/a?{SAS}",
        f"https://user:{HIDDEN}@acct.blob.core.windows.net/files/a?{SAS}",
        f"https://[half-a-bracket/files/a?{SAS}",
        f"https://acct.blob.core.windows.net:port/files/a?{SAS}",
        f"{ACCOUNT_URL}/files/a",
        f"{ACCOUNT_URL}/files/a?sv=2022-11-02",
        f"{ACCOUNT_URL}?{SAS}",
        f"{ACCOUNT_URL}/?{SAS}",
        5,
    ],
)
def test_an_invalid_sas_url_is_refused(name, url):
    """The message does not repeat it, because it is a secret."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        AzureStorage(**{name: url})

    assert HIDDEN not in shown_by(caught.value)


def test_a_sas_url_of_the_wrong_type_is_refused():
    """A blob is not a container, and a container not a blob."""
    with pytest.raises(ConfigurationError, match=r"sas_container_url must be https://ACCOUNT.*/CONTAINER\?SIGNATURE"):
        AzureStorage(sas_container_url=f"{ACCOUNT_URL}/files/folder/a.txt?{SAS}")
    with pytest.raises(ConfigurationError, match=r"sas_blob_url must be https://ACCOUNT.*/CONTAINER/BLOB\?SIGNATURE"):
        AzureStorage(sas_blob_url=f"{ACCOUNT_URL}/files?{SAS}")


# -- connection strings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "url", "key", "sas"),
    [
        (
            f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=core.windows.net",
            "acct",
            ACCOUNT_URL,
            KEY,
            None,
        ),
        (f" AccountName = acct ; AccountKey = {KEY} ; ", "acct", ACCOUNT_URL, KEY, None),
        (f"accountname=acct;ACCOUNTKEY={KEY}", "acct", ACCOUNT_URL, KEY, None),
        (
            f"AccountName=acct;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn",
            "acct",
            "https://acct.blob.core.chinacloudapi.cn",
            KEY,
            None,
        ),
        (f"BlobEndpoint=https://acct.blob.core.usgovcloudapi.net/;SharedAccessSignature=?{SAS}", "acct", "", None, SAS),
        (f"AccountName=other;BlobEndpoint=https://a.example.com;AccountKey={KEY}", "other", "", KEY, None),
        (
            f"DefaultEndpointsProtocol=http;AccountName=acct;AccountKey={KEY}",
            "acct",
            "http://acct.blob.core.windows.net",
            KEY,
            None,
        ),
    ],
)
def test_a_connection_string_is_parsed(text, name, url, key, sas):
    """As the portal shows it, of any cloud, with a key or a SAS; a given BlobEndpoint is used."""
    found = account(connection_string=text, bucket="files")

    assert (found.name, found.key, found.sas, found.container) == (name, key, sas, "files")
    assert found.url == url or (not url and found.url in text)


def test_the_emulators_connection_string_is_parsed():
    """Its account and key are public."""
    storage = AzureStorage(connection_string="UseDevelopmentStorage=true", bucket="files")

    assert storage._account.url == "http://127.0.0.1:10000/devstoreaccount1"
    assert storage._account.name == "devstoreaccount1"
    assert storage.link_to("a", "download", DAY).startswith("http://127.0.0.1:10000/devstoreaccount1/files/a?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "consist of Name=value"),
        (HIDDEN, "consist of Name=value pairs, separated by semicolons"),
        (f"AccountName=acct;{HIDDEN}", "consist of Name=value pairs, separated by semicolons"),
        (f"AccountKey={KEY}", "has neither an AccountName nor a BlobEndpoint"),
        ("AccountName=acct", "has neither an AccountKey nor a SharedAccessSignature"),
        ("UseDevelopmentStorage=false;AccountName=acct", "has neither an AccountKey nor a SharedAccessSignature"),
        (f"AccountName=acct;AccountKey={HIDDEN}!", "in base64"),
        (f"AccountName=a/b;AccountKey={KEY}", "lower-case letters and digits"),
        (f"AccountName=acct;AccountKey={KEY};DefaultEndpointsProtocol=ftp", "DefaultEndpointsProtocol and EndpointSu"),
        (f"AccountName=acct;AccountKey={KEY};EndpointSuffix=x@evil?{HIDDEN}", "DefaultEndpointsProtocol and Endpoint"),
        (f"BlobEndpoint=https://u:{HIDDEN}@a.example.com;AccountKey={KEY}", "BlobEndpoint must be a URL"),
        (5, "consist of Name=value"),
    ],
)
def test_an_invalid_connection_string_is_refused(text, expected):
    """The message does not repeat it, because it contains the key."""
    with pytest.raises(ConfigurationError) as caught:
        AzureStorage(connection_string=text, bucket="files")

    assert expected in str(caught.value)
    assert HIDDEN not in shown_by(caught.value)
    assert KEY not in shown_by(caught.value)


def test_a_connection_string_needs_a_bucket_and_nothing_else():
    """Another account, key, credential or URL would contradict it."""
    text = f"AccountName=acct;AccountKey={KEY}"

    with pytest.raises(ConfigurationError, match="needs a bucket too"):
        AzureStorage(connection_string=text)
    others: list[dict[str, Any]] = [
        {"account": "a"},
        {"key": KEY},
        {"credential": FakeIdentity()},
        {"endpoint_url": ACCOUNT_URL},
    ]
    for other in others:
        with pytest.raises(ConfigurationError, match="already contains account, key and endpoint"):
            AzureStorage(connection_string=text, bucket="files", **other)


# -- identities -------------------------------------------------------------------------------------------------------


def test_a_credential_needs_a_container_and_an_account():
    """Or an endpoint_url, whose first label is then the account."""
    identity = FakeIdentity()

    by_account = account(account="acct", bucket="files", credential=identity)
    by_url = account(endpoint_url="https://acct.blob.core.chinacloudapi.cn/", bucket="files", credential=identity)

    assert (by_account.url, by_account.name, by_account.credential) == (ACCOUNT_URL, "acct", identity)
    assert (by_url.url, by_url.name) == ("https://acct.blob.core.chinacloudapi.cn", "acct")
    incomplete: list[dict[str, Any]] = [{"account": "acct"}, {"bucket": "files"}, {}]
    for arguments in incomplete:
        with pytest.raises(ConfigurationError, match="needs a bucket, and an account or an endpoint_url"):
            account(credential=identity, **arguments)


@pytest.mark.parametrize("credential", ["AnotherCredential", 5, KEY, AzureNamedKeyCredential("acct", KEY), ""])
def test_an_invalid_credential_is_refused(credential):
    """A key is another argument."""
    with pytest.raises(
        ConfigurationError, match='credential must be "DefaultAzureCredential" or a credential object of azure'
    ) as caught:
        AzureStorage("acct", bucket="files", credential=credential)

    assert KEY not in shown_by(caught.value)


def test_a_credential_over_plain_http_is_refused():
    """An eavesdropper could use the token for an hour."""
    with pytest.raises(ConfigurationError, match="a credential is sent over https only: check endpoint_url"):
        AzureStorage("acct", bucket="files", credential=FakeIdentity(), endpoint_url="http://127.0.0.1:10000/acct")


def test_the_default_credential_can_be_configured_by_name(monkeypatch):
    """It is created in the process that first uses it, because its connections cannot be shared."""
    fake_module = types.ModuleType("azure.identity")
    vars(fake_module)["DefaultAzureCredential"] = FakeIdentity
    monkeypatch.setitem(sys.modules, "azure.identity", fake_module)

    storage = from_profile("azure://acct/files?credential=DefaultAzureCredential")

    assert isinstance(storage, AzureStorage)
    assert storage._account.credential == "DefaultAzureCredential"
    assert isinstance(storage._clients._credential(), FakeIdentity)
    assert storage._clients._credential() is storage._clients._credential()
    assert storage.capabilities.links == ~ShareLinkOperation(0)


def test_the_default_credential_of_azure_identity_is_used():
    """Where the package is installed; creating it sends no request."""
    storage = AzureStorage("acct", bucket="files", credential="DefaultAzureCredential")

    assert isinstance(storage._clients._credential(), DefaultAzureCredential)


def test_the_default_credential_without_azure_identity_says_what_to_install(monkeypatch):
    """When the storage is created."""
    monkeypatch.setitem(sys.modules, "azure.identity", None)

    with pytest.raises(ConfigurationError, match='needs azure-identity: run "pip install azure-identity"'):
        AzureStorage("acct", bucket="files", credential="DefaultAzureCredential")


# -- settings as text -------------------------------------------------------------------------------------------------

AS_TEXT = {
    "endpoint_url": "https://files.example.com",
    "check_content": "yes",
    "guess_content_type": "false",
    "chunk_size": str(6 * MIB),
    "concurrency": "4",
    "connect_timeout": "1.5",
    "read_timeout": "20",
    "max_attempts": "2",
    "max_connections": "7",
    "verify": "false",
    "link_https_only": "no",
    "portable": "yes",
}


def _assert_settings_were_parsed(storage):
    settings = settings_of(storage)
    assert isinstance(storage, AzureStorage)
    assert (storage.name, storage.bucket, storage._account.name) == ("docs", "files", "acct")
    assert (storage._chunk_size, storage._concurrency, storage._gateway.check_content) == (6 * MIB, 4, True)
    assert (settings.connect_timeout, settings.read_timeout) == (1.5, 20)
    assert (settings.max_attempts, settings.max_connections) == (2, 7)
    assert settings.verify is False
    assert storage.capabilities.guesses_content_type is False
    assert storage.portable is True
    link = storage.link_to("c.txt", ShareLinkOperation.download, DAY)
    assert link.startswith("https://files.example.com/files/a/b/c.txt?")
    assert "spr=" not in link


def test_a_profile_can_be_a_url():
    """Account and container are its host and first path segment; numbers and flags are parsed."""
    query = "&".join(f"{name}={value}" for name, value in {**AS_TEXT, "key": KEY.replace("=", "%3D")}.items())

    _assert_settings_were_parsed(from_profile(f"azure://acct/files/a/b?{query}"))


def test_a_profile_can_be_json():
    """With numbers and booleans."""
    numbers = {"chunk_size": 6 * MIB, "concurrency": 4, "connect_timeout": 1.5, "read_timeout": 20, "max_attempts": 2}
    flags = {"check_content": True, "guess_content_type": False, "verify": False, "portable": True}
    spec = {"backend": "azure", "prefix": "a/b", **WITH_KEY, **AS_TEXT, **numbers, **flags, "link_https_only": False}
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = json.dumps({"docs": spec})

    _assert_settings_were_parsed(Storage(app).for_app(app)["docs"])


def test_a_profile_can_come_from_the_environment(monkeypatch):
    """One variable for each value; Flask parses those that are JSON."""
    for name, value in {"backend": "azure", "prefix": "a/b", **WITH_KEY, **AS_TEXT}.items():
        monkeypatch.setenv(f"FLASK_STORAGE_PROFILES__docs__{name}", value)
    monkeypatch.setenv("FLASK_STORAGE_DEFAULT_PROFILE", "docs")
    app = Flask(__name__)
    app.config.from_prefixed_env()

    _assert_settings_were_parsed(Storage(app).for_app(app)["docs"])


def test_a_profile_can_be_keg_storages_pair():
    """A class and its arguments."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = [(AzureStorage, {"name": "docs", **WITH_KEY})]

    storage = Storage(app).for_app(app)["docs"]

    assert isinstance(storage, AzureStorage)
    assert (storage.name, storage.bucket) == ("docs", "files")


@pytest.mark.parametrize(
    "url",
    [
        "azure://acct",
        "azure://acct/",
        "azure:///files/a",
        f"azure://acct:{HIDDEN}@files/a",
        f"azure://{HIDDEN}@acct/files",
        "azure://acct:10000/files",
    ],
)
def test_a_url_without_account_or_container_or_with_a_secret_is_refused(url):
    """URLs appear in logs; the message says where a key belongs."""
    with pytest.raises(
        ConfigurationError, match="azure://account/container/prefix; pass credentials as arguments"
    ) as caught:
        from_profile(url)

    assert HIDDEN not in str(caught.value)


def test_the_prefix_of_a_url_is_percent_decoded():
    """Like the path of any URL."""
    storage = from_profile(f"azure://acct/files/a%20folder/?key={KEY.replace('=', '%3D')}")

    assert isinstance(storage, AzureStorage)
    assert storage._gateway.prefix == "a folder/"


def test_an_unknown_argument_of_a_url_is_refused():
    """The message suggests the similar one."""
    with pytest.raises(ConfigurationError, match="AzureStorage has no argument 'buckets': did you mean 'bucket'"):
        from_profile("azure://acct/files?buckets=2")


@pytest.mark.parametrize("name", ["guess_content_type", "portable"])
def test_an_invalid_flag_is_refused(name):
    """It is not taken for true."""
    with pytest.raises(ConfigurationError, match=f"{name} must be true or false"):
        from_profile(f"azure://acct/files?{name}=perhaps")


@pytest.mark.parametrize(("text", "verify"), [("false", False), ("TRUE", True), (__file__, __file__)])
def test_verify_is_a_flag_or_a_file(text, verify):
    """Text that is no flag is a file."""
    assert settings_of(AzureStorage(**WITH_KEY, verify=text)).verify == verify


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        WITH_KEY,
        {"sas_container_url": f"{ACCOUNT_URL}/files?{SAS}"},
        {"sas_blob_url": f"{ACCOUNT_URL}/files/a.txt?{SAS}"},
        {"connection_string": f"AccountName=acct;AccountKey={KEY}", "bucket": "files"},
        {"connection_string": f"AccountName=acct;SharedAccessSignature={SAS}", "bucket": "files"},
    ],
    ids="-".join,
)
def test_no_repr_shows_a_secret(arguments):
    """Neither of the storage nor of its parts."""
    storage = AzureStorage(**arguments)
    storage._clients.blob("a.txt")

    shown = [repr(storage), str(storage), repr(settings_of(storage)), repr(storage._account), str(storage._account)]
    shown += [repr(value) for value in [*vars(storage).values(), *vars(storage._sas_builder).values()]]
    shown += [repr(value) for value in [*vars(storage._gateway).values(), *vars(storage._clients).values()]]

    assert repr(storage) == "<AzureStorage 'azure'>"
    assert not [text for text in shown if HIDDEN in text or KEY in text]


# -- connection methods on a server -----------------------------------------------------------------------------------


def _sas_of_container(server, container, permission="racwdl"):
    until = datetime.now(UTC) + DAY
    allowed = ContainerSasPermissions.from_string(permission)
    return generate_container_sas(server.account, container, server.key, permission=allowed, expiry=until)


def _connection_string(server, **settings):
    settings = {"AccountName": server.account, "BlobEndpoint": server.url, **settings}
    return ";".join(f"{name}={value}" for name, value in settings.items())


@pytest.mark.parametrize("method", ["key", "connection string", "connection string with a signature", "container"])
def test_each_connection_method_works(azurite, method):
    """Writing in one request and in blocks, reading, listing, copying and deleting."""
    container = azurite.make_container()
    sas = _sas_of_container(azurite, container)
    methods: dict[str, dict[str, Any]] = {
        "key": {"bucket": container},
        "connection string": {
            "connection_string": _connection_string(azurite, AccountKey=azurite.key),
            "bucket": container,
            "endpoint_url": None,
        },
        "connection string with a signature": {
            "connection_string": _connection_string(azurite, SharedAccessSignature=sas),
            "bucket": container,
            "endpoint_url": None,
        },
        "container": {"sas_container_url": f"{azurite.url}/{container}?{sas}"},
    }
    storage = make_storage(azurite, **methods[method], chunk_size=MIB)

    storage.write("a/b é.txt", b"1")
    storage.write("large", bytes(MIB) + b"end")
    storage.copy("a/b é.txt", "copy of%20+it.txt")
    storage.delete("a/b é.txt")

    assert [entry.name for entry in storage.list()] == ["copy of%20+it.txt", "large"]
    assert storage.read("copy of%20+it.txt") == b"1"
    assert storage.read("large") == bytes(MIB) + b"end"
    storage.delete_many(["copy of%20+it.txt", "large"])
    assert storage.list() == []


@pytest.mark.parametrize("blob", ["a.txt", "a folder/caf\u00e9 \u4e2d+&=%2F#?.txt", "a+b/~c'(d).txt"])
def test_a_blob_sas_url_gives_access_to_one_blob(azurite, blob):
    """With any name; every other path is refused without a request."""
    with_key = make_storage(azurite)
    sas = generate_blob_sas(
        azurite.account,
        with_key.bucket,
        blob,
        account_key=azurite.key,
        permission=BlobSasPermissions.from_string("rcwd"),
        expiry=datetime.now(UTC) + DAY,
    )
    with azurite.service() as service:
        url = service.get_blob_client(with_key.bucket, blob).url
    storage = make_storage(azurite, sas_blob_url=f"{url}?{sas}", chunk_size=MIB)

    storage.check()
    storage.write(blob, b"1")
    small = with_key.read(blob)
    storage.write(blob, bytes(MIB + 1))

    assert (small, storage.read(blob)) == (b"1", bytes(MIB + 1))
    assert with_key.size(blob) == storage.stat(blob).size == MIB + 1
    for operation in (storage.read, storage.delete, storage.exists, lambda path: storage.write(path, b"")):
        with pytest.raises(InvalidPathError, match="Invalid path for the configured SAS blob URL"):
            operation(f"{blob}.other")
    storage.check()
    storage.delete_many([blob])
    assert with_key.list() == []


def test_a_blob_sas_url_cannot_list():
    """The error says what to configure; multipart uploads need listing, and are not offered."""
    storage = AzureStorage(sas_blob_url=f"{ACCOUNT_URL}/files/a.txt?{SAS}")

    for operation in (storage.list, lambda: list(storage.iter(details=True)), lambda: storage.client):
        with pytest.raises(ConfigurationError, match="Cannot perform list operation when configured with SAS blob URL"):
            operation()
    assert storage.capabilities.multipart is False
    with pytest.raises(UnsupportedOperationError):
        list(storage.multipart.list_uploads())


def test_a_blob_sas_url_can_have_a_prefix():
    """The path in the storage is the rest of the blob name."""
    storage = AzureStorage(sas_blob_url=f"{ACCOUNT_URL}/files/a/b.txt?{SAS}", prefix="a")

    assert storage._path("b.txt") == "b.txt"
    with pytest.raises(InvalidPathError):
        storage.exists("a/b.txt")


def test_creating_a_storage_sends_no_request():
    """Without a server, the first operation fails."""
    storage = AzureStorage(**WITH_KEY, endpoint_url=f"http://127.0.0.1:{free_port()}/acct", max_attempts=1)

    with pytest.raises(StorageUnavailableError, match="the service cannot be reached: check account and endpoint_url"):
        storage.list()


def test_a_closed_storage_reconnects(azurite):
    """Also when it was closed before its first request."""
    storage = make_storage(azurite)
    storage.close()
    storage.write("a", b"1")
    storage.close()

    assert storage.read("a") == b"1"


# -- without the SDK --------------------------------------------------------------------------------------------------


def _without_sdk(script):
    hide = "import sys\nsys.modules['azure.storage.blob'] = None\n"
    return subprocess.run(
        [sys.executable, "-c", hide + textwrap.dedent(script)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("name", ["AzureStorage", "AzureFile", "AzureReader", "AzureWriter"])
def test_importing_without_the_sdk_says_what_to_install(name):
    """When the class is imported by name."""
    output = _without_sdk(f"""
        try:
            from flask_storage import {name}
        except ImportError as error:
            print(error)
    """)

    assert 'needs azure-storage-blob: pip install "flask-storage-profiles[azure]"' in output


def test_a_profile_without_the_sdk_says_what_to_install():
    """When the app starts."""
    output = _without_sdk("""
        from flask import Flask
        from flask_storage import ConfigurationError, Storage
        app = Flask("app")
        app.config["STORAGE_PROFILES"] = {"docs": "azure://acct/files"}
        try:
            Storage(app)
        except ConfigurationError as error:
            print(error)
    """)

    assert "flask-storage-profiles[azure]" in output


def test_the_emulators_key_is_base64():
    """It is not a secret: Microsoft publishes it."""
    assert len(base64.b64decode(azure_account._EMULATOR["accountkey"])) == 64


def test_an_error_shows_no_signature(azurite):
    """Neither in its message nor in the traceback."""
    container = azurite.make_container()
    sas = _sas_of_container(azurite, container, "l")
    storage = make_storage(azurite, sas_container_url=f"{azurite.url}/{container}?{sas}", max_attempts=1)

    with pytest.raises(StorageError) as caught:
        storage.write("a.txt", b"1")

    assert "sig=" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "arguments",
    [{"client_options": {"api_version": "bogus"}}, {"retry_policy": 3}, {"client_options": {"nonsense": 1}}],
)
def test_invalid_client_options_are_reported_by_the_first_operation(azurite, arguments):
    """As a configuration error; the SDK ignores unknown ones."""
    storage = make_storage(azurite, **arguments)

    try:
        storage.write("a", b"1")
    except ConfigurationError as error:
        assert "client_options or retry_policy" in str(error)  # noqa: PT017 - no error is right too
    else:
        assert storage.read("a") == b"1"
        assert arguments == {"client_options": {"nonsense": 1}}


@pytest.mark.parametrize(("value", "guesses"), [("no", False), (False, False), ("true", True), (True, True)])
def test_guess_content_type_may_be_text(value, guesses):
    """As in an environment variable."""
    assert offline_storage(guess_content_type=value).capabilities.guesses_content_type is guesses


def offline_storage(**arguments):
    """Return a storage to which no request is sent."""
    return AzureStorage("acct", KEY, "files", **arguments)


def test_no_signature_is_logged(azurite, caplog):
    """Also not by the SDK and urllib3 at the level DEBUG."""
    with_key = make_storage(azurite)
    with_key.write("a.txt", b"hello")
    with_sas = make_storage(azurite, sas_container_url=with_key.create_container_url(timedelta(hours=1)))
    signature = parse_qs(with_sas._account.sas)["sig"][0]

    with caplog.at_level(logging.DEBUG):
        assert with_sas.read("a.txt") == b"hello"
        assert [entry.name for entry in with_sas.list()] == ["a.txt"]

    assert "a.txt" in caplog.text
    assert "sig=REDACTED" in caplog.text
    assert quote(signature, safe="") not in caplog.text
    assert signature not in caplog.text


def test_the_repr_of_client_options_shows_no_password():
    """Proxy URLs may contain one."""
    storage = offline_storage(client_options={"proxies": {"https": f"http://user:{HIDDEN}@proxy"}})

    assert HIDDEN not in repr(storage._clients._settings)


def test_a_log_record_with_a_mapping_is_unchanged(caplog):
    """The filter changes only records with a tuple of arguments."""
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("urllib3.connectionpool").debug("%(word)s", {"word": "mapped"})

    assert "mapped" in caplog.text


def test_invalid_environment_variables_of_azure_identity_are_reported(monkeypatch):
    """By the first operation, as a configuration error."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
    storage = AzureStorage("acct", bucket="files", credential="DefaultAzureCredential")

    with pytest.raises(ConfigurationError, match="invalid environment variables"):
        storage.exists("a.txt")


def test_the_client_of_another_blob_is_refused_with_a_blob_sas():
    """Its requests would otherwise change the blob of the SAS."""
    storage = AzureStorage(sas_blob_url=FOR_BLOB["sas_blob_url"])

    with pytest.raises(InvalidPathError):
        storage._clients.blob("b.txt")
