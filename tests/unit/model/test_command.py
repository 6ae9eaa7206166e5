"""What a run command may hold."""

import pytest

from enjoin.errors import InvalidField
from enjoin.model.command import MAX_SCRIPT_BYTES, CommandSpec, Parameter, Secret, check_parameters

T = "properties.parameters"


@pytest.mark.parametrize("name", ["a", "_", "A1_b", "PATH", "x" * 1000, ""])
def test_names_that_a_script_can_read(name: str) -> None:
    """
    A name that is a variable's, or none for an argument, is allowed (F46, F47).
    """
    assert check_parameters((Parameter(name=name, value="v"),), target=T) == len(name) + 1


@pytest.mark.parametrize("name", ["1x", "A=B", "a b", "a-b", "a\n", "a\0", "é", "\u0661", " "])
@pytest.mark.parametrize("kind", [Parameter, Secret])
def test_names_that_none_can(name: str, kind: type[Parameter] | type[Secret]) -> None:
    """
    A name that no script could be given is refused before anything runs, saying which (agent-semantics 33).
    """
    good = Parameter(name="fine", value="")
    with pytest.raises(InvalidField, match="not usable as a variable") as refusal:
        check_parameters((good, kind(name=name, value="v")), target=T)
    assert refusal.value.target == "properties.parameters[1].name"


def test_values() -> None:
    """
    Any text is a value, empty and special characters too, but for NUL, which nothing on a machine can hold (F52).
    """
    fine = ("", " ", "a b; $(id) 'q' *", "&^\n\t", "ü𝄞", "'\"\\")
    parameters = tuple(Parameter(name="", value=value) for value in fine)
    assert check_parameters(parameters, target=T) == sum(len(value.encode()) for value in fine)
    with pytest.raises(InvalidField, match="NUL") as refusal:
        check_parameters((Secret(name="p", value="hunter2\0"),), target=T)
    assert refusal.value.target == "properties.parameters[0].value"
    assert "hunter2" not in str(refusal.value)


def test_size_counts_bytes() -> None:
    """
    The size of parameters is that of names and values in UTF-8.
    """
    assert check_parameters((Parameter(name="ab", value="é"), Parameter(name="", value="c")), target=T) == 5
    assert check_parameters((), target=T) == 0


def test_script_size() -> None:
    """
    A script of exactly the limit is allowed; one byte more, counted in UTF-8, is not.
    """
    assert len(CommandSpec(script="x" * MAX_SCRIPT_BYTES).script) == MAX_SCRIPT_BYTES
    with pytest.raises(InvalidField, match=f"{MAX_SCRIPT_BYTES + 1} bytes") as refusal:
        CommandSpec(script="é" + "x" * (MAX_SCRIPT_BYTES - 1))
    assert refusal.value.target == "properties.source.script"


@pytest.mark.parametrize(("given", "limit_s"), [(None, None), (0, None), (-1, None), (1, 1), (86400, 86400)])
def test_timeout(given: int | None, limit_s: int | None) -> None:
    """
    A timeout that is absent, zero or negative is no limit (F56, agent-semantics 48); as given it is kept.
    """
    spec = CommandSpec(script="true", timeout_s=given)
    assert (spec.timeout_s, spec.limit_s) == (given, limit_s)


def test_secrets_are_not_shown() -> None:
    """
    The repr of a secret, which ends up in logs and tracebacks, has no value.
    """
    assert "hunter2" not in repr(Secret(name="p", value="hunter2"))
