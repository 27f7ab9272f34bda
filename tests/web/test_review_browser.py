"""Reviewing as an expert meets it, in Debian's Chromium, by keyboard and mouse: a real server."""

from __future__ import annotations

import pytest
from desk_browser import Desk, Open, press, ready, said, sign_in
from playwright.sync_api import Page, Route, expect
from raters import PASSWORD, reviews
from sqlalchemy import delete, select

from rlhf_loop.domain import Review
from rlhf_loop.reviewing import save_draft
from rlhf_loop.store.tables import Interaction

TOO_QUICK = "That was too quick: the next answer is here now. Press again to grade it."


def fetched(page: Page) -> None:
    """Wait until the next answer is in the browser."""
    expect(page.locator("#desk[data-ahead]")).to_be_visible()


def test_sign_in_and_rate_five(open_page: Open, desk: Desk) -> None:
    """With the keyboard alone: the link leads to the sign-in and back, five keys give five grades, all is announced."""
    page = open_page(name=None)
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("anna")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    seen = set()
    for key in "45321":
        seen.add(ready(page))
        page.keyboard.press(key)
        said(page, f"Rated {key}. Next answer.")
        expect(page.get_by_role("heading", name="Answer", exact=True)).to_be_focused()
    assert len(seen) == 5
    assert sorted(rating for _, rating, *_ in reviews(desk.engine)) == [1, 2, 3, 4, 5]
    expect(page.locator(".meters")).to_contain_text("5 of 50 rated")
    expect(page.locator(".meters")).to_contain_text("5 today: goal reached")
    press(page, "5")
    expect(page.get_by_role("heading", name="Nothing is left to review")).to_be_focused()
    press(page, "u")
    expect(page.get_by_role("button", name="5 exactly right")).to_have_attribute("aria-pressed", "true")


def test_another_grade_from_the_history(open_page: Open, desk: Desk) -> None:
    """The key leads back to the history, which says so; what was typed with it is stored, and no draft is left."""
    page = open_page()
    press(page, "2")
    said(page, "Rated 2. Next answer.")
    page.goto("/review/history")
    page.get_by_role("link", name="change your grade").click()
    ready(page)
    page.get_by_label("Comment").fill("Better than I thought.")
    page.get_by_role("button", name="5 exactly right").click()
    expect(page.get_by_role("heading", name="What you have reviewed")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Rated 5.")).to_be_visible()
    assert [(rating, comment) for _, rating, comment, *_ in reviews(desk.engine)] == [(5, "Better than I thought.")]
    page.get_by_role("link", name="change your grade").click()
    ready(page)
    expect(page.locator("[data-saved]")).to_have_text("")


@pytest.mark.parametrize("submit", ["Control+Enter", "Meta+Enter"])
def test_comment_and_submit_while_typing(open_page: Open, desk: Desk, submit: str) -> None:
    """In a field all keys are letters; Ctrl or Cmd and Enter asks for the grade, and the grade takes the comment."""
    page = open_page()
    first = ready(page)
    page.keyboard.press("c")
    field = page.get_by_label("Comment")
    expect(field).to_be_focused()
    page.keyboard.type("u feel? 4 cups, ")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(field).to_have_value("u feel? 4 cups,\n ")
    page.keyboard.press(submit)
    said(page, "Choose a grade from 1 to 5: it is stored together with your comment.")
    expect(page.get_by_role("group", name="Your grade")).to_be_focused()
    page.keyboard.press("Enter")
    assert (ready(page), reviews(desk.engine)) == (first, [])
    page.keyboard.press("2")
    said(page, "Rated 2. Next answer.")
    assert reviews(desk.engine) == [("anna", 2, "u feel? 4 cups,", None, False)]
    # With a grade that is there already, nothing is asked.
    press(page, "ArrowLeft", "c")
    page.keyboard.press("Control+End")
    page.keyboard.type(" more")
    page.keyboard.press(submit)
    expect(page.get_by_role("note")).to_be_hidden()
    said(page, "Rated 2. Next answer.")
    assert reviews(desk.engine) == [("anna", 2, "u feel? 4 cups, more", None, False)]


def test_a_correction_with_its_difference(open_page: Open, desk: Desk) -> None:
    """The editor begins as the answer, what changes is marked while one types, and the grade takes it along."""
    page = open_page()
    answer = ready(page)
    page.keyboard.press("e")
    editor = page.get_by_label("The answer as it should be")
    expect(editor).to_be_focused()
    expect(editor).to_have_value(answer)
    expect(page.locator("[data-changes]")).to_have_text("Nothing yet.")
    editor.press("Control+Home")
    page.keyboard.press("Control+Shift+ArrowRight")
    page.keyboard.type("Do not drink")
    expect(page.locator("[data-changes] del")).to_contain_text("Drink")
    added = page.locator("[data-changes] ins")
    expect(added).to_contain_text("Do not drink")
    assert "underline" in added.evaluate("e => getComputedStyle(e).textDecorationLine")
    for part in (editor, added):
        box, bar = part.bounding_box(), page.locator(".desk-bar").bounding_box()
        assert box is not None
        assert bar is not None
        assert 0 <= box["y"] < bar["y"] - 10, "it is behind the bar"
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Answer", exact=True)).to_be_focused()
    press(page, "1")
    said(page, "Rated 1. Next answer.")
    assert reviews(desk.engine)[0][3] == answer.replace("Drink", "Do not drink", 1)


def test_a_correction_asks_for_its_grade(open_page: Open, desk: Desk) -> None:
    """Submitted without a grade, the grades are shown as wanted, and nothing is lost."""
    page = open_page()
    press(page, "e")
    page.keyboard.type("New: ")
    page.keyboard.press("Control+Enter")
    said(page, "Choose a grade from 1 to 5: it is stored together with your correction.")
    expect(page.locator(".grades.wanted")).to_be_visible()
    page.get_by_role("button", name="3 partly right").click()
    said(page, "Rated 3. Next answer.")
    assert (reviews(desk.engine)[0][3] or "").startswith("New: Drink")


def test_keys_that_mean_nothing_here(open_page: Open, desk: Desk) -> None:
    """No key does anything with a modifier, while an input method composes, held down, or pressed twice at once."""
    page = open_page()
    first = ready(page)
    for key in ("Alt+4", "Control+2", "Meta+3"):
        page.keyboard.press(key)
    page.evaluate("""() => document.body.dispatchEvent(
        new KeyboardEvent("keydown", { key: "4", isComposing: true, bubbles: true }))""")
    page.evaluate("""() => document.body.dispatchEvent(
        new KeyboardEvent("keydown", { key: "4", repeat: true, bubbles: true }))""")
    page.evaluate("""() => document.body.dispatchEvent(
        new KeyboardEvent("keydown", { key: "4", modifierAltGraph: true, bubbles: true }))""")
    assert (ready(page), reviews(desk.engine)) == (first, [])
    fetched(page)
    page.evaluate("""() => { for (let i = 0; i < 3; i += 1) document.body.dispatchEvent(
        new KeyboardEvent("keydown", { key: "4", bubbles: true })); }""")
    said(page, TOO_QUICK)
    fetched(page)
    assert len(reviews(desk.engine)) == 1
    ready(page)
    page.evaluate("for (let i = 0; i < 2; i += 1) document.querySelector('[name=rating][value=\"2\"]').click()")
    said(page, TOO_QUICK)
    ready(page)
    assert len(reviews(desk.engine)) == 2


def test_back_and_forth(open_page: Open, desk: Desk) -> None:
    """Skip, previous, following and undo, by key and by button; a reload shows the same answer."""
    page = open_page()
    first = ready(page)
    page.keyboard.press("ArrowRight")
    said(page, "Skipped. Next answer.")
    second = ready(page)
    page.keyboard.press("5")
    said(page, "Rated 5. Next answer.")
    third = ready(page)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("note")).to_contain_text("You graded this answer 5 (exactly right)")
    assert ready(page) == second
    page.reload()
    assert ready(page) == second
    page.get_by_role("button", name="Previous").click()
    expect(page.get_by_role("note")).to_contain_text("You skipped this answer")
    assert ready(page) == first
    press(page, "ArrowLeft")
    said(page, "There is no answer before this one.")
    page.keyboard.press("4")
    said(page, "Rated 4. The answer after it.")
    page.get_by_role("button", name="Following").click()
    said(page, "The answer after it.")
    assert ready(page) == third
    page.reload()
    assert ready(page) == third
    page.keyboard.press("u")
    said(page, "Taken back. The answer waits for its grade again.")
    assert ready(page) == first
    expect(page.get_by_role("button", name="4 right")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Skip").click()
    said(page, "Skipped. Next answer.")
    assert [rating for _, rating, *_ in reviews(desk.engine)] == [5]


def test_flag_and_help(open_page: Open, desk: Desk) -> None:
    """f flags; ? lists the keys, none of which works meanwhile; single keys can be turned off, for good."""
    page = open_page()
    press(page, "f")
    said(page, "Flagged as harmful.")
    expect(page.get_by_label("Harmful")).to_be_checked()
    expect(page.locator("[data-saved]")).to_have_text("Draft saved")
    page.keyboard.press("?")
    help = page.get_by_role("dialog", name="Keys")
    expect(help).to_contain_text("Correct the answer")
    expect(help).to_contain_text("Why this answer")
    page.keyboard.press("4")
    page.keyboard.press("Escape")
    expect(help).to_be_hidden()
    page.get_by_role("button", name="Help").click()
    help.get_by_label("Single keys are on").uncheck()
    help.get_by_role("button", name="Close").click()
    flagged = ready(page)
    page.reload()
    assert ready(page) == flagged
    expect(page.get_by_label("Harmful")).to_be_checked()
    press(page, "4", "u", "?")
    expect(help).to_be_hidden()
    assert reviews(desk.engine) == []
    page.get_by_role("button", name="Help").click()
    help.get_by_label("Single keys are on").check()
    help.get_by_role("button", name="Close").click()
    press(page, "1")
    said(page, "Rated 1. Next answer.")
    assert reviews(desk.engine) == [("anna", 1, None, None, True)]


def test_drafts_survive(open_page: Open) -> None:
    """What is typed is saved a moment later; what is typed just before the page goes away, too."""
    page = open_page()
    answer = ready(page)
    page.keyboard.press("c")
    page.keyboard.type("Half a")
    expect(page.locator("[data-saved]")).to_have_text("Draft saved")
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(page.get_by_label("Comment")).to_have_value("Half a")
    assert ready(page) == answer
    page.keyboard.press("c")
    page.keyboard.type(" sentence")
    page.goto("/review/guidelines")
    page.goto("/review")
    expect(page.get_by_label("Comment")).to_have_value("Half a sentence")


def test_two_windows(open_page: Open, desk: Desk) -> None:
    """A grade in a window that does not show the newer review is refused; it then shows that, with what was typed."""
    page = open_page()
    answer = ready(page)
    other = page.context.new_page()
    other.goto("/review")
    assert ready(other) == answer
    press(page, "e")
    page.keyboard.type("New: ")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    said(page, "Rated 2. Next answer.")
    other.keyboard.press("c")
    other.keyboard.type("Fine")
    expect(other.locator("[data-saved]")).to_have_text("Draft saved")
    other.keyboard.press("Escape")
    other.keyboard.press("5")
    expect(other.locator("#said")).to_contain_text("You graded this answer 2 in another window")
    expect(other.get_by_role("note")).to_contain_text("You graded this answer 2 (mostly wrong)")
    assert reviews(desk.engine) == [("anna", 2, None, f"New: {answer}", False)]
    expect(other.get_by_label("The answer as it should be")).to_have_value(f"New: {answer}")
    expect(other.get_by_label("Comment")).to_have_value("Fine")
    press(other, "5")
    expect(other.locator("#said")).to_contain_text("Rated 5.")
    assert reviews(desk.engine) == [("anna", 5, "Fine", f"New: {answer}", False)]


@pytest.mark.parametrize("saved", ["Old text", "Newer text", None])
def test_what_the_browser_kept(open_page: Open, desk: Desk, saved: str | None) -> None:
    """It is back where the server has nothing newer, also where a save arrived unanswered; else the server's stands."""
    page = open_page()
    answer = ready(page)
    page.route("**/draft", lambda route: route.abort())
    # Each at once: a draft is saved after a pause between two keys, however long those take.
    page.get_by_label("Comment").fill("Old text")
    expect(page.locator("[data-saved]")).to_contain_text("Kept in this browser")
    page.get_by_label("Comment").fill("Old text and more")
    expect(page.get_by_label("Comment")).to_have_value("Old text and more")
    if saved:
        with desk.engine.connect() as connection:
            id = connection.execute(select(Interaction.id).where(Interaction.ai_response == answer)).scalar_one()
        save_draft(desk.engine, id, reviewer="anna", review=Review(comment=saved))
    page.reload()
    expect(page.get_by_label("Comment")).to_have_value(saved if saved == "Newer text" else "Old text and more")


def test_too_quick(open_page: Open, desk: Desk) -> None:
    """A grade or a skip that comes before anybody can have read the answer is not taken, and that is said."""
    page = open_page()
    for key, what in (("3", "grade"), ("ArrowRight", "skip"), ("Control+Enter", "grade")):
        press(page, "4")
        said(page, "Rated 4. Next answer.")
        ready(page)
        # As it is for the first 400 ms; once they are over, nothing makes it ready behind the test's back.
        page.locator("#desk").evaluate("desk => desk.removeAttribute('data-ready')")
        page.keyboard.press(key)
        said(page, TOO_QUICK.replace("grade", what))
        page.reload()
    assert [rating for _, rating, *_ in reviews(desk.engine)] == [4, 4, 4]


def test_no_network_loses_nothing(open_page: Open, desk: Desk) -> None:
    """Without a server the text and its grade stay; Retry stores the review once it is back."""
    page = open_page(answers=1)
    broken: list[bool] = []
    refusal = {"status": 503, "json": {"detail": "The database does not answer."}}
    page.route("**/rate", lambda route: route.fulfill(**refusal) if broken else route.continue_())
    # A page that is there already may send one more request as before.
    page.reload()
    page.context.set_offline(True)
    press(page, "c")
    page.keyboard.type("Kept here")
    expect(page.locator("[data-saved]")).to_contain_text("Kept in this browser")
    page.keyboard.press("Escape")
    page.keyboard.press("4")
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("The server does not answer. What you typed is kept. It is sent by itself")
    trouble.get_by_role("button", name="Retry").click()
    expect(trouble).to_contain_text("The server does not answer.")
    broken.append(True)
    page.context.set_offline(False)
    trouble.get_by_role("button", name="Retry").click()
    expect(trouble).to_contain_text("The database does not answer. What you typed is kept. It is sent by itself")
    expect(page.get_by_label("Comment")).to_have_value("Kept here")
    expect(page.get_by_role("button", name="4 right")).to_have_attribute("aria-pressed", "true")
    assert reviews(desk.engine) == []
    page.unroute("**/rate")
    trouble.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("heading", name="Nothing is left to review")).to_be_visible()
    expect(trouble).to_be_hidden()
    assert reviews(desk.engine) == [("anna", 4, "Kept here", None, False)]


def test_grades_without_a_network(open_page: Open, desk: Desk) -> None:
    """They wait in this browser, through a closed page too; they go in order and by themselves, each only once."""
    page = open_page()
    first = ready(page)
    fetched(page)
    page.context.set_offline(True)
    page.keyboard.press("4")
    expect(page.locator("[data-said]")).to_have_text("Rated 4. Next answer.")
    expect(page.locator("#unsent")).to_have_text("1 not sent yet: kept in this browser, and sent as soon as that works")
    press(page, "2")
    expect(page.get_by_role("alert")).to_contain_text("It is sent by itself as soon as that works.")
    expect(page.locator("[data-state]")).to_contain_text("2 not sent yet")
    assert reviews(desk.engine) == []
    page.close()
    page = page.context.new_page()
    page.context.set_offline(False)
    page.goto("/review")
    expect(page.locator("#desk:not([data-unsent])")).to_be_visible()
    assert ready(page) != first
    expect(page.locator(".meters")).to_contain_text("2 of 5 today")
    assert sorted(rating for _, rating, *_ in reviews(desk.engine)) == [2, 4]
    # The very same without a new page: the line is back, and nobody does anything.
    fetched(page)
    page.context.set_offline(True)
    page.keyboard.press("5")
    expect(page.locator("[data-state]")).to_contain_text("1 not sent yet")
    press(page, "c")
    page.keyboard.type("Meanwhile")
    page.context.set_offline(False)
    expect(page.locator("[data-state]")).to_have_text("Saved")
    expect(page.get_by_label("Comment")).to_have_value("Meanwhile")
    assert sorted(rating for _, rating, *_ in reviews(desk.engine)) == [2, 4, 5]


def test_the_next_answer_is_there_before(open_page: Open, desk: Desk) -> None:
    """It is shown while the grade is still on its way, and stays this rater's; a reload shows what was being read."""
    page = open_page()
    waiting: list[Route] = []
    page.route("**/rate", lambda route: waiting.append(route))
    # A page that is there already may send one more request as before.
    page.reload()
    first = ready(page)
    fetched(page)
    page.keyboard.press("4")
    expect(page.locator(".response")).not_to_have_text(first)
    expect(page.locator("[data-state]")).to_have_text("Saving …")
    second = ready(page)
    assert reviews(desk.engine) == []
    while not waiting:
        page.wait_for_timeout(20)
    waiting[0].continue_()
    expect(page.locator("[data-state]")).to_have_text("Saved")
    expect(page.locator(".meters")).to_contain_text("1 of 5 today")
    fetched(page)
    page.unroute("**/rate")
    page.reload()
    assert ready(page) == second
    fetched(page)
    press(page, "u")
    assert ready(page) == first
    fetched(page)
    press(page, "4")
    assert ready(page) == second


def test_signed_out_meanwhile(open_page: Open, desk: Desk) -> None:
    """The message leads to the sign-in in a new tab, the text stays, and Retry goes on in the new session."""
    page = open_page()
    press(page, "c")
    page.keyboard.type("Why")
    expect(page.locator("[data-saved]")).to_have_text("Draft saved")
    page.keyboard.press("Escape")
    fetched(page)
    page.context.clear_cookies()
    page.keyboard.press("2")
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("You are signed out. What you typed is kept. Sign in in a new tab")
    with page.expect_popup() as popup:
        trouble.get_by_role("link", name="Sign in").click()
    sign_in(popup.value, "dora")
    trouble.get_by_role("button", name="Retry").click()
    expect(trouble).to_contain_text("You are signed in as dora now, but this page is anna's.")
    page.context.clear_cookies()
    popup.value.goto("/sign-in")
    sign_in(popup.value, "anna")
    trouble.get_by_role("button", name="Retry").click()
    expect(page.locator("[data-state]")).to_have_text("Saved")
    expect(trouble).to_be_hidden()
    assert reviews(desk.engine) == [("anna", 2, "Why", None, False)]


def test_an_answer_that_is_gone(open_page: Open, desk: Desk) -> None:
    """Where it was deleted meanwhile, that is said, and the next one comes."""
    page = open_page(answers=2)
    answer = ready(page)
    with desk.engine.begin() as connection:
        connection.execute(delete(Interaction).where(Interaction.ai_response == answer))
    page.keyboard.press("4")
    expect(page.locator("#said")).to_contain_text("Here is the next one.")
    assert ready(page) != answer
    assert reviews(desk.engine) == []
