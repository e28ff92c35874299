"""Files that results are written to: whole or as before, and what is no file is written to and not replaced."""

from pathlib import Path

import pytest

from netsim.cli.files import check_writable, write_file
from netsim.model.errors import NetsimError


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "way.json"
    file.write_text("a longer text that was there before")
    file.chmod(0o640)
    write_file(str(file), "new")
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["way.json"]


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    file, link = tmp_path / "way.json", tmp_path / "last.json"
    file.write_text("old")
    link.symlink_to(file)
    write_file(str(link), "new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "full"
    device.symlink_to("/dev/full")  # never the device itself: a fault here would take it away from the machine
    with pytest.raises(NetsimError, match="No space left on device"):
        write_file(str(device), "text")
    assert device.is_char_device()


@pytest.mark.parametrize(("name", "words"), [("", "it is a folder"), ("none/way.json", "there is no such folder")])
def test_what_can_not_be_written_is_told_first(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(NetsimError, match=words):
        check_writable(str(tmp_path / name))
