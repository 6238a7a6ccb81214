"""Pictures to ask with, hits large, marks, choices, what is taken away, what goes wrong."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from served_scenes import BOX

CARRY = """async ([bytes, name, type, kind]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], name, { type }));
  const options = { bubbles: true, cancelable: true };
  const pasted = () => new ClipboardEvent("paste", { ...options, clipboardData: carried });
  if (kind === "paste") document.body.dispatchEvent(pasted());
  else for (const each of ["dragenter", "dragover", "drop"])
    document.querySelector(kind).dispatchEvent(new DragEvent(each, { ...options, dataTransfer: carried }));
}"""


def carry(page: Any, path: Path, kind: str, type: str = "image/png") -> None:
    page.evaluate(CARRY, [list(path.read_bytes()), path.name, type, kind])


def test_ways_to_a_picture(tab: Callable[..., Any], place: Path) -> None:
    page = tab()
    carry(page, place / "query.png", "#drop")
    page.wait_for_selector("#found li")
    page.settle()
    carry(page, place / "turned.jpg", "paste", "image/jpeg")
    page.wait_for_selector("#stage[aria-label^='pasted'], #stage[aria-label*='turned']")
    page.settle()
    page.draw()  # upright, so that the thing is where it is in the other
    assert len(page.asked["views"]) == 1
    assert page.locator("#found li").count() >= 4
    carry(page, place / "query.png", "#dropping [data-drop=view]")
    page.wait_for_selector("#strip .view >> nth=1")
    page.settle()
    assert len(page.asked["views"]) == 2
    page.get_by_role("button", name="Add a view").click()
    page.get_by_label("Search the collection by name").fill("table")
    page.wait_for_selector(".grid:not([data-stale]) button")
    page.wait_for_timeout(400)
    assert all(
        "table" in name for name in page.locator(".grid img").evaluate_all("all => all.map(e => e.alt)")
    )
    page.locator(".grid button").first.click()
    page.settle()
    assert [set(view["picture"]) for view in page.asked["views"]] == [
        {"upload"},
        {"upload"},
        {"index", "row"},
    ]
    page.get_by_role("button", name="Undo").click()
    page.settle()
    assert len(page.asked["views"]) == 2
    assert page.get_attribute("#camera", "capture") == "environment"
    page.reload()  # a page loaded again asks the same
    page.settle()
    assert len(page.asked["views"]) == 2


def test_a_hit_large(tab: Callable[..., Any], place: Path) -> None:
    page = tab(permissions=["clipboard-read", "clipboard-write"])
    page.give(place / "query.png")
    page.draw()
    page.locator("#found .open").first.click()
    page.wait_for_selector("#light-boxes rect.box")
    page.wait_for_selector("#light-text:not(:empty)")
    page.get_by_role("button", name="Show the comparison large").click()
    page.wait_for_selector("#light-picture[src^='data:']")
    where = page.locator("#light-where").text_content()
    assert Path(where).is_file()
    page.get_by_role("button", name="Copy its path").click()
    page.wait_for_timeout(100)
    assert page.evaluate("navigator.clipboard.readText()") == where
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Open the file").click()
    popup.value.wait_for_url("blob:**")
    popup.value.close()
    page.get_by_role("button", name="Correct its box").click()
    page.settle()
    assert len(page.asked["views"]) == 2
    before = page.boxes()
    page.keyboard.press("Shift+ArrowRight")
    page.settle()
    assert page.boxes()[0][0] == min(before[0][0] + 10, 240 - before[0][2])
    page.locator("#found .open").nth(1).click()
    page.get_by_role("button", name="Look for what is in its box").click()
    page.settle()
    (only,) = page.asked["views"]
    assert only["box"] is not None
    assert "row" in only["picture"]
    page.locator("#found .open").first.click()
    page.get_by_role("button", name="Another like this whole picture").click()
    page.settle()
    assert page.asked["views"][0]["box"] is None
    page.locator("#hits .open").first.click()
    page.get_by_role("button", name="Show its folder").click()
    assert page.get_by_label("Search the collection by name").input_value() in (
        "shelf/",
        "table/",
        "things/shelf/",
        "",
    )
    page.keyboard.press("Escape")


def test_marks_ask_again_and_are_taken_back(tab: Callable[..., Any], place: Path) -> None:
    page = tab()
    page.give(place / "query.png")
    page.draw()
    page.locator("#found .right").nth(0).click()
    page.settle()
    page.locator("#hits .wrong").nth(3).click()
    page.settle()
    assert [len(page.asked[side]) for side in ("views", "against")] == [2, 1]
    assert page.locator("#found .right[aria-pressed=true]").count() == 1
    page.locator("#found .right[aria-pressed=true]").click()
    page.settle()
    assert [len(page.asked[side]) for side in ("views", "against")] == [1, 1]
    page.locator("#strip li").nth(1).get_by_role("button").last.click()
    page.settle()
    assert [len(page.asked[side]) for side in ("views", "against")] == [1, 0]
    page.keyboard.press("Control+z")
    page.settle()
    assert [len(page.asked[side]) for side in ("views", "against")] == [1, 1]


def test_where_and_how_to_look(tab: Callable[..., Any], place: Path) -> None:
    page = tab()
    page.give(place / "query.png")
    page.draw()
    assert page.asked["indexes"] == [0, 1]
    assert set(page.locator("#found .from").all_text_contents()) <= {"of-things", "of-more"}
    n = page.locator("#found li").count()
    page.get_by_label("Least score that counts as found").focus()
    page.keyboard.press("End")
    assert page.locator("#found li").count() < n
    assert page.locator("#parting").is_visible()
    assert "1.00" in page.locator("#least-text").text_content()
    page.locator("#choices-button").click()
    page.get_by_label("of-more").uncheck()
    page.settle()
    assert page.asked["indexes"] == [0]
    page.get_by_role("radio", name="None").check()
    page.settle()
    assert page.asked["rerank"] == ["none"]
    assert page.asked["min_score"] is None
    assert page.locator("#least-part").is_hidden()
    page.keyboard.press("Escape")
    assert page.locator("#choices").is_hidden()


FORMATS = {"CSV table": "csv", "HTML report": "html", "JSON": "json", "Photographs": "zip"}
FORMATS |= {"W3C annotations": "annotations", "TREC run": "trec"}


def saving(tab: Callable[..., Any], place: Path) -> Any:
    """A page with a question, a hit marked wrong, and the menu open to save what was found."""
    page = tab()
    page.give(place / "query.png")
    page.draw()
    page.locator("#hits .wrong").nth(3).click()
    page.settle()
    page.get_by_role("button", name="Save results").click()
    return page


def test_what_is_taken_away(tab: Callable[..., Any], served: Any, place: Path, tmp_path: Path) -> None:
    from instsearch_cli.serve.service import FORMS

    page = saving(tab, place)
    for name, form in FORMATS.items():
        assert form in FORMS
        with page.expect_download() as download:
            page.locator("#saving").get_by_role("button", name=name).click()
        assert Path(download.value.path()).stat().st_size > 20, name
    page.wait_for_selector("#saving code:not(:text-is('…'))")
    command = page.locator("#saving code").text_content()
    assert command.startswith("instsearch query ")
    assert "--not" in command


def test_a_session_is_saved_and_opened(
    tab: Callable[..., Any], served: Any, place: Path, tmp_path: Path
) -> None:
    page = saving(tab, place)
    with page.expect_download() as download:
        page.locator("#saving").get_by_role("button", name="Session", exact=False).first.click()
    download.value.save_as(tmp_path / "session.json")
    other = tab()
    other.set_input_files("#file", tmp_path / "session.json")
    other.wait_for_selector("#found li")
    other.settle()
    assert len(other.asked["views"]) == 1
    assert len(other.asked["against"]) == 1
    assert other.boxes() == page.boxes()


def test_pictures_that_were_forgotten_while_a_box_is_drawn(
    tab: Callable[..., Any], served: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are sent again by the question of the drag and by that of its end, whichever is first."""
    page, uploads, gate = tab(), served.service.uploads, threading.Event()
    page.give(place / "query.png")
    put = uploads.put
    monkeypatch.setattr(uploads, "put", lambda *given: gate.wait(10) and put(*given))
    with uploads._lock:
        uploads._there.clear()
    x, y, w, h = BOX
    page.drag((x, y), (x + w, y + h), release=False)
    page.wait_for_timeout(700)
    page.mouse.up()
    page.wait_for_timeout(300)
    gate.set()
    page.settle()
    assert page.locator("#found li").count() >= 4
    assert not page.locator(".notice").count()
    assert not page.questions[-1]["live"]


def test_what_goes_wrong_is_said(tab: Callable[..., Any], served: Any, place: Path, tmp_path: Path) -> None:
    page = tab()
    (tmp_path / "words.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "words.txt")
    page.wait_for_selector(".notice[data-kind=problem]")
    assert "words.txt" in page.locator(".notice").text_content()
    page.give(place / "query.png")
    assert not page.locator(".notice").count()
    with served.service.uploads._lock:
        served.service.uploads._there.clear()
    page.draw()  # what the service has forgotten is sent again
    assert page.locator("#found li").count() >= 4
    assert not page.locator(".notice").count()
    page.context.set_offline(True)
    page.draw((40, 30, 80, 80))
    page.wait_for_selector(".notice[data-kind=offline]")
    assert page.locator("#found li").count() >= 4  # the last hits stay
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.settle()
    assert not page.locator(".notice").count()
    page.route("**/v1/query*", lambda route: route.fulfill(body="", content_type="application/x-ndjson"))
    page.locator("#overlay g[data-box]").press("Shift+ArrowRight")
    page.wait_for_selector(".notice[data-kind=offline]")  # an answer that broke off
    page.route(
        "**/v1/query*", lambda route: route.fulfill(status=503, json={"detail": "too many ask at once"})
    )
    page.locator("#overlay g[data-box]").press("Shift+ArrowRight")
    page.wait_for_selector(".notice:has-text('too many ask at once')")
    late: list[Any] = []
    page.route("**/v1/aligned", lambda route: late.append(route))
    page.locator("#found .open").first.click()
    page.wait_for_selector("#light-boxes rect.box")
    page.route("**/file", lambda route: route.abort())
    page.get_by_role("button", name="Save the file").click()
    page.wait_for_selector("dialog .notice[data-kind=offline]")  # where it is seen
    late[0].continue_()  # what was sent before says nothing of the service since
    page.wait_for_selector("#light-text:not(:empty)")
    assert page.locator("dialog .notice[data-kind=offline]").count()
    page.keyboard.press("Escape")
    page.wait_for_selector(".bar + #notices .notice")
    stranger = tab(link="")
    stranger.goto(served.link.replace("token=", "token=not-"))
    stranger.wait_for_selector(".notice:has-text('not valid any more')")


def test_two_tabs_do_not_disturb_each_other(tab: Callable[..., Any], place: Path) -> None:
    one = tab()
    two = tab(context=one.context)
    one.give(place / "query.png")
    two.give(place / "query.png")
    one.draw()
    two.draw((150, 60, 60, 60))
    assert one.asked["views"][0]["box"] != two.asked["views"][0]["box"]
    assert one.boxes()[0] == pytest.approx(list(BOX), abs=2)
    assert "#" not in one.url  # the token is not left in the address bar


def test_an_index_that_cannot_be_searched(tab: Callable[..., Any], served: Any) -> None:
    page = tab(link="")
    body = {
        "version": 1, "program": "1", "task": None, "rerankers": [], "limits": {"bytes": 1, "pictures": 1, "k": 1},
        "indexes": [{"id": 0, "name": "holidays", "path": "/h", "images": 3, "pipelines": [], "last": None,
                     "problem": "nothing can be searched here yet"}],
    }  # fmt: skip
    page.route(
        "**/v1/indexes", lambda route: route.fulfill(body=json.dumps(body), content_type="application/json")
    )
    page.goto(served.link)
    page.wait_for_selector(".notice:has-text('holidays: nothing can be searched here yet')")


def test_a_session_keeps_its_marks_apart(tab: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    """The picture asked with is of the index, and its own hit is marked right; what is saved names the pipeline."""
    page = tab()
    page.locator(".grid button").first.click()
    page.wait_for_selector("#stage img[src]")
    page.draw()
    own = page.asked["views"][0]["picture"]
    page.locator("#hits .right").first.click()
    page.settle()
    assert [view["picture"] for view in page.asked["views"]] == [own, own]
    page.get_by_role("button", name="Save results").click()
    with page.expect_download() as download:
        page.locator("#saving").get_by_role("button", name="Session", exact=False).first.click()
    download.value.save_as(tmp_path / "session.json")
    saved = json.loads((tmp_path / "session.json").read_text("utf-8"))
    assert saved["pipeline"] == page.asked["pipeline"] == "sift"
    assert saved["marks"]["views"] == [1]
    other = tab()
    other.set_input_files("#file", tmp_path / "session.json")
    other.wait_for_selector("#found li")
    other.settle()
    assert other.locator("#hits .right[aria-pressed=true]").count() == 1
    other.locator("#hits .right[aria-pressed=true]").click()
    other.settle()
    assert [view["picture"] for view in other.asked["views"]] == [own]


def test_a_session_is_asked_as_it_was(tab: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    page = tab()
    page.give(place / "query.png")
    (tmp_path / "session.json").write_text(json.dumps(session_of(place, refine=True, min_score=0.4)), "utf-8")
    page.set_input_files("#file", tmp_path / "session.json")
    page.settle()
    assert page.asked["refine"] is True
    assert page.locator("#choices-text").text_content().endswith("sift, refined")
    (tmp_path / "session.json").write_text(
        json.dumps(session_of(place, rerank=["none"], min_score=3)), "utf-8"
    )
    page.set_input_files("#file", tmp_path / "session.json")
    page.settle()
    assert (page.asked["refine"], page.asked["min_score"]) == (False, 3)


def session_of(place: Path, **more: Any) -> dict[str, Any]:
    data = base64.b64encode((place / "query.png").read_bytes()).decode()
    views = [{"picture": {"name": "query.png", "data": data}, "box": list(BOX)}]
    indexes = [str(place / "of-things")]
    return {"instsearch": "session", "version": 1, "views": views, "indexes": indexes, **more}


def test_every_place_of_a_photograph_is_on_one_card(tab: Callable[..., Any], place: Path) -> None:
    """As the service has them: a hit a place; the card has the best one's score and the boxes of all that are found."""
    page = tab()
    page.give(place / "query.png")

    def twice(route: Any) -> None:
        lines = []
        for line in route.fetch().text().splitlines():
            answer = json.loads(line)
            places = [
                {**hit, "rank": 9, "score": hit["score"] * share, "boxes": [[1, 1, 9, 9]]}
                for hit in answer["hits"]
                for share in (0.9, 0.1)
            ]
            lines.append(json.dumps({**answer, "hits": [*answer["hits"], *places]}))
        route.fulfill(body="\n".join(lines) + "\n", content_type="application/x-ndjson")

    page.route("**/v1/query*", twice)
    page.draw()
    card = page.locator("#found li").first
    assert card.locator(".rank").text_content() == "1"
    assert card.locator("rect.box").count() == 2
    page.keyboard.press("Escape")


def test_a_box_turned_over_at_the_edge_stays_in_the_picture(tab: Callable[..., Any], place: Path) -> None:
    page = tab()
    page.give(place / "query.png")
    page.draw((150, 40, 100, 60))
    page.drag((150, 70), (300, 70))
    page.settle()
    ((x, _, w, _),) = page.boxes()
    assert (x, w) == (239, 1)
    assert page.asked["views"][0]["box"][0] == 239
