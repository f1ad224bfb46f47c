"""Validation of the account settings of a profile, and the choice among five connection methods."""

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
from ...paths import directory_prefix, is_valid
from ...validation import check_metadata, parse_http_url, parse_mapping, parse_optional_text

_DEFAULT_SUFFIX = "core.windows.net"
DEFAULT_CREDENTIAL = "DefaultAzureCredential"
"""Stands for the identity that ``azure.identity`` finds; each process creates its own credential object."""
_ACCOUNT = re.compile(r"[a-z0-9-]+")
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*|\$(root|web|logs|blobchangefeed)", re.ASCII)
# Query parameters of other operations: a URL with one of them was copied from a tool or from a log.
_NOT_IN_SAS = {"comp", "restype"}
_NO_DOMAIN = re.compile(r"[^.]+|[0-9.]+|.*:.*|host\.docker\.internal")
# Part of every host name of the service, in every cloud; other host names are custom domains.
_AZURE_HOST_MARK = ".blob."
_MICROSOFT_HOST = re.compile(r"\.blob\.(core|storage)\.")
# Host names of the other services of an account; the portal lists them beside that of the blobs.
_OTHER_SERVICE = re.compile(r"[^.]+\.(z\d+\.)?(dfs|file|queue|table|web)\.(core|storage)\..+")
# Published by Microsoft; accepted only by an emulator on this machine:
# https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string
_EMULATOR = {
    "accountname": "devstoreaccount1",
    "accountkey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The location of a container and the credentials for it: exactly one of key, credential and sas is set.

    Attributes:
        name: The name of the account.
        url: The URL of the account, without a trailing slash.
        container: The name of the container.
        key: The account's access key, in base64.
        credential: A credential of ``azure.identity``, or :data:`DEFAULT_CREDENTIAL`.
        sas: A shared access signature for the container, without a leading question mark.
        blob: The name of the blob, if *sas* is for a single blob.
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
    """Return the account that the arguments describe.

    Raises:
        ConfigurationError: when the arguments are incomplete or contradict each other; the message shows no secret.
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
    if found.blob is not None and (ends_in_dot(found.blob) or not is_valid(found.blob)):
        raise ConfigurationError(
            "sas_blob_url names a blob that no path can name: it has an empty segment, one that ends in a dot, or a "
            "character that paths must not have"
        )
    if _OTHER_SERVICE.fullmatch(urlsplit(found.url).hostname or ""):
        raise ConfigurationError(
            "the address is that of another service of the account: use that of the Blob service, "
            "https://ACCOUNT.blob.core.windows.net"
        )
    if not _CONTAINER.fullmatch(found.container):
        raise ConfigurationError(
            "bucket must be the name of a container: 3 to 63 lower-case letters, digits and single hyphens"
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
                "a sas_container_url or sas_blob_url is complete by itself: leave out the other, key, endpoint_url, "
                "credential and connection_string"
            )
        return _from_sas(account, bucket, sas_container_url, sas_blob_url)
    if connection_string is not None:
        if account or key or credential or endpoint:
            raise ConfigurationError(
                "a connection_string already contains account, key and endpoint: leave out account, key, credential "
                "and endpoint_url"
            )
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
    # The URL of a custom domain, or of the secondary location, does not begin with the account's name.
    is_named = account in (None, found.name, found.name.removesuffix("-secondary"))
    if bucket not in (None, found.container) or not (is_named or _is_custom(found.url)):
        raise ConfigurationError(
            "sas_container_url or sas_blob_url is for another account or bucket than the given one: leave out account "
            "and bucket, or correct them"
        )
    return found


def _is_custom(url: str) -> bool:
    return _AZURE_HOST_MARK not in url and not urlsplit(url).path


def _with_credential(account: str | None, bucket: str, credential: Any, endpoint: str | None) -> Account:
    if credential == DEFAULT_CREDENTIAL:
        try:
            import azure.identity  # noqa: F401 - a separate package, needed only with this credential
        except ImportError as error:
            raise ConfigurationError(
                'this credential needs azure-identity: run "pip install azure-identity"'
            ) from error
    elif not hasattr(credential, "get_token") or isinstance(credential, type):
        raise ConfigurationError(f'credential must be "{DEFAULT_CREDENTIAL}" or a credential object of azure.identity')
    if endpoint:
        _check_endpoint("endpoint_url", endpoint, account)
    url = endpoint or _address(account or "")
    if not url.startswith("https:"):
        raise ConfigurationError("a credential is sent over https only: check endpoint_url")
    return Account(name=account or account_from_url(url), url=url, container=bucket, credential=credential)


def _from_connection_string(text: object, bucket: str | None) -> Account:
    settings: dict[str, str] = {}
    for pair in str(text).strip().strip(";").split(";"):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigurationError("a connection_string must consist of Name=value pairs, separated by semicolons")
        settings[name.strip().lower()] = value.strip()
    if settings.get("usedevelopmentstorage", "").lower() == "true":
        settings = {**_EMULATOR, **settings}
    if not bucket:
        raise ConfigurationError("a connection_string needs a bucket too: the name of the container")
    name = settings.get("accountname", "")
    url = _without_slash(parse_http_url("BlobEndpoint", settings.get("blobendpoint")))
    if url is None:
        if not name:
            raise ConfigurationError("the connection_string has neither an AccountName nor a BlobEndpoint")
        scheme = settings.get("defaultendpointsprotocol", "https").lower()
        url = _address(name, scheme=scheme, suffix=settings.get("endpointsuffix") or _DEFAULT_SUFFIX)
    _check_endpoint("BlobEndpoint", url, name or None)
    key = settings.get("accountkey")
    sas = settings.get("sharedaccesssignature", "").lstrip("?")
    if key:
        _check_key(key)
        return Account(name=name or account_from_url(url), url=url, container=bucket, key=key)
    if sas:
        _check_signature("SharedAccessSignature", sas)
        return Account(name=name or account_from_url(url), url=url, container=bucket, sas=sas)
    raise ConfigurationError("the connection_string has neither an AccountKey nor a SharedAccessSignature")


def _from_container_url(url: str) -> Account:
    address, path, query = _split("sas_container_url", url)
    # The URL of an emulator has the account name as the first segment of its path.
    base, _, container = path.rpartition("/")
    if not container or "/" in base.strip("/") or (base.strip("/") and _AZURE_HOST_MARK in address):
        raise ConfigurationError("sas_container_url must be https://ACCOUNT.blob.core.windows.net/CONTAINER?SIGNATURE")
    return Account(
        name=account_from_url(f"{address}{base}"), url=f"{address}{base}", container=unquote(container), sas=query
    )


def _from_blob_url(url: str) -> Account:
    address, path, query = _split("sas_blob_url", url)
    segments = path.strip("/").split("/")
    # An emulator has an IP address or a host name without dots, and the account name in the path.
    in_path = 1 if _NO_DOMAIN.fullmatch(urlsplit(address).hostname or "") else 0
    if len(segments) < 2 + in_path:
        raise ConfigurationError("sas_blob_url must be https://ACCOUNT.blob.core.windows.net/CONTAINER/BLOB?SIGNATURE")
    base = "/".join([address, *segments[:in_path]])
    return Account(
        name=account_from_url(base),
        url=base,
        container=unquote(segments[in_path]),
        blob=unquote("/".join(segments[in_path + 1 :])),
        sas=query,
    )


def _split(name: str, url: str) -> tuple[str, str, str]:
    """Return origin, path and query of a URL that contains a signature.

    Raises:
        ConfigurationError: when the URL is invalid or has no signature; the message does not repeat the URL.
    """
    try:
        parts = urlsplit(str(url))
        is_valid = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # an unbalanced bracket, or a port that is not a number
        parts, is_valid = urlsplit(""), False
    if not is_valid or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"{name} must be a URL that begins with https://, without user name and password")
    query = parts.query.strip()
    _check_signature(name, query)
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/"), query


def _check_signature(name: str, query: str) -> None:
    found = set(parse_qs(query))
    if "sig" not in found:
        raise ConfigurationError(f"{name} has no signature (…?sv=…&sig=…)")
    if found & {"snapshot", "versionid"}:
        raise ConfigurationError(f"{name} is for one snapshot or version, which cannot be written")
    if other := found & _NOT_IN_SAS:
        raise ConfigurationError(f"{name} is the URL of a request: remove {', '.join(sorted(other))}")


def _check_endpoint(name: str, url: str, account: str | None) -> None:
    """Refuse a URL that is not an account's: a container in it would become part of every blob name."""
    parts = urlsplit(url)
    host, in_path = parts.hostname or "", parts.path.strip("/")
    if in_path and (_AZURE_HOST_MARK in host or "/" in in_path or account not in (None, in_path)):
        raise ConfigurationError(
            f"{name} must be the URL of an account, without a container; the URL of an emulator ends with the "
            "account's name"
        )
    if not in_path and _NO_DOMAIN.fullmatch(host):
        raise ConfigurationError(f"the {name} of an emulator must end with the name of the account")
    named = account_from_url(url).removesuffix("-secondary")
    if _MICROSOFT_HOST.search(host) and account not in (None, named, f"{named}-secondary"):
        raise ConfigurationError(f"{name} is the URL of another account than the given one: correct one of them")


def account_from_url(url: str) -> str:
    """Return the account name in a URL: the first label of the host, or the path of an emulator's URL."""
    parts = urlsplit(url)
    in_path = parts.path.strip("/")
    return in_path or (parts.hostname or "").partition(".")[0]


def _address(account: str, *, scheme: str = "https", suffix: str = _DEFAULT_SUFFIX) -> str:
    if not _ACCOUNT.fullmatch(account):
        raise ConfigurationError(
            "account must be the name alone, of lower-case letters and digits: write 'acct', and not its address"
        )
    address = parse_http_url("DefaultEndpointsProtocol and EndpointSuffix", f"{scheme}://{account}.blob.{suffix}")
    return str(address)


def _without_slash(url: str | None) -> str | None:
    return None if url is None else url.rstrip("/")


def _check_key(key: str) -> None:
    try:
        is_valid = bool(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        is_valid = False
    if not is_valid:
        raise ConfigurationError("key must be the account's access key as the portal shows it, in base64")


def ends_in_dot(name: str) -> bool:
    """Return whether a segment of a blob name ends in a dot. The service drops it, so two names would be one blob.

    https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
    """
    return name.endswith(".") or "./" in name


def blob_prefix(directory: str) -> str:
    """Return the prefix of the blob names of a profile: that of its directory.

    Raises:
        ConfigurationError: when the service cannot hold blobs with that prefix.
    """
    prefix = directory_prefix(directory)
    if ends_in_dot(prefix):
        raise ConfigurationError("prefix has a segment that ends in a dot, which Azure drops: choose another name")
    return prefix


def metadata_of(metadata: object, content_type: str | None, cache_control: str | None) -> Mapping[str, str]:
    """Return the metadata of a profile, checked by the rules for the metadata and headers of a file.

    Raises:
        ConfigurationError: when the metadata or one of the headers is not valid for a file.
    """
    parsed = parse_mapping("metadata", metadata)
    try:
        check_ascii({"content_type": content_type, "cache_control": cache_control})
        check_metadata(parsed)
    except ValueError as error:
        raise ConfigurationError(f"metadata, content_type or cache_control of the profile: {error}") from error
    return parsed
