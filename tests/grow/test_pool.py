"""The pool file: whole or without its last record, wherever a write was cut; never silently less than that."""

from pathlib import Path

import pytest
import torch

from prefillshare.errors import TrainingError
from prefillshare.grow.pool import Record, append_records, lock_family, read_pool


def _record(number: int) -> Record:
    return Record(header={"number": number}, tensors={"values": torch.arange(number + 1.0)})


def _numbers(file: Path) -> list[int]:
    return [record.header["number"] for record in read_pool(file).records]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool of three records."""
    file = tmp_path / "pool.bin"
    append_records(file, read_pool(file), (_record(0), _record(1)))
    append_records(file, read_pool(file), (_record(2),))
    return file


def test_records_come_back_as_they_were_given(pool: Path) -> None:
    found = read_pool(pool)
    assert [record.header for record in found.records] == [{"number": number} for number in range(3)]
    assert all(torch.equal(record.tensors["values"], torch.arange(n + 1.0)) for n, record in enumerate(found.records))
    assert (found.num_bytes, found.num_cut_bytes) == (pool.stat().st_size, 0)


def test_a_write_that_was_cut_at_any_byte_leaves_what_was_before(pool: Path) -> None:
    content, last = pool.read_bytes(), len(_record(2).encode())
    for num_bytes in range(len(content) - last, len(content)):
        pool.write_bytes(content[:num_bytes])
        found = read_pool(pool)
        assert (len(found.records), found.num_cut_bytes) == (2, num_bytes - (len(content) - last)), num_bytes
        append_records(pool, found, (_record(2),))
        assert pool.read_bytes() == content, num_bytes


def test_room_that_was_given_and_never_written_is_a_cut_write(pool: Path) -> None:
    content, last = pool.read_bytes(), len(_record(2).encode())
    for num_written in (0, 5, 60, last - 1):
        pool.write_bytes(content[: len(content) - last + num_written] + bytes(last - num_written))
        assert _numbers(pool) == [0, 1], num_written


def test_damage_before_the_end_is_refused(pool: Path) -> None:
    content = pool.read_bytes()
    for place in range(0, len(content) - len(_record(2).encode()), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1
        pool.write_bytes(damaged)
        with pytest.raises(TrainingError, match="is no whole pool"):
            read_pool(pool)


def test_another_file_is_no_pool(tmp_path: Path) -> None:
    file = tmp_path / "pool.bin"
    file.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(TrainingError, match="it does not begin like one at byte 0: put back a copy"):
        read_pool(file)


def test_two_runs_do_not_grow_one_family(tmp_path: Path) -> None:
    with lock_family(tmp_path), pytest.raises(TrainingError, match="another run grows"), lock_family(tmp_path):
        pass
    with lock_family(tmp_path):
        pass
