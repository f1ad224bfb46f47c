"""What an Azure profile may say: every argument, in Python, JSON, a URL and the environment, and what is wrong."""

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
WAY: Any = {"account": "acct", "key": KEY, "bucket": "files"}
PLACE = "https://acct.blob.core.windows.net"
EVERYTHING = ("account", "key", "bucket", "sas_container_url", "sas_blob_url")


class Identity:
    """An identity of azure.identity, as far as making a storage looks at it."""

    def get_token(self, *scopes, **options):
        """Never asked for here."""
        raise AssertionError(scopes)


def account(**arguments):
    """Return what is made of the arguments that say where the container is."""
    unsaid: dict[str, Any] = dict.fromkeys([*EVERYTHING, "credential", "connection_string", "endpoint_url"])
    return resolve_account(**{**unsaid, **arguments})


def from_profile(spec):
    """Return the storage that an app makes of a profile."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = {"docs": spec}
    return Storage(app).for_app(app)["docs"]


def settings_of(storage):
    """Return how the clients of a storage are made."""
    return storage._clients._settings


def shown_by(error):
    """Return all that a log would show of an error."""
    return "".join(traceback.format_exception_only(error))


# -- what may be given, and what not ----------------------------------------------------------------------------------


def test_the_arguments_stand_in_the_order_of_the_predecessor():
    """Account, key, container, the two addresses with a signature, the size of a block, the name."""
    storage = AzureStorage("acct", KEY, "files", None, None, 6 * MIB, "docs")

    assert (storage._account.name, storage._account.key, storage.bucket) == ("acct", KEY, "files")
    assert (storage._account.url, storage._chunk_size, storage.name) == (PLACE, 6 * MIB, "docs")
    assert AzureStorage(None, None, None, f"{PLACE}/files?{SAS}").bucket == "files"
    assert AzureStorage(None, None, None, None, f"{PLACE}/files/a.txt?{SAS}").bucket == "files"
    assert AzureStorage("acct", KEY, "files").name == "azure"
    assert AzureStorage("acct", KEY, "files")._chunk_size == 5_242_880


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"bucket": None}, "Must provide a sas_container_url, a sas_blob_url, or a combination of account, key, and"),
        ({"account": None}, "Must provide a sas_container_url"),
        ({"key": None}, "Must provide a sas_container_url"),
        ({"bucket": ""}, "bucket is a text of one line"),
        ({"bucket": 5}, "bucket is a text of one line"),
        ({"account": ""}, "account is a text of one line"),
        ({"account": "acct.example.com/x"}, "name of an account is made of letters and digits"),
        ({"account": f"user:{HIDDEN}@acct"}, "name of an account is made of letters and digits"),
        ({"key": f"{HIDDEN}!"}, "access key as the portal shows it, in base64"),
        ({"key": f"schlüssel-{HIDDEN}"}, "access key as the portal shows it, in base64"),
        ({"key": "===="}, "access key as the portal shows it, in base64"),
        ({"key": ""}, "key is a text of one line"),
        ({"credential": Identity()}, "give a key or a credential, not both"),
        ({"connection_string": f"AccountKey={KEY}"}, "has its account, its key and its address already"),
        ({"chunk_size": 0}, "chunk_size is a whole number from 1 on"),
        ({"chunk_size": "many"}, "chunk_size is a whole number"),
        ({"chunk_size": None}, "chunk_size is a whole number"),
        ({"concurrency": 0}, "concurrency is a whole number from 1 on"),
        ({"concurrency": True}, "concurrency is a whole number"),
        ({"max_attempts": 0}, "max_attempts is a whole number from 1 on"),
        ({"max_connections": -1}, "max_connections is a whole number from 1 on"),
        ({"connect_timeout": 0}, "connect_timeout is a number of seconds"),
        ({"connect_timeout": "soon"}, "connect_timeout is a number of seconds"),
        ({"read_timeout": -1}, "read_timeout is a number of seconds"),
        ({"read_timeout": None}, "read_timeout is a number of seconds"),
        ({"check_content": "perhaps"}, "check_content is true or false"),
        ({"link_https_only": "perhaps"}, "link_https_only is true or false"),
        ({"verify": 0}, "verify is a text"),
        ({"verify": ""}, "verify is a text"),
        ({"encryption_scope": ""}, "encryption_scope is a text"),
        ({"content_type": 5}, "content_type is a text"),
        ({"cache_control": "a\r\nx-ms-blob-type: PageBlob"}, "cache_control is a text of one line"),
        ({"base_url": 5}, "base_url"),
        ({"verify": "/no/such/file"}, "the file of a certificate authority: this is no file"),
        ({"max_connections": 10**9}, "max_connections is at most 10000"),
        ({"client_options": "x"}, "client_options is a mapping of names"),
        ({"client_options": {1: 2}}, "client_options is a mapping of names"),
        ({"client_options": {"transport": None}}, "client_options takes no transport"),
        ({"metadata": "color=red"}, "metadata is a mapping of names"),
        ({"metadata": {"number": 1}}, "metadata is text"),
        ({"metadata": {"a-b": "1"}}, "metadata key 'a-b' is not portable"),
        ({"metadata": {"_fs_write": "1"}}, "beginning with a letter"),
        ({"metadata": {"": "1"}}, "metadata key '' is not portable"),
        ({"metadata": {"a": "x" * 9000}}, "metadata takes at most"),
        ({"content_type": "tëxt"}, "content_type is kept in ASCII here"),
        ({"cache_control": "日"}, "cache_control is kept in ASCII here"),
        ({"guess_content_type": "perhaps"}, "guess_content_type is true or false"),
        ({"key": None, "credential": Identity}, "or an object of azure.identity"),
    ],
    ids=str,
)
def test_what_cannot_work_is_told_at_once(arguments, text):
    """The text says what would be right, and nowhere shows what was given as a secret."""
    with pytest.raises(ConfigurationError) as caught:
        AzureStorage(**{**WAY, **arguments})

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
def test_an_address_is_one_and_holds_no_signature(name, address):
    """Logs would show it."""
    with pytest.raises(ConfigurationError, match=f"{name} is an address like") as caught:
        AzureStorage(**{**WAY, name: address})

    assert HIDDEN not in shown_by(caught.value)


def test_times_may_be_spans_and_settings_arrive():
    """A ``timedelta`` is a number of seconds; a policy of the SDK takes the place of ours."""
    policy = LinearRetry(retry_total=1)
    spans: Any = {"connect_timeout": timedelta(seconds=3), "read_timeout": timedelta(minutes=1)}
    storage = AzureStorage(
        **WAY,
        **spans,
        max_attempts=7,
        max_connections=9,
        verify=__file__,
        retry_policy=policy,
        client_options={"api_version": "2021-12-02"},
    )

    made = settings_of(storage)
    given = made.arguments()

    assert (made.connect_timeout, made.read_timeout, made.max_attempts, made.max_connections) == (3, 60, 7, 9)
    assert (made.verify, given["retry_policy"], given["api_version"]) == (__file__, policy, "2021-12-02")
    assert storage.client.api_version == "2021-12-02"
    assert storage._gateway.read_timeout == 60


def test_a_block_has_a_hundred_mebibytes_at_most():
    """The service takes no more of some accounts."""
    assert AzureStorage(**WAY, chunk_size=200 * MIB)._chunk_size == 100 * MIB


def test_content_is_checked_where_the_connection_protects_nothing():
    """Or where somebody says so."""
    local = "http://127.0.0.1:10000/acct"

    assert AzureStorage(**WAY)._gateway.check_content is False
    assert AzureStorage(**WAY, endpoint_url=local)._gateway.check_content is True
    assert AzureStorage(**WAY, check_content=True)._gateway.check_content is True
    assert AzureStorage(**WAY, check_content="no", endpoint_url=local)._gateway.check_content is False  # type: ignore[arg-type]  # from a URL


@pytest.mark.parametrize("prefix", ["a/b", "/a/b", "a/b/"])
def test_a_prefix_is_a_folder_and_needs_no_slashes(prefix):
    """Before and behind it they make no difference; what no folder may be called is refused."""
    link = AzureStorage(**WAY, prefix=prefix).link_to("c.txt", ShareLinkOperation.download, DAY)

    assert link.startswith(f"{PLACE}/files/a/b/c.txt?")
    with pytest.raises(InvalidPathError):
        AzureStorage(**WAY, prefix="a/../b")


def test_the_longest_path_counts_with_its_prefix():
    """A name has 1,024 bytes at most, and the prefix is a part of it."""
    with pytest.raises(InvalidPathError, match="with its prefix the path is longer than 1024 bytes"):
        AzureStorage(**WAY, prefix="p" * 200).write("/".join(["f" * 200] * 5), b"")


# -- which way leads in -----------------------------------------------------------------------------------------------


FOR_CONTAINER = {"sas_container_url": f"{PLACE}/files?{SAS}"}
FOR_BLOB = {"sas_blob_url": f"{PLACE}/files/a.txt?{SAS}"}


@pytest.mark.parametrize(
    "arguments",
    [
        {**FOR_CONTAINER, **FOR_BLOB},
        {**WAY, **FOR_CONTAINER},
        {"key": KEY, **FOR_BLOB},
        {"endpoint_url": PLACE, **FOR_CONTAINER},
        {"credential": Identity(), **FOR_CONTAINER},
        {"connection_string": "UseDevelopmentStorage=true", **FOR_CONTAINER},
        {"bucket": "other", **FOR_CONTAINER},
        {"account": "other", **FOR_BLOB},
    ],
)
def test_two_ways_in_are_told(arguments):
    """Files would go to one place while somebody looks for them in the other."""
    with pytest.raises(ConfigurationError, match=r"leave out the other|for another account or bucket"):
        account(**arguments)


def test_an_address_with_a_signature_may_be_said_twice():
    """By the names of what is in it."""
    first = account(account="acct", bucket="files", **FOR_CONTAINER)
    second = account(bucket="files", **FOR_BLOB)

    assert (first.container, first.key, first.sas, first.blob) == ("files", None, SAS, None)
    assert (second.container, second.key, second.sas, second.blob) == ("files", None, SAS, "a.txt")


@pytest.mark.parametrize(
    "bucket", ["ab", "a" * 64, "Files", "a_b", "a--b", "-ab", "ab-", "a/b", "a?b", "..", "ä" * 3, "a%2Fb", "$other"]
)
def test_a_bucket_is_the_name_of_a_container(bucket):
    """Nothing below one, or beside it."""
    with pytest.raises(ConfigurationError, match="bucket is the name of a container"):
        account(**{**WAY, "bucket": bucket})


@pytest.mark.parametrize("bucket", ["abc", "a-b", "a" * 63, "1-2-3", "$root", "$web", "$logs", "$blobchangefeed"])
def test_every_name_that_a_container_may_have_is_taken(bucket):
    """Those of the service itself too."""
    assert account(**{**WAY, "bucket": bucket}).container == bucket


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (f"{PLACE}/files", "without a container in it"),
        (f"{PLACE}/acct", "without a container in it"),
        (f"{PLACE}/acct/files", "without a container in it"),
        ("http://127.0.0.1:10000/acct/files", "without a container in it"),
        ("http://127.0.0.1:10000", "ends in the name of the account"),
        ("http://azurite:10000/", "ends in the name of the account"),
        (f"{PLACE}?", "is an address like"),
        (f"{PLACE}#", "is an address like"),
        (f"{PLACE}\n", "is an address like"),
        (f" {PLACE}", "is an address like"),
    ],
)
def test_an_endpoint_is_that_of_an_account(endpoint, text):
    """What is too much in it would become a part of every name."""
    with pytest.raises(ConfigurationError, match=text):
        account(**{**WAY, "endpoint_url": endpoint})


@pytest.mark.parametrize("more", ["&snapshot=2026-11-21", "&versionid=1"])
def test_the_address_of_a_version_is_none_of_a_file(more):
    """It cannot be written, and the signature is good for nothing else."""
    with pytest.raises(ConfigurationError, match="is for one snapshot or version"):
        account(sas_blob_url=f"{PLACE}/files/a.txt?{SAS}{more}")


@pytest.mark.parametrize(
    ("host", "name"), [("https://acct-secondary.blob.core.windows.net", "acct"), ("https://files.example.com", "acct")]
)
def test_an_account_may_be_named_beside_an_address_that_does_not_tell_it(host, name):
    """As that of a second place, or of a domain of one's own."""
    assert account(account=name, bucket="files", sas_container_url=f"{host}/files?{SAS}").url == host


def test_a_folder_is_no_container():
    """Data Lake signs addresses of folders too."""
    with pytest.raises(ConfigurationError, match="sas_container_url is https"):
        account(sas_container_url=f"{PLACE}/files/folder?{SAS}")


@pytest.mark.parametrize("more", ["&restype=container&comp=list"])
def test_the_address_of_a_request_is_none_of_a_container(more):
    """It was copied from a tool; the signature in it does not show."""
    with pytest.raises(ConfigurationError, match="is the address of a request: take out") as caught:
        account(sas_container_url=f"{PLACE}/files?{SAS}{more}")

    assert "not-for-the-logs" not in str(caught.value)


def test_blanks_around_a_signature_are_no_part_of_it():
    """As a file or a variable of the environment adds them."""
    assert account(sas_container_url=f"{PLACE}/files?{SAS} \n").sas == SAS


@pytest.mark.parametrize(
    ("url", "name", "base", "container"),
    [
        (f"{PLACE}/files?{SAS}", "acct", PLACE, "files"),
        (f"{PLACE}/files/?{SAS}", "acct", PLACE, "files"),
        (f"https://cdn.example.com/$root?{SAS}", "cdn", "https://cdn.example.com", "$root"),
        (f"http://127.0.0.1:10000/acct/files?{SAS}", "acct", "http://127.0.0.1:10000/acct", "files"),
        (f"http://10.0.0.7:10000/acct/files?{SAS}", "acct", "http://10.0.0.7:10000/acct", "files"),
    ],
)
def test_the_address_of_a_container_says_all(url, name, base, container):
    """The account, where it is, and the signature."""
    found = account(sas_container_url=url)

    assert (found.name, found.url, found.container, found.sas) == (name, base, container, SAS)


@pytest.mark.parametrize(
    ("url", "base", "container", "blob"),
    [
        (f"{PLACE}/files/a.txt?{SAS}", PLACE, "files", "a.txt"),
        (f"{PLACE}/files/a/b%20c/caf%C3%A9%2F%25%23%3F.txt?{SAS}", PLACE, "files", "a/b c/café/%#?.txt"),
        (f"https://cdn.example.com/files/a/b/c.txt?{SAS}", "https://cdn.example.com", "files", "a/b/c.txt"),
        (f"http://127.0.0.1:10000/acct/files/a/b?{SAS}", "http://127.0.0.1:10000/acct", "files", "a/b"),
        (f"http://10.0.0.7/acct/files/a/b?{SAS}", "http://10.0.0.7/acct", "files", "a/b"),
        (f"http://[::1]:10000/acct/files/a/b?{SAS}", "http://[::1]:10000/acct", "files", "a/b"),
        (f"http://azurite:10000/acct/files/a/b?{SAS}", "http://azurite:10000/acct", "files", "a/b"),
    ],
)
def test_the_address_of_a_blob_says_all(url, base, container, blob):
    """Whatever its name; the SDK's own client is told the same."""
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
        f"{PLACE}/files/a",
        f"{PLACE}/files/a?sv=2022-11-02",
        f"{PLACE}?{SAS}",
        f"{PLACE}/?{SAS}",
        5,
    ],
)
def test_an_address_with_a_signature_that_is_none_is_told(name, url):
    """And is not repeated, as it is a secret."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        AzureStorage(**{name: url})

    assert HIDDEN not in shown_by(caught.value)


def test_an_address_of_the_wrong_kind_is_told():
    """A blob is no container, and a container no blob."""
    with pytest.raises(ConfigurationError, match=r"sas_container_url is https://ACCOUNT.*/CONTAINER\?SIGNATURE"):
        AzureStorage(sas_container_url=f"{PLACE}/files/folder/a.txt?{SAS}")
    with pytest.raises(ConfigurationError, match=r"sas_blob_url is https://ACCOUNT.*/CONTAINER/BLOB\?SIGNATURE"):
        AzureStorage(sas_blob_url=f"{PLACE}/files?{SAS}")


# -- connection strings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "url", "key", "sas"),
    [
        (
            f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=core.windows.net",
            "acct",
            PLACE,
            KEY,
            None,
        ),
        (f" AccountName = acct ; AccountKey = {KEY} ; ", "acct", PLACE, KEY, None),
        (f"accountname=acct;ACCOUNTKEY={KEY}", "acct", PLACE, KEY, None),
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
def test_a_connection_string_says_all_but_the_container(text, name, url, key, sas):
    """As the portal shows it, of any cloud, with a key or a signature; an address that is named is taken."""
    found = account(connection_string=text, bucket="files")

    assert (found.name, found.key, found.sas, found.container) == (name, key, sas, "files")
    assert found.url == url or (not url and found.url in text)


def test_the_emulators_connection_string_is_understood():
    """Its account and key are known to everybody."""
    storage = AzureStorage(connection_string="UseDevelopmentStorage=true", bucket="files")

    assert storage._account.url == "http://127.0.0.1:10000/devstoreaccount1"
    assert storage._account.name == "devstoreaccount1"
    assert storage.link_to("a", "download", DAY).startswith("http://127.0.0.1:10000/devstoreaccount1/files/a?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "made of Name=value"),
        (HIDDEN, "made of Name=value, separated by semicolons"),
        (f"AccountName=acct;{HIDDEN}", "made of Name=value, separated by semicolons"),
        (f"AccountKey={KEY}", "names no AccountName and no BlobEndpoint"),
        ("AccountName=acct", "has neither an AccountKey nor a SharedAccessSignature"),
        ("UseDevelopmentStorage=false;AccountName=acct", "has neither an AccountKey nor a SharedAccessSignature"),
        (f"AccountName=acct;AccountKey={HIDDEN}!", "in base64"),
        (f"AccountName=a/b;AccountKey={KEY}", "made of letters and digits"),
        (f"AccountName=acct;AccountKey={KEY};DefaultEndpointsProtocol=ftp", "DefaultEndpointsProtocol and EndpointSu"),
        (f"AccountName=acct;AccountKey={KEY};EndpointSuffix=x@evil?{HIDDEN}", "DefaultEndpointsProtocol and Endpoint"),
        (f"BlobEndpoint=https://u:{HIDDEN}@a.example.com;AccountKey={KEY}", "BlobEndpoint is an address"),
        (5, "made of Name=value"),
    ],
)
def test_a_connection_string_that_is_none_is_told(text, expected):
    """Without a letter of it, as the key stands in it."""
    with pytest.raises(ConfigurationError) as caught:
        AzureStorage(connection_string=text, bucket="files")

    assert expected in str(caught.value)
    assert HIDDEN not in shown_by(caught.value)
    assert KEY not in shown_by(caught.value)


def test_a_connection_string_needs_a_container_and_nothing_else():
    """Beside it, another account, key, credential or address would contradict it."""
    text = f"AccountName=acct;AccountKey={KEY}"

    with pytest.raises(ConfigurationError, match="needs a bucket beside it"):
        AzureStorage(connection_string=text)
    others: list[dict[str, Any]] = [{"account": "a"}, {"key": KEY}, {"credential": Identity()}, {"endpoint_url": PLACE}]
    for other in others:
        with pytest.raises(ConfigurationError, match="has its account, its key and its address already"):
            AzureStorage(connection_string=text, bucket="files", **other)


# -- identities -------------------------------------------------------------------------------------------------------


def test_an_identity_needs_a_container_and_an_account():
    """Or an address, whose first label is the account then."""
    identity = Identity()

    named = account(account="acct", bucket="files", credential=identity)
    found = account(endpoint_url="https://acct.blob.core.chinacloudapi.cn/", bucket="files", credential=identity)

    assert (named.url, named.name, named.credential) == (PLACE, "acct", identity)
    assert (found.url, found.name) == ("https://acct.blob.core.chinacloudapi.cn", "acct")
    lacking: list[dict[str, Any]] = [{"account": "acct"}, {"bucket": "files"}, {}]
    for less in lacking:
        with pytest.raises(ConfigurationError, match="needs a bucket, and an account or an endpoint_url"):
            account(credential=identity, **less)


@pytest.mark.parametrize("credential", ["AnotherCredential", 5, KEY, AzureNamedKeyCredential("acct", KEY), ""])
def test_what_is_no_identity_is_refused(credential):
    """A key is another argument."""
    with pytest.raises(
        ConfigurationError, match='credential is "DefaultAzureCredential" or an object of azure'
    ) as caught:
        AzureStorage("acct", bucket="files", credential=credential)

    assert KEY not in shown_by(caught.value)


def test_an_identity_is_never_sent_by_plain_http():
    """Whoever listens could be it for an hour."""
    with pytest.raises(ConfigurationError, match="a credential is sent by https only: check endpoint_url"):
        AzureStorage("acct", bucket="files", credential=Identity(), endpoint_url="http://127.0.0.1:10000/acct")


def test_the_default_identity_may_be_named(monkeypatch):
    """It is made when somebody asks, in the process that does: its connections are not for sharing."""
    staged = types.ModuleType("azure.identity")
    vars(staged)["DefaultAzureCredential"] = Identity
    monkeypatch.setitem(sys.modules, "azure.identity", staged)

    storage = from_profile("azure://acct/files?credential=DefaultAzureCredential")

    assert isinstance(storage, AzureStorage)
    assert storage._account.credential == "DefaultAzureCredential"
    assert isinstance(storage._clients._credential(), Identity)
    assert storage._clients._credential() is storage._clients._credential()
    assert storage.capabilities.links == ~ShareLinkOperation(0)


def test_the_default_identity_of_the_package_is_an_identity():
    """Where the package is installed, it is taken as it is; nothing is asked of anybody yet."""
    storage = AzureStorage("acct", bucket="files", credential="DefaultAzureCredential")

    assert isinstance(storage._clients._credential(), DefaultAzureCredential)


def test_without_its_package_the_default_identity_says_what_to_install(monkeypatch):
    """When the storage is made, not with the first file."""
    monkeypatch.setitem(sys.modules, "azure.identity", None)

    with pytest.raises(ConfigurationError, match='needs azure-identity: run "pip install azure-identity"'):
        AzureStorage("acct", bucket="files", credential="DefaultAzureCredential")


# -- from text --------------------------------------------------------------------------------------------------------

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


def _check_text_was_understood(storage):
    made = settings_of(storage)
    assert isinstance(storage, AzureStorage)
    assert (storage.name, storage.bucket, storage._account.name) == ("docs", "files", "acct")
    assert (storage._chunk_size, storage._concurrency, storage._gateway.check_content) == (6 * MIB, 4, True)
    assert (made.connect_timeout, made.read_timeout, made.max_attempts, made.max_connections) == (1.5, 20, 2, 7)
    assert made.verify is False
    assert storage.capabilities.guesses_content_type is False
    assert storage.portable is True
    link = storage.link_to("c.txt", ShareLinkOperation.download, DAY)
    assert link.startswith("https://files.example.com/files/a/b/c.txt?")
    assert "spr=" not in link


def test_a_profile_may_be_a_url():
    """Account and container are its host and its first folder; numbers and flags are understood."""
    query = "&".join(f"{name}={value}" for name, value in {**AS_TEXT, "key": KEY.replace("=", "%3D")}.items())

    _check_text_was_understood(from_profile(f"azure://acct/files/a/b?{query}"))


def test_a_profile_may_be_json():
    """With numbers and flags as such."""
    numbers = {"chunk_size": 6 * MIB, "concurrency": 4, "connect_timeout": 1.5, "read_timeout": 20, "max_attempts": 2}
    flags = {"check_content": True, "guess_content_type": False, "verify": False, "portable": True}
    spec = {"backend": "azure", "prefix": "a/b", **WAY, **AS_TEXT, **numbers, **flags, "link_https_only": False}
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = json.dumps({"docs": spec})

    _check_text_was_understood(Storage(app).for_app(app)["docs"])


def test_a_profile_may_come_from_the_environment(monkeypatch):
    """One variable for each value; Flask reads those that are JSON."""
    for name, value in {"backend": "azure", "prefix": "a/b", **WAY, **AS_TEXT}.items():
        monkeypatch.setenv(f"FLASK_STORAGE_PROFILES__docs__{name}", value)
    monkeypatch.setenv("FLASK_STORAGE_DEFAULT_PROFILE", "docs")
    app = Flask(__name__)
    app.config.from_prefixed_env()

    _check_text_was_understood(Storage(app).for_app(app)["docs"])


def test_a_profile_may_be_the_predecessors_pair():
    """A class and its arguments."""
    app = Flask(__name__)
    app.config["STORAGE_PROFILES"] = [(AzureStorage, {"name": "docs", **WAY})]

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
def test_a_url_names_account_and_container_and_no_secret(url):
    """It would be in every log; where a key belongs is said."""
    with pytest.raises(ConfigurationError, match="azure://account/container/prefix; key or credential are") as caught:
        from_profile(url)

    assert HIDDEN not in str(caught.value)


def test_the_prefix_of_a_url_may_be_escaped():
    """As paths of URLs are."""
    storage = from_profile(f"azure://acct/files/a%20folder/?key={KEY.replace('=', '%3D')}")

    assert isinstance(storage, AzureStorage)
    assert storage._gateway.prefix == "a folder/"


def test_an_unknown_argument_of_a_url_is_told():
    """With those that exist."""
    with pytest.raises(ConfigurationError, match=r"buckets.*AzureStorage takes account, key, bucket"):
        from_profile("azure://acct/files?buckets=2")


@pytest.mark.parametrize("name", ["guess_content_type", "portable"])
def test_a_flag_that_is_none_is_told(name):
    """Rather than taken for true."""
    with pytest.raises(ConfigurationError, match=f"{name} is true or false"):
        from_profile(f"azure://acct/files?{name}=perhaps")


@pytest.mark.parametrize(("text", "verify"), [("false", False), ("TRUE", True), (__file__, __file__)])
def test_verify_is_a_flag_or_a_file(text, verify):
    """The words for a flag are one; anything else is a file."""
    assert settings_of(AzureStorage(**WAY, verify=text)).verify == verify


# -- nothing is told that is secret -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        WAY,
        {"sas_container_url": f"{PLACE}/files?{SAS}"},
        {"sas_blob_url": f"{PLACE}/files/a.txt?{SAS}"},
        {"connection_string": f"AccountName=acct;AccountKey={KEY}", "bucket": "files"},
        {"connection_string": f"AccountName=acct;SharedAccessSignature={SAS}", "bucket": "files"},
    ],
    ids="-".join,
)
def test_no_secret_is_shown(arguments):
    """Neither by the storage nor by what it is made of, however it is printed."""
    storage = AzureStorage(**arguments)
    storage._clients.blob("a.txt")

    shown = [repr(storage), str(storage), repr(settings_of(storage)), repr(storage._account), str(storage._account)]
    shown += [repr(value) for value in [*vars(storage).values(), *vars(storage._sas_builder).values()]]
    shown += [repr(value) for value in [*vars(storage._gateway).values(), *vars(storage._clients).values()]]

    assert repr(storage) == "<AzureStorage 'azure'>"
    assert not [text for text in shown if HIDDEN in text or KEY in text]


# -- the ways in, on a server -----------------------------------------------------------------------------------------


def _sas_of_container(server, container, permission="racwdl"):
    until = datetime.now(UTC) + DAY
    allowed = ContainerSasPermissions.from_string(permission)
    return generate_container_sas(server.account, container, server.key, permission=allowed, expiry=until)


def _connection_string(server, **settings):
    given = {"AccountName": server.account, "BlobEndpoint": server.url, **settings}
    return ";".join(f"{name}={value}" for name, value in given.items())


@pytest.mark.parametrize("way", ["key", "connection string", "connection string with a signature", "container"])
def test_each_way_leads_into_the_container(azurite, way):
    """Writing, in one request and in blocks, reading, listing, copying and deleting."""
    container = azurite.make_container()
    sas = _sas_of_container(azurite, container)
    ways: dict[str, dict[str, Any]] = {
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
    storage = make_storage(azurite, **ways[way], chunk_size=MIB)

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
def test_the_address_of_a_blob_leads_to_it_and_nowhere_else(azurite, blob):
    """Whatever it is called: it is written, read and deleted; every other path is refused without a request."""
    whole = make_storage(azurite)
    sas = generate_blob_sas(
        azurite.account,
        whole.bucket,
        blob,
        account_key=azurite.key,
        permission=BlobSasPermissions.from_string("rcwd"),
        expiry=datetime.now(UTC) + DAY,
    )
    with azurite.service() as service:
        address = service.get_blob_client(whole.bucket, blob).url
    storage = make_storage(azurite, sas_blob_url=f"{address}?{sas}", chunk_size=MIB)

    storage.check()
    storage.write(blob, b"1")
    small = whole.read(blob)
    storage.write(blob, bytes(MIB + 1))

    assert (small, storage.read(blob)) == (b"1", bytes(MIB + 1))
    assert whole.size(blob) == storage.stat(blob).size == MIB + 1
    for verb in (storage.read, storage.delete, storage.exists, lambda path: storage.write(path, b"")):
        with pytest.raises(InvalidPathError, match="Invalid path for the configured SAS blob URL"):
            verb(f"{blob}.other")
    storage.check()
    storage.delete_many([blob])
    assert whole.list() == []


def test_the_address_of_a_blob_lists_nothing():
    """The text says what to configure; parts need a list too, and are not offered."""
    storage = AzureStorage(sas_blob_url=f"{PLACE}/files/a.txt?{SAS}")

    for verb in (storage.list, lambda: list(storage.iter(details=True)), lambda: storage.client):
        with pytest.raises(ConfigurationError, match="Cannot perform list operation when configured with SAS blob URL"):
            verb()
    assert storage.capabilities.multipart is False
    with pytest.raises(UnsupportedOperationError):
        list(storage.multipart.list_uploads())


def test_the_address_of_a_blob_with_a_prefix_counts_from_there():
    """The path in the storage is the rest of the name."""
    storage = AzureStorage(sas_blob_url=f"{PLACE}/files/a/b.txt?{SAS}", prefix="a")

    assert storage._path("b.txt") == "b.txt"
    with pytest.raises(InvalidPathError):
        storage.exists("a/b.txt")


def test_making_a_storage_asks_nothing_of_the_service():
    """Nothing listens there, and only the first verb finds out."""
    storage = AzureStorage(**WAY, endpoint_url=f"http://127.0.0.1:{free_port()}/acct", max_attempts=1)

    with pytest.raises(StorageUnavailableError, match="the service cannot be reached: check account and endpoint_url"):
        storage.list()


def test_a_closed_storage_connects_anew(azurite):
    """Closing gives the connections back, also where none was made."""
    storage = make_storage(azurite)
    storage.close()
    storage.write("a", b"1")
    storage.close()

    assert storage.read("a") == b"1"


# -- without the SDK --------------------------------------------------------------------------------------------------


def _without_sdk(script):
    hidden = "import sys\nsys.modules['azure.storage.blob'] = None\n"
    return subprocess.run(
        [sys.executable, "-c", hidden + textwrap.dedent(script)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("name", ["AzureStorage", "AzureFile", "AzureReader", "AzureWriter"])
def test_without_the_sdk_the_error_says_what_to_install(name):
    """When it is asked for by name."""
    said = _without_sdk(f"""
        try:
            from flask_storage import {name}
        except ImportError as error:
            print(error)
    """)

    assert 'needs azure-storage-blob: pip install "flask-storage-profiles[azure]"' in said


def test_without_the_sdk_a_profile_says_what_to_install():
    """When the app starts."""
    said = _without_sdk("""
        from flask import Flask
        from flask_storage import ConfigurationError, Storage
        app = Flask("app")
        app.config["STORAGE_PROFILES"] = {"docs": "azure://acct/files"}
        try:
            Storage(app)
        except ConfigurationError as error:
            print(error)
    """)

    assert "flask-storage-profiles[azure]" in said


def test_the_emulators_key_is_base64():
    """Nobody's secret: Microsoft publishes it."""
    assert len(base64.b64decode(azure_account._EMULATOR["accountkey"])) == 64


def test_an_error_of_a_verb_shows_no_signature(azurite):
    """Not in its text, nor in what came before it."""
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
def test_what_only_the_sdk_can_judge_is_told_by_the_first_verb(azurite, arguments):
    """As what is wrong with the configuration, or it does no harm."""
    storage = make_storage(azurite, **arguments)

    try:
        storage.write("a", b"1")
    except ConfigurationError as error:
        assert "client_options or retry_policy" in str(error)  # noqa: PT017 - or nothing is wrong
    else:
        assert storage.read("a") == b"1"
        assert arguments == {"client_options": {"nonsense": 1}}


@pytest.mark.parametrize(("given", "guesses"), [("no", False), (False, False), ("true", True), (True, True)])
def test_whether_names_tell_types_may_be_text(given, guesses):
    """As the environment has it."""
    assert account_storage(guess_content_type=given).capabilities.guesses_content_type is guesses


def account_storage(**arguments):
    """Return a storage that is never asked for anything."""
    return AzureStorage("acct", KEY, "files", **arguments)


def test_no_signature_comes_into_a_log(azurite, caplog):
    """Not even into those of the packages below, where everything is logged."""
    whole = make_storage(azurite)
    whole.write("a.txt", b"hello")
    guest = make_storage(azurite, sas_container_url=whole.create_container_url(timedelta(hours=1)))
    signature = parse_qs(guest._account.sas)["sig"][0]

    with caplog.at_level(logging.DEBUG):
        assert guest.read("a.txt") == b"hello"
        assert [entry.name for entry in guest.list()] == ["a.txt"]

    assert "a.txt" in caplog.text
    assert "sig=REDACTED" in caplog.text
    assert quote(signature, safe="") not in caplog.text
    assert signature not in caplog.text


def test_what_was_configured_is_shown_without_passwords():
    """Proxies have some."""
    storage = account_storage(client_options={"proxies": {"https": f"http://user:{HIDDEN}@proxy"}})

    assert HIDDEN not in repr(storage._clients._settings)


def test_a_log_of_another_form_is_left_alone(caplog):
    """Whoever logs a mapping has it logged."""
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("urllib3.connectionpool").debug("%(word)s", {"word": "mapped"})

    assert "mapped" in caplog.text


def test_an_environment_that_makes_no_identity_is_told(monkeypatch):
    """By the first verb, as what is wrong with the configuration."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
    storage = AzureStorage("acct", bucket="files", credential="DefaultAzureCredential")

    with pytest.raises(ConfigurationError, match="variables that it does not understand"):
        storage.exists("a.txt")


def test_the_client_of_a_single_blob_is_given_for_no_other():
    """Whatever is asked of it would be done to that one."""
    storage = AzureStorage(sas_blob_url=FOR_BLOB["sas_blob_url"])

    with pytest.raises(InvalidPathError):
        storage._clients.blob("b.txt")
