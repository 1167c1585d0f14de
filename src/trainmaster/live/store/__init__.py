"""The live cluster's store: what must survive the controller. `Store` is the way in; everything else here is its parts."""

from trainmaster.live.store.errors import CommitUnknown, LeaseLost, StoreUnavailable
from trainmaster.live.store.rows import (
    ActiveJobs,
    AttemptRow,
    Copy,
    DecisionRow,
    JobRow,
    NewEvent,
    NewJob,
    NodeMark,
    PolicyMemory,
    TokenRow,
    Usage,
)
from trainmaster.live.store.store import Store
from trainmaster.live.store.transaction import Transaction

__all__ = [
    "ActiveJobs", "AttemptRow", "CommitUnknown", "Copy", "DecisionRow", "JobRow", "LeaseLost", "NewEvent", "NewJob", "NodeMark",
    "PolicyMemory", "Store", "StoreUnavailable", "TokenRow", "Transaction", "Usage",
]  # fmt: skip
