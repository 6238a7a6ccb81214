"""In how many threads libraries compute: one in each of several, as many as there were afterwards."""

import sys

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from instsearch_cli.engine.tensors import answering, one_thread_each


def threads(api: str = "blas") -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == api]


def test_threads_of_libraries_are_as_before_whoever_leaves_last() -> None:
    with threadpool_limits(2, "blas"):
        before = threads()
        assert set(before) == {2}
        first, second = one_thread_each(), one_thread_each()
        first.__enter__()
        second.__enter__()
        assert set(threads()) == {1}
        first.__exit__(None, None, None)
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert threads() == before


@pytest.mark.parametrize("api", ["blas", "openmp"])
def test_a_question_without_a_network_computes_in_one_thread(
    monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    import faiss  # noqa: F401  (it has OpenMP)

    with threadpool_limits(2):
        before = threads(api)
        assert set(before) == {2}
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        with answering(), answering():
            assert set(threads(api)) == {1}
        assert threads(api) == before


def test_a_network_has_all_threads_and_what_is_multiplied_beside_it_one() -> None:
    import torch

    before = torch.get_num_threads()
    with threadpool_limits(2, "blas"), answering():
        assert set(threads()) == {1}
        assert torch.get_num_threads() == before
