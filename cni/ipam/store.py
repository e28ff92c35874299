"""The address store: one file for each address, readable with ``ls`` and ``cat``, safe against ``kill -9``.

    DIR/lock                     flock: held for every change, released by the kernel with its holder
    DIR/10.244.1.5               "CONTAINERID\\r\\nIFNAME": the address is reserved
    DIR/last_reserved_ip.0       where the next search in range set 0 begins
    DIR/.attachments/ID~IFNAME   what this attachment holds: {"ips": [...], ...}
    DIR/.attachments/.complete   every address file of this directory has its record

Addresses, lock and last_reserved_ip are host-local's own layout, so both can take over from each other. The records
are ours: host-local finds the addresses of a container by reading every file, 1,000 for each ADD on a full node.

What a crash can leave, and why it is harmless: files appear by rename only, so none is ever half written; a record is
written *before* its addresses and removed *after* them, so an address always has a record that DEL finds, and a record
whose addresses are missing or another's says nothing. An empty address file, which host-local leaves when it is killed
(plugins #498), is taken back.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from cni.ipam.ranges import Addr, parse_addr
from cni.types import IO_FAILURE, CniError

_RECORDS = ".attachments"
_COMPLETE = ".complete"
_LAST = "last_reserved_ip."
_NEW = ".new"  # only ever written under the lock
_NAME_MAX_BYTES = 255


class Owner(NamedTuple):
    """An attachment: container and interface."""

    container_id: str
    ifname: str

    @property
    def content(self) -> str:
        """What an address file says."""
        return f"{self.container_id}\r\n{self.ifname}"

    @property
    def record_name(self) -> str:
        """The name of its record: ``ID~IFNAME``, or a hash where that is too long; ``~`` is in no container ID."""
        name = f"{self.container_id}~{self.ifname}"
        if len(name.encode()) <= _NAME_MAX_BYTES:
            return name
        return "sha256~" + hashlib.sha256(name.encode()).hexdigest()


class Store:
    """The addresses of one network. Use it in a ``with`` block: that takes the lock. CniError on I/O failures."""

    def __init__(self, data_dir: str, network: str, *, create: bool = True) -> None:
        """``create`` False: for DEL and the like, which make no directory; see ``exists``."""
        self.path = os.path.join(data_dir, network)
        self._create = create
        self._lock = -1
        self._names: set[str] | None = None
        self.exists = False

    def __enter__(self) -> "Store":
        try:
            self._open()
        except OSError as error:
            self._close()
            raise _io_error("cannot open the address store", self.path, error) from None
        return self

    def _open(self) -> None:
        lock = os.path.join(self.path, "lock")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self._lock = os.open(lock, flags, 0o600)
        except FileNotFoundError:
            if not self._create:
                return
            os.makedirs(self.path, 0o755, exist_ok=True)
            self._lock = os.open(lock, flags, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.exists = True
        if not os.path.lexists(os.path.join(self.path, _RECORDS, _COMPLETE)):
            self._adopt()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)  # and with it the lock
            self._lock = -1

    def _adopt(self) -> None:
        """Writes the records of a directory that host-local filled, or that is new."""
        os.makedirs(os.path.join(self.path, _RECORDS), 0o755, exist_ok=True)
        held: dict[Owner, list[str]] = {}
        for name in self._addresses():
            owner = self._owner(name)
            if owner:
                held.setdefault(owner, []).append(name)
        for owner, names in held.items():
            if self.record(owner) is None:
                self._write_record(owner, {"ips": names})
        self._write(os.path.join(_RECORDS, _COMPLETE), "")

    # -- reading

    def _addresses(self) -> Iterator[str]:
        for name in os.listdir(self.path):
            if name[0] in "0123456789abcdef:":  # most other files begin otherwise
                try:
                    parse_addr(name, name)
                except CniError:
                    continue
                yield name

    def _owner(self, address: str) -> Owner | None:
        """Who holds an address; None if nobody, or the file is empty. Old files have the container only."""
        text = self._read(address)
        container, _, ifname = (text or "").strip().partition("\n")
        return Owner(container.strip(), ifname.strip()) if container.strip() else None

    def _read(self, name: str) -> str | None:
        try:
            with open(os.path.join(self.path, name), encoding="utf-8", errors="replace", newline="") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def is_taken(self, address: Addr) -> bool:
        """Whether somebody holds the address."""
        name = str(address)
        if self._names is None:
            if not os.path.lexists(os.path.join(self.path, name)):
                return False
            # From the second look on one listing is cheaper than asking for each address.
            self._names = set(self._addresses())
        return name in self._names

    def reclaim(self) -> bool:
        """Takes back address files without an owner; whether there were any. For when no address is left."""
        empty = [name for name in self._addresses() if self._owner(name) is None]
        for name in empty:
            os.unlink(os.path.join(self.path, name))
        self._names = None
        return bool(empty)

    def last_reserved(self, index: int) -> Addr | None:
        """The address reserved last in a range set, None if that is not known."""
        text = self._read(f"{_LAST}{index}")
        try:
            return parse_addr(text.strip(), _LAST) if text else None
        except CniError:
            return None  # whatever it says, it only decides where the search begins

    def record(self, owner: Owner) -> dict[str, Any] | None:
        """What an attachment holds, None if it has no record, or one that a power cut made empty."""
        text = self._read(os.path.join(_RECORDS, owner.record_name))
        try:
            body = json.loads(text) if text else None
        except ValueError:
            return None
        return body if isinstance(body, dict) else None

    def held(self, owner: Owner) -> list[str]:
        """The addresses that an attachment really holds."""
        record = self.record(owner)
        # Without a record every file is read: it may be host-local's since we last looked, or a power cut's victim.
        names = record.get("ips", ()) if record else list(self._addresses())
        return [name for name in names if self._owner(name) in (owner, Owner(owner.container_id, ""))]

    def is_attached(self, owner: Owner) -> bool:
        """Whether an attachment holds addresses, by its record alone: ADD asks this, and reads no other file."""
        return self.record(owner) is not None and bool(self.held(owner))

    def owners(self) -> list[Owner]:
        """Every attachment with a record."""
        found = []
        for name in os.listdir(os.path.join(self.path, _RECORDS)):
            container, separator, ifname = name.partition("~")
            if separator and container != "sha256":
                found.append(Owner(container, ifname))
            elif separator:
                body = json.loads(self._read(os.path.join(_RECORDS, name)) or "{}")
                found.append(Owner(body.get("containerID", ""), body.get("ifname", "")))
        return found

    # -- writing

    def reserve(self, owner: Owner, addresses: Sequence[tuple[int, Addr]], extra: Mapping[str, Any]) -> None:
        """Reserves addresses, each with the index of its range set; ``extra`` goes into the record.

        CniError on I/O failures, with nothing reserved.
        """
        names = [str(address) for _, address in addresses]
        try:
            self._write_record(owner, {"ips": names, **extra})
            for name in names:
                self._write(name, owner.content)
            for index, address in addresses:
                self._write(f"{_LAST}{index}", str(address))
        except OSError as error:
            self.release(owner)
            raise _io_error("cannot reserve an address", self.path, error) from None

    def release(self, owner: Owner) -> None:
        """Frees what the attachment holds, then forgets it. CniError on I/O failures."""
        try:
            for name in self.held(owner):
                os.unlink(os.path.join(self.path, name))
            for name in (os.path.join(_RECORDS, owner.record_name), _NEW):
                try:
                    os.unlink(os.path.join(self.path, name))
                except FileNotFoundError:
                    continue
        except OSError as error:
            raise _io_error("cannot release an address", self.path, error) from None

    def _write_record(self, owner: Owner, body: dict[str, Any]) -> None:
        if owner.record_name.startswith("sha256~"):
            body = {"containerID": owner.container_id, "ifname": owner.ifname, **body}
        self._write(os.path.join(_RECORDS, owner.record_name), json.dumps(body))

    def _write(self, name: str, content: str) -> None:
        """Lets a file appear whole. O_TMPFILE would do as well, but not every file system under /var has it."""
        temporary = os.path.join(self.path, _NEW)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        data = content.encode()
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), temporary)
        finally:
            os.close(fd)
        os.rename(temporary, os.path.join(self.path, name))


def _io_error(what: str, path: str, error: OSError) -> CniError:
    return CniError(IO_FAILURE, f"{what}: {error.strerror}", error.filename or path)
