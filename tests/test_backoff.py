"""Pauses between tries."""

from monitor.sound.backoff import Backoff


def test_pauses_grow_to_ten_seconds_and_never_end() -> None:
    backoff = Backoff()
    assert [backoff.next_s() for _ in range(8)] == [0.5, 1, 2, 5, 10, 10, 10, 10]
    backoff.reset()
    assert backoff.next_s() == 0.5
