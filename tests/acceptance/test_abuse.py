"""A hostile stranger on the control plane's port: wrong bytes, too many, too slow, and none at all."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import pytest

from enjoin.cli.connections import HEAD_WITHIN_S, MAX_BARE_BYTES
from tests.acceptance.abuse import WAIT_S, Target, answers, receive, send
from tests.acceptance.processes import Fleet

VERSION: Final = b"api-version=2024-11-01"
GROUP: Final = b"/subscriptions/{S}/resourceGroups/enjoin"
MACHINE: Final = GROUP + b"/providers/Microsoft.HybridCompute/machines/m1"
COMMAND: Final = MACHINE + b"/runCommands/c1"
HOST: Final = b"Host: x\r\n"
AUTH: Final = b"Authorization: Bearer {T}\r\n"
REFUSED: Final = frozenset({400})
GROWTH_KIB: Final = 48 * 1024  # what the worst of it may leave behind: caches, buffers, the allocator's reserves
ANY: Final = frozenset(range(200, 500))


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, and which statuses may come back."""

    name: str
    sent: bytes  # {S} is the subscription, {T} a token
    statuses: frozenset[int] = ANY
    says: str = ""  # in the error's message
    may_be_cut: bool = False  # no answer at all is an answer too: the server closed


def request(method: bytes, target: bytes, more: bytes = b"", body: bytes | None = None, *, auth: bytes = AUTH) -> bytes:
    """Return a request that is right but for what it was given."""
    size = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return method + b" " + target + b" HTTP/1.1\r\n" + HOST + auth + more + size + b"\r\n" + (body or b"")


def versioned(target: bytes) -> bytes:
    """Return the target with an api-version."""
    return target + (b"&" if b"?" in target else b"?") + VERSION


def put(body: bytes, target: bytes = COMMAND, more: bytes = b"") -> bytes:
    """Return a PUT with this body."""
    return request(b"PUT", versioned(target), more, body)


def verbs() -> Iterator[Case]:
    """Each verb on each kind of path: it applies, or it is 405 with the verbs that do."""
    names = (b"GET", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND", b"SEARCH")
    targets = (b"/subscriptions", GROUP, COMMAND, MACHINE, b"/healthz", b"/metadata/endpoints", b"/enjoin/v1/channel")
    for name in names:
        for target in targets:
            if (name, target) in ((b"DELETE", GROUP), (b"DELETE", MACHINE)):
                continue  # they are right, and would take away what the others look at
            yield Case(f"{name.decode()} {target.decode()}", request(name, versioned(target), body=b""))
    for name in (
        b"BREW",
        b"get",
        b"",
        b"G" * 5000,
        b"GET\x00",
        "GÉT".encode(),
        b"CONNECT",
        b"PRI",
        b"GET/",
        b"\x16\x03",
    ):
        yield Case(f"verb {name[:20]!r}", request(name, b"/subscriptions"), REFUSED | {405, 404})


def targets() -> Iterator[Case]:
    """Paths and queries in every spelling."""
    same = (
        b"//subscriptions/{S}//resourceGroups///enjoin",
        GROUP + b"/",
        GROUP + b"//",
        GROUP.upper().replace(b"{S}", b"{S}"),
        GROUP.replace(b"resourceGroups", b"RESOURCEgroups"),
        GROUP.replace(b"enjoin", b"ENJOIN"),
        GROUP.replace(b"enjoin", b"%65njoin"),
        b"https://elsewhere.example" + GROUP,
    )
    for target in same:
        yield Case(f"same {target.decode()}", request(b"GET", versioned(target)), frozenset({200}))
    for query in (b"$expand=instanceView", b"%24expand=instanceView", b"%24EXPAND=INSTANCEVIEW", b"$expand=nonsense"):
        target = GROUP + b"/providers/Microsoft.HybridCompute/machines?" + query
        yield Case(f"expand {query.decode()}", request(b"GET", versioned(target)), frozenset({200}))
    for version in (b"2024-11-01", b"1999-01-01", b"2099-12-31-preview", b"x", b"%32", b"2024-11-01&api-version="):
        target = GROUP + b"?api-version=" + version
        yield Case(f"api-version {version.decode()}", request(b"GET", target), frozenset({200}))
    for query in (
        b"",
        b"?",
        b"?api-version",
        b"?api-version=",
        b"?apiversion=1",
        b"?&&&=",
        b"?%61pi=1",
        b"?api-version=&x=1",
    ):
        case = request(b"GET", GROUP + query)
        yield Case(f"no api-version {query.decode()}", case, REFUSED, "api-version query parameter")
    odd = (
        *(
            b"",
            b"*",
            b"?",
            b"x",
            b"/%",
            b"/%zz",
            b"/%00",
            b"/%0d%0aX:y",
            b"/\x01",
            b"/\x7f",
            b"/\xff\xfe",
            b"/ /",
            b"/#",
        ),
        *(
            b"/..",
            b"/../../etc/passwd",
            b"/%2e%2e/%2e%2e",
            b"/%c0%ae",
            b"/%ed%a0%80",
            b"/\\",
            b"/;/",
            b"http://",
            b"//",
        ),
        *(b"/subscriptions/{S}/resourceGroups/" + b"x" * 10_000, b"/" + b"a/" * 8000, b"/?" + b"q" * 17_000),
        *(COMMAND + b"%2Fcancel", COMMAND + b"/../c2", MACHINE + b"/runCommands/" + b"%20" * 30, b"/" + b"%41" * 6000),
        *(b"/subscriptions/%27%22%3b--", b"/subscriptions/{S}/providers/x/locations/y/operations/z", b"/metrics/x"),
    )
    for number, target in enumerate(odd):
        yield Case(
            f"odd target {number} {target[:20]!r}", request(b"GET", versioned(target)), frozenset({400, 401, 404})
        )


def heads() -> Iterator[Case]:
    """Heads that no client sends."""
    start = b"GET /subscriptions?" + VERSION + b" "
    for version in (
        b"HTTP/0.9",
        b"HTTP/2.0",
        b"HTTP/9.9",
        b"HTTP/1.1.1",
        b"HTTP",
        b"",
        b"HTTPS/1.1",
        b"http/1.1",
        b"ICY/1.1",
    ):
        yield Case(f"version {version!r}", start + version + b"\r\n" + HOST + b"\r\n", REFUSED | {401})
    for size in (b"-1", b"+1", b"1e1", b"0x10", b"99999999999999999999999999", b"", b"1 1", b"1,1", b"\xb2", b"abc"):
        head = b"PUT " + versioned(COMMAND) + b" HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: " + size + b"\r\n\r\n"
        yield Case(f"length {size!r}", head, REFUSED)
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    both = (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: 4\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length : 4\r\n",
        b"Content-Length:\r\n 4\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"X: a\r\n\tb\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    )
    for lines in both:
        head = b"POST /subscriptions?" + VERSION + b" HTTP/1.1\r\n" + HOST + AUTH + lines + b"\r\n"
        yield Case(f"smuggling {lines[:60]!r}", head + b"0\r\n\r\n" + smuggled, REFUSED | {405}, may_be_cut=True)
    wrong = (
        *(
            b"no colon\r\n",
            b": no name\r\n",
            b"a b: c\r\n",
            b"a\x00: c\r\n",
            b"a: \x00\r\n",
            b"a: b\rc: d\r\n",
            b"\r\na: b\r\n",
        ),
        *(b" a: b\r\n", b"a\x80: b\r\n", b"a: \x01\r\n", b"(a): b\r\n"),
    )
    for line in wrong:
        yield Case(f"line {line!r}", request(b"GET", b"/healthz", line), ANY)
    for count, value_bytes in (
        (1, 60_000),
        (1, 70_000),
        (1, 1_000_000),
        (100, 600),
        (100, 1000),
        (5000, 4),
        (50_000, 4),
    ):
        flood = b"".join(b"x-%d: %s\r\n" % (number, b"v" * value_bytes) for number in range(count))
        fits = len(flood) - 4 * count < 64 * 1024  # names and values
        case = request(b"GET", b"/healthz", flood)
        yield Case(
            f"{count} headers of {value_bytes}", case, frozenset({200}) if fits else REFUSED, may_be_cut=not fits
        )
    bare = b"GET /healthz HTTP/1.1\nHost: x\n\n"
    yield Case("bare line feeds", bare)
    yield Case("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n", frozenset({200}))
    yield Case("no host", b"GET /healthz HTTP/1.1\r\n\r\n")
    yield Case("two hosts", request(b"GET", b"/healthz", b"Host: y\r\n"))
    yield Case("empty lines first", b"\r\n" * 100 + request(b"GET", b"/healthz"), frozenset({200}))
    yield Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED)
    yield Case("h2c", request(b"GET", b"/healthz", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"))
    yield Case("unknown upgrade of a PUT", put(b"{}", more=b"Connection: upgrade\r\nUpgrade: foo\r\n"))


def bodies() -> Iterator[Case]:
    """Bodies that are no JSON, or not the right one."""
    broken = (
        *(
            b"{",
            b"[",
            b"}",
            b'{"a"',
            b'{"a":',
            b'{"a":1',
            b'{"a":1,',
            b'{"a":1,}',
            b"[1,]",
            b"{a:1}",
            b"{'a':1}",
            b"nul",
        ),
        *(
            b'"',
            b'"\\x"',
            b'"\\ud800"',
            b'"\x01"',
            b"01",
            b"1.",
            b"-",
            b"+1",
            b"NaN",
            b"Infinity",
            b"{}{}",
            b"// c\n{}",
        ),
        *(b"\x00", b"{}\x00", b" ", b"\n\n\n{", b'{\n "a": 1,\n "b": \n}', b"{}}", b"<xml/>", b"a=b&c=d"),
    )
    for body in broken:
        yield Case(f"broken JSON {body!r}", put(body), REFUSED, "line")
    for body in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 500 + b"]" * 500, b'{"a":[' * 5000 + b"]}" * 5000):
        yield Case(f"deep {body[:6]!r} {len(body)}", put(body), REFUSED)
    for body in (
        b"\xff\xfe{\x00}\x00",
        b'{"a":"\xff"}',
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf{}",
        b"1" * 100_000,
        b"1e999999",
    ):
        yield Case(f"bytes {body[:8]!r}", put(body), REFUSED)
    shapes = (
        *(b"", b"null", b"[]", b"1", b'"x"', b"true", b'{"properties":1}', b'{"properties":[]}', b'{"location":{}}'),
        *(
            b'{"location":"local","properties":{"source":[]}}',
            b'{"location":"local","properties":{"source":{"script":1}}}',
        ),
        *(b'{"location":"local","properties":{"parameters":{"a":1}}}', b'{"tags":[],"location":"local"}'),
        b'{"location":"local","Location":"x"}',
        b'{"location":"local","properties":{"source":{"script":"' + b"x" * (300 * 1024) + b'"}}}',
        b'{"location":"local","properties":{"timeoutInSeconds":99999999999999999999}}',
    )
    for body in shapes:
        yield Case(f"shape {body[:70]!r}", put(body), REFUSED)
    chunked = b"PUT " + versioned(COMMAND) + b" HTTP/1.1\r\n" + HOST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    for body in (
        b"zz\r\n",
        b"-1\r\n",
        b"1\r\nab\r\n",
        b"ffffffffffffffffff\r\n",
        b"1 \r\na\r\n0\r\n\r\n",
        b"\r\n",
        b"0x1\r\na\r\n",
    ):
        yield Case(f"chunk {body!r}", chunked + body, REFUSED)
    trailers = b"0\r\n" + b"".join(b"t%d: v\r\n" % number for number in range(3)) + b"\r\n"
    yield Case("trailers", chunked + b"2\r\n{}\r\n" + trailers, REFUSED)
    yield Case("a chunk's extension", chunked + b"2;a=b\r\n{}\r\n0\r\n\r\n", REFUSED)
    yield Case(
        "one byte a chunk", chunked + b"".join(b"1\r\n%c\r\n" % byte for byte in b"{ " * 5000) + b"0\r\n\r\n", REFUSED
    )
    big = b"PUT " + versioned(COMMAND) + b" HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: %d\r\n\r\n"
    for size in (4 * 1024 * 1024 + 1, 16 * 1024 * 1024):
        case = big % size + b" " * size
        yield Case(f"{size} bytes", case, REFUSED, "over the limit")


def fields() -> Iterator[Case]:
    """Header fields with values that mean nothing."""
    for value in (
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic eDp5",
        b"bearer x.y.z",
        b"Bearer " + b"x" * 9000,
        b"Bearer \xff",
        b"{T}",
    ):
        auth = b"Authorization: " + value + b"\r\n"
        yield Case(f"authorization {value[:20]!r}", request(b"GET", versioned(GROUP), auth=auth), frozenset({401}))
    yield Case("two authorizations", request(b"GET", versioned(GROUP), AUTH), frozenset({200, 401}))
    for name in (
        b"x-ms-client-request-id",
        b"x-ms-correlation-request-id",
        b"If-Match",
        b"Range",
        b"Content-Type",
        b"Accept",
    ):
        for value in (b"", b"\xe9", b"x" * 5000, b"{{7*7}}", b"a,b;c=d"):
            line = name + b": " + value + b"\r\n"
            yield Case(
                f"{name.decode()} {value[:10]!r}", request(b"GET", versioned(GROUP), line), frozenset({200, 400, 412})
            )
    for value in (b"100-continue", b"200-ok", b""):
        yield Case(f"expect {value!r}", put(b"{", more=b"Expect: " + value + b"\r\n"), REFUSED | {100})
    for kind in (b"text/plain", b"application/xml", b"multipart/form-data", b"application/json; charset=utf-16"):
        yield Case(f"content type {kind.decode()}", put(b"{", more=b"Content-Type: " + kind + b"\r\n"), REFUSED, "line")


CASES: Final = [*verbs(), *targets(), *heads(), *bodies(), *fields()]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A control plane that knows one machine, which never connects; at the end it is as well as at the start."""
    with Fleet(tmp_path_factory.mktemp("abuse")) as fleet:
        server = fleet.control_plane(env={"ENJOIN_LOG_LEVEL": "warning"})
        fleet.new_agent(server, "m1")
        stranger = Target(server)
        for _ in range(20):  # what the first requests leave is no growth
            stranger.ask(request(b"GET", b"/healthz")[:-4])
        before = stranger.memory_kib()
        yield stranger
        (answer,) = stranger.ask(b"GET /readyz HTTP/1.1\r\nHost: x")
        assert answer.status == 200
        assert stranger.memory_kib() - before < GROWTH_KIB
        assert "Traceback" not in server.logs()


def test_there_are_enough() -> None:
    """
    Each case has a name of its own, and there are more than two hundred.
    """
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(CASES) > 200


@pytest.mark.parametrize("case", CASES, ids=[case.name[:60] for case in CASES])
def test_wrong_bytes(target: Target, case: Case) -> None:
    """
    Whatever is sent, the answer is one of those that fit, never a 500, and an error is ARM's envelope.
    """
    subscription = target.server.connection["subscription_id"].encode()
    sent = case.sent.replace(b"{S}", subscription).replace(b"{T}", target.token.encode())
    with target.wire() as wire:
        send(wire, sent)
        found = list(answers(wire, to_head=sent.startswith(b"HEAD")))
    assert found or case.may_be_cut, "the server closed without a word"
    for answer in found:
        assert answer.status in case.statuses, answer
        if answer.status >= 400 and not sent.startswith(b"HEAD"):
            assert case.says in str(answer.error["message"]), answer


@pytest.mark.parametrize(
    "lines", [b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 4\r\nContent-Length: 5\r\n"]
)
def test_nothing_is_smuggled(target: Target, lines: bytes) -> None:
    """
    Of a request whose end is ambiguous, what follows is never taken for a second request.
    """
    head = b"POST /healthz HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n"
    with target.wire() as wire:
        send(wire, head + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        found = list(answers(wire, 3))
    assert [answer.status for answer in found] == [400]
    assert found[0].headers["connection"] == "close"


def test_pipelined_requests(target: Target) -> None:
    """
    Requests written at once are answered one after the other.
    """
    with target.wire() as wire:
        sender = threading.Thread(target=send, args=(wire, request(b"GET", b"/healthz", auth=b"") * 60))
        sender.start()
        found = list(answers(wire, 60))
        sender.join()
    assert [answer.status for answer in found] == [200] * 60


def test_thousands_of_pipelined_requests(target: Target) -> None:
    """
    A few bytes make a request: whoever writes thousands without waiting is cut off before they cost anything.
    """
    before = target.memory_kib()
    for _ in range(10):
        with target.wire() as wire:
            send(wire, b"GET /healthz HTTP/1.1\r\n\r\n" * 100_000)
            while receive(wire):
                pass
    assert target.memory_kib() - before < GROWTH_KIB


def test_half_requests_are_cut(target: Target) -> None:
    """
    Whoever begins and does not go on is cut off in time, a hundred and more at once; others are served meanwhile.
    """
    head = b"PUT " + versioned(b"/subscriptions/x") + b" HTTP/1.1\r\nHost: x\r\n"
    starts = (
        b"",
        b"G",
        b"\r\n",
        b"GET /healthz HTTP/1.1\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: a",
        head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
        request(b"GET", b"/healthz", auth=b"") + b"GET /hea",
    )
    began_s = time.monotonic()
    with ExitStack() as stack:
        wires = [stack.enter_context(target.wire()) for _ in range(25) for _ in starts]
        for number, wire in enumerate(wires):
            send(wire, starts[number % len(starts)])
        (answer,) = target.ask(b"GET /healthz HTTP/1.1\r\nHost: x")
        assert answer.status == 200
        for wire in wires:
            while receive(wire):
                pass
    assert time.monotonic() - began_s < HEAD_WITHIN_S + WAIT_S


def test_dribble_is_cut(target: Target) -> None:
    """
    A head that comes byte by byte is cut off when its time is over, although bytes keep coming.
    """
    with target.wire() as wire:
        wire.settimeout(0.5)
        send(wire, b"GET /healthz HTTP/1.1\r\nX: ")
        end_s = time.monotonic() + HEAD_WITHIN_S + WAIT_S
        while time.monotonic() < end_s:
            if not send(wire, b"y"):
                return
            try:
                if not wire.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("a client that dribbles was never cut off")


def test_endless_head(target: Target) -> None:
    """
    A head without an end is refused once it is over the limit, and what comes after that is not kept.
    """
    before = target.memory_kib()
    with ExitStack() as stack:
        for _ in range(10):
            wire = stack.enter_context(target.wire())
            send(wire, b"GET /healthz HTTP/1.1\r\nX: ")
            for _ in range(64):
                send(wire, b"y" * MAX_BARE_BYTES)
        assert target.memory_kib() - before < GROWTH_KIB


def test_slow_readers(target: Target) -> None:
    """
    Fifty clients that ask and never read cost the server little, and others are served.
    """
    ask = request(b"GET", versioned(b"/subscriptions/{S}/providers")).replace(b"{T}", target.token.encode())
    ask = ask.replace(b"{S}", target.server.connection["subscription_id"].encode())
    before = target.memory_kib()
    with ExitStack() as stack:
        wires = [stack.enter_context(target.wire()) for _ in range(50)]
        for wire in wires:
            wire.settimeout(1.0)
            for _ in range(20):
                try:
                    wire.sendall(ask * 20)
                except (TimeoutError, OSError):
                    break
        (answer,) = target.ask(b"GET /healthz HTTP/1.1\r\nHost: x")
        assert answer.status == 200
        assert target.memory_kib() - before < GROWTH_KIB


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"A" * 100,
        bytes(1000),
        b"\x80\x2e\x01\x03\x01",
        b"SSH-2.0-x\r\n",
    ],
    ids=["plain HTTP", "broken ClientHello", "zeros", "SSLv2", "SSH"],
)
def test_no_tls(target: Target, sent: bytes) -> None:
    """
    What is no TLS is closed without harm.
    """
    with target.plain() as wire:
        send(wire, sent)
        while receive(wire):
            pass


def test_half_closed(target: Target) -> None:
    """
    A client that says that it will send no more, or goes in the middle, leaves nothing behind.
    """
    for start in (
        b"",
        b"GET /hea",
        request(b"GET", b"/healthz", auth=b""),
        request(b"PUT", b"/x", b"Content-Length: 9\r\n"),
    ):
        for _ in range(25):
            with target.wire() as wire:
                send(wire, start)
                if start:
                    wire.unwrap() if start.endswith(b"hea") else wire.shutdown(socket.SHUT_WR)
