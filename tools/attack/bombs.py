"""Files and requests that are small where they lie and large where they are read."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.attack.product import Finding, Product, Ran, Running

PART = "bombs"
#: What a command may take, or so much more than with an honest file; and how much longer.
MOST_MB, _MORE_MB, PATIENT_S = 300.0, 64.0, 10.0
_MEMBER = 64 * 2**20
_GIGABYTE = 2**30


def attack(product: Product) -> Iterator[Finding]:
    """Give them to the commands, then to a server."""
    folder = product.folder / "bombs"
    folder.mkdir()
    before = product.count("rlhf_interactions")
    honest = _honest(product, folder)
    for words, ran in honest.items():
        yield Finding(PART, f"{words} of an honest file, to compare with", str(ran), ran.code == 0)
    for name, write in FILES.items():
        file = folder / name.split()[0].rstrip(",")
        write(file)
        if not name.endswith("(index)"):
            ran = product.run("ratings", "import", str(file))
            stored = product.count("rlhf_interactions") - before
            yield _finding(f"ratings import {name}", ran, stored, honest["ratings import"])
        if not name.endswith("(ratings)"):
            ran = product.run("index", "add", str(file))
            stored = int("is empty" not in product.run("index", "list").out)
            yield _finding(f"index add {name}", ran, stored, honest["index add"])
            product.run("index", "delete", file.name)
        file.unlink()
    with product.served() as server:
        server.get("/data?query=Why")
        for name, (path, body) in _requests().items():
            yield _sent(product, server, name, path, body)


def _honest(product: Product, folder: Path) -> dict[str, Ran]:
    """Give each command an honest file first: the encoder alone takes memory, and on a busy machine all takes time."""
    file = folder / "honest.jsonl"
    rows = [{"user_prompt": f"Why {number}?", "ai_response": "Because.", "text": "Because."} for number in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = product.copy(product.folder.with_name("honest"))
    return {" ".join(words): whole.run(*words, str(file)) for words in (("ratings", "import"), ("index", "add"))}


def _finding(name: str, ran: Ran, stored: int, honest: Ran) -> Finding:
    small = ran.megabytes < max(MOST_MB, honest.megabytes + _MORE_MB)
    soon = ran.seconds < PATIENT_S + honest.seconds
    holds = ran.clear and ran.code == 2 and small and soon and not stored
    said = ran.error.strip().splitlines()[-1:] or ["nothing said"]
    return Finding(PART, name, f"{ran}{f', {stored} stored' if stored else ''}: {said[0][:90]}", holds)


def _zeros(head: bytes, filler: bytes, size: int) -> Callable[[Path], None]:
    """Return what writes a compressed file: a member for the head, and one over and over for the rest."""

    def write(path: Path) -> None:
        member = gzip.compress(filler * _MEMBER, 6, mtime=0)
        with path.open("wb") as file:
            file.write(gzip.compress(head, mtime=0))
            for _ in range(size // _MEMBER):
                file.write(member)

    return write


def _plain(head: bytes, filler: bytes, size: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head)
            for _ in range(size // _MEMBER):
                file.write(filler * _MEMBER)

    return write


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * _GIGABYTE)


def _parquet(count: int, size: int) -> Callable[[Path], None]:
    """Return what writes so many rows of one long text, once in the file."""

    def write(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        text = "a" * size
        column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))
        columns = [column if count > 1 else pa.array([text])] * 3
        table = pa.Table.from_arrays(columns, names=["user_prompt", "ai_response", "text"])
        pq.write_table(table, path, compression="zstd")

    return write


def _pages(path: Path) -> None:
    """Write a PDF with 100,000 references to one page of text."""
    text = b"BT /F 9 Tf 9 9 Td (" + b"Rest in a dark room. " * 200 + b") Tj ET"
    kids = b"3 0 R " * 100_000
    _pdf(path, text, kids, 100_000)


def _stream(path: Path) -> None:
    """Write a PDF whose page is a gigabyte of blanks, compressed."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b" " * _MEMBER) for _ in range(16)) + packer.flush()
    _pdf(path, packed, b"3 0 R", 1, b"/Filter /FlateDecode")


def _tree(path: Path) -> None:
    """Write a PDF whose tree of pages leads back to itself."""
    _pdf(path, b"BT ET", b"2 0 R 3 0 R", 2)


def _pdf(path: Path, content: bytes, kids: bytes, count: int, filter: bytes = b"") -> None:
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, kids),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>",
        b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), filter, content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, value in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    begins = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % begins
    path.write_bytes(out)


_CSV = b"user_prompt,ai_response,text\n"
#: Those marked are for one of the two commands only.
FILES: dict[str, Callable[[Path], None]] = {
    "zeros.jsonl.gz of 10 GB": _zeros(b"", b"\0", 10 * _GIGABYTE),
    "zeros.csv.gz of 10 GB": _zeros(_CSV, b"\0", 10 * _GIGABYTE),
    "line.jsonl.gz with a text of 4 GB": _zeros(b'{"user_prompt": "Why?", "text": "', b"a", 4 * _GIGABYTE),
    "cell.csv of 1 GB": _plain(_CSV + b'Why?,"', b"a", _GIGABYTE),
    "quote.csv.gz with a cell of 4 GB": _zeros(_CSV + b'Why?,"', b"a\n" * 4, _GIGABYTE),
    "head.csv.gz with a first line of 4 GB": _zeros(b"user_prompt,", b"a,", 2 * _GIGABYTE),
    "array.json.gz of 2 GB (ratings)": _zeros(b'[{"user_prompt": "', b"a", 2 * _GIGABYTE),
    "nested.jsonl, a million lists deep": _plain(b"[" * 10**6, b"[", 0),
    "digits.jsonl, a number of a million digits": _plain(b'{"user_prompt": 1' + b"0" * 10**6 + b"}\n", b"", 0),
    "string.parquet with a text of 1 GB": _parquet(1, _GIGABYTE - 1),
    "rows.parquet with 100,000 texts of 1 MB": _parquet(100_000, 2**20),
    "zeros.txt of 10 GB (index)": _sparse,
    "zeros.md.gz of 10 GB (index)": _zeros(b"# A\n", b"a", 10 * _GIGABYTE),
    "pages.pdf, 100,000 times one page (index)": _pages,
    "stream.pdf, a page of 1 GB (index)": _stream,
    "tree.pdf, a tree in a circle (index)": _tree,
    "sparse.pdf of 10 GB (index)": _sparse,
}


def _requests() -> dict[str, tuple[str, bytes]]:
    """Return bodies that are costly to read, with where they go."""
    many = json.dumps({"query": "Why?", "texts": ["a"] * 300_000}).encode()
    long = json.dumps({"query": "Why?", "texts": ["word " * 700_000]}).encode()
    return {
        "lists, half a million deep": ("/rerank", b"[" * 500_000 + b"]" * 500_000),
        "objects, 100,000 deep": ("/v1/feedback", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "a number of a million digits": ("/v1/feedback", b'{"rating": ' + b"9" * 1_000_000 + b"}"),
        "a number with a huge exponent": ("/v1/feedback", b'{"prompt": "a", "response": "b", "rating": 1e999999999}'),
        "300,000 texts to rank": ("/rerank", many),
        "a text of 3.5 MB to rank": ("/rerank", long),
        "200,000 different keys": ("/v1/feedback", json.dumps({f"k{number}": 1 for number in range(200_000)}).encode()),
        "a form of 100,000 fields": ("/data/ratings", b"&".join(b"a%d=1" % number for number in range(100_000))),
        "a question of 4 MB": ("/data", json.dumps({"query": "why " * 1_000_000}).encode()),
    }


def _sent(product: Product, server: Running, name: str, path: str, body: bytes) -> Finding:
    from time import monotonic

    headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
    before, began = server.megabytes(), monotonic()
    status, _ = server.request("POST", path, body, headers=headers)
    seconds, more = monotonic() - began, server.megabytes() - before
    healthy = server.get("/healthz", timeout=PATIENT_S)[0] == 200
    holds = 200 <= status < 500 and seconds < PATIENT_S and more < MOST_MB and healthy
    figures = f"{status or 'no answer'} after {seconds:.1f} s, {more:.0f} MB more than before"
    return Finding(PART, f"POST {path}: {name}", figures, holds)
