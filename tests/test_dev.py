"""`./dev` as a newcomer meets it."""

import re
import subprocess

from tests.tools import REPOSITORY


def dev(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `./dev WORDS` and return what it printed."""
    return subprocess.run(["./dev", *words], cwd=REPOSITORY, check=False, capture_output=True, text=True)


def test_help_lists_every_verb() -> None:
    """
    `./dev` and `./dev help` list each verb that exists, with a line that says what it does.
    """
    defined = set(re.findall(r"^verb_(\w+)\(\)", (REPOSITORY / "dev").read_text(encoding="utf-8"), re.MULTILINE))
    for answer in (dev(), dev("help")):
        assert answer.returncode == 0
        listed = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines()[1:])
        assert {verb.replace("-", "_") for verb in listed} == defined
        assert all(listed.values())


def test_unknown_verb() -> None:
    """
    An unknown verb is a usage error that names it and lists the verbs.
    """
    answer = dev("dance")
    assert answer.returncode == 2
    assert "no verb 'dance'" in answer.stderr
    assert "test-all" in answer.stderr


def test_demo() -> None:
    """
    `./dev demo` exits 0 and says at the end how long it took, set-up included.
    """
    answer = dev("demo")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert re.search(r"^\./dev demo took \d+\.\d{3} s, set-up included$", answer.stdout.splitlines()[-1])
