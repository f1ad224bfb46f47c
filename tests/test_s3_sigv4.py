"""Signed S3 links and forms: what botocore signs, byte for byte, and nothing of a secret anywhere else."""

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

ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE+/=", "a secret+/=\u00e9 that nobody may see"
TOKEN = "a/session+token==" * 20
LASTING = Credentials(ACCESS_KEY, SECRET_KEY)
PASSING = Credentials(ACCESS_KEY, SECRET_KEY, TOKEN)
BUCKET = "a-bucket"
NOON = calendar.timegm((2026, 6, 1, 12, 0, 0))
DAY = 24 * 60 * 60
HOME = Endpoint("https://a-bucket.s3.eu-central-1.amazonaws.com/", "eu-central-1")

# What a client is told: its region, how it addresses buckets, its endpoint. What its links then begin with.
PLACES = {
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

# Parameters of boto3, and the parameters and headers that they become.
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
    """A boto3 client; making one takes longer than a hundred links."""
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
    """The moment of an ``X-Amz-Date``: we sign for the very second that botocore did, and no clock is stopped."""
    return calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))


def in_url(operation, parameters):
    """What boto3's parameters become in the query, in their order."""
    query = {"uploads": ""} if operation == "create_multipart_upload" else {}
    return query | {IN_QUERY[name]: str(value) for name, value in parameters.items() if name in IN_QUERY}


def in_headers(parameters):
    """What boto3's parameters become in the headers."""
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
    place=st.sampled_from(sorted(PLACES, key=str)),
    credentials=st.sampled_from([LASTING, PASSING]),
    operation=operations,
    key=keys,
    expires=st.integers(1, MAX_EXPIRES),
    data=st.data(),
)
def test_a_link_is_what_botocore_signs(place, credentials, operation, key, expires, data):
    """Every byte: the order of parameters, what is quoted, which headers are bound, and so the signature."""
    (name, method), parameters = operation
    if "SSECustomerKey" in parameters:
        parameters = {**parameters, "SSECustomerAlgorithm": "AES256"}
    parameters = dict(data.draw(st.permutations(list(parameters.items()))))
    boto = client(*place, credentials)
    theirs = boto.generate_presigned_url(name, {"Bucket": BUCKET, "Key": key, **parameters}, expires)
    moment = seconds(parse_qs(urlsplit(theirs).query)["X-Amz-Date"][0])
    endpoint = Endpoint(PLACES[place], place[0])

    signer = UrlSigner(endpoint, credentials, method, moment, expires, in_url(name, parameters), in_headers(parameters))

    assert signer.sign(key) == theirs


@settings(max_examples=count(200, 2_000), deadline=None)
@given(
    place=st.sampled_from(sorted(PLACES, key=str)),
    credentials=st.sampled_from([LASTING, PASSING]),
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
def test_a_form_is_what_botocore_signs(place, credentials, key, conditions, expires):
    """The policy is the same text, and so is its signature."""
    boto = client(*place, credentials)
    given = list(conditions)  # boto3 before 1.44 appends to what it is given
    theirs = boto.generate_presigned_post(BUCKET, key, Conditions=given, ExpiresIn=expires)["fields"]
    expiration = json.loads(base64.b64decode(theirs["policy"]))["expiration"]
    policy = {"expiration": expiration, "conditions": [*conditions, {"bucket": BUCKET}, {"key": key}]}

    fields = sign_policy(credentials, place[0], seconds(theirs["x-amz-date"]), policy)

    assert {"key": key, **fields} == theirs


def test_the_example_of_the_manual_comes_out():
    """A second witness beside botocore: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html."""
    endpoint = Endpoint("https://examplebucket.s3.amazonaws.com/", "us-east-1")
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    moment = calendar.timegm((2013, 5, 24, 0, 0, 0))

    link = UrlSigner(endpoint, credentials, "GET", moment, DAY).sign("test.txt")

    assert link == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_the_content_type_of_html_forms_is_bound_like_any_other():
    """Left alone, botocore does not sign this one: the holder of such a link could store any type."""
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}

    link = UrlSigner(HOME, LASTING, "PUT", NOON, 60, headers=headers).sign("a")

    assert parse_qs(urlsplit(link).query)["X-Amz-SignedHeaders"] == ["content-type;host"]


def test_one_signer_makes_many_links():
    """The links of one signer are those of a signer for each."""
    names = [f"{number} \u00e9.txt" for number in range(100)]

    signer = UrlSigner(HOME, PASSING, "GET", NOON, 60)
    links = [signer.sign(name) for name in names]

    assert links == [UrlSigner(HOME, PASSING, "GET", NOON, 60).sign(name) for name in names]
    assert len(set(links)) == len(names)


def test_a_policy_stays_as_it_was_given():
    """The app may sign its policy again tomorrow."""
    policy = {"expiration": "2026-06-01T13:00:00Z", "conditions": [{"bucket": BUCKET}]}
    before = json.dumps(policy)

    sign_policy(LASTING, "eu-central-1", NOON, policy)

    assert json.dumps(policy) == before


@pytest.mark.parametrize("expires", [-1, 0, MAX_EXPIRES + 1])
def test_a_link_lives_for_seven_days_at_most(expires):
    """S3 would refuse it at its first use; better now than in a customer's browser."""
    with pytest.raises(ValueError, match="604800 seconds"):
        UrlSigner(HOME, LASTING, "GET", NOON, expires)


@pytest.mark.parametrize("name", ["X-Amz-Expires", "X-Amz-Date", "Any"])
def test_the_parameters_of_the_signature_cannot_be_given(name):
    """Two expiries in one link are at least one too many."""
    with pytest.raises(ValueError, match="not yours to give"):
        UrlSigner(HOME, LASTING, "GET", NOON, 60, {"versionId": "1", name: "9"})


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
        "https://somebody:hush@example.com/bucket/",
        "https://example.com:port/bucket/",
    ],
)
def test_an_endpoint_is_the_url_that_keys_are_appended_to(url):
    """Anything else would sign one address and hand out another; what is refused is not repeated."""
    with pytest.raises(ValueError, match=r"endpoint of a bucket|Port") as caught:
        Endpoint(url, "us-east-1")

    assert "hush" not in str(caught.value)


def test_a_key_that_is_no_text_is_refused():
    """A lone surrogate has no bytes that could be quoted."""
    signer = UrlSigner(HOME, LASTING, "GET", NOON, 60)

    with pytest.raises(UnicodeEncodeError):
        signer.sign("\ud800")


def test_no_secret_prints():
    """Neither the key nor the session token shows in what a log or a debugger prints."""
    signer = UrlSigner(HOME, PASSING, "GET", NOON, 60, headers={"x-amz-acl": "private"})
    signer.sign("a")

    printed = f"{PASSING!r} {signer!r} {HOME!r} {sigv4._signing_keys!r}"
    printed += "".join(repr(key) for key in sigv4._signing_keys.kept.values())

    assert SECRET_KEY not in printed
    assert TOKEN not in printed
    assert "X-Amz-Security-Token" not in printed


def test_a_secret_is_in_no_link():
    """What a link carries of the credentials is their name."""
    link = UrlSigner(HOME, LASTING, "GET", NOON, 60).sign("a")

    assert set(parse_qs(urlsplit(link).query)) == {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    }
    assert "secret" not in link


def test_few_keys_are_kept_however_many_sign():
    """Credentials change by the hour; a process that lives for weeks does not collect them."""
    keys = sigv4._SigningKeys()

    for number in range(100):
        keys.of(Credentials("name", f"secret {number}"), "eu-central-1", "20260601")

    assert len(keys.kept) == keys.LIMIT


def test_a_key_is_derived_once_a_day():
    """The same credentials, region and day: the same key, not one like it."""
    keys = sigv4._SigningKeys()
    first = keys.of(LASTING, "eu-central-1", "20260601")

    again = keys.of(Credentials(ACCESS_KEY, SECRET_KEY), "eu-central-1", "20260601")

    assert again is first


@pytest.mark.parametrize(
    ("credentials", "region"),
    [
        (Credentials(ACCESS_KEY, "another"), "eu-central-1"),
        (Credentials("another", SECRET_KEY), "eu-central-1"),
        (Credentials(ACCESS_KEY, SECRET_KEY, "another"), "eu-central-1"),
        (LASTING, "eu-central-2"),
    ],
)
def test_who_signs_where_has_a_key_of_its_own(credentials, region):
    """Nobody gets what was derived for somebody else."""
    keys = sigv4._SigningKeys()
    ours = keys.of(LASTING, "eu-central-1", "20260601")

    theirs = keys.of(credentials, region, "20260601")

    assert (theirs.key.hexdigest(), theirs.query, theirs.token, theirs.scope) != (
        ours.key.hexdigest(),
        ours.query,
        ours.token,
        ours.scope,
    )
    assert keys.of(LASTING, "eu-central-1", "20260601") is ours


def test_another_day_has_another_key_and_forgets_the_old_ones():
    """What was derived yesterday signs nothing today, and is not kept either."""
    keys = sigv4._SigningKeys()
    yesterday = keys.of(LASTING, "eu-central-1", "20260601")
    keys.of(PASSING, "eu-central-1", "20260601")

    today = keys.of(LASTING, "eu-central-1", "20260602")

    assert today.key.hexdigest() != yesterday.key.hexdigest()
    assert list(keys.kept.values()) == [today]


def test_links_of_two_days_are_both_right():
    """A signer that was made before midnight goes on signing for its moment."""
    before, after = NOON, NOON + DAY
    alone = [UrlSigner(HOME, LASTING, "GET", moment, 60).sign("a") for moment in (before, after)]

    signers = [UrlSigner(HOME, LASTING, "GET", moment, 60) for moment in (before, after)]

    assert [signer.sign("a") for signer in signers] == alone


def test_threads_with_credentials_of_their_own_do_not_meet():
    """More threads than keys are kept, all at once: each link is signed by its own credentials."""
    crowd = [Credentials(f"name {number}", f"secret {number}") for number in range(2 * sigv4._SigningKeys.LIMIT)]
    expected = [UrlSigner(HOME, credentials, "GET", NOON, 60).sign("a") for credentials in crowd]
    barrier = threading.Barrier(len(crowd))
    links = {}

    def work(number):
        barrier.wait()
        links[number] = {UrlSigner(HOME, crowd[number], "GET", NOON, 60).sign("a") for _ in range(50)}

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(crowd))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [links[number] for number in range(len(crowd))] == [{link} for link in expected]
