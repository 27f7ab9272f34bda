"""Markdown becomes safe HTML; what is not Markdown, or means something else in medicine, stays as it is."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hostile_markdown import HOSTILE_MARKDOWN

from rlhf_loop.utils.markdown import MOST_CHARS, as_html, prose

_LINK = '<a href="https://example.org/a" target="_blank" rel="noopener noreferrer nofollow">{}</a>'
_TAB = '<span class="unseen"> (opens in a new tab)</span>'
_ATTRIBUTES = {"a": {"href", "title", "target", "rel"}, "li": {"value"}, "code": {"tabindex"}, "th": {"scope"}}
_ATTRIBUTES |= {"div": {"tabindex", "role", "aria-label"}}


class _Elements(HTMLParser):
    """The elements of HTML, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(text: str) -> str:
    """The HTML of a text in Markdown, without line breaks between its elements."""
    html = as_html(text)
    assert html is not None, text
    return str(html).replace("\n", "")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**Dose:** 5 mg\ndaily", "<p><strong>Dose:</strong> 5 mg<br>daily</p>"),
        ("**F**ace, **A**rms", "<p><strong>F</strong>ace, <strong>A</strong>rms</p>"),
        ("这是**重点**内容", "<p>这是<strong>重点</strong>内容</p>"),
        ("Use `ls -l` or *all* of _it_.", "<p>Use <code>ls -l</code> or <em>all</em> of <em>it</em>.</p>"),
        ("## A\n# B\n##### C", "<h3>A</h3><h3>B</h3><h4>C</h4>"),
        ("- a\n- b\n  - c", '<ul class="minus"><li>a</li><li>b<ul class="minus"><li>c</li></ul></li></ul>'),
        ("* a\n* b", "<ul><li>a</li><li>b</li></ul>"),
        ("1. a\n2. b", '<ol><li value="1">a</li><li value="2">b</li></ol>'),
        ("4) **a**\n6) b", '<ol class="paren"><li value="4"><strong>a</strong></li><li value="6">b</li></ol>'),
        ("`a`\n\n> quote\n\n---", "<p><code>a</code></p><blockquote><p>quote</p></blockquote><hr>"),
        ("**a** ~~b~~ H<sub>2</sub>O", "<p><strong>a</strong> <s>b</s> H<sub>2</sub>O</p>"),
        ("```python\nx < 1\n```", '<p class="language">python</p><pre><code tabindex="0">x &lt; 1</code></pre>'),
        ("```\nnever closed", '<pre><code tabindex="0">never closed</code></pre>'),
        ("[a](https://example.org/a)", f"<p>{_LINK.format('a' + _TAB)}</p>"),
        ("[](https://example.org/a)", f"<p>{_LINK.format('https://example.org/a' + _TAB)}</p>"),
        ("![a](https://example.org/a)", f"<p>{_LINK.format('a' + _TAB)}</p>"),
        ("**a** ![b](images/b.png)", "<p><strong>a</strong> b</p>"),
        ('**a** [b](b.md "c")', '<p><strong>a</strong> [b](b.md "c")</p>'),
        ("**a** <https://example.org/a>", f"<p><strong>a</strong> {_LINK.format('https://example.org/a' + _TAB)}</p>"),
        (
            "a | b\n--|:-:\nc | 5<br>6\nAnd so on.",
            '<div class="wide" tabindex="0" role="group" aria-label="Table"><table><thead><tr><th scope="col">a</th>'
            '<th class="center" scope="col">b</th></tr></thead><tbody><tr><td>c</td><td class="center">5<br>6</td></tr>'
            "</tbody></table></div><p>And so on.</p>",
        ),
    ],
)
def test_markdown(text: str, html: str) -> None:
    """Each mark is rendered; numbers, signs of lists and languages of code are as they were typed."""
    assert shown(text) == html


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Rest in a dark room.\nTake the painkiller early.\n\n\nThen sleep.",
        "5 < 7 and 8 > 3; take <5 mg, <dose> or <b>none</b> & rest &amp; all",
        "HLA-B*57:01, HLA-A*31:01, CYP2C19*2/*17 and CYP2D6*4",
        "weight*height*2 and 2**3 = 8, 3**2 = 9; p<0.05*, p<0.01**, n.s.*",
        "*Most can be found gluten-free. Made from barley* ale",
        "snake_case_name, _andfor caregivers ._, __init__, Spice: ______",
        "> 65 years: 5 mg\n> 50 kg: 10 mg\n>= 3 drinks",
        "+ ketones\n+ protein\n- glucose",
        "- cough\n+ fever",
        "# NOF left\n# radius",
        "1. Januar 2020\n3. Februar",
        "call NHS\n111. For an emergency dial\n999. It is free.",
        "2019. A year\n2020. The next",
        "- A single dash - and another - in a line",
        "- a\n- b\nThis sentence is about both.",
        "Total\n-----\n5 mg\n=====\n***",
        "    four blanks\n\tand a tab",
        "`quoted' and `quoted' again, ``so''",
        "infected ~~~~ by touching ~~.~~",
        "~~~~ by touching these\nsurfaces",
        "See [1], [PDF] and [the page](page.html). [1]: Smith et al.\n[2]: https://example.org",
        "a | b | c\nd | e | f",
        "<https://example.org> and https://example.org/a_b_c",
        "C:\\new\\table \\* x",
        "x" * MOST_CHARS + " **x**",
        "| a |\n|---|\n| 1 | lost |",
    ],
)
def test_plain_texts_stay(text: str) -> None:
    """What is not told to be Markdown is shown as it is, character by character; so is what would lose a word."""
    assert as_html(text) is None
    assert prose(text, "response").startswith('<div class="text words response" dir="auto">')
    assert _Elements(str(prose(text))).text == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("**Genotype:** CYP2C19*2/*17, CYP2D6*4, HLA-B*57:01 and HLA-A*31:01", "CYP2C19*2/*17, CYP2D6*4, HLA-B*57:01"),
        ("**Dose**\n> 65 years: 5 mg\n≥ 50 kg: 6 mg", "> 65 years: 5 mg"),
        ("**Area** = a*b*c, 2**3 + 4**5", "= a*b*c, 2**3 + 4**5"),
        ("**Sign**\n\n2020. The year", "2020. The year"),
        ("**Limits:** <5 mg, <dose>, 5 < 7 and 8 > 3, A&B &lt;", "<5 mg, <dose>, 5 < 7 and 8 > 3, A&B &lt;"),
        ("**Links:** [1]\n\n[1]: https://example.org", "[1]: https://example.org"),
    ],
)
def test_notation_inside_of_markdown(text: str, kept: str) -> None:
    """Stars of alleles, comparisons, years and references are no marks in a text with marks either."""
    assert kept in _Elements(shown(text)).text


def test_lists_keep_their_signs() -> None:
    """A plus, a minus, and a star that stands alone may be findings and footnotes."""
    html = shown("**Findings**\n\n- cough\n\n+ fever\n\n* p < 0.05")
    assert [attrs.get("class") for tag, attrs in _Elements(html).found if tag == "ul"] == ["minus", "plus", "star"]


@pytest.mark.parametrize("text", HOSTILE_MARKDOWN.values(), ids=HOSTILE_MARKDOWN)
def test_hostile_markdown(text: str) -> None:
    """Only elements that cannot do anything come out, with no attribute that could, and links to the web alone."""
    page = _Elements(str(prose(text)))
    assert not {tag for tag, _ in page.found} & {"script", "style", "form", "img", "input", "svg", "iframe", "object"}
    for tag, attrs in page.found:
        assert attrs.keys() <= _ATTRIBUTES.get(tag, set()) | {"class", "dir"}
        assert tag != "a" or str(attrs["href"]).startswith("https://")
        assert tag != "a" or (attrs["rel"], attrs["target"]) == ("noopener noreferrer nofollow", "_blank")
    assert len(page.found) < 2_500


def test_the_corpus_is_rendered() -> None:
    """Most hostile texts count as Markdown, so that it is the renderer that makes them harmless; some go too far."""
    plain = {name for name, text in HOSTILE_MARKDOWN.items() if as_html(text) is None}
    assert len(HOSTILE_MARKDOWN) >= 60
    assert plain == {"deep lists", "deep quotes", "javascript as entities", "stars", "table of nothing"}
