from __future__ import annotations

import threading
import time

import pytest

from actionimg_data.shards.crew import Crew, Stopped


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_whatever_the_number_of_threads(threads: int) -> None:
    crew = Crew(threads)

    def work(i: int) -> int:
        time.sleep(0.001 * ((7 * i) % 5))
        return i

    for _ in range(3):
        assert list(crew.run([lambda i=i: work(i) for i in range(12)])) == list(range(12))


def test_no_more_threads_work_at_once_than_were_allowed_also_after_growing() -> None:
    crew, lock = Crew(1), threading.Lock()
    now, most = 0, {1: 0, 3: 0}
    limit = 1

    def work() -> None:
        nonlocal now
        with lock:
            now += 1
            most[limit] = max(most[limit], now)
        time.sleep(0.01)
        with lock:
            now -= 1

    results = crew.run([work] * 12)
    for _ in range(3):
        next(results)
    limit = 3
    crew.grow(3)
    assert len(list(results)) == 9
    assert most[1] == 1
    assert 2 <= most[3] <= 3


def test_the_error_of_the_first_work_in_order_is_raised_and_the_others_stop() -> None:
    crew = Crew(3)
    stopped = threading.Event()

    def endless() -> None:
        try:
            while True:
                time.sleep(0.001)
                crew.checkpoint()
        except Stopped:
            stopped.set()
            raise

    def fail() -> None:
        time.sleep(0.01)
        raise ValueError("third")

    begun = time.monotonic()
    with pytest.raises(ValueError, match="second"):
        list(crew.run([lambda: 1, lambda: (_ for _ in ()).throw(ValueError("second")), fail, endless]))
    assert time.monotonic() - begun < 5
    with pytest.raises(ValueError, match="third"):
        list(crew.run([lambda: 1, fail, endless, endless]))
    assert stopped.wait(5)
    assert list(crew.run([lambda: 2, lambda: 3])) == [2, 3]
