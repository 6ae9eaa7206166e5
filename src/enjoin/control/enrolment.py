"""Machines join: a one-time token, keys made on the machine, and proof that the machine has them."""

import base64
import binascii
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enjoin.clock import Clock
from enjoin.control.sessions import Sessions
from enjoin.errors import Conflict, EnrolmentRefused, InvalidField
from enjoin.model.directory import ResourceGroup
from enjoin.model.identity import new_uuid7
from enjoin.model.machine import Instance, Machine, MachineKind
from enjoin.model.scale_set import ScaleSet
from enjoin.protocol.enrolment import EnrolmentRequest, proof_content
from enjoin.store.base import Store, Transaction

_KEY_BYTES: Final = 32
MAX_NAME_CHARACTERS: Final = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A machine that joined."""

    machine: Machine
    server_name: str
    replaced: bool


class Enrolment:
    """Use case of `enjoin join`."""

    def __init__(self, store: Store, clock: Clock, sessions: Sessions, *, server_name: str) -> None:
        """Machines sign `server_name` with each Hello."""
        self._store = store
        self._clock = clock
        self._sessions = sessions
        self.server_name = server_name

    async def enrol(self, request: EnrolmentRequest) -> Enrolled:
        """Make the machine's resource; raise EnrolmentRefused, Conflict or InvalidField.

        What is refused uses no token up.
        """
        kind = _kind(request.kind)
        instance = _instance(request.name) if kind is MachineKind.SCALE_SET_INSTANCE else None
        _check_name(request.name if instance is None else instance.vm_name)
        identity_key, sealing_key = _key(request.identity_key, "identityKey"), _key(request.sealing_key, "sealingKey")
        _check_proof(request, identity_key)
        now = self._clock.now()

        async def work(tx: Transaction) -> Enrolled:
            token = await tx.use_token(hashlib.sha256(request.token.encode()).digest(), now=now)
            if token is None:
                text = "The enrolment token is unknown, expired or used up; make a new one with `enjoin token create`."
                raise EnrolmentRefused(text)
            if request.resource_group and request.resource_group.lower() != token.resource_group.lower():
                text = (
                    f"The enrolment token is for resource group '{token.resource_group}', "
                    f"not for '{request.resource_group}'."
                )
                raise EnrolmentRefused(text)
            group = await tx.get_group(token.subscription_id, token.resource_group)
            if group is None:
                text = f"The resource group '{token.resource_group}' of the enrolment token no longer exists."
                raise EnrolmentRefused(text)
            place = None if instance is None else await _place(tx, instance, group, now=now)
            name = request.name if place is None else place.name
            machine = Machine(
                id=new_uuid7(),
                subscription_id=token.subscription_id,
                resource_group=group.name,
                kind=kind,
                name=name,
                instance=place,
                location=group.location,
                tags=request.tags,
                identity_key=identity_key,
                sealing_key=sealing_key,
                sealing_key_id=hashlib.sha256(sealing_key).hexdigest()[:16],
                epoch=request.epoch,
                created_at=now,
                status_changed_at=now,
            )
            taken = await tx.find_machine(token.subscription_id, group.name, kind, name)
            if taken is None:
                await tx.add_machine(machine)
                return Enrolled(machine=machine, server_name=self.server_name, replaced=False)
            if not request.replace:
                text = (
                    f"A machine named '{taken.name}' is already in resource group '{group.name}'; "
                    "choose another name, or replace it with --replace."
                )
                raise Conflict(text)
            machine = replace(
                machine,
                id=taken.id,
                name=taken.name,
                instance=taken.instance,
                created_at=taken.created_at,
                connected=taken.connected,
                session_epoch=taken.session_epoch,
                lease_expires_at=taken.lease_expires_at,
            )
            await tx.put_machine(machine)
            return Enrolled(machine=machine, server_name=self.server_name, replaced=True)

        enrolled = await self._store.write(work)
        if enrolled.replaced:
            self._sessions.end(enrolled.machine.id)  # whoever held the old key is no longer this machine
        return enrolled


def _kind(text: str) -> MachineKind:
    try:
        return MachineKind(text)
    except ValueError:
        allowed = ", ".join(kind.value for kind in MachineKind)
        message = f"A machine cannot join as '{text}'; allowed are {allowed}."
        raise InvalidField(message, target="kind") from None


def _instance(name: str) -> Instance:
    instance = Instance.parse(name)
    if instance is None:
        text = (
            f"'{name[:100]}' cannot be a scale-set instance; it has to be SET/ID, the ID a number of 1 to 9 digits "
            "without leading zeros."
        )
        raise InvalidField(text, target="name")
    return instance


async def _place(tx: Transaction, instance: Instance, group: ResourceGroup, *, now: datetime) -> Instance:
    """Return the instance with its set spelled as it was made, which may be now."""
    wanted = ScaleSet(
        id=new_uuid7(),
        subscription_id=group.subscription_id,
        resource_group=group.name,
        name=instance.scale_set,
        location=group.location,
        created_at=now,
    )
    return replace(instance, scale_set=(await tx.make_scale_set(wanted)).name)


def _check_name(name: str) -> None:
    allowed = name.isascii() and all(c.isalnum() or c in "-_.()" for c in name) and name[:1].isalnum()
    if not allowed or len(name) > MAX_NAME_CHARACTERS or name.endswith("."):
        text = (
            f"'{name[:100]}' cannot be a machine's name; allowed are 1 to {MAX_NAME_CHARACTERS} letters, digits, "
            "'-', '_', '.', '(' and ')', starting with a letter or digit and not ending with '.'."
        )
        raise InvalidField(text, target="name")


def _key(text: str, target: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        message = f"{target} is not {_KEY_BYTES} bytes in base64."
        raise InvalidField(message, target=target)
    return key


def _check_proof(request: EnrolmentRequest, identity_key: bytes) -> None:
    try:
        proof = base64.b64decode(request.proof, validate=True)
        Ed25519PublicKey.from_public_bytes(identity_key).verify(proof, proof_content(request))
    except (InvalidSignature, binascii.Error, ValueError):
        text = "The enrolment is not signed by the identity key that it brings."
        raise EnrolmentRefused(text) from None
