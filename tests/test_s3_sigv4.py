"""Signed S3 links and forms equal those of botocore, byte for byte, and do not show secrets."""

import base64
import calendar
import functools
import hashlib
import json
import threading
import time
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.config import Config
from hypothesis import given, settings, strategies as st

from flask_storage.backends.s3 import sigv4
from flask_storage.backends.s3.sigv4 import MAX_EXPIRES, Credentials, Endpoint, UrlSigner, sign_policy
from flask_storage.errors import InvalidPathError
from flask_storage.paths import normalize
from tests.counts import count

ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE+/=", "a secret+/=\u00e9 not for the logs"
TOKEN = "a/session+token==" * 20
PERMANENT = Credentials(ACCESS_KEY, SECRET_KEY)
TEMPORARY = Credentials(ACCESS_KEY, SECRET_KEY, TOKEN)
BUCKET = "a-bucket"
NOON = calendar.timegm((2026, 6, 1, 12, 0, 0))
DAY = 24 * 60 * 60
ENDPOINT = Endpoint("https://a-bucket.s3.eu-central-1.amazonaws.com/", "eu-central-1")

# Settings of a client (region, addressing style, endpoint), and the start of its links.
ENDPOINTS = {
    ("eu-central-1", "virtual", None): "https://a-bucket.s3.eu-central-1.amazonaws.com/",
    ("us-east-1", "virtual", None): "https://a-bucket.s3.amazonaws.com/",
    ("us-east-1", "path", None): "https://s3.amazonaws.com/a-bucket/",
    ("ap-southeast-2", "path", None): "https://s3.ap-southeast-2.amazonaws.com/a-bucket/",
    ("cn-north-1", "virtual", None): "https://a-bucket.s3.cn-north-1.amazonaws.com.cn/",
    ("us-east-1", "path", "http://127.0.0.1:9000"): "http://127.0.0.1:9000/a-bucket/",
    ("us-east-1", "path", "http://127.0.0.1:80"): "http://127.0.0.1:80/a-bucket/",
    ("us-east-1", "path", "http://[::1]:9000"): "http://[::1]:9000/a-bucket/",
    ("auto", "path", "https://Storage.Example.com:443"): "https://Storage.Example.com:443/a-bucket/",
    ("us-west-2", "virtual", "https://objects.example.com:80"): "https://a-bucket.objects.example.com:80/",
    ("fr-par", "path", "http://gateway.example.com/s3"): "http://gateway.example.com/s3/a-bucket/",
}

# Parameters of boto3, and the query parameters and headers for them.
IN_QUERY = {
    "ResponseContentDisposition": "response-content-disposition",
    "ResponseContentType": "response-content-type",
    "ResponseContentEncoding": "response-content-encoding",
    "ResponseCacheControl": "response-cache-control",
    "VersionId": "versionId",
    "UploadId": "uploadId",
    "PartNumber": "partNumber",
}
IN_HEADERS = {
    "ContentType": "content-type",
    "ContentLength": "Content-Length",
    "ContentEncoding": "Content-Encoding",
    "ContentDisposition": "Content-Disposition",
    "CacheControl": "Cache-Control",
    "ContentMD5": "Content-MD5",
    "IfNoneMatch": "If-None-Match",
    "IfMatch": "if-match",
    "ChecksumSHA256": "X-Amz-Checksum-SHA256",
    "ACL": "x-amz-acl",
    "StorageClass": "x-amz-storage-class",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
}

texts = st.one_of(
    st.sampled_from(
        ["", " ", "a/b; c=d", "a  b \t c", "attachment; filename*=UTF-8''%C3%A9+.txt", "\u00a0\u00e9\u4e2d", "&=?#%~"]
    ),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
)
plain_texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
sizes = st.integers(0, 5 * 2**40)
digests = st.binary(max_size=20).map(lambda data: base64.b64encode(hashlib.sha256(data).digest()).decode())


def _legal(path):
    try:
        return normalize(path) == path
    except InvalidPathError:
        return False


keys = st.one_of(
    st.sampled_from(
        [
            "a",
            "a b+c~d/%2F%/e&f=g?h#i;j,k:l@m!n$o'p(q)r*s\"t",
            "caf\u00e9/\u4e2d\u6587/\U0001f600\u200d.png",
            "{Bucket}/{Key+}/{0}/$\u007b",
            "a/...b../.c",
            "x" * 255,
            "/".join(["\u4e2d" * 80] * 4),
            "http:/a@b:1/c",
            "<>[]^`|",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40),
    st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5).map("/".join),
).filter(_legal)

customer_keys = st.binary(min_size=32, max_size=32)
# Two keys that differ only in case are one header; botocore signs the values of both, joined by a comma.
metadata = st.lists(
    st.tuples(st.from_regex(r"[A-Za-z0-9_.\-]{1,12}", fullmatch=True), plain_texts),
    max_size=3,
    unique_by=lambda item: item[0].lower(),
).map(dict)
downloads = st.fixed_dictionaries(
    {},
    optional={
        "ResponseContentDisposition": texts,
        "ResponseContentType": texts,
        "ResponseContentEncoding": texts,
        "ResponseCacheControl": texts,
        "VersionId": texts,
        "PartNumber": st.integers(1, 10_000),
        "SSECustomerKey": customer_keys,
    },
)
uploads = st.fixed_dictionaries(
    {},
    optional={
        "ContentType": texts.filter(lambda text: not text.startswith("application/x-www-form-urlencoded")),
        "ContentLength": sizes,
        "ContentEncoding": texts,
        "ContentDisposition": texts,
        "CacheControl": texts,
        "ContentMD5": plain_texts,
        "IfNoneMatch": st.just("*"),
        "IfMatch": plain_texts,
        "ChecksumSHA256": digests,
        "ACL": st.sampled_from(["private", "public-read"]),
        "StorageClass": st.sampled_from(["STANDARD", "GLACIER_IR"]),
        "ServerSideEncryption": st.sampled_from(["AES256", "aws:kms"]),
        "SSEKMSKeyId": plain_texts,
        "SSECustomerKey": customer_keys,
        "Metadata": metadata,
    },
)
starts = st.fixed_dictionaries({}, optional={"ContentType": st.just("image/png"), "CacheControl": texts})
parts = st.fixed_dictionaries(
    {"UploadId": texts.filter(bool), "PartNumber": st.integers(1, 10_000)},
    optional={"ContentLength": sizes, "ChecksumSHA256": digests, "SSECustomerKey": customer_keys},
)
no_parameters: st.SearchStrategy[dict[str, object]] = st.just({})
operations = st.one_of(
    st.tuples(st.just(("get_object", "GET")), downloads),
    st.tuples(st.just(("head_object", "HEAD")), downloads),
    st.tuples(st.just(("put_object", "PUT")), uploads),
    st.tuples(st.just(("delete_object", "DELETE")), no_parameters),
    st.tuples(st.just(("create_multipart_upload", "POST")), starts),
    st.tuples(st.just(("upload_part", "PUT")), parts),
)


@functools.cache
def client(region, addressing, endpoint_url, credentials):
    """Return a boto3 client; creating one takes longer than signing a hundred links."""
    return boto3.client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        config=Config(signature_version="s3v4", s3={"addressing_style": addressing}),
    )


def seconds(stamp):
    """Return the time of an ``X-Amz-Date``: our signature is made for the same second as botocore's."""
    return calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))


def in_url(operation, parameters):
    """Return the query parameters for boto3's parameters, in their order."""
    query = {"uploads": ""} if operation == "create_multipart_upload" else {}
    return query | {IN_QUERY[name]: str(value) for name, value in parameters.items() if name in IN_QUERY}


def in_headers(parameters):
    """Return the headers for boto3's parameters."""
    headers = {IN_HEADERS[name]: str(value) for name, value in parameters.items() if name in IN_HEADERS}
    headers |= {f"x-amz-meta-{name}": value for name, value in parameters.get("Metadata", {}).items()}
    if "SSECustomerKey" in parameters:
        prefix = "x-amz-server-side-encryption-customer"
        secret = parameters["SSECustomerKey"]
        headers[f"{prefix}-key"] = base64.b64encode(secret).decode()
        headers[f"{prefix}-key-MD5"] = base64.b64encode(hashlib.md5(secret).digest()).decode()
    return headers


@settings(max_examples=count(500, 10_000), deadline=None)
@given(
    client_settings=st.sampled_from(sorted(ENDPOINTS, key=str)),
    credentials=st.sampled_from([PERMANENT, TEMPORARY]),
    operation=operations,
    key=keys,
    expires=st.integers(1, MAX_EXPIRES),
    data=st.data(),
)
def test_a_link_equals_that_of_botocore(client_settings, credentials, operation, key, expires, data):
    """Byte for byte: the order of parameters, the quoting, the signed headers, and so the signature."""
    (name, method), parameters = operation
    if "SSECustomerKey" in parameters:
        parameters = {**parameters, "SSECustomerAlgorithm": "AES256"}
    parameters = dict(data.draw(st.permutations(list(parameters.items()))))
    boto = client(*client_settings, credentials)
    theirs = boto.generate_presigned_url(name, {"Bucket": BUCKET, "Key": key, **parameters}, expires)
    signed_at = seconds(parse_qs(urlsplit(theirs).query)["X-Amz-Date"][0])
    endpoint = Endpoint(ENDPOINTS[client_settings], client_settings[0])

    signer = UrlSigner(
        endpoint, credentials, method, signed_at, expires, in_url(name, parameters), in_headers(parameters)
    )

    assert signer.sign(key) == theirs


@settings(max_examples=count(200, 2_000), deadline=None)
@given(
    client_settings=st.sampled_from(sorted(ENDPOINTS, key=str)),
    credentials=st.sampled_from([PERMANENT, TEMPORARY]),
    key=keys,
    conditions=st.lists(
        st.one_of(
            st.tuples(st.just("content-length-range"), sizes, sizes).map(list),
            st.tuples(st.sampled_from(["starts-with", "eq"]), st.just("$Content-Type"), texts).map(list),
            st.dictionaries(st.sampled_from(["acl", "Cache-Control", "x-amz-meta-a"]), texts, min_size=1, max_size=1),
        ),
        max_size=4,
    ),
    expires=st.integers(1, MAX_EXPIRES),
)
def test_a_form_equals_that_of_botocore(client_settings, credentials, key, conditions, expires):
    """The policy has the same text, and the same signature."""
    boto = client(*client_settings, credentials)
    given = list(conditions)  # boto3 before 1.44 appends to what it is given
    theirs = boto.generate_presigned_post(BUCKET, key, Conditions=given, ExpiresIn=expires)["fields"]
    expiration = json.loads(base64.b64decode(theirs["policy"]))["expiration"]
    policy = {"expiration": expiration, "conditions": [*conditions, {"bucket": BUCKET}, {"key": key}]}

    fields = sign_policy(credentials, client_settings[0], seconds(theirs["x-amz-date"]), policy)

    assert {"key": key, **fields} == theirs


def test_a_link_equals_the_example_in_the_aws_documentation():
    """A reference beside botocore: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html."""
    endpoint = Endpoint("https://examplebucket.s3.amazonaws.com/", "us-east-1")
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    signed_at = calendar.timegm((2013, 5, 24, 0, 0, 0))

    link = UrlSigner(endpoint, credentials, "GET", signed_at, DAY).sign("test.txt")

    assert link == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_the_content_type_of_html_forms_is_signed():
    """The holder of a link could store any type otherwise; botocore does not sign this one."""
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}

    link = UrlSigner(ENDPOINT, PERMANENT, "PUT", NOON, 60, headers=headers).sign("a")

    assert parse_qs(urlsplit(link).query)["X-Amz-SignedHeaders"] == ["content-type;host"]


def test_one_signer_signs_many_links():
    """Its links equal those of a new signer for each."""
    names = [f"{number} \u00e9.txt" for number in range(100)]

    signer = UrlSigner(ENDPOINT, TEMPORARY, "GET", NOON, 60)
    links = [signer.sign(name) for name in names]

    assert links == [UrlSigner(ENDPOINT, TEMPORARY, "GET", NOON, 60).sign(name) for name in names]
    assert len(set(links)) == len(names)


def test_signing_does_not_change_the_policy():
    """The application may sign the same policy again."""
    policy = {"expiration": "2026-06-01T13:00:00Z", "conditions": [{"bucket": BUCKET}]}
    before = json.dumps(policy)

    sign_policy(PERMANENT, "eu-central-1", NOON, policy)

    assert json.dumps(policy) == before


@pytest.mark.parametrize("expires", [-1, 0, MAX_EXPIRES + 1])
def test_a_lifetime_out_of_range_is_rejected(expires):
    """S3 would reject the link when it is used."""
    with pytest.raises(ValueError, match="604800 seconds"):
        UrlSigner(ENDPOINT, PERMANENT, "GET", NOON, expires)


@pytest.mark.parametrize("name", ["X-Amz-Expires", "X-Amz-Date", "Any"])
def test_parameters_of_the_signature_cannot_be_set(name):
    """A link with two expiry parameters would be ambiguous."""
    with pytest.raises(ValueError, match="cannot be set"):
        UrlSigner(ENDPOINT, PERMANENT, "GET", NOON, 60, {"versionId": "1", name: "9"})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/bucket/",
        "ftp://example.com/bucket/",
        "https:///bucket/",
        "https://example.com",
        "https://example.com/bucket",
        "https://example.com/bucket/?",
        "https://example.com/bucket/?a=/",
        "https://example.com/bucket/#/",
        "https://example.com/buc\nket/",
        "https://user:hush@example.com/bucket/",
        "https://example.com:port/bucket/",
    ],
)
def test_an_invalid_endpoint_is_rejected(url):
    """The message does not repeat the URL, which may contain a password."""
    with pytest.raises(ValueError, match=r"endpoint of a bucket|Port") as caught:
        Endpoint(url, "us-east-1")

    assert "hush" not in str(caught.value)


def test_a_key_with_a_lone_surrogate_is_rejected():
    """It cannot be encoded as UTF-8."""
    signer = UrlSigner(ENDPOINT, PERMANENT, "GET", NOON, 60)

    with pytest.raises(UnicodeEncodeError):
        signer.sign("\ud800")


def test_no_secret_is_in_a_repr():
    """Neither the key nor the session token."""
    signer = UrlSigner(ENDPOINT, TEMPORARY, "GET", NOON, 60, headers={"x-amz-acl": "private"})
    signer.sign("a")

    printed = f"{TEMPORARY!r} {signer!r} {ENDPOINT!r} {sigv4._signing_keys!r}"
    printed += "".join(repr(key) for key in sigv4._signing_keys.keys.values())

    assert SECRET_KEY not in printed
    assert TOKEN not in printed
    assert "X-Amz-Security-Token" not in printed


def test_no_secret_is_in_a_link():
    """Of the credentials, a link has the access key only."""
    link = UrlSigner(ENDPOINT, PERMANENT, "GET", NOON, 60).sign("a")

    assert set(parse_qs(urlsplit(link).query)) == {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    }
    assert "secret" not in link


def test_the_cache_of_signing_keys_is_bounded():
    """Credentials change by the hour; a process that runs for weeks does not collect them."""
    cache = sigv4._SigningKeys()

    for number in range(100):
        cache.get(Credentials("name", f"secret {number}"), "eu-central-1", "20260601")

    assert len(cache.keys) == cache.LIMIT


def test_a_signing_key_is_derived_once_a_day():
    """The same credentials, region and day return the same object."""
    cache = sigv4._SigningKeys()
    first = cache.get(PERMANENT, "eu-central-1", "20260601")

    again = cache.get(Credentials(ACCESS_KEY, SECRET_KEY), "eu-central-1", "20260601")

    assert again is first


@pytest.mark.parametrize(
    ("credentials", "region"),
    [
        (Credentials(ACCESS_KEY, "another"), "eu-central-1"),
        (Credentials("another", SECRET_KEY), "eu-central-1"),
        (Credentials(ACCESS_KEY, SECRET_KEY, "another"), "eu-central-1"),
        (PERMANENT, "eu-central-2"),
    ],
)
def test_other_credentials_or_regions_have_other_signing_keys(credentials, region):
    """A cached key is never used for other credentials."""
    cache = sigv4._SigningKeys()
    ours = cache.get(PERMANENT, "eu-central-1", "20260601")

    theirs = cache.get(credentials, region, "20260601")

    assert (theirs.keyed_hmac.hexdigest(), theirs.query, theirs.token, theirs.scope) != (
        ours.keyed_hmac.hexdigest(),
        ours.query,
        ours.token,
        ours.scope,
    )
    assert cache.get(PERMANENT, "eu-central-1", "20260601") is ours


def test_another_day_has_another_key_and_evicts_the_old_ones():
    """A key of yesterday signs nothing today, and is not cached."""
    cache = sigv4._SigningKeys()
    yesterday = cache.get(PERMANENT, "eu-central-1", "20260601")
    cache.get(TEMPORARY, "eu-central-1", "20260601")

    today = cache.get(PERMANENT, "eu-central-1", "20260602")

    assert today.keyed_hmac.hexdigest() != yesterday.keyed_hmac.hexdigest()
    assert list(cache.keys.values()) == [today]


def test_signers_of_two_days_can_be_used_together():
    """A signer that was created before midnight keeps its time."""
    before, after = NOON, NOON + DAY
    alone = [UrlSigner(ENDPOINT, PERMANENT, "GET", signed_at, 60).sign("a") for signed_at in (before, after)]

    signers = [UrlSigner(ENDPOINT, PERMANENT, "GET", signed_at, 60) for signed_at in (before, after)]

    assert [signer.sign("a") for signer in signers] == alone


def test_concurrent_threads_sign_with_their_own_credentials():
    """There are more threads than cached keys; each link has the signature of its own credentials."""
    all_credentials = [
        Credentials(f"name {number}", f"secret {number}") for number in range(2 * sigv4._SigningKeys.LIMIT)
    ]
    expected = [UrlSigner(ENDPOINT, credentials, "GET", NOON, 60).sign("a") for credentials in all_credentials]
    barrier = threading.Barrier(len(all_credentials))
    links = {}

    def sign(number):
        barrier.wait()
        links[number] = {UrlSigner(ENDPOINT, all_credentials[number], "GET", NOON, 60).sign("a") for _ in range(50)}

    threads = [threading.Thread(target=sign, args=(number,)) for number in range(len(all_credentials))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [links[number] for number in range(len(all_credentials))] == [{link} for link in expected]
