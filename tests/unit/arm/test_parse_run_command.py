"""What a PUT of a run command means."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enjoin.arm.properties import read_json
from enjoin.arm.run_command import parse_run_command
from enjoin.errors import InvalidField, InvalidRequest, NotSupportedYet
from enjoin.model.command import CommandRequest, Parameter, Secret
from enjoin.model.machine import MachineKind

VERSION = "2024-11-01"


def parse(body: object, *, api_version: str = VERSION) -> CommandRequest:
    """Read a body as sent to a VM."""
    return parse_run_command(body, api_version=api_version, kind=MachineKind.VIRTUAL_MACHINE)


def properties(**given: object) -> dict[str, object]:
    """Return a body with a script and these properties."""
    return {"location": "local", "properties": {"source": {"script": "true"}, **given}}


def refused(body: object, kind: type[InvalidRequest] = InvalidField) -> str | None:
    """Return the target of the refusal of `body`."""
    with pytest.raises(kind) as caught:
        parse(body)
    assert str(caught.value).endswith("."), "an error is a sentence"
    return caught.value.target


def test_whole_body() -> None:
    """
    Everything that this version does is read (F34, F42, F43, F56).
    """
    body = {
        "location": "local",
        "tags": {"a": "b"},
        "properties": {
            "source": {"script": "echo $x"},
            "parameters": [{"name": "x", "value": "1"}, {"name": "", "value": "first"}, {"value": "second"}],
            "protectedParameters": [{"name": "p", "value": "secret"}],
            "timeoutInSeconds": 30,
            "asyncExecution": True,
            "treatFailureAsDeploymentFailure": True,
        },
    }
    assert parse(body) == CommandRequest(
        location="local",
        tags={"a": "b"},
        script="echo $x",
        parameters=(
            Parameter(name="x", value="1"),
            Parameter(name="", value="first"),
            Parameter(name="", value="second"),
        ),
        protected=(Secret(name="p", value="secret"),),
        timeout_s=30,
        async_execution=True,
        treat_failure_as_deployment_failure=True,
    )


def test_what_terraform_sends_for_unset() -> None:
    """
    Empty strings and arrays are "unset": they name nothing that is not supported.
    """
    body = properties(
        parameters=[],
        runAsUser="",
        runAsPassword="",
        outputBlobUri="",
        errorBlobUri="",
        outputBlobManagedIdentity=None,
        asyncExecution=False,
        treatFailureAsDeploymentFailure=True,
        timeoutInSeconds=1800,
    )
    read = parse(body, api_version="2023-03-01")
    assert (read.parameters, read.protected, read.timeout_s) == ((), None, 1800)
    assert read.treat_failure_as_deployment_failure


def test_what_az_update_sends() -> None:
    """
    A GET's body, sent back whole, is a good PUT; the secrets that GET hid are kept.
    """
    body = {
        "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v/runCommands/c",
        "name": "c",
        "type": "Microsoft.Compute/virtualMachines/runCommands",
        "location": "local",
        "tags": None,
        "systemData": {"createdBy": "x"},
        "properties": {
            "source": {"script": "new", "scriptUri": None},
            "parameters": [{"name": "a", "value": "1"}],
            "provisioningState": "Succeeded",
            "instanceView": {"executionState": "Succeeded"},
        },
    }
    read = parse(body)
    assert (read.script, read.protected, read.tags) == ("new", None, {})


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, None), ({"protectedParameters": None}, None), ({"protectedParameters": []}, ())],
)
def test_protected_parameters_kept_or_cleared(given: Mapping[str, object], kept: tuple[Secret, ...] | None) -> None:
    """
    Absent or null keeps the stored ones; an empty array clears them.
    """
    assert parse(properties(**given)).protected == kept


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("433", "433"),
        ("true", "true"),
        ("false", "false"),
        ("-0.5", "-0.5"),
        ("1.10", "1.10"),
        ("1e2", "1e2"),
        ("12345678901234567890123", "12345678901234567890123"),
        ('""', ""),
        ('"a & b \\n \\u00e9"', "a & b \n é"),
    ],
)
def test_scalars_as_values(text: str, value: str) -> None:
    """
    Numbers and booleans are taken as they were written (F49, F52, T7).
    """
    body = read_json(b'{"properties":{"source":{"script":"x"},"parameters":[{"name":"p","value":%s}]}}' % text.encode())
    assert parse(body).parameters == (Parameter(name="p", value=value),)


@pytest.mark.parametrize("value", [None, [], {}, ["a"], {"a": "b"}])
def test_values_that_are_no_scalars(value: object) -> None:
    """
    A value that no script could be given is refused with its place.
    """
    assert refused(properties(parameters=[{"name": "p", "value": value}])) == "properties.parameters[0].value"


def test_value_missing() -> None:
    """
    A parameter without a value is refused: an empty one is written "".
    """
    body = properties(protectedParameters=[{"name": "a", "value": "1"}, {"name": "p"}])
    assert refused(body) == "properties.protectedParameters[1].value"


def test_names_in_any_case() -> None:
    """
    Property names are matched without regard to case, as ARM does.
    """
    body = {
        "Location": "local",
        "PROPERTIES": {
            "Source": {"SCRIPT": "x"},
            "Parameters": [{"Name": "a", "Value": "1"}],
            "timeoutinseconds": 3,
        },
    }
    read = parse(body)
    assert (read.location, read.script, read.timeout_s) == ("local", "x", 3)
    assert read.parameters == (Parameter(name="a", value="1"),)


def test_one_property_in_two_spellings() -> None:
    """
    A property that is there twice is refused rather than one of them chosen.
    """
    assert refused({"properties": {"source": {"script": "a", "Script": "b"}}}) == "properties.source.Script"


@pytest.mark.parametrize("timeout", [0, -1, -(2**31), 1, 2**31 - 1])
def test_timeouts(timeout: int) -> None:
    """
    Every 32-bit number is a timeout; zero and less mean no limit and are kept to be echoed (F56).
    """
    assert parse(properties(timeoutInSeconds=timeout)).timeout_s == timeout


@pytest.mark.parametrize("timeout", ["30", True, 1.5, [], {}, 2**31, -(2**31) - 1])
def test_no_timeouts(timeout: object) -> None:
    """
    Anything else is refused.
    """
    assert refused(properties(timeoutInSeconds=timeout)) == "properties.timeoutInSeconds"


@pytest.mark.parametrize(
    ("api_version", "is_honoured"),
    [
        ("2019-12-01", False),
        ("2022-08-01-preview", False),
        ("2023-03-01", True),
        ("2023-10-03-preview", True),
        ("2024-11-01", True),
    ],
)
def test_treat_failure_since(api_version: str, *, is_honoured: bool) -> None:
    """
    TreatFailureAsDeploymentFailure counts from api-version 2023-03-01 on (F69, T14).
    """
    read = parse(properties(treatFailureAsDeploymentFailure=True), api_version=api_version)
    assert read.treat_failure_as_deployment_failure is is_honoured


@pytest.mark.parametrize("name", ["asyncExecution", "treatFailureAsDeploymentFailure"])
@pytest.mark.parametrize("value", ["true", 1, 0, [], {}])
def test_booleans_are_booleans(name: str, value: object) -> None:
    """
    A string or a number is not taken for true or false.
    """
    assert refused(properties(**{name: value})) == f"properties.{name}"


@pytest.mark.parametrize(
    "source", [None, {}, {"script": ""}, {"script": None}, {"script": "", "scriptUri": "", "commandId": ""}]
)
def test_no_source(source: object) -> None:
    """
    A command without a source is refused (F37).
    """
    assert refused({"location": "local", "properties": {"source": source}}) == "properties.source"


def test_two_sources() -> None:
    """
    Two sources are refused, each named (F37).
    """
    body = {"properties": {"source": {"script": "x", "commandId": "RunShellScript"}}}
    with pytest.raises(InvalidField, match="script and commandId"):
        parse(body)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ({"scriptUri": "https://x/y.sh"}, "properties.source.scriptUri"),
        ({"commandId": "RunShellScript"}, "properties.source.commandId"),
        ({"galleryScriptReferenceId": "/x"}, "properties.source.galleryScriptReferenceId"),
        ({"script": "x", "scriptShell": "Powershell7"}, "properties.source.scriptShell"),
        ({"script": "x", "scriptUriManagedIdentity": {"clientId": "x"}}, "properties.source.scriptUriManagedIdentity"),
    ],
)
def test_sources_that_come_later(source: object, target: str) -> None:
    """
    What this version does not do is refused with its place, never ignored.
    """
    assert refused({"location": "local", "properties": {"source": source}}, NotSupportedYet) == target


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runAsUser", "me"),
        ("runAsPassword", "x"),
        ("outputBlobUri", "https://x/y"),
        ("errorBlobUri", "https://x/y"),
        ("outputBlobManagedIdentity", {"clientId": "x"}),
        ("errorBlobManagedIdentity", {"objectId": "x"}),
    ],
)
def test_properties_that_come_later(name: str, value: object) -> None:
    """
    The same for properties.
    """
    assert refused(properties(**{name: value}), NotSupportedYet) == f"properties.{name}"


def test_no_secret_in_a_refusal() -> None:
    """
    A refusal names the place and never quotes a value that may be a secret.
    """
    bodies = [
        properties(runAsPassword="hunter2"),
        properties(outputBlobUri="https://x/y?sig=hunter2"),
        properties(protectedParameters=[{"name": "p", "value": ["hunter2"]}]),
        properties(protectedParameters="hunter2"),
        properties(protectedParameters=[{"name": "p", "value": "hunter2\0"}]),
    ]
    for body in bodies:
        with pytest.raises(InvalidRequest) as caught:
            parse(body)
        assert "hunter2" not in str(caught.value)


def test_limits() -> None:
    """
    A script of 256 KiB and parameters of 64 KiB together are taken, a byte more is not; bytes are counted.
    """
    parse({"properties": {"source": {"script": "é" * (128 * 1024)}}})
    assert refused({"properties": {"source": {"script": "é" * (128 * 1024) + "x"}}}) == "properties.source.script"
    public = [{"name": "a", "value": "x" * (32 * 1024 - 1)}]
    parse(properties(parameters=public, protectedParameters=public))
    over = [{"name": "ab", "value": public[0]["value"]}]
    assert refused(properties(parameters=public, protectedParameters=over)) == "properties.parameters"


@pytest.mark.parametrize(
    ("tags", "target"),
    [
        ({f"t{n}": "" for n in range(51)}, "tags"),
        ({"x" * 513: ""}, "tags"),
        ({"": ""}, "tags"),
        ({"a": "x" * 257}, "tags.a"),
        ({"a": 1}, "tags.a"),
        ({"a": None}, "tags.a"),
        ({"a": "1", "A": "2"}, "tags.A"),
        ([], "tags"),
        ("x", "tags"),
    ],
)
def test_tags_over_a_bound(tags: object, target: str) -> None:
    """
    Tags are bounded as ARM's are.
    """
    assert refused({**properties(), "tags": tags}) == target


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ([], None),
        ("x", None),
        (1, None),
        ({"location": 1}, "location"),
        ({"properties": []}, "properties"),
        ({"properties": {"source": "echo"}}, "properties.source"),
        ({"properties": {"source": {"script": ["echo"]}}}, "properties.source.script"),
        ({"properties": {"source": {"script": "x"}, "parameters": {"a": "b"}}}, "properties.parameters"),
        ({"properties": {"source": {"script": "x"}, "parameters": ["a"]}}, "properties.parameters[0]"),
        ({"properties": {"source": {"script": "x"}, "parameters": [None]}}, "properties.parameters[0]"),
        (
            {"properties": {"source": {"script": "x"}, "parameters": [{"name": 1, "value": ""}]}},
            "properties.parameters[0].name",
        ),
        (
            {"properties": {"source": {"script": "x"}, "parameters": [{"name": "a b", "value": ""}]}},
            "properties.parameters[0].name",
        ),
        (
            {"properties": {"source": {"script": "x"}, "parameters": [{"name": "a", "value": "\0"}]}},
            "properties.parameters[0].value",
        ),
    ],
)
def test_wrong_shapes(body: object, target: str | None) -> None:
    """
    JSON of the wrong shape is refused with the path of what is wrong.
    """
    assert refused(body) == target


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
NAMES = st.sampled_from(
    [
        "location", "tags", "properties", "source", "script", "Script", "scriptUri", "commandId", "scriptShell",
        "parameters", "protectedParameters", "name", "value", "timeoutInSeconds", "asyncExecution", "runAsUser",
        "treatFailureAsDeploymentFailure", "outputBlobUri", "galleryScriptReferenceId", "instanceView",
    ]
)  # fmt: skip
BODIES = st.recursive(
    JSON_VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=30
)
LIKELY: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "location": BODIES,
        "tags": BODIES,
        "properties": st.fixed_dictionaries(
            {"source": st.just({"script": "true"}) | BODIES},
            optional={
                "parameters": st.lists(st.fixed_dictionaries({}, optional={"name": BODIES, "value": BODIES})) | BODIES,
                "protectedParameters": BODIES,
                "timeoutInSeconds": BODIES,
                "asyncExecution": BODIES,
                "treatFailureAsDeploymentFailure": BODIES,
                "runAsUser": BODIES,
            },
        ),
    },
)


@given(body=BODIES | LIKELY, api_version=st.text(max_size=12) | st.just(VERSION), kind=st.sampled_from(MachineKind))
def test_any_json(body: object, api_version: str, kind: MachineKind) -> None:
    """
    Whatever JSON comes, the answer is a request or a refusal that is a 400 and says something.
    """
    error: InvalidRequest | None = None
    try:
        assert parse_run_command(body, api_version=api_version, kind=kind).script
    except InvalidRequest as refusal:
        error = refusal
    if error is not None:
        assert error.status == 400
        assert error.target != ""
        assert str(error).endswith(".")


@given(text=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes(text: bytes) -> None:
    """
    Bytes are JSON or a refusal that says where they stop being it.
    """
    error: InvalidRequest | None = None
    try:
        read_json(text)
    except InvalidRequest as refusal:
        error = refusal
    if error is not None:
        assert error.code == "InvalidRequestContent"
        assert str(error).startswith("The request content was invalid and could not be deserialized: '")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b'{\n  "name": "p"\n  "value": 433\n}', "line 3, column 3"),
        (b"", "line 1, column 1"),
        (b'{"a":', "line 1, column 6"),
    ],
)
def test_the_place_of_a_mistake(text: bytes, place: str) -> None:
    """
    A mistake in the JSON is shown with its line and column (T6).
    """
    with pytest.raises(InvalidRequest, match=place):
        read_json(text)


def test_byte_order_mark() -> None:
    """
    A byte order mark before the JSON is passed over.
    """
    assert read_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("text", [b"[" * 1_000_000, b'{"a":' * 500_000, b"1" * 10_000, b'"\xff"', b'"\\ud800"'])
def test_hostile_json(text: bytes) -> None:
    """
    Depth, huge numbers, broken text: refused like anything else.
    """
    with pytest.raises(InvalidRequest):
        read_json(text)
