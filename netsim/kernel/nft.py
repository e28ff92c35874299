"""nf_tables in a namespace through libnftables, in process: no fork, and the library's own words on failure.

ctypes and not the Debian package python3-nftables, which is the same few calls and is not on PyPI.
Source: libnftables(3).
"""

import ctypes
import errno
import json
import os
import re
import threading
from typing import Any, Self

from netsim.kernel.netns import Netns
from netsim.model.errors import FeatureMissing, KernelError

_SONAMES = ("libnftables.so.1",)
_STATELESS = 1 << 2
_HANDLES = 1 << 3
_JSON = 1 << 4
_TERSE = 1 << 11
# Parts of the library are one for the whole process (its cache of interface names, for one), so contexts of several
# namespaces must take turns. The kernel would serialise their commits anyway.
_turn = threading.Lock()
# In the text of a table: its flags, and the heads of what has JSON of its own
_FLAGS_LINE = re.compile(r"^\tflags (.+?)(?: #.*)?$", re.MULTILINE)
_PART_HEAD = re.compile(r"^\t(chain|set|map) (\S+) \{", re.MULTILINE)
_library: ctypes.CDLL | None = None


class Nft:
    """nft of one namespace. Thread safe; blocking, so for worker threads when the commands are many."""

    def __init__(self, ns: Netns) -> None:
        self.ns = ns
        self._context: int | None = None

    def run(self, commands: str) -> str:
        """Run commands as ``nft -f`` would, in one transaction; what they list comes back.

        Raises KernelError with nft's words (nothing has changed then), FeatureMissing without libnftables.
        """
        return self._run(commands, 0)

    def run_json(self, commands: str) -> str:
        """As `run`, with answers as JSON text (libnftables-json(5)), handles included. Not of tables: `list_table`."""
        return self._run(commands, _JSON | _HANDLES)

    def run_with_handles(self, commands: str) -> str:
        """As `run`; rules are listed with their handles, sets without their elements (nft -a -t)."""
        return self._run(commands, _HANDLES | _TERSE)

    def list_tables(self) -> list[tuple[str, str]]:
        """Family and name of every table. Raises as `run`."""
        lines = [line.split() for line in self.run("list tables").splitlines()]
        return [(family, name) for _, family, name, *_ in lines]

    def list_table(self, family: str, name: str) -> tuple[str, str]:
        """A table as JSON text, and as text with the handles of its rules. Raises as `run`.

        The JSON of one that has flags is put together from its parts: libnftables 1.0.6 frees a single flag before it
        prints it (table_flags_json, src/json.c), which is wrong words at best, and the end of the process at worst.
        """
        words = self.run_with_handles(f"list table {family} {name}")
        flags = _FLAGS_LINE.search(words)
        if flags is None:
            return self.run_json(f"list table {family} {name}"), words
        items: list[Any] = [{"table": {"family": family, "name": name, "flags": flags[1].replace(",", " ").split()}}]
        for kind, part in _PART_HEAD.findall(words):
            items += json.loads(self.run_json(f"list {kind} {family} {name} {part}"))["nftables"]
        return json.dumps({"nftables": items}), words

    def list_chain(self, family: str, table: str, chain: str) -> str:
        """A chain with the handles of its rules, without counters and the elements of named sets. Raises as `run`."""
        return self._run(f"list chain {family} {table} {chain}", _HANDLES | _STATELESS | _TERSE)

    def close(self) -> None:
        """Free the library's context and its socket; may be repeated."""
        if self._context is not None:
            with _turn:
                load_library().nft_ctx_free(self._context)
            self._context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _run(self, commands: str, flags: int) -> str:
        library = load_library()
        # Inside for every run, not only when the socket is made: names of interfaces are looked up where we are.
        with _turn, self.ns.entered():
            context = self._context or self._open(library)
            library.nft_ctx_output_set_flags(context, flags)
            status = library.nft_run_cmd_from_buffer(context, commands.encode())
            output = library.nft_ctx_get_output_buffer(context) or b""
            words = library.nft_ctx_get_error_buffer(context) or b""
        if status:
            raise _error(words.decode(errors="replace"), self.ns.name)
        return output.decode(errors="replace")

    def _open(self, library: ctypes.CDLL) -> int:
        context: int | None = library.nft_ctx_new(0)
        if not context:
            raise FeatureMissing("nft", "libnftables gave no context", where=self.ns.name)
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        self._context = context
        return context


def load_library() -> ctypes.CDLL:
    """libnftables. Raises FeatureMissing naming the package."""
    global _library  # noqa: PLW0603 - loaded once, when first needed
    if _library is not None:
        return _library
    for name in _SONAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        context = ctypes.c_void_p
        library.nft_ctx_new.restype = context
        library.nft_ctx_new.argtypes = (ctypes.c_uint32,)
        library.nft_ctx_free.argtypes = (context,)
        library.nft_ctx_free.restype = None
        library.nft_ctx_output_set_flags.argtypes = (context, ctypes.c_uint)
        library.nft_run_cmd_from_buffer.argtypes = (context, ctypes.c_char_p)
        for function in (library.nft_ctx_buffer_output, library.nft_ctx_buffer_error):
            function.argtypes = (context,)
        for function in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
            function.argtypes = (context,)
            function.restype = ctypes.c_char_p
        _library = library
        return library
    raise FeatureMissing(
        "nft",
        "the library libnftables is not installed",
        hint="install it: apt install libnftables1 (Debian, Ubuntu), dnf install nftables (Fedora)",
    )


def _error(words: str, where: str) -> KernelError:
    """The kernel's errno is only in the text: the first line ends with strerror's words."""
    text = words.strip() or "nft failed without saying why"
    first = text.splitlines()[0]
    number = next((code for code in errno.errorcode if first.endswith(": " + os.strerror(code))), 0)
    if number == 0:
        number = next((code for code in errno.errorcode if os.strerror(code) in first), errno.EINVAL)
    return KernelError(f"nft: {text}", errno=number, where=where)
