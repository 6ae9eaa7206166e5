"""Sealing protected values to their machine, before anything of a request is stored."""

from collections.abc import Sequence
from uuid import UUID

from enjoin.model.command import SealedValue, Secret
from enjoin.model.identity import new_uuid7
from enjoin.model.machine import Machine
from enjoin.protocol.sealing import seal, seal_info


def seal_parameters(secrets: Sequence[Secret], *, machine: Machine, incarnation_id: UUID) -> tuple[SealedValue, ...]:
    """Return the sealed values in the same order; only the machine's sealing key opens them."""
    return tuple(
        _seal(secret, f"protectedParameters[{position}]", machine=machine, incarnation_id=incarnation_id)
        for position, secret in enumerate(secrets)
    )


def _seal(secret: Secret, field: str, *, machine: Machine, incarnation_id: UUID) -> SealedValue:
    seal_id = new_uuid7()
    info = seal_info(
        machine_id=machine.id,
        key_id=machine.sealing_key_id,
        incarnation_id=incarnation_id,
        field=field,
        seal_id=seal_id,
    )
    ciphertext = seal(secret.value.encode(), sealing_key=machine.sealing_key, info=info)
    return SealedValue(id=seal_id, name=secret.name, field=field, key_id=machine.sealing_key_id, ciphertext=ciphertext)
