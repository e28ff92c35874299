"""Control messages: JSON with file descriptors, small and large, and errors that keep their kind."""

import os
import socket

import pytest

from netsim.cluster import wire
from netsim.model.errors import (
    ApiError,
    FeatureMissing,
    KernelError,
    NetsimError,
    TimeoutExpired,
    UsageError,
    not_found,
)


@pytest.mark.parametrize("size", [1, wire.PACKET_MAX_BYTES - 100, wire.PACKET_MAX_BYTES, 1_000_000])
def test_a_message_of_any_size_arrives_with_its_descriptors(size: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    with ours, theirs, os.fdopen(read, "rb") as reader:
        wire.send(ours, {"text": "x" * size}, [write])
        os.close(write)
        received = wire.receive(theirs)
        assert received is not None
        message, fds = received
        assert message == {"text": "x" * size}
        os.write(fds[0], b"through")
        os.close(fds[0])
        assert reader.read() == b"through"


def test_the_end_of_a_connection_is_none() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with theirs:
        assert wire.receive(theirs) is None


@pytest.mark.parametrize(
    "error",
    [
        NetsimError("no", where="pod/a", hint="try"),
        UsageError("wrong", hint="right"),
        TimeoutExpired("late"),
        not_found("pods", "", "web"),
        FeatureMissing("ipvs", "no", hint="load it"),
        KernelError("refused", errno=2),
    ],
)
def test_an_error_comes_back_with_its_words_and_exit_status(error: NetsimError) -> None:
    rebuilt = wire.rebuild_error(wire.describe_error(error))
    assert type(rebuilt) is type(error)
    assert str(rebuilt) == str(error)
    assert rebuilt.exit_status == error.exit_status
    if isinstance(error, ApiError):
        assert isinstance(rebuilt, ApiError)
        assert (rebuilt.code, rebuilt.reason, rebuilt.details) == (error.code, error.reason, error.details)
