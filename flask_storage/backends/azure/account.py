"""Checking what a profile says of an account: which of five ways leads to the container."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ...errors import ConfigurationError
from ...metadata_encoding import check_ascii
from ...validation import check_metadata, parse_http_url, parse_mapping, parse_optional_text

_DEFAULT_SUFFIX = "core.windows.net"
DEFAULT_CREDENTIAL = "DefaultAzureCredential"
"""Stands for whoever ``azure.identity`` finds; it is made in the process that asks."""
_ACCOUNT = re.compile(r"[A-Za-z0-9-]+")
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*|\$(root|web|logs|blobchangefeed)", re.ASCII)
# What makes a request another one than for the blob: such an address was copied from a tool, or from a log.
_NOT_IN_SAS = {"comp", "restype"}
_NO_DOMAIN = re.compile(r"[^.]+|[0-9.]+|.*:.*|host\.docker\.internal")
_AZURE_HOST_MARK = (
    ".blob."  # in the name of every host of the service, in every cloud; other names are an account's own
)
# Published by Microsoft for everybody, and good for an emulator on this machine alone:
# https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string
_EMULATOR = {
    "accountname": "devstoreaccount1",
    "accountkey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where a container is, and in whose name it is reached: exactly one of key, credential and sas is set.

    Attributes:
        name: Of the account.
        url: Of the account, without a slash at its end.
        container: The name of the container.
        key: The account's key, in base64.
        credential: An identity of ``azure.identity``, or :data:`DEFAULT_CREDENTIAL`.
        sas: A shared access signature for the container, without a question mark.
        blob: The name of the blob, where it is for a single one.
    """

    name: str
    url: str
    container: str
    key: str | None = field(default=None, repr=False)
    credential: Any = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    blob: str | None = None


def resolve_account(
    account: str | None,
    key: str | None,
    bucket: str | None,
    sas_container_url: str | None,
    sas_blob_url: str | None,
    *,
    credential: Any,
    connection_string: str | None,
    endpoint_url: str | None,
) -> Account:
    """Return the one way to the container that the arguments describe.

    Raises:
        ConfigurationError: when they describe none, or two that contradict each other; the text shows no secret.
    """
    found = _resolve_account(
        account,
        key,
        bucket,
        sas_container_url,
        sas_blob_url,
        credential=credential,
        connection_string=connection_string,
        endpoint_url=endpoint_url,
    )
    if not _CONTAINER.fullmatch(found.container):
        raise ConfigurationError(
            "bucket is the name of a container: 3 to 63 lower-case letters, digits and single hyphens"
        )
    return found


def _resolve_account(
    account: str | None,
    key: str | None,
    bucket: str | None,
    sas_container_url: str | None,
    sas_blob_url: str | None,
    *,
    credential: Any,
    connection_string: str | None,
    endpoint_url: str | None,
) -> Account:
    account = parse_optional_text("account", account)
    key = parse_optional_text("key", key)
    bucket = parse_optional_text("bucket", bucket)
    endpoint = _without_slash(parse_http_url("endpoint_url", endpoint_url))
    if sas_container_url or sas_blob_url:
        if (sas_container_url and sas_blob_url) or key or endpoint or credential or connection_string:
            raise ConfigurationError(
                "a sas_container_url or sas_blob_url says all there is to say: leave out the other, key, endpoint_url, "
                "credential and connection_string"
            )
        return _from_sas(account, bucket, sas_container_url, sas_blob_url)
    if connection_string is not None:
        if account or key or credential or endpoint:
            raise ConfigurationError("a connection_string has its account, its key and its address already")
        return _from_connection_string(connection_string, bucket)
    if credential is not None:
        if key:
            raise ConfigurationError("give a key or a credential, not both")
        if not bucket or not (account or endpoint):
            raise ConfigurationError("a credential needs a bucket, and an account or an endpoint_url")
        return _with_credential(account, bucket, credential, endpoint)
    if account and key and bucket:
        _check_key(key)
        if endpoint:
            _check_endpoint("endpoint_url", endpoint, account)
        return Account(name=account, url=endpoint or _address(account), container=bucket, key=key)
    raise ConfigurationError(
        "Must provide a sas_container_url, a sas_blob_url, or a combination of account, key, and bucket "
        "(or bucket with a credential or a connection_string)"
    )


def _from_sas(account: str | None, bucket: str | None, for_container: str | None, for_blob: str | None) -> Account:
    found = _from_container_url(for_container) if for_container else _from_blob_url(str(for_blob))
    # The address of a domain of one's own, or of a second place, does not begin with the account's name.
    is_named = account in (None, found.name, found.name.removesuffix("-secondary"))
    if bucket not in (None, found.container) or not (is_named or _is_custom(found.url)):
        raise ConfigurationError("the address with the signature is for another account or bucket than the given one")
    return found


def _is_custom(url: str) -> bool:
    return _AZURE_HOST_MARK not in url and not urlsplit(url).path


def _with_credential(account: str | None, bucket: str, credential: Any, endpoint: str | None) -> Account:
    if credential == DEFAULT_CREDENTIAL:
        try:
            import azure.identity  # noqa: F401 - an extra package, for those who name it
        except ImportError as error:
            raise ConfigurationError(
                'this credential needs azure-identity: run "pip install azure-identity"'
            ) from error
    elif not hasattr(credential, "get_token") or isinstance(credential, type):
        raise ConfigurationError(f'credential is "{DEFAULT_CREDENTIAL}" or an object of azure.identity')
    if endpoint:
        _check_endpoint("endpoint_url", endpoint, account)
    url = endpoint or _address(account or "")
    if not url.startswith("https:"):
        raise ConfigurationError("a credential is sent by https only: check endpoint_url")
    return Account(name=account or account_from_url(url), url=url, container=bucket, credential=credential)


def _from_connection_string(text: object, bucket: str | None) -> Account:
    settings: dict[str, str] = {}
    for pair in str(text).strip().strip(";").split(";"):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigurationError("a connection_string is made of Name=value, separated by semicolons")
        settings[name.strip().lower()] = value.strip()
    if settings.get("usedevelopmentstorage", "").lower() == "true":
        settings = {**_EMULATOR, **settings}
    if not bucket:
        raise ConfigurationError("a connection_string needs a bucket beside it: the name of the container")
    name = settings.get("accountname", "")
    url = _without_slash(parse_http_url("BlobEndpoint", settings.get("blobendpoint")))
    if url is None:
        if not name:
            raise ConfigurationError("this connection_string names no AccountName and no BlobEndpoint")
        scheme = settings.get("defaultendpointsprotocol", "https").lower()
        url = _address(name, scheme=scheme, suffix=settings.get("endpointsuffix", _DEFAULT_SUFFIX))
    _check_endpoint("BlobEndpoint", url, name or None)
    key = settings.get("accountkey")
    sas = settings.get("sharedaccesssignature", "").lstrip("?")
    if key:
        _check_key(key)
        return Account(name=name or account_from_url(url), url=url, container=bucket, key=key)
    if sas:
        _check_signature("SharedAccessSignature", sas)
        return Account(name=name or account_from_url(url), url=url, container=bucket, sas=sas)
    raise ConfigurationError("this connection_string has neither an AccountKey nor a SharedAccessSignature")


def _from_container_url(url: str) -> Account:
    address, path, query = _split("sas_container_url", url)
    # An emulator has the account in the path: one segment more than the service.
    base, _, container = path.rpartition("/")
    if not container or "/" in base.strip("/") or (base.strip("/") and _AZURE_HOST_MARK in address):
        raise ConfigurationError("sas_container_url is https://ACCOUNT.blob.core.windows.net/CONTAINER?SIGNATURE")
    return Account(
        name=account_from_url(f"{address}{base}"), url=f"{address}{base}", container=unquote(container), sas=query
    )


def _from_blob_url(url: str) -> Account:
    address, path, query = _split("sas_blob_url", url)
    segments = path.strip("/").split("/")
    # An emulator is reached by a number or a name without dots, and has the account in the path.
    in_path = 1 if _NO_DOMAIN.fullmatch(urlsplit(address).hostname or "") else 0
    if len(segments) < 2 + in_path:
        raise ConfigurationError("sas_blob_url is https://ACCOUNT.blob.core.windows.net/CONTAINER/BLOB?SIGNATURE")
    base = "/".join([address, *segments[:in_path]])
    return Account(
        name=account_from_url(base),
        url=base,
        container=unquote(segments[in_path]),
        blob=unquote("/".join(segments[in_path + 1 :])),
        sas=query,
    )


def _split(name: str, url: str) -> tuple[str, str, str]:
    """Return address, path and query of an address with a signature in it.

    Raises:
        ConfigurationError: when it is none; the text does not repeat it.
    """
    try:
        parts = urlsplit(str(url))
        named = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # half a bracket, or a port that is no number
        parts, named = urlsplit(""), False
    if not named or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{name} is an address that begins with https://, without credentials in it")
    query = parts.query.strip()
    _check_signature(name, query)
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/"), query


def _check_signature(name: str, query: str) -> None:
    found = set(parse_qs(query))
    if "sig" not in found:
        raise ConfigurationError(f"{name} has no signature in it (…?sv=…&sig=…)")
    if found & {"snapshot", "versionid"}:
        raise ConfigurationError(f"{name} is for one snapshot or version, which cannot be written")
    if other := found & _NOT_IN_SAS:
        raise ConfigurationError(f"{name} is the address of a request: take out {', '.join(sorted(other))}")


def _check_endpoint(name: str, url: str, account: str | None) -> None:
    """Refuse the address of something else than an account: a container in it would become part of every name."""
    parts = urlsplit(url)
    host, in_path = parts.hostname or "", parts.path.strip("/")
    if in_path and (_AZURE_HOST_MARK in host or "/" in in_path or account not in (None, in_path)):
        raise ConfigurationError(
            f"{name} is the address of an account, without a container in it; that of an emulator ends in the "
            "account's name"
        )
    if not in_path and _NO_DOMAIN.fullmatch(host):
        raise ConfigurationError(f"the {name} of an emulator ends in the name of the account")


def account_from_url(url: str) -> str:
    """Return the name of the account in its address: the first label of the host, or the path of an emulator."""
    parts = urlsplit(url)
    in_path = parts.path.strip("/")
    return in_path or (parts.hostname or "").partition(".")[0]


def _address(account: str, *, scheme: str = "https", suffix: str = _DEFAULT_SUFFIX) -> str:
    if not _ACCOUNT.fullmatch(account):
        raise ConfigurationError("the name of an account is made of letters and digits")
    address = parse_http_url("DefaultEndpointsProtocol and EndpointSuffix", f"{scheme}://{account}.blob.{suffix}")
    return str(address)


def _without_slash(url: str | None) -> str | None:
    return None if url is None else url.rstrip("/")


def _check_key(key: str) -> None:
    try:
        good = bool(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise ConfigurationError("key is the account's access key as the portal shows it, in base64")


def metadata_of(metadata: object, content_type: str | None, cache_control: str | None) -> Mapping[str, str]:
    """Return the metadata of a profile; what it gives every file is held to what files are held to.

    Raises:
        ConfigurationError: when that fits no file.
    """
    kept = parse_mapping("metadata", metadata)
    try:
        check_ascii({"content_type": content_type, "cache_control": cache_control})
        check_metadata(kept)
    except ValueError as error:
        raise ConfigurationError(f"metadata, content_type or cache_control of the profile: {error}") from error
    return kept
