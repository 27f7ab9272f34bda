"""Files and requests that are small where they lie and large where they are read."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from time import monotonic

from tools.attack.product import Finding, Product, Ran, Running
from tools.report import processor_s

PART = "bombs"
#: What a command may take, or so much more than with an honest file; and how much longer.
MOST_MB, _MORE_MB, PATIENT_S = 300.0, 16.0, 10.0
_MEMBER = 64 * 2**20
_GIGABYTE = 2**30


def attack(product: Product) -> Iterator[Finding]:
    """Give them to the commands, then to a server."""
    folder = product.folder / "bombs"
    folder.mkdir()
    honest = _honest(product, folder)
    for words, ran in honest.items():
        yield Finding(PART, f"{words} of an honest file, to compare with", str(ran), ran.code == 0)
    before = product.count("rlhf_interactions")
    for name, write in FILES.items():
        file = folder / name.split()[0].rstrip(",")
        write(file)
        if not name.endswith("(index)"):
            ran = product.run("ratings", "import", str(file))
            stored = product.count("rlhf_interactions") - before
            yield _finding(f"ratings import {name}", ran, stored, honest["ratings import"])
        if not name.endswith("(ratings)"):
            ran = product.run("index", "add", str(file))
            index = product.folder / "index"
            yield _finding(f"index add {name}", ran, int(index.exists()), honest["index add"])
            shutil.rmtree(index, ignore_errors=True)
        file.unlink()
    yield _long_texts(product, folder)
    with product.served() as server:
        server.get("/data?query=Why")
        for name, (path, body) in _requests().items():
            yield _sent(product, server, name, path, body)
        yield from _everywhere(product, server, folder)


def _honest(product: Product, folder: Path) -> dict[str, Ran]:
    """Give each command an honest file first: the encoder alone takes memory, and on a busy machine all takes time."""
    file = folder / "honest.jsonl"
    rows = [{"user_prompt": f"Why {number}?", "ai_response": "Because.", "text": "Because."} for number in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = product.copy(product.folder.with_name("honest"))
    return {" ".join(words): whole.run(*words, str(file)) for words in (("ratings", "import"), ("index", "add"))}


def _long_texts(product: Product, folder: Path) -> Finding:
    """Import what is large and honest: its time and its memory go by its size."""
    file, whole = folder / "long.jsonl", product.copy(product.folder.with_name("long-texts"))
    with file.open("w") as out:
        for number in range(300):
            text = f"Rest number {number} helps, says Dr. Müller. "
            row = {"user_prompt": f"Why {number}?", "ai_response": text * (1_000_000 // len(text)), "rating": 4}
            out.write(json.dumps(row) + "\n")
    before = whole.count("rlhf_interactions")
    ran = whole.run("ratings", "import", str(file), limit_s=600)
    stored = whole.count("rlhf_interactions") - before
    shutil.rmtree(whole.folder)
    file.unlink()
    said = f"{ran}, {stored} stored"
    return Finding(
        PART, "ratings import long.jsonl, 300 texts of 1 MB", said, stored == 300 and ran.megabytes < MOST_MB
    )


def _finding(name: str, ran: Ran, stored: int, honest: Ran) -> Finding:
    # Where a process gets a tenth of a core, what counts is its own time.
    small = ran.megabytes < max(MOST_MB, honest.megabytes + _MORE_MB)
    soon = min(ran.seconds - honest.seconds, ran.cpu_seconds) < PATIENT_S
    holds = ran.clear and ran.code == 2 and small and soon and not stored
    said = ran.error.strip().splitlines()[-1:] or ["nothing said"]
    return Finding(PART, name, f"{ran}, {stored} stored: {said[0][:90]}", holds)


@cache
def _member(filler: bytes) -> bytes:
    return gzip.compress(filler * (_MEMBER // len(filler)), 6, mtime=0)


def _zeros(head: bytes, filler: bytes, size: int) -> Callable[[Path], None]:
    """Return what writes a compressed file: a member for the head, and one over and over for the rest."""

    def write(path: Path) -> None:
        member = _member(filler)
        with path.open("wb") as file:
            file.write(gzip.compress(head, mtime=0))
            for _ in range(size // _MEMBER):
                file.write(member)

    return write


def _plain(head: bytes, filler: bytes, size: int) -> Callable[[Path], None]:
    """Return what writes a file: its head, 64 MB as they would go on, and a hole that takes no disk up to its size."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head + filler * (min(size, _MEMBER) // len(filler)))
            file.truncate(max(size, file.tell()))

    return write


def _parquet(count: int, size: int) -> Callable[[Path], None]:
    """Return what writes so many rows of one long text, once in the file."""

    def write(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["a" * size]))
        table = pa.table({"question": pa.array(["Why?"] * count), "answer": texts})
        # Of a single text neither a dictionary nor the smallest and the largest value: to make them takes minutes.
        only = {"use_dictionary": False, "write_statistics": False} if count == 1 else {}
        pq.write_table(
            table.cast(pa.schema([("question", pa.string()), ("answer", pa.string())])) if only else table,
            path,
            compression="zstd",
            **only,
        )

    return write


def _pages(path: Path) -> None:
    """Write a PDF with 100,000 references to one page of text."""
    text = b"BT /F 9 Tf 9 9 Td (" + b"Rest in a dark room. " * 200 + b") Tj ET"
    kids = b"3 0 R " * 100_000
    _pdf(path, text, kids, 100_000)


def _stream(path: Path) -> None:
    """Write a PDF whose page is a gigabyte of blanks, compressed."""
    packer, member = zlib.compressobj(1), b" " * _MEMBER
    packed = b"".join(packer.compress(member) for _ in range(16)) + packer.flush()
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
    "quote.csv.gz with a cell of 4 GB": _zeros(_CSV + b'Why?,"', b"a\n" * 4, 4 * _GIGABYTE),
    "head.csv.gz with a first line of 4 GB": _zeros(b"user_prompt,", b"a,", 4 * _GIGABYTE),
    "newlines.jsonl.gz of 10 GB": _zeros(b"", b"\n", 10 * _GIGABYTE),
    "newlines.csv.gz of 10 GB": _zeros(_CSV, b"\n", 10 * _GIGABYTE),
    "newlines.csv of 10 GB": _plain(_CSV, b"\n", 10 * _GIGABYTE),
    "lists.jsonl.gz, 10 GB of rows that are none": _zeros(b"", b"[]\n", 10 * _GIGABYTE),
    "array.json.gz of 2 GB (ratings)": _zeros(b'[{"user_prompt": "', b"a", 2 * _GIGABYTE),
    "blanks.json.gz of 10 GB (ratings)": _zeros(b"[", b"\n", 10 * _GIGABYTE),
    "nested.jsonl, a million lists deep": _plain(b"[" * 10**6, b"[", 0),
    "digits.jsonl, a number of a million digits": _plain(b'{"user_prompt": 1' + b"0" * 10**6 + b"}\n", b"a", 0),
    "string.parquet with a text of 1 GB": _parquet(1, _GIGABYTE - 1),
    "rows.parquet with 100,000 texts of 1 MB": _parquet(100_000, 2**20),
    "zeros.txt of 10 GB (index)": _plain(b"", b"\0", 10 * _GIGABYTE),
    "line.txt of 1 GB (index)": _plain(b"", b"a", _GIGABYTE),
    "line.txt.gz of 10 GB (index)": _zeros(b"", b"a", 10 * _GIGABYTE),
    "newlines.txt of 10 GB (index)": _plain(b"", b"\n", 10 * _GIGABYTE),
    "newlines.txt.gz of 10 GB (index)": _zeros(b"", b"\n", 10 * _GIGABYTE),
    "line.md.gz of 10 GB (index)": _zeros(b"# A\n", b"a", 10 * _GIGABYTE),
    "pages.pdf, 100,000 times one page (index)": _pages,
    "stream.pdf, a page of 1 GB (index)": _stream,
    "tree.pdf, a tree in a circle (index)": _tree,
    "zeros.pdf of 10 GB (index)": _plain(b"", b"\0", 10 * _GIGABYTE),
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


def _bodies(folder: Path) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return bodies for any route, each with the headers that it is sent with."""
    json_type, form = "application/json", "application/x-www-form-urlencoded"
    texts, pages = folder / "string.parquet", folder / "pages.pdf"
    _parquet(1, _GIGABYTE - 1)(texts)
    _pages(pages)
    zeros = _member(b" ") * 16
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    return {
        "1 GB in gzip": (zeros, {"Content-Type": json_type, "Content-Encoding": "gzip"}),
        "a nested list in gzip": (
            gzip.compress(b"[" * 10**6 + b"]" * 10**6, mtime=0),
            {"Content-Type": json_type, "Content-Encoding": "gzip"},
        ),
        "Parquet with a text of 1 GB": (texts.read_bytes(), {"Content-Type": "application/vnd.apache.parquet"}),
        "the same as JSON": (texts.read_bytes(), {"Content-Type": json_type}),
        "PDF with 100,000 times one page": (pages.read_bytes(), {"Content-Type": "application/pdf"}),
        "lists, 30,000 deep": (b"[" * 30_000 + b"]" * 30_000, {"Content-Type": json_type}),
        "objects in a field, 10,000 deep": (
            b'{"query": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
            {"Content-Type": json_type},
        ),
        "a number of 60,000 digits": (b'{"rating": ' + b"9" * 60_000 + b"}", {"Content-Type": json_type}),
        "6,000 different keys": (
            json.dumps({f"k{number}": 1 for number in range(6_000)}).encode(),
            {"Content-Type": json_type},
        ),
        "a form of 15,000 fields": (
            b"&".join(b"%d=" % number for number in range(15_000))[:65_000],
            {"Content-Type": form},
        ),
        "a form of 1,400 parts": (part * 1_100 + b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}),
        "a part whose name has no end": (
            b'--x\r\nContent-Disposition: form-data; name="' + b"a" * 60_000,
            {"Content-Type": "multipart/form-data; boundary=x"},
        ),
        "16 MB of JSON": (b"[" + b"1," * 8_000_000 + b"1]", {"Content-Type": json_type}),
    }


def _everywhere(product: Product, server: Running, folder: Path) -> Iterator[Finding]:
    """Send each of the bodies to each route that takes one."""
    paths = json.loads(server.get("/openapi.json")[1])["paths"]
    routes = [
        (method.upper(), path.replace("{id}", "known-1"))
        for path, operations in paths.items()
        for method in operations
        if method in ("post", "put", "patch", "delete")
    ]
    routes += [("POST", path) for path in ("/sign-in", "/welcome/x", "/review", "/compare", "/admin/users")]
    tables = ("rlhf_interactions", "rlhf_reviews", "rlhf_preferences", "rlhf_users")
    for name, (body, headers) in _bodies(folder).items():
        rows, before = sum(map(product.count, tables)), server.megabytes()
        statuses, worst = Counter[int](), 0.0
        for method, path in routes:
            sent, began = {"Authorization": f"Bearer {product.token}", **headers}, monotonic()
            statuses[server.request(method, path, body, headers=sent)[0]] += 1
            worst = max(worst, monotonic() - began)
        stored, more = sum(map(product.count, tables)) - rows, server.megabytes() - before
        healthy = server.get("/healthz", timeout=PATIENT_S)[0] == 200
        said = ", ".join(f"{status or 'no answer'}: {count}" for status, count in sorted(statuses.items()))
        said += f"; {worst:.1f} s at most, {more:.0f} MB more than before, {stored} stored"
        holds = all(300 <= status < 500 for status in statuses) and worst < PATIENT_S and more < MOST_MB
        yield Finding(PART, f"{name}, to {len(routes)} routes", said, holds and not stored and healthy)


def _sent(product: Product, server: Running, name: str, path: str, body: bytes) -> Finding:
    headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
    before, began, computed = server.megabytes(), monotonic(), processor_s(server.process.pid)
    status, _ = server.request("POST", path, body, headers=headers)
    seconds, more = monotonic() - began, server.megabytes() - before
    cpu_seconds = processor_s(server.process.pid) - computed
    healthy = server.get("/healthz", timeout=PATIENT_S)[0] == 200
    # Where a process gets a tenth of a core, what counts is its own time.
    holds = (
        200 <= status < 500
        and min(seconds, cpu_seconds) < PATIENT_S
        and seconds < 6 * PATIENT_S
        and more < MOST_MB
        and healthy
    )
    took = f"{seconds:.1f} s ({cpu_seconds:.1f} of CPU)"
    figures = f"{status or 'no answer'} after {took}, {more:.0f} MB more than before"
    return Finding(PART, f"POST {path}: {name}", figures, holds)
