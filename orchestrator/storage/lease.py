"""One process at a time works in a folder: it holds the folder's lease, and renews it while it lives."""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator import storage
from orchestrator.errors import UserError
from orchestrator.storage.conditional import read_version, write_over

LEASE_FILE = ".lease.json"
LEASE_SECONDS = 60.0
"""A lease that is not renewed for so long has ended; its holder may be on another machine."""
WAIT_SECONDS = 1.0
RENEWALS = 4
"""How often a lease is renewed before it would end."""
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
logger = logging.getLogger(__name__)


class HeldError(UserError):
    """Another process holds the lease."""


@contextmanager
def holding(folder: str, what: str, setting: str, waits: bool = False) -> Iterator[None]:
    """Hold the lease of a folder.

    A holder that died is followed at once where it ran on this machine, otherwise when it has not renewed its
    lease for a minute.

    Args:
        what: what the folder is, such as a run.
        setting: the option that names the folder.
        waits: whether to wait while another process holds it.

    Raises:
        HeldError: another process holds it, and this one does not wait.
        UserError: the folder cannot be written.
    """
    lease, is_held, is_said = _Lease(storage.join(folder, LEASE_FILE)), False, False
    try:
        while not is_held:
            try:
                lease.take(what, folder, setting)
                is_held = True
            except HeldError as held:
                if not waits:
                    raise
                if not is_said:
                    logger.info("%s It is waited for.", str(held).partition(". ")[0] + ".")
                is_said = True
                time.sleep(WAIT_SECONDS)
    except OSError as error:
        raise UserError(
            f"The {what}'s folder {folder} cannot be written ({error}). Choose another with {setting}."
        ) from error
    storage.delete_left_aside(folder)
    stop = threading.Event()
    renewing = threading.Thread(target=lease.keep, args=(stop,), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        lease.give_back()


def sign_of_life(folder: str) -> str | None:
    """A text that changes while the holder of a folder's lease lives; None where nobody holds it."""
    found = read_version(storage.join(folder, LEASE_FILE))
    return found[1] if found else None


class _Lease:
    def __init__(self, path: str) -> None:
        self._path = path
        self._mine: dict[str, Any] = {
            "token": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "boot": BOOT_FILE.read_text().strip() if BOOT_FILE.exists() else "",
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "renewals": 0,
        }

    def take(self, what: str, folder: str, setting: str) -> None:
        """Take the lease, from a holder that died if need be."""
        seen: str | None = None
        ended: str | None = None  # The version of a lease that has ended, to be written over.
        seen_at = time.monotonic()
        while not self._write_over(ended):
            found = read_version(self._path)
            if found is None:
                ended = None
                continue
            content, version = found
            holder = _parse(content)
            if seen is not None and seen != version:
                raise _refused(holder, what, folder, setting)  # It was renewed, so its holder lives.
            if seen is None:
                seen = version
                is_here = (
                    holder.get("host") == self._mine["host"] and holder.get("boot") == self._mine["boot"]
                )
                if is_here and _is_alive(holder):
                    raise _refused(holder, what, folder, setting)
                if is_here:
                    ended = version
                    continue
                logger.warning(
                    "The %s %s was last held by process %s on %s. It is taken over if that does not stir "
                    "within %.0f seconds.",
                    what, folder, holder.get("pid"), holder.get("host"), LEASE_SECONDS,
                )  # fmt: skip
            if time.monotonic() - seen_at > LEASE_SECONDS:
                ended = version
            else:
                time.sleep(LEASE_SECONDS / RENEWALS / 4)

    def keep(self, stop: threading.Event) -> None:
        """Renew the lease until ``stop``; where another process has taken it, end this one."""
        while not stop.wait(LEASE_SECONDS / RENEWALS):
            try:
                holder = self._renew()
                if holder is not None:
                    logger.error(
                        "Process %s on %s has taken over %s, because this one did not renew its lease. This "
                        "one stops.",
                        holder.get("pid"), holder.get("host"), self._path,
                    )  # fmt: skip
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            except OSError as error:
                logger.warning("The lease %s could not be renewed; it is tried again. %s", self._path, error)

    def give_back(self) -> None:
        """Remove the lease, if it is this one's."""
        with suppress(OSError):
            found = read_version(self._path)
            if found is not None and _parse(found[0]).get("token") == self._mine["token"]:
                storage.delete_file(self._path)

    def _renew(self) -> dict[str, Any] | None:
        """Renew the lease, or return who has taken it."""
        self._mine["renewals"] += 1
        found = read_version(self._path)
        holder = _parse(found[0]) if found else None
        if holder is not None and holder.get("token") != self._mine["token"]:
            return holder
        if storage.is_local(self._path) and holder is not None:
            # In one step, so that nobody finds the folder without a lease.
            storage.write_bytes(self._path, json.dumps(self._mine).encode())
        else:
            self._write_over(found[1] if found else None)
        return None

    def _write_over(self, version: str | None) -> bool:
        write_over(self._path, json.dumps(self._mine).encode(), version)
        found = read_version(self._path)
        # A request whose answer was lost is sent again, and then meets what it has written itself.
        return found is not None and _parse(found[0]).get("token") == self._mine["token"]


def _parse(content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except ValueError:
        return {}


def _is_alive(holder: dict[str, Any]) -> bool:
    try:
        # A process number is given to others after a while; the start tells them apart.
        return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1
    except psutil.NoSuchProcess:
        return False


def _refused(holder: dict[str, Any], what: str, folder: str, setting: str) -> HeldError:
    return HeldError(
        f"The {what} {folder} is being worked on by process {holder.get('pid')} on {holder.get('host')}, "
        f"since {holder.get('since')}. Wait until that ends, or stop it, and start this command again. Or "
        f"choose another folder with {setting}. Nothing was changed."
    )
