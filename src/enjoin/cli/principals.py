"""`enjoin principal`: who may sign in."""

import click

from enjoin.cli.failure import NotFoundFailure, UsageFailure
from enjoin.cli.options import client, connection_option, output_option
from enjoin.cli.present import print_json, print_table

PATH = "/enjoin/v1/principals"


@click.group(short_help="Manage service principals.")
def principal() -> None:
    """Manage service principals: what programs sign in with."""


@principal.command("create")
@click.argument("name")
@click.option("--role", help="Role that it gets [default: none, and then it may do nothing].")
@click.option("--scope", metavar="ID", help="Resource id on which it gets the role [default: the subscription].")
@output_option
@connection_option
def create(name: str, role: str | None, scope: str | None, output: str) -> None:  # noqa: ARG001 - JSON either way
    """Create a service principal and print its client id, its secret and its object id, this once."""
    body = {"name": name, **({"role": role} if role else {}), **({"scope": scope} if scope else {})}
    made = client().send("POST", PATH, body=body).body
    print_json({key: made[key] for key in ("clientId", "clientSecret", "objectId")})


@principal.command("list")
@output_option
@connection_option
def list_principals(output: str) -> None:
    """List the service principals."""
    found = client().get_all(PATH)
    if output == "json":
        print_json(found)
        return
    rows = [(item.get("name"), item.get("role"), item.get("clientId"), item.get("objectId")) for item in found]
    print_table(("NAME", "ROLE", "CLIENT ID", "OBJECT ID"), rows)


@principal.command("delete")
@click.argument("who", metavar="ID|NAME")
@output_option
@connection_option
def delete(who: str, output: str) -> None:  # noqa: ARG001 - for the shape of errors
    """Delete a service principal, given by object id, client id or name."""
    here = client()
    wanted = who.lower()
    found = [
        item["objectId"]
        for item in here.get_all(PATH)
        if wanted in (str(item.get(key, "")).lower() for key in ("objectId", "clientId", "name"))
    ]
    if not found:
        message = f"no service principal has the object id, client id or name {who!r}; see `enjoin principal list`"
        raise NotFoundFailure(message)
    if len(found) > 1:
        message = f"{len(found)} service principals are called {who!r}; give the object id: {', '.join(found)}"
        raise UsageFailure(message)
    here.send("DELETE", f"{PATH}/{found[0]}")
