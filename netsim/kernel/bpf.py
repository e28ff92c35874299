"""Packet filters: programs for the kernel's classic BPF machine, written by hand or compiled by libpcap.

ctypes and libpcap itself, not a compiler of our own: people know the language, pcap-filter(7), and the library's words.
Source: pcap_compile(3PCAP); Documentation/networking/filter.rst.
"""

import ctypes
import functools
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from netsim.model.errors import FeatureMissing, KernelError, UsageError

_SONAMES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")  # Debian, Fedora, Alpine with its -dev
_DLT_EN10MB = 1
_NETMASK_UNKNOWN = 0xFFFFFFFF
_SO_ATTACH_FILTER = 26
_RET_K = 0x06
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter; libpcap's struct bpf_insn is the same
# pcap_compile was not thread safe before libpcap 1.8; a filter takes microseconds.
_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class BpfProgram:
    """Instructions as the kernel takes them, 8 bytes each. A program returns how many bytes of a frame are kept."""

    code: bytes

    @classmethod
    def assemble(cls, instructions: Sequence[tuple[int, int, int, int]]) -> "BpfProgram":
        """From (code, jump if true, jump if false, k) of each."""
        return cls(b"".join(_INSTRUCTION.pack(*one) for one in instructions))

    def attach(self, sock: socket.socket) -> None:
        """Have ``sock`` receive only what the program keeps, from now on. Raises KernelError."""
        buffer = ctypes.create_string_buffer(self.code, len(self.code))
        program = struct.pack("HP", len(self.code) // _INSTRUCTION.size, ctypes.addressof(buffer))  # struct sock_fprog
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        except OSError as error:
            raise KernelError(f"packet filter: {error.strerror}", errno=error.errno or 0) from error


def keep_all(snaplen: int) -> BpfProgram:
    """Every frame, of each its first ``snaplen`` bytes."""
    return BpfProgram.assemble([(_RET_K, 0, 0, snaplen)])


class _Instructions(ctypes.Structure):
    """struct bpf_program (pcap/bpf.h)."""

    _fields_ = (("bf_len", ctypes.c_uint), ("bf_insns", ctypes.c_void_p))


@functools.cache
def load_library() -> ctypes.CDLL:
    """libpcap, with the types of what is used of it. Raises FeatureMissing."""
    for name in _SONAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = (ctypes.c_void_p,)
        library.pcap_close.argtypes = (ctypes.c_void_p,)
        library.pcap_compile.argtypes = (
            ctypes.c_void_p,
            ctypes.POINTER(_Instructions),
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_uint,
        )
        library.pcap_freecode.argtypes = (ctypes.POINTER(_Instructions),)
        return library
    raise FeatureMissing("libpcap", "packet filters need libpcap, which is not here", hint="apt install libpcap0.8")


def compile_filter(text: str, *, snaplen: int = 262144) -> BpfProgram:
    """A filter in libpcap's language (pcap-filter(7)) over Ethernet frames; keeps ``snaplen`` bytes of each match.

    Raises UsageError with libpcap's words, FeatureMissing without libpcap.
    """
    if "\0" in text:
        raise UsageError(f"packet filter {text!r}: no filter has a NUL")
    library = load_library()
    with _turn:
        handle = library.pcap_open_dead(_DLT_EN10MB, snaplen)
        if not handle:
            raise KernelError("packet filter: libpcap has no memory")
        program = _Instructions()
        try:
            if library.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, _NETMASK_UNKNOWN) != 0:
                words = (library.pcap_geterr(handle) or b"").decode(errors="replace")
                raise UsageError(
                    f'packet filter "{text}": {words}', hint="the language is that of tcpdump: man pcap-filter"
                )
            try:
                return BpfProgram(ctypes.string_at(program.bf_insns, program.bf_len * _INSTRUCTION.size))
            finally:
                library.pcap_freecode(ctypes.byref(program))
        finally:
            library.pcap_close(handle)
