"""What can go wrong between the controller and its database."""

from __future__ import annotations

from trainmaster.errors import TrainmasterError


class StoreUnavailable(TrainmasterError):
    """The database cannot be reached or cannot write now. Nothing was half-written; the whole transaction can be tried again."""


class CommitUnknown(StoreUnavailable):
    """The connection broke while COMMIT was under way: `Store.committed(this)` says, once it is back, which way it went."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        self.committed: bool | None = None  # found out by the next transaction


class LeaseLost(TrainmasterError):
    """Another controller has taken this store: stop at once, nothing can be committed any more."""
