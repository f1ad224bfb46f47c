"""What ``flask storage doctor`` asks of S3: credentials and region; and the rights and rules that a storage needs."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from ...diagnostics import Diagnostics, Finding
from .client import Clients
from .gateway import BucketGateway

_OBJECT_ACTIONS = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
_BUCKET_ACTIONS = ("s3:ListBucket", "s3:ListBucketMultipartUploads")


def diagnostics_of(gateway: BucketGateway, clients: Clients, origin: str) -> Diagnostics:
    """Return the probes and requirements of a storage; see :meth:`StorageDriver._diagnostics`."""
    return Diagnostics(
        probes={
            "credentials": lambda _: _credentials(clients),
            "region": lambda _: _region(gateway),
        },
        requirements={
            "Least rights, as a policy of AWS, Ceph or MinIO": _as_json(_policy(gateway)),
            f"CORS rule of the bucket, for uploads by pages of {origin}": _as_json(_cors(origin)),
        },
    )


def _credentials(clients: Clients) -> Finding:
    _, credentials = clients.signing_client(None, None)
    if credentials is None:
        return Finding("failed", "there are no credentials", "set keys or aws_profile, or boto3's credential chain")
    return Finding("ok", f"boto3 found credentials ({credentials.method})")


def _region(gateway: BucketGateway) -> Finding:
    region, configured = gateway.region(), gateway.client.meta.region_name
    # Services other than AWS have regions of their own, and sign for one name.
    if region in (None, configured) or gateway.preset.region is not None:
        return Finding("ok", f"links are signed for the region {configured}")
    return Finding(
        "failed", f"the bucket is in {region}, and links are signed for {configured}", f"set aws_region to {region}"
    )


def _policy(gateway: BucketGateway) -> dict[str, Any]:
    bucket, stored = f"arn:aws:s3:::{gateway.name}", gateway.object_settings.stored
    acl = ["s3:PutObjectAcl"] if "ACL" in stored else []
    statements = [
        _allow("Objects", [*_OBJECT_ACTIONS, *acl], f"{bucket}/{gateway.prefix}*"),
        _allow("Lists", _BUCKET_ACTIONS, bucket),
    ]
    if key := stored.get("SSEKMSKeyId"):
        statements.append(_allow("Encryption", ("kms:GenerateDataKey", "kms:Decrypt"), key))
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(name: str, actions: Any, resource: str) -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": [*actions], "Resource": resource}


def _cors(origin: str) -> dict[str, Any]:
    rule = {
        "AllowedOrigins": [origin],
        "AllowedMethods": ["GET", "HEAD", "PUT", "POST"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag"],
        "MaxAgeSeconds": 3600,
    }
    return {"CORSRules": [rule]}


_as_json = partial(json.dumps, indent=2)
