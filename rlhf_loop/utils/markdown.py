"""Markdown as safe HTML; a text that is not written in it stays as it is.

Most texts are plain, and in medicine much in them looks like marks: HLA-B*57:01, "> 65 years", "+ ketones", "# NOF". So
only what hardly anybody writes otherwise tells Markdown, such notation stays as it is in a text with Markdown, too, and
a text that would lose a letter or digit is plain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from time import thread_time
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from rlhf_loop.utils.text import web_address

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token
    from nh3 import Cleaner

#: Longer texts are plain: the longest takes a tenth of a second, and half of one where somebody means it badly.
MOST_CHARS = 20_000
#: A table may have far more empty cells than the text has characters.
_MOST_TOKENS = 20_000
#: Of the headings above an answer.
_PAGE_LEVEL = 2

#: In a text with none of these there is nothing to find.
_PERHAPS = re.compile(r"\*\*|`|\]\(|--|\|[ \t]*:?-|^[ \t>]*(?:##|[-*]\s|\d{1,3}[.)]\s)", re.MULTILINE)
#: The lines of a list whose items are not continued at the margin, where a sentence after the list would stand.
_IN_LIST = re.compile(r"\s|[-*+]\s|\d+[.)]\s|$")
#: Lines that begin like a quote, an item or a heading: "> 65 years", "2019. The year", a sign alone.
_NO_QUOTE = re.compile(r">[\s>]*[\d.,=~<≥≤±€$£+−-]")
_NO_ITEM = re.compile(r"\d{4}")
_NO_HEADING = re.compile(r"[#\s]*$")
#: All of HTML that counts: cells of tables have no other way to break a line, nor formulas to go up and down.
_TAG = re.compile(r"<(?:br ?/?|/?su[bp])>", re.IGNORECASE)

_ALIGNED = {"left", "center", "right"}
_CLASSES = {"div": {"wide"}, "ol": {"paren"}, "p": {"language"}, "span": {"unseen"}, "ul": {"minus", "plus", "star"}}
_CLASSES |= {"td": _ALIGNED, "th": _ALIGNED}
_ATTRIBUTES = {"a": {"href", "title"}, "code": {"tabindex"}, "div": {"tabindex", "role", "aria-label"}, "li": {"value"}}
_TAGS = {
    *("a", "blockquote", "br", "code", "div", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span"),
    *("strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}


def as_html(text: str) -> Markup | None:
    """Return a text that is written in Markdown as safe HTML, None if it is not.

    There is no script, style, form, image or frame in it, and each link leads to a page of the web, in a new tab.
    """
    tokens = _parsed(text)
    if tokens is None:
        return None
    parser = _parser()
    return Markup(_cleaner().clean(parser.renderer.render(list(_decorated(tokens)), parser.options, {})))


def prose(text: str, also: str = "", *, plain: bool = False) -> Markup:
    """Return the element of a page that shows a text, as it is if `plain`; `also` is one more class of it."""
    html = None if plain else as_html(text)
    kind = f"text {'words' if html is None else 'markdown'} {also}".rstrip()
    return Markup('<div class="{}" dir="auto">{}</div>').format(kind, text if html is None else html)


def bounded_prose(seconds: float = 1.0) -> Callable[..., Markup]:
    """Return `prose` for one page: after so many seconds of processor time further texts are shown as they are."""
    left = seconds

    def shown(text: str, also: str = "") -> Markup:
        nonlocal left
        started = thread_time()
        try:
            return prose(text, also, plain=left <= 0)
        finally:
            left -= thread_time() - started

    return shown


def _parsed(text: str) -> list[Token] | None:
    """Return the tokens of a text that is written in Markdown, None if it is not, or if a part would be lost."""
    if len(text) > MOST_CHARS or not _PERHAPS.search(text):
        return None
    tokens = _parser().parse(text)
    if len(tokens) > _MOST_TOKENS or sum(map(str.isalnum, text)) != sum(map(_letters, tokens)):
        return None
    for token in tokens:
        token.children = list(_linked(_inside(token)))
    lines = text.split("\n")
    told = any(map(_is_told, tokens)) or any(_is_list(opened, items, lines) for opened, items in _lists(tokens))
    return tokens if told else None


def _letters(token: Token) -> int:
    """Count the letters and digits that are shown of a token, or lie behind it."""
    if token.type == "inline":
        return sum(map(_letters, _inside(token)))
    own = [token.content]
    if token.markup != "autolink":
        own += token.info, *(str(token.attrs.get(name, "")) for name in ("href", "src", "title"))
    return sum(map(str.isalnum, "".join(own)))


def _is_told(token: Token) -> bool:
    """Tell whether a token is what hardly anybody writes but in Markdown; of lists `_is_list` tells."""
    if token.type == "table_open" or (token.type, token.markup[:1]) == ("fence", "`"):
        return True
    if token.type == "heading_open":
        return len(token.markup) > 1
    return any(
        (each.type in ("strong_open", "link_open") and each.markup in ("**", ""))
        or (each.type == "code_inline" and each.content == each.content.strip())
        for each in _inside(token)
    )


def _is_list(opened: Token, items: Sequence[Token], lines: Sequence[str]) -> bool:
    """Tell whether a list is one in a plain text as well: several items, numbered in turn, none with a loose end."""
    in_turn = all(int(after.info or 1) == int(before.info or 0) + 1 for before, after in pairwise(items))
    inside = lines[slice(*opened.map or (0, 0))]
    return len(items) > 1 and opened.markup != "+" and in_turn and all(map(_IN_LIST.match, inside))


def _lists(tokens: Sequence[Token]) -> Iterator[tuple[Token, Sequence[Token]]]:
    """Give each list with its items."""
    opened: list[tuple[Token, list[Token]]] = []
    for token in tokens:
        if token.type in ("bullet_list_open", "ordered_list_open"):
            opened.append((token, []))
        elif token.type == "list_item_open":
            opened[-1][1].append(token)
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            yield opened.pop()


def _inside(token: Token) -> Sequence[Token]:
    return token.children or ()


def _linked(tokens: Sequence[Token]) -> Iterator[Token]:
    """Give the tokens of a line, with links to pages of the web only, and the words of an image in its place."""
    source = ""
    for place, token in enumerate(tokens):
        if token.type == "image":
            address = web_address(token.attrs["src"])
            link = [] if address is None else [_token("link_open", "a", 1, attrs={"href": address})]
            yield from (*link, _text(token.content or address or ""), *(_token("link_close", "a", -1) for _ in link))
        elif token.type == "link_open" and not web_address(token.attrs["href"]):
            title = f' "{token.attrs["title"]}"' if "title" in token.attrs else ""
            before, source = "<>" if token.markup == "autolink" else ("[", f"]({token.attrs['href']}{title})")
            yield _text(before)
        elif token.type == "link_close" and source:
            yield _text(source)
            source = ""
        else:
            yield token
            if token.type == "link_open" and tokens[place + 1].type == "link_close":
                yield _text(str(token.attrs["href"]))


def _decorated(tokens: Sequence[Token]) -> Iterator[Token]:
    """Give the tokens as they are rendered: marks that say something are kept, what is wide can be scrolled."""
    ranks = sorted({token.tag for token in tokens if token.type == "heading_open"})
    level = _PAGE_LEVEL
    for opened, items in _lists(tokens):
        # One star alone may be a footnote's.
        marks = {"-": "minus", "+": "plus", ")": "paren"} | ({"*": "star"} if len(items) == 1 else {})
        opened.attrs = {"class": marks[opened.markup]} if opened.markup in marks else {}
    for token in tokens:
        if token.type == "heading_open":
            # One level at a time, as who listens expects it.
            level = min(_PAGE_LEVEL + 1 + ranks.index(token.tag), level + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{level}"
        elif token.type == "list_item_open" and token.info:
            token.attrs = {"value": token.info}
        elif token.type in ("th_open", "td_open"):
            token.attrs = {"class": str(style).rpartition(":")[2]} if (style := token.attrs.get("style")) else {}
        elif token.type == "inline":
            token.children = [each for child in _inside(token) for each in _announced(child)]
        elif token.type == "fence":
            if token.info.strip():
                yield _html(Markup('<p class="language">{}</p>').format(token.info.strip()))
            token.info, token.attrs = "", {"tabindex": "0"}
        if token.type == "table_open":
            yield _html('<div class="wide" tabindex="0" role="group" aria-label="Table">')
        yield token
        if token.type == "table_close":
            yield _html("</div>")


def _announced(token: Token) -> Iterator[Token]:
    if token.type == "link_close":
        yield _token("html_inline", "", 0, content='<span class="unseen"> (opens in a new tab)</span>')
    yield token


def _text(content: str) -> Token:
    return _token("text", "", 0, content=content)


def _html(content: str) -> Token:
    return _token("html_block", "", 0, content=content)


def _token(*kind: Any, **values: Any) -> Token:
    from markdown_it.token import Token

    return Token(*kind, **values)


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import blockquote, heading, list_block
    from markdown_it.rules_inline import emphasis

    class Parser(MarkdownIt):
        """Parser that leaves addresses as they are; `_linked` judges them."""

        def validateLink(self, url: str) -> bool:
            return True

        def normalizeLink(self, url: str) -> str:
            return url

        def normalizeLinkText(self, link: str) -> str:
            return link

    def marks(state: StateInline, silent: bool) -> bool:
        """Leave stars and the like inside of words and numbers: CYP2D6*4, weight*height, 2**3."""
        run = re.compile(r"\*+").match(state.src, state.pos, state.posMax)
        if run and not silent and state.pos:
            around = state.src[state.pos - 1] + state.src[run.end() : run.end() + 1]
            if len(around) == 2 and around.isalnum() and (len(run[0]) == 1 or not around.isalpha()):
                state.pending += run[0]
                state.pos = run.end()
                return True
        return emphasis.tokenize(state, silent)

    def tags(state: StateInline, silent: bool) -> bool:
        tag = _TAG.match(state.src, state.pos, state.posMax)
        if tag and not silent:
            token = state.push("hardbreak", "br", 0) if tag[0][1] in "bB" else state.push("html_inline", "", 0)
            token.content = tag[0]
        state.pos = tag.end() if tag else state.pos
        return tag is not None

    def ends_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        """End a table where a line has no cells, as what follows is a sentence, or where it has become huge."""
        line = state.src[state.bMarks[start] : state.eMarks[start]]
        return silent and state.parentType == "table" and ("|" not in line or len(state.tokens) > _MOST_TOKENS)

    parser = Parser("commonmark", {"breaks": True}).enable(["table", "strikethrough"])
    # Indented code and underlined headings are as often plain texts, and what is defined elsewhere would not be seen.
    parser.disable(["code", "lheading", "reference", "html_block", "entity"])
    text = ["paragraph", "reference", "blockquote"]
    parser.block.ruler.at("blockquote", _unless(_NO_QUOTE, blockquote), {"alt": [*text, "list"]})
    parser.block.ruler.at("list", _unless(_NO_ITEM, list_block), {"alt": text})
    parser.block.ruler.at("heading", _unless(_NO_HEADING, heading), {"alt": text})
    parser.block.ruler.before("paragraph", "table_end", ends_table, {"alt": ["blockquote"]})
    parser.inline.ruler.at("emphasis", marks)
    parser.inline.ruler.at("html_inline", tags)
    return parser


_Rule = Callable[["StateBlock", int, int, bool], bool]


def _unless(pattern: re.Pattern[str], rule: _Rule) -> _Rule:
    """Return a rule that does not count for lines that begin as the pattern says."""

    def guarded(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        line = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
        return not pattern.match(line) and rule(state, start, end, silent)

    return guarded


@cache
def _cleaner() -> Cleaner:
    from nh3 import Cleaner

    return Cleaner(
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        allowed_classes=_CLASSES,
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}, "th": {"scope": "col"}},
    )
