# SPDX-License-Identifier: Apache-2.0
import json
import os
import stat

import pytest

from medtvt_training.files import JsonlLog, new_file, read_json, read_jsonl, write_json, write_jsonl, write_text


# splitlines() would also split at the first five; a lone surrogate has no UTF-8
ODD = ["a\u2028b", "a\u2029b", "a\u0085b", "a\x0bb", "a\x1cb", "a\ud800b", "a\nb", "\u00e9", "\x00", ""]


@pytest.mark.parametrize("text", ODD)
def test_any_text_comes_back(text, tmp_path):
    path = tmp_path / "log.jsonl"
    write_jsonl([{"text": text}, {"text": "second"}], path)
    assert [record["text"] for record in read_jsonl(path)] == [text, "second"]
    with JsonlLog(tmp_path / "other.jsonl") as log:
        log.append([{"text": text}])
        log.append([{"text": text}])
    with JsonlLog(tmp_path / "other.jsonl") as log:
        assert [record["text"] for record in log.records] == [text, text]
    write_json({"text": text}, tmp_path / "file.json")
    assert read_json(tmp_path / "file.json") == {"text": text}


@pytest.mark.parametrize("text", ["a\u2028b", "a\u0085b", "\u00e9"])
def test_lines_of_other_programs_are_read(text, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_jsonl(path) == [{"text": text}]


def test_a_last_line_without_its_end_counts_if_it_is_whole(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    assert [record["n"] for record in read_jsonl(path)] == [1, 2]
    with JsonlLog(path) as log:
        assert [record["n"] for record in log.records] == [1, 2]
        log.append([{"n": 3}])
    assert path.read_text() == '{"n": 1}\n{"n": 2}\n{"n": 3}\n'


@pytest.mark.parametrize("torn", [b'{"n": ', b'{"n": "\xc3', b"{"])
def test_a_torn_line_is_removed(torn, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n": 1}\n' + torn)
    assert read_jsonl(path) == [{"n": 1}]
    with JsonlLog(path) as log:
        log.append([{"n": 2}])
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    "content", [b"{\n", b"\xff\n", b"[" * 100_000 + b"\n", b"1" * 10_000 + b"\n", b"\n"], ids=range(5)
)
def test_a_damaged_line_is_named_and_not_quoted(content, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n": "SECRET"}\n' + content + b'{"n": 3}\n')
    for read in (read_jsonl, JsonlLog):
        with pytest.raises(ValueError, match="log.jsonl, line 2,") as error:
            read(path)
        assert "SECRET" not in str(error.value)


def test_one_process_writes_at_a_time(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonlLog(path):
        with pytest.raises(OSError, match="log.jsonl is in use by another process"):
            JsonlLog(path)
    JsonlLog(path).close()


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_text("before", path)
    with pytest.raises(KeyboardInterrupt), new_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and [item.name for item in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read(umask, tmp_path):
    before = os.umask(umask)
    try:
        write_text("", tmp_path / "file.txt")
        JsonlLog(tmp_path / "log.jsonl").close()
    finally:
        os.umask(before)
    for name in ("file.txt", "log.jsonl"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
