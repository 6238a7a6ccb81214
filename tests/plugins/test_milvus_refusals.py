"""Searcher `milvus` where a server, a folder, a login or an option is wrong: what is said."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_plugins.searchers import milvus_server
from instsearch_plugins.searchers.milvus import Milvus
from milvus_searching import Sparse, asked, origin, rows_of, searcher, sparse
from states import load

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"uri": "milvus"}, "http://host:19530, or a folder NAME.db"),
        ({"uri": "ftp://x:1"}, "uri is http://"),
        ({"uri": "http://root:secret@x:1"}, "set INSTSEARCH_MILVUS=http://user"),
        ({"collection": "a b"}, "letters, digits and _"),
        ({"build": "M16"}, "build is NAME=VALUE"),
        ({"search": "=2"}, "search is NAME=VALUE"),
    ],
)
def test_options_that_cannot_be(bad: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_config(Milvus, bad, "searcher")


def test_a_folder_s_path_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_config(Milvus, {"uri": "m.db"}, "searcher").uri == str(tmp_path / "m.db")


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("http://root:a%40b@host:19530", "root:a@b"),
        ("http://:key@host:19530", "key"),
        ("http://root:a@other:19530", ""),
        ("http://root:a@host:19531", ""),
        ("https://root:a@host:19530", ""),
        ("http://root:a@host:x", ""),
        ("", ""),
    ],
)
def test_a_password_is_told_to_the_server_that_it_is_for_alone(
    named: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTSEARCH_MILVUS", named)
    assert milvus_server.login("http://host:19530") == told


def test_asking_makes_no_folder(tmp_path: Path) -> None:
    """An index from elsewhere may name any."""
    data = Sparse(rows_of("sparse", 3))
    made, of = searcher({"uri": str(tmp_path / "m.db")}), origin(data)
    load(made, {"collection": np.zeros(1, "u1"), "pictures": np.zeros(1, "u1"), "filled": np.zeros(2, int)})
    with pytest.raises(InstsearchError, match=r"is not at .*: run `instsearch index`"):
        made.search([asked(sparse(rows_of("sparse", 1)))], data, 3)
    assert "is not there" in made.differences(data, of, Quiet())[0]
    assert made.sweep(of, (), dry_run=False) == []
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_no_folder(tmp_path: Path) -> None:
    data = Sparse(rows_of("sparse", 3))
    for uri, said in (
        ("http://127.0.0.1:1", "no Milvus answers at http://127.0.0.1:1: start it"),
        (str(tmp_path / "no" / "m.db"), "there is no folder"),
        (str(tmp_path / "file.db"), "is a file"),
        (str(tmp_path / "full.db"), "has other files in it"),
    ):
        (tmp_path / "file.db").write_text("x")
        (tmp_path / "full.db").mkdir(exist_ok=True)
        (tmp_path / "full.db" / "x").write_text("x")
        with pytest.raises(InstsearchError, match=said) as caught:
            searcher({"uri": uri}).fill(data, origin(data), Quiet())
        assert len(str(caught.value).splitlines()) <= 2


def test_a_folder_that_another_program_has_open(tmp_path: Path) -> None:
    from milvus_lite import MilvusLite

    with (
        MilvusLite(str(tmp_path / "m.db")),
        pytest.raises(InstsearchError, match=r"is open in another program: Milvus Lite is for one at a time"),
    ):
        milvus_server.connected(str(tmp_path / "m.db"), "", create=True)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InstsearchError, match=r"pip install 'instsearch\[milvus\]'"):
        milvus_server.connected(str(tmp_path / "m.db"), "", create=True)


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        (
            "Connect",
            "auth check failure, please check username and password",
            "refuses the login: set INSTSEARCH_MILVUS=h",
        ),
        ("GetVersion", "v2.2.9", "is Milvus v2.2.9: its mirror needs 2.4 or later"),
    ],
)
def test_a_wrong_password_and_another_version(tmp_path: Path, method: str, answer: str, said: str) -> None:
    """A server of Milvus's protocol that answers one call in its own way."""
    import grpc
    from milvus_lite import MilvusLite
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

    class Stubborn(MilvusServicer):
        pass

    def call(self, request, context):
        if method == "Connect":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, answer)
        return milvus_pb2.GetVersionResponse(version=answer)

    setattr(Stubborn, method, call)
    with MilvusLite(str(tmp_path / "m.db")) as database:
        server = grpc.server(ThreadPoolExecutor(2))
        milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Stubborn(database), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with pytest.raises(InstsearchError, match=said):
                milvus_server.connected(f"http://127.0.0.1:{port}", "")
        finally:
            server.stop(None).wait()
