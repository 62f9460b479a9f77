"""What workers were given lately: it fades by calls, not by time, and whoever was away is owed nothing."""

import pytest

from prefillshare.routing.workers import recent_work
from prefillshare.routing.workers.recent_work import RecentWork


def test_work_fades_with_the_calls_of_all() -> None:
    work = RecentWork()
    first, other = work.join(), work.join()
    work.note(first, 1000)
    assert first.tokens == pytest.approx(1000)
    for _ in range(40):
        work.note(other, 10)
    assert 300 < first.tokens < 450
    assert other.tokens < 400


def test_whoever_joins_or_comes_back_begins_with_the_mean() -> None:
    work = RecentWork()
    shares = [work.join() for _ in range(3)]
    for share, tokens in zip(shares, (0, 600, 1200), strict=True):
        work.note(share, tokens)
    late = work.join()
    mean = sum(share.tokens for share in shares) / 3
    assert late.tokens == pytest.approx(mean)
    work.catch_up(shares[0])
    assert shares[0].tokens == pytest.approx(mean)
    before = shares[2].tokens
    work.catch_up(shares[2])
    assert shares[2].tokens == before


def test_whoever_leaves_is_forgotten() -> None:
    work = RecentWork()
    first, other = work.join(), work.join()
    work.note(first, 1000)
    work.leave(first)
    assert work.join().tokens == other.tokens == 0


def test_the_unit_never_outgrows_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_work, "_MAX_UNIT", 10.0)
    work = RecentWork()
    first, other = work.join(), work.join()
    told = []
    for _ in range(200):
        before = other.tokens
        told.append(work.note(first, 100))
        assert other.tokens == pytest.approx(before * 40 / 41)
        told.append(work.note(other, 50))
        assert first.tokens > other.tokens
    assert any(told)
    assert not all(told)
