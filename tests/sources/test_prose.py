"""Tests of HTML, DOCX and PPTX files that are indexed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from rlhf_loop.sources.excerpts import sections
from rlhf_loop.sources.index import prose
from rlhf_loop.sources.index.documents import ParsedDocument, find_files

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_P = 'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
_A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
_R = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
_CORE = (
    '<c:coreProperties xmlns:c="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{}</dc:title></c:coreProperties>'
)
_NOTE = f'<w:footnote w:id="2"><w:p><w:r><w:t>{"word " * 90}</w:t></w:r></w:p></w:footnote>'


def packed(parts: dict[str, str]) -> bytes:
    """A file of Office with these parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def relationships(*parts: tuple[str, str]) -> str:
    """Relationships of these kinds to these parts, named r1, r2 and so on."""
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    each = "".join(
        f'<Relationship Id="r{number}" Type="{kind}/{name}" Target="{target}"/>'
        for number, (name, target) in enumerate(parts, start=1)
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{each}</Relationships>'


def docx(body: str, *, title: str = "", before: str = "", part: str = "document.xml", notes: str = "") -> bytes:
    """A document of Word with this body in this part."""
    return packed(
        {
            "_rels/.rels": relationships(("officeDocument", f"word/{part}")),
            "word/footnotes.xml": f"<w:footnotes {_W}>{notes}</w:footnotes>",
            f"word/{part}": f"{before}<w:document {_W}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": f'<w:styles {_W}><w:style w:type="paragraph" w:styleId="berschrift1">'
            '<w:name w:val="heading 1"/></w:style></w:styles>',
            "docProps/core.xml": _CORE.format(title),
        }
    )


def paragraph(text: str, *, style: str = "", raised: bool = False) -> str:
    """A paragraph of Word."""
    about = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    format = '<w:rPr><w:vertAlign w:val="superscript"/></w:rPr>' if raised else ""
    return f"<w:p>{about}<w:r>{format}<w:t>{text}</w:t></w:r></w:p>"


def shape(*lines: str, kind: str = "") -> str:
    """A shape of a slide with paragraphs."""
    holder = f'<p:nvPr><p:ph type="{kind}"/></p:nvPr>' if kind else "<p:nvPr/>"
    text = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in lines)
    return f"<p:sp><p:nvSpPr>{holder}</p:nvSpPr><p:txBody>{text}</p:txBody></p:sp>"


def pptx(
    *slides: str, title: str = "PowerPoint Presentation", notes: str = "", times: int = 1, ending: str = "xml"
) -> bytes:
    """A presentation with these slides, the later ones hidden by `show="0"` in them; notes belong to the first."""
    names = [f"slides/slide{number}.{ending}" for number in range(len(slides), 0, -1)]
    listed = "".join(f'<p:sldId r:id="r{number}"/>' for number in range(1, len(slides) + 1)) * times
    parts = {
        "_rels/.rels": relationships(("officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f"<p:presentation {_P} {_R}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": relationships(*(("slide", name) for name in names)),
        "docProps/core.xml": _CORE.format(title),
    }
    for name, slide in zip(names, slides, strict=True):
        hidden = ' show="0"' if "HIDDEN" in slide else ""
        parts[f"ppt/{name}"] = f"<p:sld {_P} {_A}{hidden}><p:cSld><p:spTree>{slide}</p:spTree></p:cSld></p:sld>"
    if notes:
        parts[f"ppt/slides/_rels/slide{len(slides)}.{ending}.rels"] = relationships(
            *[("notesSlide", "../notesSlides/n.xml")] * times
        )
        parts["ppt/notesSlides/n.xml"] = (
            f"<p:notes {_P} {_A}><p:cSld><p:spTree>{shape(notes, kind='body')}{shape('7', kind='sldNum')}"
            "</p:spTree></p:cSld></p:notes>"
        )
    return packed(parts)


def read(path: Path, content: str | bytes) -> ParsedDocument:
    """What indexing makes of a file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (file,) = find_files([path])
    (found,) = file
    return found


def text_of(path: Path, content: str | bytes) -> str:
    """The text of a file that can be read."""
    found = read(path, content)
    assert found.document is not None, found.reason
    return found.document.text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>A <em>b</em></h1><p>one\n two<p>three", "# A b\n\none two\n\nthree"),
        ("<div>a<div>b</div>c</div>", "a\n\nb\n\nc"),
        ("<p>a<br>b <b>c</b>d<!-- no --><i> e</i>", "a\nb cd e"),
        ("<p>10<sup>9</sup> H<sub>2</sub>O 1<sup>st</sup> cm<sup>−1</sup>", "10⁹ H2O 1st cm⁻¹"),
        ("<ul><li>a<li><p>b</p><ol start=3><li>c<li>d</ol>e<li>f</ul>", "- a\n- b\n  3. c\n  4. d\n  e\n- f"),
        ("<pre>if a:\n    b &lt; ```c</pre>", "````\nif a:\n    b < ```c\n````"),
        ("<dl><dt>T<dd>M</dl><p>x", "T\nM\n\nx"),
        (
            "<table><caption>C</caption><tr><th>a<th>b<tr><td>1|2<td>3</table>",
            "C\n\n| a | b |\n| --- | --- |\n| 1/2 | 3 |",
        ),
        (
            "<table><tr><td rowspan=2>a<td colspan=2>b<tr><td>c<td><ul><li>d<li>e</ul></table>",
            "| a | b |  |\n| --- | --- | --- |\n| a | c | d e |",
        ),
        ("<table><tr><td><h2>a</h2><td>b</table>", "## a\n\nb"),
        ("<table><tr><td><table><tr><th>a<th>b<tr><td>1<td>2</table></table>", "| a | b |\n| --- | --- |\n| 1 | 2 |"),
        ("<details><summary>a</summary>b</details>", "a\n\nb"),
        ("<p>a<script>1</script><style>2</style><noscript>3</noscript><template>4</template><svg><text>5", "a"),
        ("<p>a<p hidden>1<p style='display: none'>2<p aria-hidden=true>3", "a"),
        ("<header>1</header><nav>2</nav><p>a<div class='x site-footer'>3</div><div id=cookie-banner>4</div>", "a"),
        ("<div class=sidebar>1</div><main><header><h1>a</h1></header>b<nav>2</nav></main><footer>3", "# a\n\nb"),
        ("<div id=menu><article>a</article></div><p>1", "a"),
        ("<p>0<article>a</article><article>b</article>", "0\n\na\n\nb"),
        ("<nav>only this</nav>", "only this"),
        ("<p>a &lt;b&gt; &amp; ﬁne", "a <b> & fine"),
    ],
)
def test_html_becomes_text(tmp_path: Path, html: str, text: str) -> None:
    """Headings, lists, tables and code are as in Markdown; what is around the text is left out."""
    assert text_of(tmp_path / "a.html", html) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("größe".encode("utf-16"), "größe"),
        (b"\xef\xbb\xbf<p>gr\xc3\xb6\xc3\x9fe", "größe"),
        (b'<meta charset="iso-8859-1"><p>gr\xf6\xdfe \x80', "größe €"),
        (b'<meta http-equiv=x content="text/html; charset=shift_jis"><p>\x93\xfa\x96\x7b', "日本"),
    ],
)
def test_encodings_of_html(tmp_path: Path, raw: bytes, text: str) -> None:
    """The encoding is what the bytes tell, else what the page says."""
    assert text_of(tmp_path / "a.htm", raw) == text


@pytest.mark.parametrize(
    ("head", "title"),
    [
        ("<title> One\n title </title>", "One title"),
        ('<title>Site</title><meta property="og:title" content="Shared">', "Shared"),
        ("", "Heading"),
    ],
)
def test_a_page_gives_its_title_and_address(tmp_path: Path, head: str, title: str) -> None:
    """A page's title is the one it is shared by, that of its head, or its heading; its address is its own word."""
    html = f"<head>{head}<link rel=canonical href='https://example.org/a'></head><h1>Heading</h1><p>Text"
    found = read(tmp_path / "a.html", html).document
    assert found is not None
    assert (found.title, found.url) == (title, "https://example.org/a")


def test_a_docx(tmp_path: Path) -> None:
    """A document of Word keeps headings, lists, tables and exponents; what was deleted in it is left out."""
    cell = "<w:tc>{}</w:tc>".format
    rows = "".join(f"<w:tr>{''.join(cell(paragraph(text)) for text in row)}</w:tr>" for row in ("ab", "12"))
    body = paragraph("Chapter", style="berschrift1") + paragraph("Text") + paragraph("9", raised=True)
    body += f"<w:tbl>{rows}</w:tbl><w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
    found = read(tmp_path / "a.docx", docx(body)).document
    assert found is not None
    assert found.text == "# Chapter\n\nText\n\n⁹\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert found.title == "Chapter"
    named = read(tmp_path / "b.docx", docx(body, title="Named")).document
    assert named is not None
    assert named.title == "Named"


def test_a_pptx(tmp_path: Path) -> None:
    """Slides come in their order with title, points, tables and notes; hidden ones and footers are left out."""
    cell = "<a:tc><p:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></p:txBody></a:tc>".format
    table = "".join(f"<a:tr>{''.join(map(cell, row))}</a:tr>" for row in ("ab", "12"))
    first = shape("one", "two", kind="body") + shape("Title", kind="ctrTitle") + shape("Footer", kind="ftr")
    second = f"<p:grpSp>{shape('inside')}</p:grpSp><p:graphicFrame><a:graphic><a:graphicData><a:tbl>{table}</a:tbl>"
    second += "</a:graphicData></a:graphic></p:graphicFrame>"
    found = read(tmp_path / "a.pptx", pptx(first, second, shape("HIDDEN"), notes="Said")).document
    assert found is not None
    assert found.text == "## Title\n\n- one\n- two\n\nSaid\n\ninside\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert found.title == "Title"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.html", b"<p>a\0b", "NUL bytes, so it is not HTML"),
        ("a.html", "<script>1</script>", "empty"),
        (
            "a.html",
            "<table><tr><td rowspan=500>" + "word " * 5000 + "<td>a" + "<tr><td>b" * 500,
            "10,000,000 characters",
        ),
        ("a.html", "<table>" + "<tr><td rowspan=9999 colspan=100>a<td>b" * 2100, "more than 200,000 cells"),
        ("a.html.gz", b"\x1f\x8b\x08broken", "damaged"),
        ("a.docx", b"", "cannot be read as one of Word"),
        ("a.docx", docx(paragraph("a"))[:-30], "cannot be read as one of Word"),
        ("a.docx", b"\xd0\xcf\x11\xe0" + bytes(600), "encrypted, or of Word before 2007"),
        ("a.docx", docx(""), "empty"),
        ("a.docx", docx("a", before='<!DOCTYPE a [<!ENTITY b "c">]>'), "declares entities"),
        ("a.docx", docx("<w:p/>" * 1_000_001), "1,000,000 pieces"),
        ("a.docx", docx("<w:sdt><w:sdtContent>" * 2000 + "</w:sdtContent></w:sdt>" * 2000), "recursion"),
        ("a.docx", docx("a", part="document.dat"), "Could not find main document part"),
        ("a.pptx", pptx(shape("a"), ending="dat"), "empty"),
        ("a.pptx", docx(paragraph("a")), "cannot be read as one of PowerPoint: it has no slides"),
        ("a.pptx", b"\xd0\xcf\x11\xe0", "encrypted, or of PowerPoint before 2007"),
    ],
)
def test_a_file_that_cannot_be_indexed(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    """The reason says what is wrong with the file, and what to do."""
    found = read(tmp_path / name, content)
    assert found.document is None
    assert expected in found.reason
    assert found.reason.endswith(".")


@pytest.mark.parametrize(
    ("name", "content", "most"),
    [
        ("a.html", "<a " * 100_000, 0),
        ("a.html", "<div/>" * 3000 + "a", 1),
        ("a.html", "<div></b>" * 3000 + "a", 1),
        ("a.html", "<article>" * 3000 + "<br>a" * 100, 200),
        ("a.html", "<nav>" * 3000 + "<br>a" * 1000, 2000),
        ("a.html", "<div>" * 2900 + "<header>a</header>" * 300, 900),
        ("a.html", "<div>" * 2900 + "<table><tr><td>a</table>" * 100, 300),
        ("a.html", "<ul><li>a" * 900 + "<li>b" * 100, 24_000),
        ("a.docx", docx("<w:p>" + '<w:r><w:footnoteReference w:id="2"/></w:r>' * 99 + "</w:p>", notes=_NOTE), 500),
        ("a.pptx", pptx(shape("word " * 100), notes="word " * 100, times=99), 1000),
    ],
)
def test_a_small_file_is_read_fast_and_stays_small(tmp_path: Path, name: str, content: str | bytes, most: int) -> None:
    """Work and text grow with the file, whatever is left open, nested or named again and again in it."""
    found = read(tmp_path / name, content).document
    assert len(found.text if found else "") <= most


def test_a_large_page_is_first_parsed_in_a_process_with_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to parse a page no rule tells; a page that takes too much is refused, others are read."""
    page = "<p>" + "a" * 200_000
    assert len(text_of(tmp_path / "a.html", page)) == 200_000
    monkeypatch.setattr("rlhf_loop.sources.index.prose._MOST_MEMORY", 1 << 22)
    assert "or 4 MB to parse" in read(tmp_path / "b.html", page).reason


def test_a_file_that_unpacks_to_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of Office that would become huge is refused by its table of contents."""
    monkeypatch.setattr("rlhf_loop.sources.index.prose._MOST_XML", 5000)
    assert "more than 5,000 bytes" in read(tmp_path / "a.docx", docx(paragraph(" " * 5000))).reason


def test_sections_begin_with_the_header_of_a_table(tmp_path: Path) -> None:
    """A long table of a page is cut between its rows, and each part has its columns' names."""
    rows = "".join(f"<tr><td>Drug {number}<td>{number} mg</tr>" for number in range(200))
    text = text_of(tmp_path / "a.html", f"<h1>Doses</h1><table><tr><th>Drug<th>Dose</tr>{rows}</table>")
    later = sections(text)[1:]
    assert len(later) > 1
    assert all(part.startswith("| Drug | Dose |\n| --- | --- |\n| Drug ") for part in later)


def test_folders_are_indexed_without_what_office_leaves_in_them(tmp_path: Path) -> None:
    """Files of Office and pages are found in folders; the small ones beside an opened document are not."""
    for name in ("a.docx", "~$a.docx", "b.pptx", "c.html", "d.docx.gz"):
        (tmp_path / name).write_bytes(b"")
    assert [file.path.name for file in find_files([tmp_path])] == ["a.docx", "b.pptx", "c.html"]


def test_a_page_of_too_many_elements_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formatting that is never closed is opened anew in each paragraph: ten marks times ten are a hundred elements."""
    monkeypatch.setattr(prose, "_PARSED_HERE", (0, 0, 0))
    monkeypatch.setattr(prose, "_MOST_ELEMENTS", 100)
    page = f"<p>{''.join(f'<b id={number}>' for number in range(10))}</p>{'<p>x' * 10}"
    refused = read(tmp_path / "a.html", page)
    assert "more than 100 elements" in refused.reason
    assert text_of(tmp_path / "b.html", page.replace("</p>", "</b>" * 10 + "</p>")) == "\n\n".join("x" * 10)
