"""Who may write: one row that names the holder, until when, and a fencing epoch that ascends with every holder.

The epoch, not the clock, is what keeps two controllers apart: every write transaction begins by updating this row on condition
that the epoch is still its own, which also locks the row until the commit. A holder whose time has run out but whom nobody has
replaced may go on.
"""

from __future__ import annotations

import os
import secrets
import socket

from sqlalchemy import Connection, bindparam, select, update

from trainmaster.errors import Conflict
from trainmaster.live.store.errors import LeaseLost
from trainmaster.live.store.tables import lease

HELD: set[str] = set()  # tokens of the leases that this process holds

FENCE = (
    update(lease)
    .where(lease.c.id == 1, lease.c.epoch == bindparam("own"))
    .values(until_s=bindparam("until"), transactions=lease.c.transactions + 1)
    .returning(lease.c.transactions)
)
RENEW = (
    update(lease)
    .where(lease.c.id == 1, lease.c.epoch == bindparam("own"))
    .values(until_s=bindparam("until"))
    .returning(lease.c.transactions)
)
LEAVE = update(lease).where(lease.c.id == 1, lease.c.epoch == bindparam("own")).values(owner=None, token=None, until_s=0.0)


class Lease:
    def __init__(self, owner: str, epoch: int, token: str, lease_s: float) -> None:
        self.owner, self.epoch, self.token, self.lease_s = owner, epoch, token, lease_s

    def fence(self, connection: Connection, now_s: float) -> int:
        """First statement of a write transaction: its number, if the lease is still ours. Renews it too."""
        number = connection.execute(FENCE, {"own": self.epoch, "until": now_s + self.lease_s}).scalar()
        if number is None:
            raise LeaseLost(self.lost(connection))
        return int(number)

    def renew(self, connection: Connection, now_s: float) -> int:
        """How many transactions were ever committed."""
        transactions = connection.execute(RENEW, {"own": self.epoch, "until": now_s + self.lease_s}).scalar()
        if transactions is None:
            raise LeaseLost(self.lost(connection))
        return int(transactions)

    def leave(self, connection: Connection) -> None:
        """Free for the next, at once."""
        connection.execute(LEAVE, {"own": self.epoch})

    def lost(self, connection: Connection) -> str:
        other = connection.execute(select(lease.c.owner)).scalar()
        return f"{self.owner} no longer controls this store: {other or 'another'} has taken it over; this controller must stop"


def refuse_if_held(connection: Connection, where: str, now_s: float) -> None:
    """Raise Conflict while another controller holds the store."""
    row = connection.execute(select(lease).with_for_update()).one()
    left_s = row.until_s - now_s
    if row.owner is not None and left_s > 0 and not is_gone(row.owner, row.token):
        raise Conflict(f"{where} is held by the controller {row.owner}, for {left_s:.0f} s more unless it renews; stop that one first")


def take(connection: Connection, owner: str, lease_s: float, now_s: float) -> Lease:
    token = secrets.token_hex(16)
    epoch = connection.execute(
        update(lease).values(owner=owner, token=token, epoch=lease.c.epoch + 1, until_s=now_s + lease_s).returning(lease.c.epoch)
    ).scalar_one()
    return Lease(owner, epoch, token, lease_s)


def is_gone(owner: str, token: str | None) -> bool:
    """Whether the owner, if it is host:pid of this host, has died. A pid that another process has since got counts as alive."""
    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname() or not pid.isdecimal() or int(pid) == 0:
        return False
    if int(pid) == os.getpid():  # us, or one that had our pid before (in a container that is always 1)
        return token not in HELD
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
