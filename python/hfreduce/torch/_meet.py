"""How the ranks of a torch group become a communicator: rank 0 says through torch's store where to meet.

Knows torch's stores and nothing of collectives. A failure of rank 0 to listen is passed on, so that the others fail at once with its
reason instead of waiting for a message that never comes.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Optional

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.constants import default_pg_timeout

from .._native import Communicator, UniqueId

_KEY = "hfreduce/meet"
_REFUSED = b"refused:"


def meet(options: Any) -> Communicator:
    """The communicator of the group that `options` (torch's _DistributedBackendOptions) describe."""
    rank, size, store = options.group_rank, options.group_size, options.store
    if rank == 0:
        identity = _invite(store)
    else:
        identity = store.get(_KEY)
        if identity.startswith(_REFUSED):
            reason = identity[len(_REFUSED) :].decode(errors="replace")
            raise RuntimeError(f"backend hfr: rank 0 of group {options.group_id} cannot be met: {reason}")
    limit = _limit(options.timeout)
    connect = None if "HFR_CONNECT_TIMEOUT" in os.environ else options.timeout.total_seconds()
    return Communicator.join(identity, rank, size, timeout=limit, connect_timeout=connect)


def _invite(store: Any) -> bytes:
    try:
        identity = UniqueId.create(near=_master(store)).to_bytes()
    except Exception as error:
        store.set(_KEY, _REFUSED + str(error).encode())
        raise
    store.set(_KEY, identity)
    return identity


def _master(store: Any) -> Optional[str]:
    """The host that all ranks have reached already: the one the store is on."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if isinstance(store, TCPStore):
        return store.host
    return os.environ.get("MASTER_ADDR")


def _limit(timeout: timedelta) -> Optional[float]:
    """Seconds without progress before an operation fails. HFR_TIMEOUT counts where the program has not chosen a timeout itself."""
    if "HFR_TIMEOUT" in os.environ and timeout == default_pg_timeout:
        return None
    return timeout.total_seconds()
