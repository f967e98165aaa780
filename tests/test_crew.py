from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PATIENCE

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
    limit, together = 1, threading.Event()

    def work() -> None:
        nonlocal now
        with lock:
            now += 1
            most[limit] = max(most[limit], now)
        if now > 1:
            together.set()
        if limit == 1:
            time.sleep(0.001)
        else:
            together.wait(PATIENCE)
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

    with pytest.raises(ValueError, match="second"):
        list(crew.run([lambda: 1, lambda: (_ for _ in ()).throw(ValueError("second")), fail, endless]))
    with pytest.raises(ValueError, match="third"):
        list(crew.run([lambda: 1, fail, endless, endless]))
    assert stopped.wait(PATIENCE)
    assert list(crew.run([lambda: 2, lambda: 3])) == [2, 3]


@settings(deadline=None, max_examples=60)
@given(
    threads=st.integers(1, 4),
    order=st.permutations(range(8)),
    bad=st.sets(st.integers(0, 7), max_size=3),
    slow=st.lists(st.integers(0, 2), min_size=8, max_size=8),
)
def test_in_any_order_and_number_of_threads_results_and_errors_are_the_same(
    threads: int, order: list[int], bad: set[int], slow: list[int]
) -> None:
    crew = Crew(threads)

    def work(i: int) -> int:
        for _ in range(slow[i]):
            time.sleep(0.001)
            crew.checkpoint()
        if i in bad:
            raise ValueError(str(i))
        return i

    works = [lambda i=i: work(i) for i in range(8)]
    if not bad:
        assert list(crew.run(works, order)) == list(range(8))
        return
    first = min(bad, key=order.index)
    with pytest.raises(ValueError, match=f"^{first}$"):
        list(crew.run(works, order))
