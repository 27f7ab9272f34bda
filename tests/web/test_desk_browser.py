"""The raters' screens in Chromium: pairs, an admin's pages, a phone, colours, focus, and no JavaScript."""

from __future__ import annotations

import pytest
from desk_browser import Desk, Open, press, ready, said
from playwright.sync_api import expect
from raters import put_answers, reviews
from sqlalchemy import select
from test_browser import CONTRASTS, no_sideways_scroll

from rlhf_loop import reviewing
from rlhf_loop.store.interactions import rate
from rlhf_loop.store.tables import Interaction, Preference

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

#: Of Markdown, wider than any screen: it scrolls in itself.
WIDE_TABLE = "\n".join(("| cell " * 40 + "|", "|---" * 40 + "|", "| 5 mg " * 40 + "|"))


def test_compare(open_page: Open, desk: Desk) -> None:
    """Two answers side by side: keys and buttons store which one is better, with a comment; skip and undo."""
    page = open_page("/compare", answers=5)
    ready(page)
    left, right = page.locator(".pair section").all()
    boxes = [side.bounding_box() for side in (left, right)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    best = [left.locator(".response").inner_text()]
    page.keyboard.press("c")
    page.keyboard.type("a t b s")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    said(page, "A is better. Next pair.")
    ready(page)
    best.append(page.locator(".pair section .response").nth(1).inner_text())
    page.get_by_role("button", name="B is better").click()
    said(page, "B is better. Next pair.")
    press(page, "=")
    said(page, "Both are as good. Next pair.")
    press(page, "s")
    said(page, "Skipped. Next pair.")
    press(page, "u")
    said(page, "Taken back. The two answers wait for your choice again.")
    press(page, "ArrowLeft", "ArrowRight", "t")
    expect(page.get_by_role("heading", name="Nothing is left to compare")).to_be_focused()
    with desk.engine.connect() as connection:
        found = connection.execute(select(Preference).order_by(Preference.preferred_at)).all()
        texts = {row.id: row.ai_response for row in connection.execute(select(Interaction.id, Interaction.ai_response))}
    chosen = [texts[row.first_id if row.preferred == "first" else row.second_id] for row in found[:2]]
    assert (chosen, [row.preferred for row in found[2:]]) == (best, ["tie", "tie"])
    assert [row.comment for row in found] == ["a t b s", None, None, None]


def test_an_admin_writes_guidelines_and_approves(open_page: Open, desk: Desk) -> None:
    """What is saved stands beside the answer at once; an approved correction leaves the list."""
    page = open_page("/review/guidelines", name="dora")
    page.get_by_text("Edit the guidelines").click()
    page.get_by_label("5: exactly right").fill("Nothing is missing.")
    page.get_by_role("button", name="Save the guidelines").click()
    expect(page.get_by_role("status")).to_contain_text("Saved.")
    page.goto("/review")
    expect(page.get_by_role("button", name="5 exactly right")).to_have_attribute("title", "Nothing is missing.")
    (id,) = put_answers(desk.engine, 1)
    rate(desk.engine, id, reviewer="ben", rating=2, correction=(tea := f"Drink tea.\n\n{WIDE_TABLE}"))
    page.goto("/review/corrections")
    expect(page.get_by_role("table")).to_be_visible()
    assert no_sideways_scroll(page)
    expect(page.get_by_role("group", name="As corrected")).to_contain_text("Drink tea.")
    page.get_by_text("What changes, word by word").press("Enter")
    expect(page.locator("article ins").first).to_contain_text("tea")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status")).to_contain_text("The correction is approved.")
    expect(page.get_by_text("No correction waits")).to_be_visible()
    assert [each.correction for each in reviewing.approved_corrections(desk.engine)] == [tea]


def test_on_a_phone(open_page: Open, desk: Desk) -> None:
    """By touch: the grades are always in reach and large enough, two answers are stacked, nothing sticks out."""
    page = open_page(**PHONE)
    page.mouse.wheel(0, 400)
    ready(page)
    for button in page.locator(".desk-bar").get_by_role("button").all():
        box = button.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44
    page.get_by_role("button", name="4 right").tap()
    said(page, "Rated 4. Next answer.")
    ready(page)
    page.locator("[data-correct] summary").tap()
    page.get_by_label("The answer as it should be").tap()
    page.keyboard.type("W" * 300)
    expect(page.locator("[data-changes] ins")).to_be_visible()
    assert no_sideways_scroll(page)
    assert len(reviews(desk.engine)) == 1
    put_answers(desk.engine, 1, to_each=2)
    page.goto("/compare")
    tops = [page.locator(".pair section").nth(place).bounding_box() for place in (0, 1)]
    assert tops[0] is not None
    assert tops[1] is not None
    assert tops[0]["y"] + tops[0]["height"] < tops[1]["y"]
    page.get_by_role("button", name="Both as good").tap()
    expect(page.get_by_role("heading", name="Nothing is left to compare")).to_be_focused()
    for address in ("/review/guidelines", "/review/agreement"):
        page.goto(address)
        assert no_sideways_scroll(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_page: Open, desk: Desk, scheme: str) -> None:
    """Words stand out from what is behind them by 4.5 to 1, whatever the state of the screen."""
    page = open_page(name="dora", answers=1, color_scheme=scheme)

    def check() -> None:
        ratios = page.evaluate(CONTRASTS)
        assert len(ratios) > 10
        assert min(ratios.values()) >= 4.5, ratios

    check()
    press(page, "f", "e")
    page.keyboard.type("New ")
    expect(page.locator("ins")).to_be_visible()
    page.context.set_offline(True)
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    expect(page.get_by_role("alert")).to_be_visible()
    check()
    page.context.set_offline(False)  # then the grade goes by itself
    expect(page.get_by_role("heading", name="Nothing is left to review")).to_be_visible()
    press(page, "?")
    check()
    for address in ("/compare", "/review/guidelines", "/review/corrections", "/review/agreement"):
        page.goto(address)
        check()


def test_the_order_of_the_focus(open_page: Open) -> None:
    """From the answer, Tab leads through all that can be used in the order in which it is read, always in sight."""
    page = open_page()
    press(page, "3")
    said(page, "Rated 3. Next answer.")
    ready(page)
    found = []
    for _ in range(16):
        page.keyboard.press("Tab")
        found.append(page.evaluate("document.activeElement.innerText || document.activeElement.name"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        box = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
        assert box["bottom"] <= 720, f"{found[-1]} is out of sight"
    names = [" ".join(name.split()[:2]) for name in found]
    grades = ["1 wrong", "2 mostly", "3 partly", "4 right,", "5 exactly"]
    assert names == [
        *("Headache (opens", "What the", "The guidelines", "Correct the", "comment", "harmful"),
        *grades,
        *("← Previous", "Undo u", "Help ?", "Not my", "Skip →"),
    ]


def test_without_javascript(open_page: Open, desk: Desk) -> None:
    """The buttons are a form's: grade, skip, previous and undo work by loading a page."""
    page = open_page(java_script_enabled=False)
    page.get_by_label("Comment").fill("By form")
    page.get_by_role("button", name="4 right").click()
    expect(page.get_by_role("status").first).to_contain_text("Rated 4. Next answer.")
    page.get_by_role("button", name="Previous").click()
    expect(page.get_by_label("Comment")).to_have_value("By form")
    page.get_by_role("button", name="Following").click()
    page.get_by_role("button", name="Skip").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_label("Comment")).to_have_value("By form")
    assert reviews(desk.engine) == []
