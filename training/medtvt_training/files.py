# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, logs that survive a kill, reading with errors that name the file, and hashes."""

import csv
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    Yields the path of an empty file to write to. It becomes `path`, in place of what was there, when the block ends, and
    vanishes if the block raises. Folders are made; the umask decides who may read it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the last step is a rename within one file system
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(content: bytes, path: str | os.PathLike) -> None:
    """Writes a file that appears only when it is complete."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(text: str, path: str | os.PathLike) -> None:
    """Writes a UTF-8 file that appears only when it is complete. Line ends are written as they are."""
    write_bytes(text.encode(), path)


def write_json(content: Any, path: str | os.PathLike) -> None:
    """Writes a JSON file that appears only when it is complete."""
    write_text(json.dumps(content, indent=2) + "\n", path)


def write_jsonl(records: Iterable[Any], path: str | os.PathLike) -> None:
    """Writes one JSON object a line to a file that appears only when it is complete."""
    write_text("".join(json.dumps(record) + "\n" for record in records), path)


def write_csv(
    header: Sequence[str], rows: Iterable[Sequence[Any]], path: str | os.PathLike, encoding: str = "utf-8"
) -> None:
    """Writes a table of comma-separated values that appears only when it is complete."""
    with new_file(path) as temporary, open(temporary, "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_json(path: str | os.PathLike) -> Any:
    """
    Raises:
        ValueError: if there is no such file, or it is no JSON.
    """
    path = Path(path)
    try:
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} has no {path.name}.") from error


def read_jsonl(path: str | os.PathLike) -> list[Any]:
    """
    The records of a file with one JSON object a line. A last line that has no end and is no JSON, which a killed run
    leaves, is no line.

    Raises:
        ValueError: naming the line that is no JSON.
    """
    return _split_jsonl(Path(path).read_bytes(), str(path))[0]


def parse_json(content: bytes | str, where: str) -> Any:
    """
    Raises:
        ValueError: naming `where`, if the content is no JSON in UTF-8, or nested too deep. It quotes nothing of it.
    """
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no JSON: byte {error.start} is not UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is no JSON (line {error.lineno}, column {error.colno}: {error.msg}).") from error
    except RecursionError as error:
        raise ValueError(f"{where} is no JSON that can be read: it is nested too deep.") from error
    except ValueError as error:  # Python refuses numbers of more than some thousand digits
        raise ValueError(f"{where} holds a number of too many digits.") from error


def _split_jsonl(content: bytes, where: str) -> tuple[list[Any], int]:
    """The records, and how many bytes they take."""
    # at "\n" only: str.splitlines would also split at U+2028, U+2029 and U+0085, which may stand in a JSON string
    *lines, last = content.split(b"\n")
    records = [parse_json(line, f"{where}, line {number},") for number, line in enumerate(lines, start=1)]
    if not last.strip():
        return records, len(content) - len(last)
    try:
        records.append(parse_json(last, where))
    except ValueError:
        return records, len(content) - len(last)
    return records, len(content)


class JsonlLog:
    """
    A file with one JSON object a line that only grows. A killed run loses at most the line that it was writing: the next
    one removes the torn end. One process writes at a time.

    Args:
        path (`str` or `os.PathLike`): Made if missing.
        sync (`bool`): Whether lines are on the disk, and not only with the system, when [`append`] returns.

    Attributes:
        records (`list`): What was there when the log was opened.

    Raises:
        OSError: if another process has the log open.
        ValueError: if a line is damaged.
    """

    def __init__(self, path: str | os.PathLike, sync: bool = False) -> None:
        self.path, self.sync = Path(path), sync
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _lock(self._descriptor, self.path)
            content = self.path.read_bytes()
            self.records, length = _split_jsonl(content, str(self.path))
            if length < len(content):
                os.ftruncate(self._descriptor, length)
            elif content and not content.endswith(b"\n"):  # a whole line without its end, as other programs write it
                self._write(b"\n")
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, records: Iterable[Any]) -> None:
        """Adds records."""
        self._write("".join(json.dumps(record) + "\n" for record in records).encode())

    def _write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._descriptor, content) :]
        if self.sync:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Lets other processes open it."""
        os.close(self._descriptor)

    def __enter__(self) -> "JsonlLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def keep_header(header: dict[str, Any], path: str | os.PathLike) -> None:
    """
    Writes what the records of a log are of, or checks that a log which goes on is of the same.

    Raises:
        ValueError: if the file is of another run, or no header.
    """
    path = Path(path)
    if not path.exists():
        write_json(header, path)
        return
    before = read_json(path)
    if not isinstance(before, dict):
        raise ValueError(f"{path} is no header of a run; choose another place, or remove it.")
    if differing := sorted(key for key in {*before, *header} if before.get(key) != header.get(key)):
        raise ValueError(
            f"{path} is of another run ({', '.join(differing)} differ); choose another place, or remove it."
        )


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no flock; a second writer is then the user's mistake
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(f"{path} is in use by another process.") from error


def fingerprint(values: Iterable[str]) -> str:
    """SHA-256 of strings, in their order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(hashlib.sha256(value.encode(errors="surrogatepass")).digest())
    return digest.hexdigest()


def hash_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(folder: str | os.PathLike) -> str:
    """SHA-256 of what decides a checkpoint's answers: its weights, configs and tokenizer, names and contents."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt"):
            digest.update(file.name.encode())
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
