from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.engine import turns as module
from instsearch_cli.engine.turns import Gate, Turns


def waits_for(gate: Gate, n: int) -> None:
    until = time.monotonic() + 10
    while len(gate._waiting) < n:
        assert time.monotonic() < until
        time.sleep(0.001)


def in_order(turns: Turns, work: list[tuple[str, bool]]) -> list[str]:
    """In which order some come to their turn that ask for it one after the other, all while another has it."""
    came: list[str] = []

    def wait(name: str, soon: bool) -> None:
        with turns.soon() if soon else turns:
            came.append(name)

    threads = [threading.Thread(target=wait, args=each) for each in work]
    with turns:
        for n, thread in enumerate(threads, 1):
            thread.start()
            waits_for(turns.gates[0], n)
    for thread in threads:
        thread.join(10)
    return came


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), max_size=6))
def test_what_is_short_comes_first_and_else_who_came_first(soon: list[bool]) -> None:
    work = [(str(i), short) for i, short in enumerate(soon)]
    wanted = [name for name, short in work if short] + [name for name, short in work if not short]
    assert in_order(Turns(), work) == wanted


def test_nothing_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    assert in_order(Turns(), [("long", False), ("short", True)]) == ["long", "short"]


def test_between_steps_others_come_to_their_first_and_none_to_a_later_one() -> None:
    turns, told = Turns(), []

    def question(name: str) -> None:
        with turns.soon():
            told.append(f"{name}1")
            for step in (2, 3):
                turns.give_way()
                told.append(f"{name}{step}")

    threads = [threading.Thread(target=question, args=(name,)) for name in "abc"]
    with turns.soon():
        for n, thread in enumerate(threads, 1):
            thread.start()
            waits_for(turns.gates[0], n)
    for thread in threads:
        thread.join(10)
    assert told == ["a1", "b1", "c1", "a2", "a3", "b2", "b3", "c2", "c3"]


def test_a_thread_may_take_it_again_and_gives_no_way_then() -> None:
    turns, told = Turns(), []
    other = threading.Thread(target=lambda: told.append(turns.__enter__()))
    with turns:
        other.start()
        waits_for(turns.gates[0], 1)
        with turns.soon():
            turns.give_way()
            assert told == []
        assert told == []
    other.join(10)
    assert told == [turns]


def test_several_are_taken_together_and_given_back_together() -> None:
    one, other = Gate(), Gate()
    both, second = Turns(one, other), Turns(other)
    with both:
        assert (one.depth, other.depth) == (1, 1)
        assert in_order_of(second) == []
    with both.soon():
        both.give_way()
        assert (one.depth, other.depth) == (1, 1)
    assert (one.depth, other.depth) == (0, 0)


def in_order_of(turns: Turns) -> list[str]:
    """Whether another thread gets it at once."""
    told: list[str] = []

    def take() -> None:
        with turns:
            told.append("taken")

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(0.05)
    return told


def test_who_is_interrupted_while_waiting_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Gate(), Gate()
    other._owner = -1  # a thread's that does not give it back

    def interrupted(self: threading.Condition, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Condition, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt), Turns(one, other):
        pytest.fail("it was taken")
    assert (other._waiting, one.depth) == ([], 0)


def test_what_is_not_the_threads_own_is_not_given_back() -> None:
    gate = Gate()
    thread = threading.Thread(target=gate.take, args=(0.0, 0.0))
    thread.start()
    thread.join(10)
    gate.leave()
    assert gate.depth == 1
