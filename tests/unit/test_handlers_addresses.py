"""Which addresses a task may call."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from app.handlers.addresses import AddressRefused, NameNotResolved, callable_addresses, is_public, resolve
from app.handlers.outbound import checked_url, origin

PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.5.5", "192.168.1.1", "0.0.0.0", "0.1.2.3"),
    *("169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.0.8", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "ff0e::1"),
    *("2001:db8::1", "100::1", "3fff::1", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::127.0.0.1"),
    *("64:ff9b::10.1.2.3", "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::"),
    # Teredo: the client's address is stored inverted.
    *("2001:0:c0a8:101::f7f7:f7f7", "2001:0:808:808::f5ff:fffe"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "192.169.0.1", "100.128.0.1"),
    *("2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_public_internet_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(ip_address(address))


def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    with pytest.raises(AddressRefused, match="HTTP_ALLOW_PRIVATE"):
        callable_addresses("two.test", 80, allow_private=False, resolver=lambda *_: ["1.1.1.1", "10.0.0.1"])


def test_the_setting_allows_private_addresses() -> None:
    found = callable_addresses("x.test", 80, allow_private=True, resolver=lambda *_: ["10.0.0.1"])
    assert found == ["10.0.0.1"]


def test_a_name_without_addresses_is_not_resolved() -> None:
    with pytest.raises(NameNotResolved):
        callable_addresses("none.test", 80, allow_private=True, resolver=lambda *_: [])


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "017700000001", "localhost"])
def test_every_spelling_of_loopback_is_judged_by_its_number(host: str) -> None:
    with pytest.raises(AddressRefused):
        callable_addresses(host, 80, allow_private=False)


def test_a_name_that_cannot_exist_is_not_resolved() -> None:
    with pytest.raises(NameNotResolved):
        resolve("a" * 70 + ".test", 80)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ftp://example.org/x", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("//example.org", "http:// or https://"),
        ("example.org", "http:// or https://"),
        ("http://", "name a host"),
        ("http:///path", "name a host"),
        ("https://user@example.org/", "Authorization header"),
        ("https://user:geheim@example.org/", "Authorization header"),
        ("https://example.org/" + "a" * 2048, "2048 characters"),
        ("https://exa mple.org/", "valid URL"),
        ("https://example.org:99999/", "valid URL"),
        ("https://[::1/", "valid URL"),
    ],
)
def test_a_url_that_a_task_may_not_name_is_refused_without_repeating_it(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        checked_url(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://example.org", "https://example.org:8443/a?b=c", "http://[2606::1]:81/"]
)
def test_http_and_https_on_any_port_are_accepted(url: str) -> None:
    assert checked_url(url) == url


def test_an_origin_shows_neither_path_nor_query() -> None:
    assert origin("https://hooks.example.org:8443/secret/path?token=1") == "https://hooks.example.org:8443"
