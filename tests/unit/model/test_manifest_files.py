"""Where manifests come from: files, directories, standard input; and what is said when there are none."""

import io
import sys
from pathlib import Path

import pytest

from netsim.client.manifest_files import read_manifests
from netsim.model.errors import InputError, UsageError


def document(name: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n"


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{document('a')}---\n{document('b')}")
    assert [(o.name, o.where) for o in read_manifests(path)] == [("a", f"{path}:1"), ("b", f"{path}:6")]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + document("a").encode())
    assert [o.name for o in read_manifests(path)] == ["a"]


def test_a_directory_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("2.yml", "1.yaml", "3.json", "notes.txt"):
        (tmp_path / name).write_text(document(f"o{name[0]}"))
    (tmp_path / "deeper.yaml").mkdir()
    assert [o.name for o in read_manifests(tmp_path)] == ["o1", "o2", "o3"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(document("a").encode())))
    (found,) = read_manifests("-")
    assert found.where == "<stdin>:1"


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        (b"", "a.yaml", "no objects"),
        (b"# nothing\n---\n", "a.yaml", "no objects"),
        (b"a: 1\nb: \xff\n", "a.yaml:2", "byte 0xff is not UTF-8"),
    ],
)
def test_files_without_objects(tmp_path: Path, content: bytes, where: str, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_manifests(path)
    assert caught.value.where == str(tmp_path / where)
    assert words in caught.value.message
    assert caught.value.hint


def test_no_such_file_and_no_manifests_in_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        read_manifests(tmp_path / "nope.yaml")
    with pytest.raises(InputError, match="no manifests in this directory"):
        read_manifests(tmp_path)


def test_nothing_is_downloaded() -> None:
    with pytest.raises(UsageError, match="does not download"):
        read_manifests("https://example.com/web.yaml")
