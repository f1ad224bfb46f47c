"""Signed Azure links: what the SDK signs, byte for byte, and nothing of a key anywhere else."""

import base64
import calendar
import datetime as dt
import hashlib
import hmac
import threading
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

import pytest
from azure.storage.blob import (
    BlobClient,
    ContainerClient,
    ContainerSasPermissions,
    UserDelegationKey,
    generate_blob_sas,
    generate_container_sas,
)
from hypothesis import given, settings, strategies as st

from flask_storage.backends.azure.signing import (
    ANSWER_HEADERS,
    PERMISSIONS,
    SAS_VERSION,
    AccountKey,
    DelegationKey,
    SasSigner,
    sign_container,
)
from tests.counts import count

ACCOUNT, CONTAINER = "acct", "a-container"
SECRET = base64.b64encode(b"a secret that nobody may see" * 2).decode()
DELEGATED_SECRET = base64.b64encode(b"another secret, of 32 bytes long").decode()
KEY = AccountKey(ACCOUNT, SECRET)
DELEGATED = DelegationKey(
    account=ACCOUNT,
    signed_oid="23657296-5cd5-45b0-a809-d972a7f4dfe1",
    signed_tid="ab1f708d-50f6-404c-a006-d71b2ac7a606",
    signed_start="2026-06-01T12:00:00Z",
    signed_expiry="2026-06-02T12:00:00Z",
    signed_service="b",
    signed_version="2022-11-02",
    value=DELEGATED_SECRET,
)
NOON = calendar.timegm((2026, 6, 1, 12, 0, 0))
HOME = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/"
PLACES = [HOME, f"http://127.0.0.1:10000/{ACCOUNT}/{CONTAINER}/", f"https://files.example.com/{CONTAINER}/"]

# The names that the SDK has for what a link says about its answer.
ANSWERS = {
    "rscc": "cache_control",
    "rscd": "content_disposition",
    "rsce": "content_encoding",
    "rscl": "content_language",
    "rsct": "content_type",
}

texts = st.one_of(
    st.sampled_from(
        ["", " ", "a/b; c=d", "a  b \t c", "attachment; filename*=UTF-8''%C3%A9+.txt", "\u00a0\u00e9\u4e2d", "&=?#%~\r"]
    ),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
)
blobs = st.one_of(
    st.sampled_from(
        [
            "a",
            "a b+c~d/%2F%/e&f=g?h#i;j,k:l@m!n$o'p(q)r*s\"t",
            "caf\u00e9/\u4e2d\u6587/\U0001f600\u200d.png",
            "/a//b/",
            "a\\b\tc\r\x7f",
            "x" * 1024,
            "http:/a@b:1/c",
            "<>[]^`|{}",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1, max_size=40),
)
moments = st.integers(0, calendar.timegm((9999, 12, 31, 23, 59, 59)))
terms = st.fixed_dictionaries(
    {},
    optional={
        "starts": moments,
        "ip": st.sampled_from(["", "1.2.3.4", "1.2.3.4-1.2.3.9"]),
        "https_only": st.booleans(),
        "answer": st.dictionaries(st.sampled_from(ANSWER_HEADERS), texts),
        "encryption_scope": st.one_of(st.none(), texts),
    },
)


@pytest.fixture(autouse=True, scope="module")
def sdk_signs_for_our_version():
    """The SDK signs for the newest version that it knows; here it signs for ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("azure.storage.blob._shared_access_signature.X_MS_VERSION", SAS_VERSION)
        yield


def utc(moment):
    """The moment as the SDK takes it."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=moment)


def in_sdk(expires, *, starts=None, ip=None, https_only=False, answer=(), encryption_scope=None):
    """Our terms as the SDK's."""
    named = {ANSWERS[name]: value for name, value in dict(answer).items()}
    start = None if starts is None else utc(starts)
    protocol = "https" if https_only else None
    return {
        "expiry": utc(expires),
        "start": start,
        "ip": ip,
        "protocol": protocol,
        "encryption_scope": encryption_scope,
        **named,
    }


def sdk_key(key):
    """Our delegation key as the SDK's."""
    theirs = UserDelegationKey()
    for name in ("oid", "tid", "start", "expiry", "service", "version"):
        setattr(theirs, f"signed_{name}", getattr(key, f"signed_{name}"))
    theirs.value = key.value
    return theirs


def without_signature(link):
    """A link up to its signature, which is its last parameter."""
    before, last = link.rsplit("&", 1)
    assert last.startswith("sig=")
    return before


def signature_of(secret, lines):
    """The signature of *lines*, as the manual describes it."""
    digest = hmac.digest(base64.b64decode(secret), "\n".join(lines).encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def lines_of_delegation(link, resource):
    """What the manual has signed with a delegation key from version 2020-12-06 on, read from the link itself."""
    said = dict(parse_qsl(urlsplit(link).query))
    return [
        said["sp"],
        said.get("st", ""),
        said["se"],
        resource,
        said["skoid"],
        said["sktid"],
        said["skt"],
        said["ske"],
        said["sks"],
        said["skv"],
        "",  # signedAuthorizedUserObjectId
        "",  # signedUnauthorizedUserObjectId
        "",  # signedCorrelationId
        said.get("sip", ""),
        said.get("spr", ""),
        said["sv"],
        said["sr"],
        "",  # signedSnapshotTime
        said.get("ses", ""),
        *[said.get(name, "") for name in ("rscc", "rscd", "rsce", "rscl", "rsct")],
    ]


permissions = st.sets(st.sampled_from(PERMISSIONS), min_size=1).map(
    lambda letters: "".join(letter for letter in PERMISSIONS if letter in letters)
)


@settings(max_examples=count(500, 10_000), deadline=None)
@given(place=st.sampled_from(PLACES), blob=blobs, allowed=permissions, expires=moments, terms=terms)
def test_a_link_is_what_the_sdk_signs(place, blob, allowed, expires, terms):
    """Every byte: the order of parameters, what is quoted, and so the signature."""
    url = BlobClient(place.removesuffix(f"/{CONTAINER}/"), CONTAINER, blob).url
    query = generate_blob_sas(
        ACCOUNT, CONTAINER, blob, account_key=SECRET, permission=allowed, **in_sdk(expires, **terms)
    )

    signer = SasSigner(place, CONTAINER, KEY, allowed, expires, **terms)

    assert signer.sign(blob) == f"{url}?{query}"


@settings(max_examples=count(200, 2_000), deadline=None)
@given(place=st.sampled_from(PLACES), allowed=permissions, expires=moments, terms=terms)
def test_a_link_to_a_container_is_what_the_sdk_signs(place, allowed, expires, terms):
    """The same terms, another resource, and no slash at the end of the address."""
    url = ContainerClient(place.removesuffix(f"/{CONTAINER}/"), CONTAINER).url
    query = generate_container_sas(
        ACCOUNT, CONTAINER, account_key=SECRET, permission=allowed, **in_sdk(expires, **terms)
    )

    assert sign_container(place, CONTAINER, KEY, allowed, expires, **terms) == f"{url}?{query}"


@settings(max_examples=count(500, 10_000), deadline=None)
@given(place=st.sampled_from(PLACES), blob=blobs, allowed=permissions, expires=moments, terms=terms)
def test_a_delegated_link_is_what_the_manual_signs(place, blob, allowed, expires, terms):
    """Its parameters are the SDK's; its signature is the manual's, since the SDK signs lines of later versions."""
    url = BlobClient(place.removesuffix(f"/{CONTAINER}/"), CONTAINER, blob).url
    theirs = generate_blob_sas(
        ACCOUNT,
        CONTAINER,
        blob,
        user_delegation_key=sdk_key(DELEGATED),
        permission=allowed,
        **in_sdk(expires, **terms),
    )

    link = SasSigner(place, CONTAINER, DELEGATED, allowed, expires, **terms).sign(blob)

    lines = lines_of_delegation(link, f"/blob/{ACCOUNT}/{CONTAINER}/{blob}")
    assert without_signature(link) == without_signature(f"{url}?{theirs}")
    assert link == f"{without_signature(link)}&sig={quote(signature_of(DELEGATED_SECRET, lines))}"


@settings(max_examples=count(100, 2_000), deadline=None)
@given(allowed=permissions, expires=moments, terms=terms)
def test_a_delegated_link_to_a_container_is_what_the_manual_signs(allowed, expires, terms):
    """The resource has no slash at its end."""
    theirs = generate_container_sas(
        ACCOUNT,
        CONTAINER,
        user_delegation_key=sdk_key(DELEGATED),
        permission=allowed,
        **in_sdk(expires, **terms),
    )

    link = sign_container(HOME, CONTAINER, DELEGATED, allowed, expires, **terms)

    lines = lines_of_delegation(link, f"/blob/{ACCOUNT}/{CONTAINER}")
    assert without_signature(link) == without_signature(f"{HOME[:-1]}?{theirs}")
    assert link == f"{without_signature(link)}&sig={quote(signature_of(DELEGATED_SECRET, lines))}"


def test_the_lines_of_a_link_are_those_of_the_manual():
    """A second witness beside the SDK: sixteen lines, read from the manual, all of them filled that can be."""
    answer = {"rsct": "e", "rscl": "d", "rsce": "c", "rscd": "b", "rscc": "a"}

    link = SasSigner(
        HOME,
        CONTAINER,
        KEY,
        "rw",
        NOON,
        starts=NOON - 60,
        ip="1.2.3.4",
        https_only=True,
        answer=answer,
        encryption_scope="scope",
    ).sign("\u00e9 +")

    lines = ["rw", "2026-06-01T11:59:00Z", "2026-06-01T12:00:00Z", f"/blob/{ACCOUNT}/{CONTAINER}/\u00e9 +"]
    lines += ["", "1.2.3.4", "https", "2022-11-02", "b", "", "scope", "a", "b", "c", "d", "e"]
    assert link == (
        f"{HOME}%C3%A9%20%2B?st=2026-06-01T11%3A59%3A00Z&se=2026-06-01T12%3A00%3A00Z&sp=rw&sip=1.2.3.4&spr=https"
        f"&sv=2022-11-02&sr=b&rscc=a&rscd=b&rsce=c&rscl=d&rsct=e&ses=scope&sig={quote(signature_of(SECRET, lines))}"
    )


def test_the_version_of_links_does_not_follow_the_sdk():
    """A link that was good before an update is the same link after it."""
    assert parse_qs(urlsplit(SasSigner(HOME, CONTAINER, KEY, "r", NOON).sign("a")).query)["sv"] == ["2022-11-02"]


@settings(deadline=None)
@given(letters=st.lists(st.sampled_from(str(ContainerSasPermissions.from_string(PERMISSIONS))), min_size=1))
def test_permissions_stand_in_the_order_of_the_service(letters):
    """It refuses any other, and a letter that stands twice."""
    given_so = "".join(letters)

    link = sign_container(HOME, CONTAINER, KEY, given_so, NOON)

    ordered = str(ContainerSasPermissions.from_string(given_so))
    assert link == sign_container(HOME, CONTAINER, KEY, ordered, NOON)
    assert parse_qs(urlsplit(link).query)["sp"] == [ordered]


def test_the_permissions_of_a_data_lake_stand_where_the_manual_has_them():
    """The SDK for blobs does not know all of them; "Create a user delegation SAS" says in which order they come."""
    link = SasSigner(HOME, CONTAINER, KEY, "poemtlxdwcar", NOON).sign("a")

    assert parse_qs(urlsplit(link).query)["sp"] == ["racwdxltmeop"]


@pytest.mark.parametrize("allowed", ["", "z", "rz", "R", "r w", "r\n"])
def test_permissions_that_nobody_knows_are_refused(allowed):
    """The service would refuse such a link at its first use; better now than in a customer's browser."""
    with pytest.raises(ValueError, match="letters of 'racwdxyltfmeopi'"):
        SasSigner(HOME, CONTAINER, KEY, allowed, NOON)


def test_one_signer_makes_many_links():
    """The links of one signer are those of a signer for each."""
    names = [f"{number} \u00e9.txt" for number in range(100)]

    signer = SasSigner(HOME, CONTAINER, KEY, "r", NOON)
    links = [signer.sign(name) for name in names]

    assert links == [SasSigner(HOME, CONTAINER, KEY, "r", NOON).sign(name) for name in names]
    assert len(set(links)) == len(names)


@pytest.mark.parametrize(
    "changed",
    [
        {"container": "another"},
        {"key": AccountKey("another", SECRET)},
        {"key": AccountKey(ACCOUNT, DELEGATED_SECRET)},
        {"key": DELEGATED},
        {"permissions": "rw"},
        {"expires": NOON + 1},
        {"starts": NOON - 1},
        {"ip": "1.2.3.4"},
        {"https_only": True},
        {"answer": {"rsct": "text/html"}},
        {"encryption_scope": "scope"},
    ],
    ids="-".join,
)
def test_every_term_is_signed(changed):
    """Nothing that a link says can be changed by whoever holds it."""
    plain = {"endpoint": HOME, "container": CONTAINER, "key": KEY, "permissions": "r", "expires": NOON}

    links = [SasSigner(**terms).sign("a") for terms in (plain, {**plain, **changed})]

    assert len({parse_qs(urlsplit(link).query)["sig"][0] for link in links}) == 2


@pytest.mark.parametrize("name", ["rsca", "sp", "se", "content-type", "RSCT"])
def test_an_answer_has_five_headers_and_no_other(name):
    """Two expiries in one link are at least one too many."""
    with pytest.raises(ValueError, match="rscc, rscd, rsce, rscl, rsct"):
        SasSigner(HOME, CONTAINER, KEY, "r", NOON, answer={"rsct": "text/plain", name: "9"})


def test_a_name_with_a_line_end_is_refused():
    """The SDK signs these two alike: whoever holds the link for one address could write the one for all."""
    bound_name = f"a\n\n\n\n{SAS_VERSION}\nb\n\n\n\n\n\n"
    swallowed = f"\n1.2.3.4\n\n{SAS_VERSION}\nb\n\n\n\n\n\n\n"
    alike = {"account_key": SECRET, "permission": "r", "expiry": utc(NOON)}
    bound = generate_blob_sas(ACCOUNT, CONTAINER, bound_name, ip="1.2.3.4", **alike)
    free = generate_blob_sas(ACCOUNT, CONTAINER, "a", content_type=swallowed, **alike)

    with pytest.raises(ValueError, match="line end"):
        SasSigner(HOME, CONTAINER, KEY, "r", NOON, ip="1.2.3.4").sign(bound_name)

    assert parse_qs(bound)["sig"] == parse_qs(free)["sig"]
    assert "sip" not in parse_qs(free)


@pytest.mark.parametrize(
    "changed",
    [
        {"container": "a\nb"},
        {"key": AccountKey("a\nb", SECRET)},
        {"ip": "1.2.3.4\n"},
        {"answer": {"rscd": "a\nb"}},
        {"answer": {"rsct": "\n"}},
        {"encryption_scope": "a\n"},
    ],
    ids="-".join,
)
def test_a_term_with_a_line_end_is_refused(changed):
    """What follows it would be signed as something else."""
    terms = {"endpoint": HOME, "container": CONTAINER, "key": KEY, "permissions": "r", "expires": NOON, **changed}

    with pytest.raises(ValueError, match="line end"):
        SasSigner(**terms)
    with pytest.raises(ValueError, match="line end"):
        sign_container(**terms)


def test_a_delegation_key_with_a_line_end_is_refused():
    """The same holds for what names a key."""
    with pytest.raises(ValueError, match="line end"):
        DelegationKey(ACCOUNT, "oid\n", "tid", "start", "expiry", "b", SAS_VERSION, DELEGATED_SECRET)


def test_a_name_that_is_no_text_is_refused():
    """A lone surrogate has no bytes that could be quoted."""
    signer = SasSigner(HOME, CONTAINER, KEY, "r", NOON)

    with pytest.raises(UnicodeEncodeError):
        signer.sign("\ud800")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/container/",
        "ftp://example.com/container/",
        "https:///container/",
        "https://example.com",
        "https://example.com/container",
        "https://example.com/container/?",
        "https://example.com/container/?a=/",
        "https://example.com/container/#/",
        "https://example.com/con\ntainer/",
        "https://example.com/container/\n",
        "https://somebody:hush@example.com/container/",
    ],
)
def test_an_endpoint_is_the_url_that_names_are_appended_to(url):
    """Anything else would be no address with a name and a query behind it; what is refused is not repeated."""
    with pytest.raises(ValueError, match="endpoint of a container") as caught:
        SasSigner(url, CONTAINER, KEY, "r", NOON)
    with pytest.raises(ValueError, match="endpoint of a container"):
        sign_container(url, CONTAINER, KEY, "r", NOON)

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "====", "aHVzaA", "aHVzaA=", "aHVza!==", "aHVz aA==", "aHVzaA==\n", "aHVzaA==aHVz", "aHVz\u00e9A=="]
)
def test_a_key_that_is_not_base64_is_refused_and_not_shown(text):
    """Nine of ten letters of a key are too many for a log."""
    with pytest.raises(ValueError, match="base64") as account:
        AccountKey(ACCOUNT, text)
    with pytest.raises(ValueError, match="base64") as delegated:
        DelegationKey(ACCOUNT, "oid", "tid", "start", "expiry", "b", SAS_VERSION, text)

    for caught in (account, delegated):
        assert "aHV" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_no_secret_prints():
    """The key does not show in what a log or a debugger prints, and nothing that could sign does."""
    signers = [SasSigner(HOME, CONTAINER, key, "r", NOON) for key in (KEY, DELEGATED)]

    printed = f"{KEY!r} {DELEGATED!r} {signers!r}"

    assert SECRET not in printed
    assert DELEGATED_SECRET not in printed
    assert "HMAC" not in printed
    assert "sig=" not in printed
    assert HOME in printed


def test_keys_are_equal_when_they_sign_alike():
    """A key is what it was made of; two of the same serve as one entry of a cache."""
    assert AccountKey(ACCOUNT, SECRET) == KEY
    assert hash(AccountKey(ACCOUNT, SECRET)) == hash(KEY)
    assert AccountKey(ACCOUNT, DELEGATED_SECRET) != KEY


def test_a_secret_is_in_no_link():
    """What a link carries of an account key is nothing; of a delegation key it is the name."""
    link = SasSigner(HOME, CONTAINER, KEY, "r", NOON).sign("a")
    delegated = SasSigner(HOME, CONTAINER, DELEGATED, "r", NOON).sign("a")

    named = set(parse_qs(urlsplit(link).query))
    assert named == {"se", "sp", "sv", "sr", "sig"}
    assert set(parse_qs(urlsplit(delegated).query)) == named | {"skoid", "sktid", "skt", "ske", "sks", "skv"}
    assert SECRET not in unquote(link)
    assert DELEGATED_SECRET not in unquote(delegated)


def test_threads_that_share_a_key_do_not_meet():
    """Each signature is made on a copy: all links are those of a single thread."""
    signer = SasSigner(HOME, CONTAINER, KEY, "r", NOON)
    expected = [signer.sign(f"blob {number}") for number in range(16)]
    barrier = threading.Barrier(len(expected))
    links = {}

    def work(number):
        barrier.wait()
        links[number] = {signer.sign(f"blob {number}") for _ in range(200)}

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(expected))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [links[number] for number in range(len(expected))] == [{link} for link in expected]
