"""Fetches a medium over http(s) without giving access to the local network."""

import ipaddress
import socket
import time
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

# The client that huggingface_hub itself uses, under a name that stays the same across its major versions.
from ..utils.upstream import httpx


MAX_REDIRECTS = 5
SHOWN = 120  # characters of a source in an error message
TIMEOUT = 20.0  # seconds for each of connecting, reading and writing
DEADLINE = 300.0  # seconds from the request to the end of the body, so that a very slow transfer ends
_CHUNK = 1 << 16
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "transformers-anymodality"}
_IPV6_UNICAST = ipaddress.ip_network("2000::/3")  # the part of IPv6 for hosts of the public internet
_IPV6_TO_IPV4 = ipaddress.ip_network("2002::/16")


class FetchError(ValueError):
    """A URL is refused, or cannot be fetched; the message names it."""


def url_name(url: str) -> str:
    """Names a URL for an error message: short, and without the parts that may hold secrets."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"URL {parts.scheme}://{parts.hostname or ''}{port}{parts.path}"[: SHOWN + 4]
    except ValueError:
        return f"URL {url.partition('://')[0]}://(malformed)"


def _is_public(address: str) -> bool:
    """Whether this address belongs to the public internet, also for IPv4 inside IPv6."""
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip not in _IPV6_UNICAST or ip in _IPV6_TO_IPV4 or ip.teredo is not None:
            return False  # tunnels and translators reach the IPv4 address inside
    return ip.is_global and not ip.is_multicast


def _resolve(url: httpx.URL, name: str) -> str:
    """The address to connect to: the first one, after all addresses of the host were found to be public."""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        answers = socket.getaddrinfo(url.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"{name}: the host cannot be resolved ({error}).") from error
    addresses = [str(answer[4][0]) for answer in answers]
    private = [address for address in addresses if not _is_public(address)]
    if private or not addresses:
        raise FetchError(
            f"{name} is refused: its host resolves to {', '.join(private) or 'nothing'}, which is not a public "
            "address. Download it yourself and pass the local path."
        )
    return addresses[0]


class _PublicTransport(httpx.HTTPTransport):
    """Connects to the checked address; the Host header and the TLS certificate stay those of the URL's host. A second
    look-up of the name could give another address."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url, name = request.url, url_name(str(request.url))
        if url.scheme not in ("http", "https") or not url.host:
            raise FetchError(f"{name}: expected an http or https URL with a host.")
        if url.userinfo:
            raise FetchError(f"{name}: a user name or password inside a URL is refused; download it yourself.")
        dialled = url.copy_with(host=_resolve(url, name), fragment=None)
        extensions = {**request.extensions, "sni_hostname": url.raw_host.decode("ascii")}
        return super().handle_request(httpx.Request("GET", dialled, headers=request.headers, extensions=extensions))


def _read_body(response: httpx.Response, name: str, max_bytes: int, deadline: float) -> bytes:
    if response.status_code != 200:
        raise FetchError(f"{name}: the server answered with status {response.status_code}, not 200.")
    if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise FetchError(f"{name}: the server sent a compressed answer, which is refused (it could be a zip bomb).")
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise FetchError(f"{name} holds {length} bytes, more than the limit of {max_bytes}.")
    data = bytearray()
    for chunk in response.iter_raw(_CHUNK):
        data += chunk
        if len(data) > max_bytes:
            raise FetchError(f"{name} holds more than the limit of {max_bytes} bytes.")
        if time.monotonic() > deadline:
            raise FetchError(f"{name}: the transfer took longer than {DEADLINE:g} s.")
    return bytes(data)


def fetch(url: str, max_bytes: int) -> bytes:
    """The body of an http or https URL, of at most `max_bytes`. Every host, also of redirects, must resolve to public
    addresses only. Proxies and credentials from the environment are not used, because a proxy would resolve the name
    again. Raises `FetchError`: refused, unreachable, too large, too slow, or a status other than 200."""
    deadline = time.monotonic() + DEADLINE
    name = url_name(url)
    options: dict[str, Any] = {"trust_env": False, "timeout": TIMEOUT, "headers": _HEADERS}
    try:
        with httpx.Client(transport=_PublicTransport(trust_env=False), **options) as client:
            request = client.build_request("GET", url)
            for _ in range(MAX_REDIRECTS + 1):
                with closing(client.send(request, stream=True)) as response:
                    following = response.next_request
                    if following is None:
                        return _read_body(response, name, max_bytes, deadline)
                    if (request.url.scheme, following.url.scheme) == ("https", "http"):
                        raise FetchError(f"{url_name(str(following.url))}: a redirect from https to http is refused.")
                    request = following
    except httpx.InvalidURL as error:
        raise FetchError(f"{name} is not a valid URL ({error}).") from error
    except (httpx.HTTPError, OSError) as error:
        raise FetchError(f"{name} cannot be fetched ({type(error).__name__}: {error}).") from error
    raise FetchError(f"{name} redirects more than {MAX_REDIRECTS} times.")
