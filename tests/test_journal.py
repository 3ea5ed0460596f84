"""The journal's lines and files: what is whole is kept, what is not is skipped, nothing is invented."""

from __future__ import annotations

import json
import math
import os
import random
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ltm_eval.runs import journal
from ltm_eval.runs.journal import Journal, Writer, decode, encode, files_of, is_whole, read
from ltm_eval.system.errors import MachineError, RefusedError
from tests.failing import arm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.faults
FLIPS = int(os.environ.get("LTM_EVAL_TEST_FLIPS", "1000"))
SETTINGS = {"model": "x", "fit": {"lr": 0.3}}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def written(folder: Path, count: int = 12) -> tuple[Path, list[bytes]]:
    """A journal of some answers: its file and its lines."""
    own = Journal(folder, SETTINGS)
    for number in range(count):
        own.append(
            own.key(number), "t", {"value": number / 3, "records": [{"a_seconds": 0.5, "text": "x\u2028\ud800"}]}
        )
    own.close()
    return own.writer.path, own.writer.path.read_bytes().splitlines(keepends=True)


def numbers(folder: Path) -> set[int]:
    """Which of the answers of `written` are found."""
    own = Journal(folder, SETTINGS)
    rows = {number: own.contents.find(own.key(number)) for number in range(20)}
    assert all(row["value"] == number / 3 for number, row in rows.items() if row is not None)
    return {number for number, row in rows.items() if row is not None}


@given(st.dictionaries(st.text(), VALUES, min_size=1))
@settings(deadline=None, max_examples=60)
def test_a_row_comes_back_bit_by_bit(row: dict[str, Any]) -> None:
    line = encode(row)
    assert line.isascii() and line.count(b"\n") == 1 and line.endswith(b"\n")
    assert repr(decode(line[:-1])) == repr(row)  # repr tells nan from None and -0.0 from 0.0


def test_a_line_is_what_its_text_says() -> None:
    """CRC-32 of "123456789" is cbf43926 (the check value of its definition); the layout is fixed here."""
    assert is_whole(b"cbf43926 123456789") and not is_whole(b"cbf43926 123456780")
    assert encode({"a": [0.1, math.inf]}) == b'84dd9bf3 {"a":[0.1,{"non-finite":"inf"}]}\n'


def test_keys_depend_on_settings_and_content(tmp_path: Path) -> None:
    own, other = Journal(tmp_path, SETTINGS), Journal(tmp_path, {**SETTINGS, "fit": {"lr": 0.3000001}})
    assert own.key(["a", {"b": 1, "c": 2}]) == own.key(["a", {"c": 2, "b": 1}])
    assert len({own.key("a"), own.key("b"), other.key("a"), own.key(["a"])}) == 4


def test_every_file_is_read_and_none_made_without_answers(tmp_path: Path) -> None:
    for part in range(3):
        own = Journal(tmp_path, SETTINGS)
        own.append(own.key(part), "t", {"value": part / 3, "records": []})
        own.close()
    Journal(tmp_path, SETTINGS).close()
    assert len(files_of(tmp_path)) == 3 and numbers(tmp_path) == {0, 1, 2}


@pytest.mark.parametrize("tail", [b"", b"\n", b"\0" * 40, b"0000", b"\n\n\n", b'01234567 {"key":"'])
def test_a_file_cut_anywhere_keeps_its_whole_lines(tmp_path: Path, tail: bytes) -> None:
    path, lines = written(tmp_path, 4)
    data = b"".join(lines)
    for end in range(len(lines[0]), len(data) + 1, 7):
        path.write_bytes(data[:end] + tail)
        whole = data[:end].count(b"\n") - 1
        found = numbers(tmp_path)
        assert found == set(range(whole)), (end, tail)
        written(tmp_path, 4)  # another start answers what is lost, in a file of its own
        assert numbers(tmp_path) == set(range(4))
        for other in set(files_of(tmp_path)) - {path}:
            other.unlink()


def test_flipped_bits_lose_their_own_line_alone(tmp_path: Path) -> None:
    """A bit anywhere: at most two lines (a line end may be hit) are lost, no answer is changed."""
    path, lines = written(tmp_path)
    data = b"".join(lines)
    draw = random.Random(0)
    for _ in range(FLIPS):
        place, bit = draw.randrange(len(lines[0]), len(data)), 1 << draw.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        found = read(tmp_path)
        assert len(found.answers) >= 10
        kept = {json.dumps(found.find(key)) for key in found.answers}
        assert kept <= {json.dumps(decode(line[:-1])) for line in lines[1:]}


@given(st.binary(max_size=300), st.integers(0, 12))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_between_lines_are_skipped_and_counted(tmp_path: Path, garbage: bytes, place: int) -> None:
    for file in (tmp_path / journal.FOLDER).glob("*"):
        file.unlink()
    path, lines = written(tmp_path)
    path.write_bytes(b"".join([*lines[: place + 1], garbage, b"\n", *lines[place + 1 :]]))
    assert read(tmp_path).damaged == sum(bool(part) for part in garbage.split(b"\n"))
    assert numbers(tmp_path) == set(range(12))


def test_lines_twice_swapped_and_from_elsewhere(tmp_path: Path) -> None:
    path, lines = written(tmp_path)
    path.write_bytes(b"".join([lines[0], lines[5], *lines[2:], lines[1], lines[5]]))
    assert numbers(tmp_path) == set(range(12))
    row = decode(lines[3][:-1])
    path.write_bytes(b"".join([*lines, encode({**row, "value": 7.0})]))
    with pytest.raises(RefusedError, match="task t contradicts"):
        read(tmp_path)


@pytest.mark.parametrize("action", ["enospc", "eio", "eacces"])
def test_every_operation_of_a_small_journal_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """The n-th operation fails, for every n: an error that names the file, whole lines kept, all answers in the end."""
    for number in range(1, 200):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            arm(f"*:{number}:{action}", patch.setattr)
            try:
                written(folder)
            except MachineError as error:
                assert str(folder) in str(error) and "run the same command again" in str(error)
            else:
                break
        kept = numbers(folder)
        written(folder)
        assert numbers(folder) == set(range(12)) >= kept
    assert number > 12


@pytest.mark.parametrize("fails", [False, True])
def test_every_write_of_a_small_journal_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """The system takes half a line: the rest follows, or that line alone is lost, and the writer takes no other."""
    for number in range(1, 14):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            arm(f"journal.write:{number}:short" + f",journal.write:{number + 1}:enospc" * fails, patch.setattr)
            if not fails:
                written(folder)
            else:
                own = Journal(folder, SETTINGS)
                with pytest.raises(MachineError, match="No space left"):
                    for answer in range(12):
                        own.append(own.key(answer), "t", {"value": answer / 3, "records": []})
                with pytest.raises(MachineError, match="an earlier write failed"):
                    own.append(own.key(11), "t", {"value": 11 / 3, "records": []})
                own.close()
        assert read(folder).damaged == 0 and numbers(folder) == set(range(number - 2 if fails else 12))


def test_a_failed_flush_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync a second one may succeed although data were lost (PostgreSQL, 2019)."""
    flushes: list[int] = []
    monkeypatch.setattr("os.fsync", flushes.append)
    writer = Writer(tmp_path, {"journal": 1})
    arm("journal.sync:1:eio", monkeypatch.setattr)
    with pytest.raises(MachineError, match="reach the disk"):
        writer.append({"key": "a"}, sync=True)
    done = len(flushes)
    with pytest.raises(MachineError, match="an earlier write failed"):
        writer.append({"key": "b"}, sync=True)
    writer.close()
    assert len(flushes) == done


def test_a_full_disk_is_a_full_disk(tmp_path: Path) -> None:
    """The system's own error, from a device that is always full."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    (tmp_path / journal.FOLDER).mkdir()
    writer = Writer(tmp_path, {"journal": 1})
    writer.append({"key": "a"})
    os.dup2(os.open("/dev/full", os.O_WRONLY), writer._handle or 0)
    with pytest.raises(MachineError, match=r"take \d+ bytes more \(No space left on device\)"):
        writer.append({"key": "b"})
    writer.close()


def test_power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state a cut may leave: the first operations, what was not flushed dropped from anywhere on.

    At most what was not flushed is lost, and the rest opens.
    """
    trace: list[tuple[str, bytes]] = []
    write, flush = os.write, os.fsync
    monkeypatch.setattr("os.write", lambda handle, data: trace.append(("write", bytes(data))) or write(handle, data))
    monkeypatch.setattr("os.fsync", lambda handle: trace.append(("flush", b"")) or flush(handle))
    monkeypatch.setattr(journal, "SYNC_SECONDS", math.inf)
    own = Journal(tmp_path / "traced", SETTINGS)
    for number in range(12):
        own.append(own.key(number), "t", {"value": number / 3, "records": []}, sync=number % 4 == 3)
    own.close()
    monkeypatch.undo()
    states = 0
    for end in range(1, len(trace) + 1):
        kept = b"".join(data for _, data in trace[:end])
        last = max((place for place in range(end) if trace[place][0] == "flush"), default=0)
        safe = b"".join(data for _, data in trace[:last])
        for cut in range(len(safe), len(kept) + 1, 7):
            states += 1
            path = tmp_path / "cut" / journal.FOLDER / "a.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(kept[:cut])
            found = numbers(tmp_path / "cut")
            assert found >= set(range(max(0, safe.count(b"\n") - 1)))
            assert read(tmp_path / "cut").damaged == 0
    assert states >= 500


@pytest.mark.parametrize("text", [b"[1]", b'{"key', b'"a"'])
def test_a_line_with_the_right_checksum_that_is_no_row(text: bytes, tmp_path: Path) -> None:
    """Its bytes are as written, but no version of this program wrote it: counted, and nothing taken from it."""
    path, _ = written(tmp_path)
    line = b"%08x %s" % (zlib.crc32(text), text)
    assert is_whole(line)
    with pytest.raises(ValueError, match="object|delimiter|Unterminated"):
        decode(line)
    path.write_bytes(path.read_bytes() + line + b"\n")
    found = read(tmp_path)
    assert found.damaged == 1 and len(found.answers) == 12
    assert numbers(tmp_path) == set(range(12))


@pytest.mark.parametrize("how", ["gone", "cut", "other"])
def test_a_file_that_changes_after_it_was_read(how: str, tmp_path: Path) -> None:
    """An answer is read when it is asked for; what stands there then is checked again."""
    path, lines = written(tmp_path)
    own = Journal(tmp_path, SETTINGS)
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, len(lines[0]))
    else:
        path.write_bytes(path.read_bytes().replace(b'"value"', b'"valve"'))
    with pytest.raises(MachineError, match="changed or vanished while it was read .*; run again"):
        own.contents.find(own.key(3))


def test_a_file_system_that_flushes_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems refuse it; the files themselves are flushed all the same."""
    honest = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(22, "Invalid argument")
        honest(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    written(tmp_path)
    assert numbers(tmp_path) == set(range(12))


def test_a_whole_line_of_another_kind_counts_as_damaged(tmp_path: Path) -> None:
    """Its checksum is right, but it is neither a head nor a plan of any version."""
    folder = tmp_path / "journal"
    folder.mkdir()
    rows = [{"launch": "a", "settings": {}, "later": 1}, {"plan": 1, "launch": "a", "total": -1}, {"settings": 3}]
    (folder / "x.jsonl").write_bytes(b"".join(map(encode, rows)))
    found = read(tmp_path)
    assert [(head.launch, head.file) for head in found.heads] == [("a", "x.jsonl")]
    assert found.plans == [] and found.damaged == 2
