"""The address store on a real file system: its layout, and what a crash or another program may have left in it."""

import json
import os
from pathlib import Path

import pytest

from cni.ipam.ranges import Addr, parse_addr
from cni.ipam.store import Owner, Store
from cni.types import CniError

C1, C2 = Owner("c1", "eth0"), Owner("c2", "eth0")


def addr(text: str) -> Addr:
    return parse_addr(text, "test")


def reserve(data_dir: Path, owner: Owner, *addresses: str) -> None:
    with Store(str(data_dir), "net") as store:
        store.reserve(owner, [(i, addr(a)) for i, a in enumerate(addresses)], {"masquerade": False})


def files(data_dir: Path) -> set[str]:
    return {str(p.relative_to(data_dir / "net")) for p in (data_dir / "net").rglob("*") if p.is_file()}


def held(data_dir: Path, owner: Owner) -> list[str]:
    with Store(str(data_dir), "net") as store:
        return sorted(store.held(owner))


def release(data_dir: Path, owner: Owner) -> None:
    with Store(str(data_dir), "net") as store:
        store.release(owner)


def test_the_layout_is_host_locals(tmp_path: Path) -> None:
    reserve(tmp_path, C1, "10.1.2.2", "fd00::2")
    net = tmp_path / "net"
    assert (net / "10.1.2.2").read_bytes() == b"c1\r\neth0"
    assert (net / "fd00::2").read_bytes() == b"c1\r\neth0"
    assert (net / "last_reserved_ip.0").read_text() == "10.1.2.2"
    assert (net / "last_reserved_ip.1").read_text() == "fd00::2"
    assert (net / "lock").exists()


def test_release_leaves_lock_and_last_reserved_alone(tmp_path: Path) -> None:
    reserve(tmp_path, C1, "10.1.2.2", "fd00::2")
    release(tmp_path, C1)
    release(tmp_path, C1)
    assert files(tmp_path) == {"lock", "last_reserved_ip.0", "last_reserved_ip.1", ".attachments/.complete"}


def test_each_interface_of_a_container_has_its_own_address(tmp_path: Path) -> None:
    reserve(tmp_path, C1, "10.1.2.2")
    reserve(tmp_path, Owner("c1", "eth1"), "10.1.2.3")
    release(tmp_path, C1)
    assert held(tmp_path, Owner("c1", "eth1")) == ["10.1.2.3"]


def test_long_container_ids_have_records_too(tmp_path: Path) -> None:
    long = Owner("c" * 250, "eth0")
    reserve(tmp_path, long, "10.1.2.2")
    with Store(str(tmp_path), "net") as store:
        assert store.owners() == [long]
        store.release(long)
        assert store.owners() == []


def make_host_local_directory(tmp_path: Path) -> Path:
    net = tmp_path / "net"
    net.mkdir()
    (net / "10.1.2.2").write_bytes(b"c1\r\neth0")
    (net / "10.1.2.3").write_bytes(b" c2\n")  # host-local before 0.8 wrote the ID only
    (net / "10.1.2.4").write_bytes(b"")  # killed between creating and writing
    (net / "last_reserved_ip.0").write_text("10.1.2.4")
    return net


def test_a_directory_of_host_local_is_taken_over(tmp_path: Path) -> None:
    net = make_host_local_directory(tmp_path)
    with Store(str(tmp_path), "net") as store:
        assert store.is_attached(C1)
        assert store.held(C2) == ["10.1.2.3"]
        store.release(C2)
        store.release(C1)
    assert {p.name for p in net.iterdir() if p.is_file()} == {"10.1.2.4", "last_reserved_ip.0", "lock"}


def test_empty_address_files_are_taken_back(tmp_path: Path) -> None:
    net = make_host_local_directory(tmp_path)
    with Store(str(tmp_path), "net") as store:
        assert store.is_taken(addr("10.1.2.4"))
        assert store.reclaim()
        assert not store.is_taken(addr("10.1.2.4"))
        assert not store.reclaim()
    assert (net / "10.1.2.2").exists()


def test_an_address_host_local_added_behind_our_back_is_found(tmp_path: Path) -> None:
    reserve(tmp_path, C1, "10.1.2.2")
    (tmp_path / "net" / "10.1.2.3").write_bytes(b"c2\r\neth0")
    assert held(tmp_path, C2) == ["10.1.2.3"]
    release(tmp_path, C2)
    assert not (tmp_path / "net" / "10.1.2.3").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "5"])
def test_a_record_that_a_power_cut_ruined_loses_no_address(tmp_path: Path, content: str) -> None:
    reserve(tmp_path, C1, "10.1.2.2")
    (tmp_path / "net" / ".attachments" / "c1~eth0").write_text(content)
    assert held(tmp_path, C1) == ["10.1.2.2"]
    release(tmp_path, C1)
    assert not (tmp_path / "net" / "10.1.2.2").exists()


def test_a_record_alone_holds_nothing_and_frees_nothing_of_others(tmp_path: Path) -> None:
    reserve(tmp_path, C1, "10.1.2.2")
    record = tmp_path / "net" / ".attachments" / "c2~eth0"
    record.write_text(json.dumps({"ips": ["10.1.2.2", "10.1.2.9"]}))
    with Store(str(tmp_path), "net") as store:
        assert not store.is_attached(C2)
        store.release(C2)
    assert held(tmp_path, C1) == ["10.1.2.2"]
    assert not record.exists()


def test_a_half_written_file_is_never_taken_for_one(tmp_path: Path) -> None:
    reserve(tmp_path, C1, "10.1.2.2")
    (tmp_path / "net" / ".new").write_text("c1\r\n")
    reserve(tmp_path, C2, "10.1.2.3")
    assert held(tmp_path, C2) == ["10.1.2.3"]
    assert ".new" not in files(tmp_path)


@pytest.mark.parametrize("text", ["", "nonsense", "10.1.2.", "10.1.2.777"])
def test_a_ruined_last_reserved_address_is_none(tmp_path: Path, text: str) -> None:
    reserve(tmp_path, C1, "10.1.2.2")
    (tmp_path / "net" / "last_reserved_ip.0").write_text(text)
    with Store(str(tmp_path), "net") as store:
        assert store.last_reserved(0) is None


def test_without_create_nothing_appears(tmp_path: Path) -> None:
    with Store(str(tmp_path), "net", create=False) as store:
        assert not store.exists
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_clean_error(tmp_path: Path) -> None:
    reserve(tmp_path, C1, "10.1.2.2")
    os.symlink("/dev/full", tmp_path / "net" / ".new")  # every write through it fails with ENOSPC
    with Store(str(tmp_path), "net") as store, pytest.raises(CniError) as failure:
        store.reserve(C2, [(0, addr("10.1.2.3"))], {})
    assert failure.value.code == 5
    assert "No space left on device" in failure.value.summary
    assert held(tmp_path, C2) == []
    assert held(tmp_path, C1) == ["10.1.2.2"]


def test_a_directory_that_cannot_be_made_is_an_io_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CniError) as failure, Store(str(tmp_path / "file"), "net"):
        pass
    assert failure.value.code == 5
