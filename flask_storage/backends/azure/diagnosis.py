"""What ``flask storage doctor`` says about Azure: the credentials, and the roles and rules that a storage needs."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs

from ...diagnostics import Diagnostics, Finding
from .account import Account


def diagnostics_of(account: Account, origin: str) -> Diagnostics:
    """Return the probes and requirements of a storage; see :meth:`StorageDriver._diagnostics`."""
    requirements = {f"CORS rule of the account, for uploads by pages of {origin}": _cors(account, origin)}
    if account.credential is not None:
        requirements = {"Roles of the identity": _roles(account), **requirements}
    return Diagnostics(probes={"credentials": lambda _: _credentials(account)}, requirements=requirements)


def _credentials(account: Account) -> Finding:
    if account.key is not None:
        return Finding("ok", "the account key is used, which permits everything")
    if account.sas is None:
        return Finding("ok", f"the identity {type(account.credential).__name__} is used")
    fields = parse_qs(account.sas)
    permissions, expiry = fields.get("sp", ["those of a stored policy"])[0], fields.get("se", [""])[0]
    text = f"a signature is used, with the permissions {permissions}" + f", until {expiry}" * bool(expiry)
    if expiry and _is_past(expiry):
        return Finding("failed", text, "create a new signature")
    return Finding("note", text, "it signs no links, and it must be replaced before it expires")


def _is_past(expiry: str) -> bool:
    try:
        time = datetime.fromisoformat(expiry)
    except ValueError:
        return False  # the service says what is wrong with it
    return time.replace(tzinfo=time.tzinfo or UTC) < datetime.now(UTC)


def _roles(account: Account) -> str:
    return (
        f"Storage Blob Data Contributor, on the container {account.container}\n"
        f"Storage Blob Delegator, on the account {account.name} (it signs links and copies)"
    )


def _cors(account: Account, origin: str) -> str:
    return (
        f"az storage cors add --account-name {account.name} --services b --origins {origin} \\\n"
        "    --methods GET HEAD PUT --allowed-headers '*' --exposed-headers '*' --max-age 3600"
    )
