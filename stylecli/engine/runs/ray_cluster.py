"""Ray itself: imported as it has to be, and joined, or started for one run.

A cluster is joined where ``RAY_ADDRESS`` names it (``auto`` is one that runs on this machine) and
nowhere else, so that one that is started here can have a token that nobody else knows.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stylecli.errors import UsageError

ADDRESS = "RAY_ADDRESS"
# Only jobs and rows are kept in it.
STORE_BYTES = 256 * 2**20


def imported(environ: MutableMapping[str, str]) -> Any:
    """Ray, told what it reads from the environment and only when it is imported.

    Raises:
        UsageError: It is not installed.
    """
    environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # It would tell of deaths on stdout, among the results.
    environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    if not environ.get(ADDRESS):
        # Ray listens on every network of the machine. A token of its own making it would keep for
        # good, in a file that only the rights of the home folder protect.
        environ.setdefault("RAY_AUTH_MODE", "token")
        environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(
            "--engine ray: Ray is not installed", fix="pip install 'stylecli[ray]'"
        ) from error
    # What a user is to know of it, this module says.
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray


@contextmanager
def joined(ray: Any, environ: Mapping[str, str]) -> Iterator[None]:
    """Be part of the cluster of ``RAY_ADDRESS``, else of one that lasts as long as the block.

    Raises:
        UsageError: It does not answer.
    """
    if ray.is_initialized():
        yield
        return
    options = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    with _own_signals(), _hushed():
        if address := environ.get(ADDRESS):
            try:
                ray.init(address=address, **options)
            except ConnectionError as error:
                raise UsageError(
                    f"{ADDRESS}={address}: no cluster answers there",
                    fix=f"start it, or unset {ADDRESS} to use this machine alone",
                ) from error
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                **options,
            )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray would answer SIGTERM in its own way, and a command has its own already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _hushed() -> Iterator[None]:
    """Ray's core says how loud it is to be, past Python, to stderr."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
