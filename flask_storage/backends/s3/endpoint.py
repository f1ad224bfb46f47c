"""The address of a bucket: its name, its region, and the endpoint that the client really uses."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError

from ...errors import ConfigurationError
from ...validation import parse_http_url, parse_optional_text

_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu")
# Access points are addressed by their ARN. Old buckets of us-east-1 have underscores and capital letters.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}|arn:[A-Za-z0-9:/._-]+")
_REGION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
# The rest of a host name whose first label is a bucket.
_SERVICE_HOST = re.compile(
    r"s3[.-].*|(.*\.)?storage\.googleapis\.com|.*\.(digitaloceanspaces\.com|r2\.cloudflarestorage\.com)"
)


def parse_bucket(value: object) -> str:
    """Return the argument ``bucket``.

    Raises:
        ConfigurationError: when it is not the name of a bucket, or the ARN of an access point.
    """
    if isinstance(value, str) and _BUCKET.fullmatch(value):
        return value
    raise ConfigurationError(
        'bucket must be the name of a bucket, without "s3://" and without a directory, which is the argument prefix'
    )


def parse_region(value: object) -> str | None:
    """Return the argument ``aws_region``.

    Raises:
        ConfigurationError: when it is not the name of a region.
    """
    region = parse_optional_text("aws_region", value)
    if region is None or _REGION.fullmatch(region):
        return region
    raise ConfigurationError("aws_region must be the name of a region, like 'eu-central-1'")


def is_aws(endpoint_url: str) -> bool:
    """Whether an endpoint belongs to Amazon S3."""
    return f".{urlsplit(endpoint_url).hostname}".endswith(_AWS_DOMAINS)


def configured_endpoint(session: Any) -> str | None:
    """Return the endpoint that boto3 takes from its own configuration, or None if it is not configured.

    The sources and their order are documented: https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html

    Args:
        session: The boto3 session.

    Raises:
        ConfigurationError: when the configuration cannot be read, or contains no valid URL.
    """
    core = session._session  # boto3 has no public access to the configuration file
    try:
        if core.get_config_variable("ignore_configured_endpoint_urls"):
            return None
        url = (
            os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or _endpoint_of_profile(core.get_scoped_config(), core.full_config)
        )
    except (BotoCoreError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            "boto3's configuration cannot be read: check ~/.aws/config, and the section services that its profile names"
        ) from error
    return parse_http_url("the endpoint URL in the environment or in ~/.aws/config", url or None)


def _endpoint_of_profile(profile: Any, config: Any) -> Any:
    services = config["services"][profile["services"]] if "services" in profile else {}
    return services.get("s3", {}).get("endpoint_url") or profile.get("endpoint_url")


def check_endpoint(name: str, endpoint_url: str | None, bucket: str) -> None:
    """Check that an endpoint does not contain the bucket: every key would begin with its name.

    Args:
        name: The name of the argument, for the error message.
        endpoint_url: The endpoint.
        bucket: The name of the bucket.

    Raises:
        ConfigurationError: when it does.
    """
    parts = urlsplit(endpoint_url or "")
    host = parts.hostname or ""
    in_host = host.startswith(f"{bucket.lower()}.") and _SERVICE_HOST.fullmatch(host[len(bucket) + 1 :])
    if in_host or parts.path.rstrip("/").rpartition("/")[2] == bucket:
        raise ConfigurationError(
            f"{name} must be the address of the service, without the bucket, like 'https://s3.example.com'"
        )
