"""`enjoin list`, `show`, `cancel` and `delete`: run commands as resources."""

import time
from typing import Any, Final

import click

from enjoin.cli.client import Client
from enjoin.cli.failure import Failure, NotFoundFailure
from enjoin.cli.machines import Target, find_machine
from enjoin.cli.options import client, connection_option, output_option
from enjoin.cli.present import dig, print_fields, print_json, print_table, say
from enjoin.cli.streams import TERMINAL

EXPANDED: Final = {"$expand": "instanceView"}
CANCEL_WAIT_S: Final = 10.0  # for a machine that is there; one that is away ends it when it is back
CANCEL_LOOK_S: Final = 0.1
NO_CONTENT: Final = 204


@click.command("list", short_help="List the run commands of a machine.")
@click.argument("machine")
@output_option
@connection_option
def list_commands(machine: str, output: str) -> None:
    """List the run commands of a machine."""
    here = client()
    found = here.get_all(f"{find_machine(here, machine).path}/runCommands", **EXPANDED)
    if output == "json":
        print_json(found)
        return
    rows = []
    for body in found:
        view = dig(body, "properties", "instanceView") or {}
        over = view.get("executionState") in TERMINAL
        rows.append(
            (
                body["name"],
                view.get("executionState"),
                view.get("exitCode") if over else None,
                dig(view, "enjoin", "generation"),
                view.get("startTime"),
                view.get("endTime"),
            )
        )
    print_table(("NAME", "STATE", "EXIT", "GENERATION", "STARTED", "ENDED"), rows)


@click.command(short_help="Show a run command and what became of it.")
@click.argument("machine")
@click.argument("name")
@output_option
@connection_option
def show(machine: str, name: str, output: str) -> None:
    """Show a run command and what became of it, with the end of its output."""
    here = client()
    body = here.get(find_machine(here, machine).command_path(name), **EXPANDED)
    if output == "json":
        print_json(body)
        return
    properties = body["properties"]
    view = properties.get("instanceView") or {}
    over = view.get("executionState") in TERMINAL
    print_fields(
        {
            "id": body["id"],
            "generation": dig(view, "enjoin", "generation"),
            "provisioningState": properties.get("provisioningState"),
            "executionState": view.get("executionState"),
            "executionMessage": view.get("executionMessage"),
            "exitCode": view.get("exitCode") if over else None,
            "signal": dig(view, "enjoin", "signal"),
            "startTime": view.get("startTime"),
            "endTime": view.get("endTime"),
            "outputBytes": dig(view, "enjoin", "outputBytes"),
            "errorBytes": dig(view, "enjoin", "errorBytes"),
        }
    )
    for heading, text in (("output", view.get("output")), ("error", view.get("error"))):
        if text:
            print(f"\n{heading}:\n{text}", end="" if text.endswith("\n") else "\n")


@click.command(short_help="End a running script; its run command stays.")
@click.argument("machine")
@click.argument("name")
@output_option
@connection_option
def cancel(machine: str, name: str, output: str) -> None:
    """End a running script and all that it started; the run command and its output stay."""
    here = client()
    target = find_machine(here, machine)
    path = target.command_path(name)
    body = here.get(path, **EXPANDED)
    state = body["properties"]["instanceView"]["executionState"]
    if state in TERMINAL:
        text = f"{name} has already ended: {state}"
    else:
        here.send("POST", f"{path}/cancel", repeatable=True)  # canceling twice is canceling once
        body = _until_ended(here, target, path)
        state = body["properties"]["instanceView"]["executionState"]
        text = f"{name}: {state}" if state in TERMINAL else f"{name} is told to end; it is still {state}"
    if output == "json":
        print_json(body)
    else:
        print(text)


def _until_ended(here: Client, target: Target, path: str) -> dict[str, Any]:
    """Return the resource when its script is over, or as it is when the machine takes long to confirm."""
    give_up_at = time.monotonic() + (CANCEL_WAIT_S if target.status != "Disconnected" else 0)
    while True:
        body: dict[str, Any] = here.get(path, **EXPANDED)
        state = body["properties"]["instanceView"]["executionState"]
        if state in TERMINAL or time.monotonic() >= give_up_at:
            return body
        time.sleep(CANCEL_LOOK_S)


@click.command(short_help="Delete a run command, ending its script.")
@click.argument("machine")
@click.argument("name")
@output_option
@connection_option
def delete(machine: str, name: str, output: str) -> None:  # noqa: ARG001 - for the shape of errors
    """Delete a run command; ends its script and all that it started.

    Returns when the machine has confirmed it. Ctrl-C stops the waiting, not the deletion.
    """
    here = client()
    target = find_machine(here, machine)
    answer = here.send("DELETE", target.command_path(name))
    if answer.status == NO_CONTENT:
        message = f"there is no run command {name!r} on {target.name}; see `enjoin list {machine}`"
        raise NotFoundFailure(message)
    if target.status == "Disconnected":
        say(f"{target.name} is not connected; waiting for it to confirm (Ctrl-C leaves, the deletion goes on)")
    error = here.wait(answer)
    if error is not None:
        raise Failure(str(error.get("message", "")), code=str(error.get("code", "")))
