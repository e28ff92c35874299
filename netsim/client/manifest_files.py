"""Where manifests come from: a file, a directory of them, or standard input."""

import sys
from pathlib import Path

from netsim.model.errors import InputError, UsageError
from netsim.model.manifests import SourceObject, parse_manifests

SUFFIXES = (".yaml", ".yml", ".json")  # what kubectl takes from a directory
STDIN = "-"


def read_manifests(source: str | Path) -> list[SourceObject]:
    """The objects of ``source``, in order: a file, ``-`` for standard input, or a directory, whose files
    ending in .yaml, .yml or .json are read in the order of their names (its subdirectories are not).

    Raises InputError (no such file, not text, nothing in it, and what ``parse_manifests`` raises) and
    UsageError (a URL).
    """
    text = str(source)
    if not text:
        raise UsageError("the name of a manifest is empty", hint="for this directory say: -f .")
    if text == STDIN:
        found = parse_manifests(_decode(sys.stdin.buffer.read(), "<stdin>"), "<stdin>")
        return _something(found, "<stdin>", "is anything written into the pipe?")
    if text.startswith(("http://", "https://")):
        raise UsageError(f"{text}: netsim does not download manifests", hint=f"curl -s {text} | netsim apply -f -")
    path = Path(source)
    if not path.is_dir():
        return _something(_read_file(path), text, "it is empty or has comments only")
    files = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES and entry.is_file())
    if not files:
        raise InputError("no manifests in this directory", where=text, hint=f"files must end in {', '.join(SUFFIXES)}")
    found = [source_object for file in files for source_object in _read_file(file)]
    return _something(found, text, "its files are empty or have comments only")


def read_text(path: Path) -> str:
    """What is written in a file of YAML or JSON. Raises InputError: it can not be read, or is not UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path), hint="check the path") from error
    return _decode(content, str(path))


def _read_file(path: Path) -> list[SourceObject]:
    return parse_manifests(read_text(path), str(path))


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"byte 0x{content[error.start]:02x} is not UTF-8",
            where=f"{where}:{line}",
            hint="save the file as UTF-8",
        ) from error


def _something(found: list[SourceObject], where: str, hint: str) -> list[SourceObject]:
    if not found:
        raise InputError("no objects", where=where, hint=hint)
    return found
