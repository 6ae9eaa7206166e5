"""What a script is started with: text, interpreter, arguments, environment."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enjoin.agent.interpreter import (
    DEFAULT_PATH,
    PRELUDE_DESCRIPTOR,
    Account,
    Invocation,
    Shebang,
    invocation,
    normalise,
    parse_shebang,
)
from enjoin.agent.shim import PRELUDE_DESCRIPTOR as PRELUDE_DESCRIPTOR_OF_SHIM
from enjoin.errors import InvalidField, NotSupportedYet

SCRIPT = Path("/state/bundles/x/script")
ACCOUNT = Account(name="ada", home="/home/ada", shell="/bin/zsh")  # noqa: S604 - a field, not a way to run
SECRET = ("", "s3cr3t", True)


def call(script: str, *parameters: tuple[str, str, bool]) -> Invocation:
    """How `script` would be started for Ada."""
    return invocation(normalise(script), SCRIPT, parameters, execution_id="id-1", account=ACCOUNT)


def test_nothing_given() -> None:
    """
    A script without first line runs in bash, in an environment that is made from nothing.
    """
    assert call("echo") == Invocation(
        argv=[b"/bin/bash", bytes(SCRIPT)],
        env={
            b"PATH": DEFAULT_PATH,
            b"HOME": b"/home/ada",
            b"USER": b"ada",
            b"LOGNAME": b"ada",
            b"SHELL": b"/bin/zsh",
            b"LANG": b"C.UTF-8",
            b"ENJOIN_EXECUTION_ID": b"id-1",
        },
        prelude=None,
    )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (b"echo", None),
        (b"", None),
        (b"#!", None),
        (b"#!\necho", None),
        (b" #!/bin/sh", None),
        (b"#!/bin/sh", Shebang(b"/bin/sh", None)),
        (b"#! \t/bin/sh  \necho", Shebang(b"/bin/sh", None)),
        (b"#!/bin/sh -e -u \n", Shebang(b"/bin/sh", b"-e -u")),
        (b"#!/usr/bin/env\tpython3\n", Shebang(b"/usr/bin/env", b"python3")),
        (b"#!/opt/\x0bx\n", Shebang(b"/opt/\x0bx", None)),
    ],
)
def test_first_line_as_the_kernel_reads_it(script: bytes, expected: Shebang | None) -> None:
    """
    One interpreter and at most one argument, whatever blanks that has inside.
    """
    assert parse_shebang(script) == expected


def test_interpreter_is_executed_not_the_file() -> None:
    """
    The script is an argument of its interpreter, so it needs no execute permission; only a program is executed itself.
    """
    assert call("#!/usr/bin/perl -w\n", ("", "a b", False)).argv == [b"/usr/bin/perl", b"-w", bytes(SCRIPT), b"a b"]
    program = invocation(b"\x7fELF\0", SCRIPT, [("", "x", False)], execution_id="i", account=ACCOUNT)
    assert program.argv == [bytes(SCRIPT), b"x"]


TEXT = "#!/bin/sh\r\necho é\r\n"
PLAIN = "#!/bin/sh\necho é\n".encode()


@pytest.mark.parametrize(
    "script",
    [
        TEXT,
        "\ufeff" + TEXT,
        TEXT.encode("utf-8-sig"),
        b"\xff\xfe" + TEXT.encode("utf-16-le"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        PLAIN,
    ],
)
def test_text_is_made_uniform(script: str | bytes) -> None:
    """
    Byte order marks, UTF-16 and CRLF disappear, inline as in files (cases 23-26).
    """
    assert normalise(script) == PLAIN


def test_binary_is_untouched() -> None:
    """
    What holds a NUL is no text: its line ends are kept (case 25).
    """
    assert normalise(b"\x89PNG\r\n\x1a\n\0\r\n") == b"\x89PNG\r\n\x1a\n\0\r\n"
    assert normalise(b"\xff\xff\r\n") == b"\xff\xff\n"


@pytest.mark.parametrize(("script", "words"), [(b"\xff\xfe\x00", "UTF-16"), ("echo \ud800", "surrogate")])
def test_broken_text_is_refused(script: str | bytes, words: str) -> None:
    """
    What only looks like text is refused with the reason.
    """
    with pytest.raises(InvalidField, match=words):
        normalise(script)


def test_parameters() -> None:
    """
    Named ones are variables and the later wins, protected ones last; nameless ones arguments, empty ones kept
    (cases 29, 31, 32).
    """
    started = call(
        "echo",
        ("NAME", "protected", True),
        ("", "first", False),
        ("NAME", "public", False),
        ("EMPTY", "", False),
        ("", "", False),
        ("HOME", "/else", False),
        ("", "é\n'", False),
    )
    assert started.argv[2:] == [b"first", b"", "é\n'".encode()]
    assert started.env.items() >= {b"NAME": b"protected", b"EMPTY": b"", b"HOME": b"/else"}.items()
    assert started.prelude is None


@pytest.mark.parametrize("name", ["A=B", "1x", "a-b", "a b", "\0", "é", "a\n", " "])
def test_name_that_no_shell_could_read(name: str) -> None:
    """
    Such a name is a clear failure before anything runs (case 33).
    """
    with pytest.raises(InvalidField, match="cannot be an environment variable") as failure:
        call("echo", (name, "x", False))
    assert failure.value.target == "properties.parameters"


def test_value_that_no_process_could_receive() -> None:
    """
    NUL and half a surrogate pair are refused, and the message does not hold the value.
    """
    for value in ("s3cr3t\0", "s3cr3t\udc00"):
        for name in ("", "NAME"):
            with pytest.raises(InvalidField) as failure:
                call("echo", (name, value, True))
            assert "s3cr3t" not in str(failure.value)
            assert failure.value.target == "properties.protectedParameters"


@pytest.mark.parametrize(
    "first_line",
    [
        "",
        "#!/bin/bash",
        "#!/usr/local/bin/bash -e",
        "#!/bin/bash -euxv",
        "#!/bin/bash --norc",
        "#!/bin/bash -",
        "#!/usr/bin/env bash",
        "#!/usr/bin/env -S bash -e -u",
        "#!/usr/bin/env --split-string=bash -e",
    ],
)
def test_protected_nameless_in_bash(first_line: str) -> None:
    """
    They travel in the prelude with all public ones; the command line holds neither (case 35).
    """
    plain = call(f"{first_line}\n")
    started = call(f"{first_line}\n", SECRET, ("", "public", False))
    assert started.argv == plain.argv
    assert started.env == {**plain.env, b"BASH_ENV": b"/proc/self/fd/%d" % PRELUDE_DESCRIPTOR}
    assert started.prelude is not None
    assert b"set -- 'public' 's3cr3t'\n" in started.prelude
    assert "s3cr3t" not in repr(started)


@pytest.mark.parametrize(
    "first_line",
    [
        "#!/bin/sh",
        "#!/usr/bin/python3",
        "#!/bin/bash -p",
        "#!/bin/bash -ep",
        "#!/bin/bash --posix",
        "#!/bin/bash -i",
        "#!/bin/bash -c",
        "#!/bin/bash -t",
        "#!/bin/bash -k",
        "#!/bin/bash -e -u",
        "#!/bin/rbash",
        "#!/usr/bin/env",
        "#!/usr/bin/env sh",
        "#!/usr/bin/env -i bash",
        "#!/usr/bin/env -S",
        "#!/usr/bin/env -S bash --posix",
        "#!/usr/bin/env -S -i bash",
        "#!/usr/bin/env -S bash -${X}",
        "#!/usr/bin/env -S POSIXLY_CORRECT=1 bash",
    ],
)
def test_protected_nameless_elsewhere(first_line: str) -> None:
    """
    Where they could only travel on the command line they are refused, and the message says what to do instead.
    """
    call(f"{first_line}\n", ("", "public", False), ("NAME", "s3cr3t", True))
    with pytest.raises(NotSupportedYet, match="give it a name") as failure:
        call(f"{first_line}\n", SECRET)
    assert "s3cr3t" not in str(failure.value)


@pytest.mark.parametrize("name", ["POSIXLY_CORRECT", "SHELLOPTS"])
def test_protected_nameless_in_a_bash_that_is_told_to_differ(name: str) -> None:
    """
    A variable that makes bash ignore BASH_ENV, or trace it, does not go with them.
    """
    with pytest.raises(NotSupportedYet):
        call("echo", SECRET, (name, "xtrace", False))


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_every_value_passes(value: str) -> None:
    """
    A value is the same bytes in an argument and in a variable, and stays inside its quotes in the prelude.
    """
    assert call("echo", ("", value, False)).argv[-1] == value.encode()
    assert call("echo", ("V", value, False)).env[b"V"] == value.encode()
    prelude = call("echo", ("", value, True)).prelude
    assert prelude is not None
    quoted = prelude.partition(b"set -- ")[2][:-1]
    assert quoted.replace(b"'\\''", b"\1")[1:-1].count(b"'") == 0
    assert quoted[1:-1].replace(b"'\\''", b"'") == value.encode()


def test_one_number_in_two_places() -> None:
    """
    The shim, which does not load the interpreter module, puts the prelude where that module says.
    """
    assert PRELUDE_DESCRIPTOR_OF_SHIM == PRELUDE_DESCRIPTOR
