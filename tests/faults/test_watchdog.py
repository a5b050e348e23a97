"""A driver that hangs is ended, and says what it waited for; one that goes on is left alone."""

from __future__ import annotations

import threading
import time

from study.driver.watchdog import Watchdog


def test_a_driver_that_hangs_is_ended_and_says_what_it_waited_for() -> None:
    said: list[str] = []
    codes: list[int] = []
    left = threading.Event()

    def exit_process(code: int) -> None:
        codes.append(code)
        left.set()

    with Watchdog(0.3, said.append, lambda: "confirm/base/0000-cat-s1", exit_process=exit_process):
        assert left.wait(60)
    assert codes == [1]
    assert "waiting for confirm/base/0000-cat-s1" in said[0]
    assert "run the same command again" in said[0]


def test_one_that_goes_on_or_has_ended_is_left_alone() -> None:
    said: list[str] = []
    with Watchdog(30.0, said.append, lambda: "nothing", exit_process=said.append) as dog:  # type: ignore[arg-type]
        for _ in range(5):
            dog.reset()
            time.sleep(0.02)
    dog = Watchdog(0.2, said.append, lambda: "nothing", exit_process=said.append)  # type: ignore[arg-type]
    with dog:
        pass
    time.sleep(0.6)
    assert said == []
