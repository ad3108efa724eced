"""Grants: whose signature, for whose URL."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyworker.core.errors import BadSignature, NotByThisKey
from pyworker.core.signature import REMEMBERED, Origin, Verifier, read_public_key
from pyworker.core.wire import signed_message

KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
OWN = "http://1.2.3.4:40123"


def sign(url: str, key: rsa.RSAPrivateKey = KEY) -> str:
    return base64.b64encode(key.sign(signed_message(url), PKCS1v15(), SHA256())).decode()


def verifier(*allowed: str) -> Verifier:
    made = Verifier(own_url=OWN, allowed_urls=allowed)
    made.use_key(KEY.public_key())
    return made


def test_a_true_signature_for_our_url_holds_every_time() -> None:
    check = verifier()
    for _ in range(3):
        check.check(OWN, sign(OWN))
    assert check.remembers(OWN, sign(OWN))
    assert not check.remembers(OWN, "other")


@pytest.mark.parametrize("url", ["HTTP://1.2.3.4:40123", "http://1.2.3.4:40123/", "http://1.2.3.4:40123/x?y"])
def test_spelling_of_our_url_does_not_matter(url: str) -> None:
    verifier().check(url, sign(url))


@pytest.mark.parametrize(
    "url",
    [
        "https://1.2.3.4:40123",
        "http://1.2.3.5:40123",
        "http://1.2.3.4:40124",
        "http://1.2.3.4",
        "",
        "x",
        "http://a:b",
    ],
)
def test_a_true_signature_for_another_worker_is_refused_and_both_are_named(url: str) -> None:
    with pytest.raises(BadSignature) as refusal:
        verifier().check(url, sign(url))

    assert refusal.value.status == 401
    assert repr(url) in refusal.value.reason
    assert OWN in refusal.value.reason


def test_allowed_urls_are_ours_too() -> None:
    verifier("https://example.com").check("https://example.com:443/", sign("https://example.com:443/"))
    verifier("*").check("nonsense", sign("nonsense"))


@pytest.mark.parametrize(
    "signature", [sign(OWN, OTHER_KEY), sign("http://x"), "", "!!!", "c2ln", sign(OWN)[:-4]], ids=str
)
def test_a_false_signature_is_refused(signature: str) -> None:
    with pytest.raises(BadSignature, match="bad signature"):
        verifier().check(OWN, signature)


def test_only_what_another_key_may_have_signed_is_worth_asking_for_it() -> None:
    with pytest.raises(NotByThisKey):
        verifier().check(OWN, sign(OWN, OTHER_KEY))
    for url, signature in ((OWN, "c2ln"), (OWN, "!"), ("http://x", sign("http://x", OTHER_KEY))):
        with pytest.raises(BadSignature) as refusal:
            verifier().check(url, signature)
        assert not isinstance(refusal.value, NotByThisKey)


@pytest.mark.parametrize(("url", "signature"), [(OWN + "/" + "x" * 2**20, sign(OWN)), (OWN, "A" * 2**20)])
def test_what_is_too_long_to_be_a_grant_costs_no_look_at_it(
    url: str, signature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = verifier("*")
    monkeypatch.setattr(check, "_vouched", None)
    with pytest.raises(BadSignature, match="too long") as refusal:
        check.check(url, signature)

    assert len(refusal.value.reason) < 200


def test_a_url_of_another_worker_is_noted_only_if_the_engine_signed_it() -> None:
    check = verifier()
    for key, noted in ((OTHER_KEY, ""), (KEY, "http://x")):
        with pytest.raises(BadSignature):
            check.check("http://x", sign("http://x", key))
        assert check.other_url == noted


def test_without_a_key_nobody_is_let_in() -> None:
    check = Verifier(own_url=OWN)

    assert not check.has_key
    with pytest.raises(BadSignature):
        check.check(OWN, sign(OWN))


def test_a_new_key_forgets_what_the_old_one_vouched_for() -> None:
    check = verifier()
    check.check(OWN, sign(OWN))
    check.use_key(OTHER_KEY.public_key())

    assert check.has_key
    with pytest.raises(BadSignature):
        check.check(OWN, sign(OWN))


def test_what_is_remembered_is_bounded() -> None:
    check = verifier("*")
    check._verified = {(str(number), "x"): None for number in range(REMEMBERED)}
    check.check(OWN, sign(OWN))

    assert len(check._verified) == REMEMBERED
    assert ("0", "x") not in check._verified


@pytest.mark.parametrize("url", ["", "ftp://x", "1.2.3.4:5", "http://"])
def test_an_own_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not an http"):
        Verifier(own_url=url)


def test_default_ports() -> None:
    assert Origin.of("https://Example.com") == Origin("https", "example.com", 443)
    assert Origin.of("http://[::1]") == Origin("http", "::1", 80)


@pytest.mark.parametrize("form", [PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1])
def test_both_forms_of_a_public_key_are_read(form: PublicFormat) -> None:
    pem = KEY.public_key().public_bytes(Encoding.PEM, form)

    assert read_public_key(pem).public_numbers() == KEY.public_key().public_numbers()


def test_a_key_that_is_not_rsa_is_refused() -> None:
    pem = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )

    with pytest.raises(ValueError, match="must be RSA"):
        read_public_key(pem)
    with pytest.raises(ValueError, match="PEM"):
        read_public_key(b"<html>")
