"""What a broker says when it does not take us, and what can be done about it."""

from types import SimpleNamespace

import pytest

from federation.runtime.obstacles import Outlook, away, lacking, refused, unanswered

AWAY, REFUSED, UNFIT = Outlook.AWAY, Outlook.REFUSED, Outlook.UNFIT


@pytest.mark.parametrize(
    ("code", "outlook", "remedy"),
    [
        (0x80, AWAY, ""),  # unspecified
        (0x81, REFUSED, "log"),  # malformed packet
        (0x84, UNFIT, "docs/reference/brokers.md"),  # protocol version
        (0x85, REFUSED, "broker.client_id"),  # client id
        (0x86, REFUSED, "password"),  # user name or password
        (0x87, REFUSED, "ACL"),  # not authorized
        (0x88, AWAY, ""),  # unavailable
        (0x89, AWAY, ""),  # busy
        (0x8A, REFUSED, "log"),  # banned
        (0x8C, REFUSED, "password"),  # method
        (0x97, AWAY, ""),  # quota
        (0x9A, UNFIT, "docs/reference/brokers.md"),  # retained messages
        (0x9B, UNFIT, "docs/reference/brokers.md"),  # QoS
        (0x9C, REFUSED, "broker.url"),  # another server
        (0x9D, REFUSED, "broker.url"),  # moved
        (0x9F, AWAY, ""),  # rate
    ],
)
def test_each_refusal_is_told_with_what_helps(code: int, outlook: Outlook, remedy: str) -> None:
    found = refused(code, "what it said", client_id="me")
    assert found.outlook is outlook
    assert remedy in found.remedy
    assert bool(found.remedy) is bool(remedy)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"RetainAvailable": 0}, "no retained messages"),
        ({"MaximumQoS": 0}, "QoS 0 only"),
        ({"WildcardSubscriptionAvailable": 0}, "no subscriptions with wildcards"),
        ({"MaximumPacketSize": 8_191}, "packets of 8,191 bytes at most"),
    ],
)
def test_a_broker_that_says_what_it_lacks_is_given_up(limits: dict[str, int], reason: str) -> None:
    found = lacking(SimpleNamespace(**limits))
    assert found is not None
    assert (found.outlook, reason in found.reason) == (UNFIT, True)
    assert "docs/reference/brokers.md" in str(found)


@pytest.mark.parametrize("limits", [{}, {"RetainAvailable": 1, "MaximumQoS": 1}, {"MaximumPacketSize": 8_192}])
def test_a_broker_that_lacks_nothing_is_taken(limits: dict[str, int]) -> None:
    assert lacking(SimpleNamespace(**limits)) is None
    assert lacking(None) is None


def test_silence_is_told_with_all_that_may_be_behind_it() -> None:
    plain = unanswered("connection lost", encrypted=False, with_certificate=False)
    secure = unanswered("connection lost", encrypted=True, with_certificate=True)
    assert (plain.outlook, "wants TLS" in plain.remedy, "tls_certificate" in plain.remedy) == (AWAY, True, False)
    assert ("wants TLS" in secure.remedy, "tls_certificate" in secure.remedy) == (False, True)
    assert secure.remedy.endswith("has not revoked it")
    assert str(away("no route")) == "no route"


@pytest.mark.parametrize(
    ("said", "remedy"), [("is not yet valid", "clock (NTP)"), ("has expired", "renew the broker's")]
)
def test_a_certificate_at_the_wrong_time_is_told_with_the_clock(said: str, remedy: str) -> None:
    """What OpenSSL says of it; a device whose clock is wrong is more common than a broker whose certificate is."""
    found = away(f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate {said} (_ssl.c:1006)")
    assert found.outlook is AWAY
    assert remedy in found.remedy
