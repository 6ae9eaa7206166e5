"""The HTTP client under faults: what is repeated, what is not, and what a person is told."""

import json

import pytest

from tests.unit.cli.conftest import Enjoin
from tests.unit.cli.double import ARC, SECRET, SUBSCRIPTION, TOKEN, VM, Double, Proxy, Reply

VMS = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/virtualMachines"
ARCS = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.HybridCompute/machines"
SETS = f"{VMS.removesuffix('s')}ScaleSets"
PRINCIPALS = "/enjoin/v1/principals"
MADE = Reply(status=201, body={"clientId": "c", "clientSecret": "s", "objectId": "o"})
DROP = Reply(drop=True)


def machine(name: str) -> dict[str, object]:
    """A machine as a list shows it."""
    return {"id": f"{VM[:-2]}{name}", "name": name, "type": "Microsoft.Compute/virtualMachines", "properties": {}}


def test_all_pages(double: Double, enjoin: Enjoin) -> None:
    """
    A list follows nextLink to the end and is one bare array, on one kept connection and one token.
    """
    next_link = f"{double.endpoint}{VMS}?api-version=2024-11-01&$skiptoken=2"
    double.answer(
        "GET", VMS, Reply(body={"value": [machine("b")], "nextLink": next_link}), Reply(body={"value": [machine("c")]})
    )
    double.answer("GET", ARCS, Reply(body={"value": [machine("a")]}))
    double.answer("GET", SETS, Reply(body={"value": []}))
    done = enjoin("machines", "-o", "json")
    assert (done.code, done.stderr) == (0, b"")
    assert [item["name"] for item in json.loads(done.stdout)] == ["a", "b", "c"]
    assert double.requests("GET", VMS)[1].query == {"api-version": "2024-11-01", "$skiptoken": "2"}
    assert len(double.requests("POST", TOKEN)) == 1
    assert double.connections == 1


def test_foreign_next_link(double: Double, enjoin: Enjoin) -> None:
    """
    A URL that leads to another server is not followed: the token would go there.
    """
    double.answer("GET", VMS, Reply(body={"value": [], "nextLink": "https://elsewhere.test/next?page=2"}))
    done = enjoin("machines")
    assert done.code == 5
    assert "https://elsewhere.test" in done.last_line
    assert "--public-url" in done.last_line


def test_dropped_reply_of_a_put(double: Double, enjoin: Enjoin) -> None:
    """
    A PUT whose reply was lost is sent again with the same body and x-ms-client-request-id, so that nothing runs twice.
    """
    double.add_machine()
    path = f"{ARC}/runCommands/c1"
    double.answer("PUT", path, DROP, DROP, Reply(status=201, body={"id": path}))
    done = enjoin("run", "m1", "--name", "c1", "--detach", "--", "echo hello")
    assert (done.code, done.stdout) == (0, f"{path}\n".encode())
    puts = double.requests("PUT", path)
    assert len(puts) == 3
    assert len({(put.headers["x-ms-client-request-id"], put.body) for put in puts}) == 1


def test_dropped_reply_of_a_post(double: Double, enjoin: Enjoin) -> None:
    """
    A POST that makes something is not repeated; the person is told that it may have happened.
    """
    double.answer("POST", PRINCIPALS, DROP, MADE)
    done = enjoin("principal", "create", "robot")
    assert done.code == 5
    assert "not known" in done.last_line
    assert len(double.requests("POST", PRINCIPALS)) == 1


def test_busy_for_a_moment(double: Double, enjoin: Enjoin) -> None:
    """
    503 is asked again; a definite error is not.
    """
    double.answer("GET", PRINCIPALS, Reply(status=503, headers={"Retry-After": "0"}), Reply(body={"value": []}))
    assert enjoin("principal", "list").code == 0
    double.answer("GET", PRINCIPALS, Reply(status=409, body={"error": {"code": "Conflict", "message": "no"}}))
    done = enjoin("principal", "list")
    assert (done.code, done.stderr) == (1, b"enjoin: no\n")
    assert len(double.requests("GET", PRINCIPALS)) == 3


def test_token_no_longer_good(double: Double, enjoin: Enjoin) -> None:
    """
    When the control plane refuses the token, a new one is asked for, once.
    """
    double.answer(
        "GET", PRINCIPALS, Reply(status=401, body={"error": {"code": "X", "message": "old"}}), Reply(body={"value": []})
    )
    assert enjoin("principal", "list").code == 0
    assert len(double.requests("POST", TOKEN)) == 2
    double.answer("GET", PRINCIPALS, Reply(status=401, body={"error": {"code": "X", "message": "disabled"}}))
    done = enjoin("principal", "list")
    assert (done.code, done.last_line) == (4, "enjoin: disabled")
    assert len(double.requests("GET", PRINCIPALS)) == 4


def test_sign_in(double: Double, enjoin: Enjoin) -> None:
    """
    The secret goes to the token endpoint in the body, and nowhere else; a wrong one is exit 4 with the reason.
    """
    double.answer("GET", PRINCIPALS, Reply(body={"value": []}))
    assert enjoin("principal", "list").code == 0
    with_secret = [seen for seen in double.seen if SECRET in f"{seen}"]
    assert [(seen.path, SECRET in seen.body.decode()) for seen in with_secret] == [(TOKEN, True)]
    refused = {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}
    double.answer("POST", TOKEN, Reply(status=401, body=refused))
    done = enjoin("principal", "list", "-o", "json")
    assert done.code == 4
    assert done.last_line == "enjoin: signing in failed: AADSTS7000215: Invalid client secret provided."
    assert json.loads(done.stderr.decode().removesuffix(f"{done.last_line}\n"))["error"]["code"] == "invalid_client"


@pytest.mark.parametrize(("status", "code"), [(403, 4), (404, 3), (400, 1), (409, 1)])
def test_envelope(double: Double, enjoin: Enjoin, status: int, code: int) -> None:
    """
    With -o json the control plane's own envelope is on stderr, whole, before the one line; the exit code is its kind.
    """
    envelope = {"error": {"code": "Some", "message": "What was\nfound.", "target": "x", "details": []}}
    double.answer("GET", PRINCIPALS, Reply(status=status, body=envelope))
    done = enjoin("principal", "list", "-o", "json")
    assert (done.code, done.stdout, done.last_line) == (code, b"", "enjoin: What was found.")
    assert json.loads(done.stderr.decode().removesuffix(f"{done.last_line}\n")) == envelope


def test_nobody_there(double: Double, enjoin: Enjoin) -> None:
    """
    A control plane that is down is exit 5 with one line that names its address.
    """
    double.values["endpoint"] = "https://127.0.0.1:9"
    double.connection_file.write_text(json.dumps(double.values))
    done = enjoin("machines")
    assert done.code == 5
    assert done.stderr == b"enjoin: the control plane at https://127.0.0.1:9 does not answer: Connection refused\n"


def test_another_authority(double: Double, enjoin: Enjoin) -> None:
    """
    A server that the CA file does not vouch for is exit 5, and gets neither secret nor token.
    """
    double.values["ca_file"] = None  # type: ignore[assignment]
    double.connection_file.write_text(json.dumps(double.values))
    done = enjoin("machines")
    assert done.code == 5
    assert "is not trusted" in done.last_line
    assert double.seen == []


def test_no_certificate(double: Double, enjoin: Enjoin) -> None:
    """
    A CA file that is missing or holds no certificate is a wrong connection file: exit 2, naming both files.
    """
    for text, complaint in ((None, "No such file"), ("nothing", "holds no certificate")):
        path = double.connection_file.with_name("ca.pem")
        if text is not None:
            path.write_text(text)
        double.values["ca_file"] = str(path)
        double.connection_file.write_text(json.dumps(double.values))
        done = enjoin("machines")
        assert done.code == 2
        assert complaint in done.last_line
        assert str(path) in done.last_line


def test_kept_connection_closed(double: Double, enjoin: Enjoin) -> None:
    """
    A kept connection that the other side closed in between is replaced without a word.
    """
    double.answer("GET", VMS, Reply(body={"value": []}, headers={"Connection": "close"}))
    double.answer("GET", ARCS, DROP, Reply(body={"value": []}))
    double.answer("GET", SETS, Reply(body={"value": []}))
    assert enjoin("machines").code == 0


def test_proxy(double: Double, enjoin: Enjoin, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    HTTPS_PROXY is used as curl and the Azure clients use it, NO_PROXY exempts; TLS goes to the control plane itself.
    """
    double.answer("GET", PRINCIPALS, Reply(body={"value": []}))
    with Proxy(double) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "elsewhere.test")
        assert enjoin("principal", "list").code == 0
        assert [line.split()[:2] for line in proxy.asked] == [["CONNECT", double.endpoint.removeprefix("https://")]]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert enjoin("principal", "list").code == 0
        assert len(proxy.asked) == 1
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    done = enjoin("principal", "list")
    assert (done.code, "HTTPS_PROXY must be http://HOST:PORT" in done.last_line) == (2, True)


@pytest.mark.parametrize(
    "answer", [Reply(body="text"), Reply(body={"token": 1}), Reply(body={"access_token": "t", "expires_in": "x"})]
)
def test_not_enjoin(double: Double, enjoin: Enjoin, answer: Reply) -> None:
    """
    Something that answers a sign-in with no token is not taken for a control plane.
    """
    double.answer("POST", TOKEN, answer)
    done = enjoin("machines")
    assert done.code == 5
    assert "is it an Enjoin server?" in done.last_line
