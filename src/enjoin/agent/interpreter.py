"""How a script is to be started: its text made uniform, its interpreter, its arguments and its environment. Pure.

The answers are arrays of bytes from end to end; nothing is ever put together as a shell command.
"""

import codecs
import os
import pwd
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Self

from enjoin.errors import InvalidField, NotSupportedYet

DEFAULT_INTERPRETER: Final = b"/bin/bash"
DEFAULT_PATH: Final = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PRELUDE_DESCRIPTOR: Final = 3  # where the shim puts an invocation's prelude

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_BLANK: Final = re.compile(rb"[ \t]+")  # what the kernel takes as the end of a word in a first line
_ELF: Final = b"\x7fELF"
# Options of bash under which BASH_ENV is read and `set --` means what it says: not p, i, l, s, c, t, n, k, r or o.
_BASH_LETTERS: Final = re.compile(rb"-[abefhmuvxBCEHPT]+")
_BASH_WORDS: Final = frozenset({b"-", b"--", b"--norc", b"--noprofile"})
_ENV_SPECIAL: Final = re.compile(rb"[\\\"'$#]")  # `env -S` gives these a meaning: a line with one is not looked into
# Variables that put bash into a mode in which it ignores BASH_ENV, or make it trace the prelude.
_BASH_MODES: Final = frozenset({b"POSIXLY_CORRECT", b"POSIX_PEDANTIC", b"SHELLOPTS"})


class Parameter(NamedTuple):
    """One parameter: named ones become environment variables, nameless ones (`""`) positional arguments."""

    name: str
    value: str
    protected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user that a script runs as, as the user database describes it."""

    name: str
    home: str
    shell: str

    @classmethod
    def current(cls) -> Self:
        """Return the account of this process; a user without an entry gets the kernel's view of it."""
        try:
            entry = pwd.getpwuid(os.geteuid())
        except KeyError:
            return cls(name=str(os.geteuid()), home="/", shell="/bin/sh")  # noqa: S604 - a field, not a way to run
        return cls(name=entry.pw_name, home=entry.pw_dir or "/", shell=entry.pw_shell or "/bin/sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What the shim executes."""

    argv: list[bytes] = field(repr=False)  # argv[0] is the file to execute
    env: dict[bytes, bytes] = field(repr=False)
    prelude: bytes | None = field(default=None, repr=False)  # text for PRELUDE_DESCRIPTOR


class Shebang(NamedTuple):
    """The first line of a script as the kernel reads it."""

    interpreter: bytes
    argument: bytes | None


def normalise(script: bytes | str) -> bytes:
    """Return `script` as UTF-8 without byte order mark and with LF line ends; binary content (a NUL) is untouched."""
    if isinstance(script, str):
        try:
            script = script.encode()
        except UnicodeEncodeError as error:
            message = f"the script holds half of a surrogate pair at character {error.start}; send whole characters"
            raise InvalidField(message, target="properties.source.script") from None
    if script.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            script = script.decode("utf-16").encode()
        except UnicodeError:
            message = "the script begins with a UTF-16 byte order mark and is not UTF-16; send UTF-8 or UTF-16"
            raise InvalidField(message, target="properties.source.script") from None
    script = script.removeprefix(codecs.BOM_UTF8)
    return script if b"\0" in script else script.replace(b"\r\n", b"\n")


def parse_shebang(script: bytes) -> Shebang | None:
    """Return the interpreter line of a normalised `script`; None if it has none."""
    if not script.startswith(b"#!"):
        return None
    words = _BLANK.split(script[2:].split(b"\n", 1)[0].strip(b" \t"), maxsplit=1)
    if not words[0]:
        return None
    return Shebang(words[0], words[1] if len(words) > 1 else None)


def invocation(
    script: bytes,
    script_path: Path,
    parameters: Iterable[tuple[str, str, bool]],
    *,
    execution_id: str,
    account: Account | None = None,
) -> Invocation:
    """Return how to start the normalised `script` that lies at `script_path`; `account` is this process's by default.

    Raises InvalidField for a parameter that cannot be passed as it is, and NotSupportedYet for a protected nameless
    one whose value could only travel on the command line.
    """
    public, protected = _sorted(parameters)
    environment = _environment(execution_id, account or Account.current())
    environment |= {_name(parameter): _value(parameter) for parameter in (*public, *protected) if parameter.name}
    arguments = [_value(parameter) for parameter in public if not parameter.name]
    secrets = [_value(parameter) for parameter in protected if not parameter.name]
    start = _start(script, os.fsencode(script_path))
    if not secrets:
        return Invocation(argv=[*start, *arguments], env=environment)
    options = _bash_options(parse_shebang(script))
    if options is None or script.startswith(_ELF) or not _BASH_MODES.isdisjoint(environment):
        message = (
            "a protected parameter without a name reaches only a script that bash runs in its normal mode "
            "(no shebang, #!/bin/bash or #!/usr/bin/env bash; not sh, not posix mode, no SHELLOPTS): give it a name"
        )
        raise NotSupportedYet(message, target="properties.protectedParameters")
    prelude = _prelude([*arguments, *secrets], own_file=environment.get(b"BASH_ENV"), options=options)
    environment[b"BASH_ENV"] = b"/proc/self/fd/%d" % PRELUDE_DESCRIPTOR
    return Invocation(argv=start, env=environment, prelude=prelude)


def _sorted(parameters: Iterable[tuple[str, str, bool]]) -> tuple[list[Parameter], list[Parameter]]:
    """Return the public and the protected ones, each in the order given: later wins, so protected beats public."""
    given = [Parameter(*parameter) for parameter in parameters]
    return [each for each in given if not each.protected], [each for each in given if each.protected]


def _environment(execution_id: str, account: Account) -> dict[bytes, bytes]:
    """Return the base that every script gets: nothing of it comes from this process's own environment."""
    return {
        b"PATH": DEFAULT_PATH,
        b"HOME": os.fsencode(account.home),
        b"USER": os.fsencode(account.name),
        b"LOGNAME": os.fsencode(account.name),
        b"SHELL": os.fsencode(account.shell),
        b"LANG": b"C.UTF-8",
        b"ENJOIN_EXECUTION_ID": execution_id.encode(),
    }


def _target(parameter: Parameter) -> str:
    return "properties.protectedParameters" if parameter.protected else "properties.parameters"


def _name(parameter: Parameter) -> bytes:
    if not _NAME.fullmatch(parameter.name):
        message = (
            f"parameter name {parameter.name!r} cannot be an environment variable: letters, digits and _ "
            "are allowed, and the first is not a digit"
        )
        raise InvalidField(message, target=_target(parameter))
    return parameter.name.encode()


def _value(parameter: Parameter) -> bytes:
    which = f"parameter {parameter.name}" if parameter.name else "a parameter without a name"
    if "\0" in parameter.value:
        message = f"the value of {which} holds a NUL byte, which no process can receive"
        raise InvalidField(message, target=_target(parameter))
    try:
        return parameter.value.encode()
    except UnicodeEncodeError:
        message = f"the value of {which} holds half of a surrogate pair; send whole characters"
        raise InvalidField(message, target=_target(parameter)) from None


def _start(script: bytes, path: bytes) -> list[bytes]:
    """Return the words up to the script: the interpreter is executed, never the file, which may lie on noexec."""
    if script.startswith(_ELF):
        return [path]
    shebang = parse_shebang(script)
    if shebang is None:
        return [DEFAULT_INTERPRETER, path]
    if b"\0" in shebang.interpreter + (shebang.argument or b""):
        message = "the first line of the script, which names its interpreter, holds a NUL byte"
        raise InvalidField(message, target="properties.source.script")
    argument = () if shebang.argument is None else (shebang.argument,)
    return [shebang.interpreter, *argument, path]


def _bash_options(shebang: Shebang | None) -> Sequence[bytes] | None:
    """Return the options that the script's first line gives to bash; None if it is not bash as we need it."""
    if shebang is None:
        return ()
    words = [shebang.interpreter, *(() if shebang.argument is None else (shebang.argument,))]
    if _file_name(words[0]) == b"env":
        words = words[1:]
        if words and (split := re.match(rb"(-S|--split-string=)", words[0])):
            words = [] if _ENV_SPECIAL.search(words[0]) else words[0][split.end() :].split()
    if not words or _file_name(words[0]) != b"bash":
        return None
    options = words[1:]
    usable = all(option in _BASH_WORDS or _BASH_LETTERS.fullmatch(option) for option in options)
    return options if usable else None


def _file_name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _prelude(arguments: Sequence[bytes], *, own_file: bytes | None, options: Sequence[bytes]) -> bytes:
    """Return the text that bash reads from BASH_ENV before the script: it leaves nothing behind but "$@"."""
    lines = [b"{ set +xv; } 2>/dev/null"]  # -x would write the values to stderr
    lines.append(b"unset BASH_ENV" if own_file is None else b"BASH_ENV=" + _quoted(own_file))
    lines.append(b"exec %d<&-" % PRELUDE_DESCRIPTOR)
    lines.append(b" ".join([b"set --", *map(_quoted, arguments)]))
    if own_file is not None:  # bash would have expanded it as if in double quotes, and read it if it exists
        own = b'"' + own_file.replace(b'"', b'\\"') + b'"'
        lines.append(b"if [ -e %s ]; then . %s; fi" % (own, own))
    traced = b"".join(letter for letter in (b"v", b"x") if any(letter in each for each in options if each[:2] != b"--"))
    if traced:
        lines.append(b"set -" + traced)
    return b"\n".join(lines) + b"\n"


def _quoted(value: bytes) -> bytes:
    return b"'" + value.replace(b"'", b"'\\''") + b"'"
