"""Documents into the vector database: each once, a batch at a time, so that a run that was killed can go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import DocumentError
from rlhf_loop.excerpts import sections
from rlhf_loop.index.documents import Document, DocumentFile, Found, find_files
from rlhf_loop.index.store import Entry, Section, VectorStore, refuse_other_model
from rlhf_loop.reward import lexical

#: How many of what cannot be read a report lists; all are counted.
LISTED = 20
#: Documents and characters of a batch: some seconds of work, which is all that a kill can lose.
_BATCH = 64
_BATCH_CHARS = 100_000
#: New sections after which a long run makes searches fast again.
_OPTIMIZE_EVERY = 50_000

#: Called with the documents that are done, and all of them.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What a run did: `documents` = `new` + `known`; what stands twice in the files is known the second time.

    `sections` and `passages` are those of the new ones; `replaced` older documents went. `invalid` lists the first of
    the `invalid_count` rows and files that were left out.
    """

    files: int
    documents: int
    new: int
    known: int
    replaced: int
    sections: int
    passages: int
    seconds: float
    invalid_count: int
    invalid: tuple[Found, ...]


class InvalidDocumentsError(DocumentError):
    """Some rows or files cannot be read, and nothing was indexed; `invalid` lists the first of them."""

    def __init__(self, count: int, invalid: Sequence[Found], documents: int) -> None:
        first = invalid[0]
        place = f" line {first.line}" if first.line else ""
        super().__init__(
            f"{count} of {count + documents} documents cannot be read, first {str(first.path)!r}{place}: "
            f"{first.reason.rstrip('.')}. Nothing was indexed. Correct them, or leave them out with --skip-invalid."
        )
        self.count = count
        self.invalid = tuple(invalid)


def add(
    paths: Sequence[Path],
    *,
    store: VectorStore,
    encoder: TextEncoder,
    source: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    skip_invalid: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> IndexReport:
    """Index what files and folders hold; what is there already is skipped.

    All files are read before anything is stored, so that a mistake in the last one costs nothing. Then batches are
    stored one by one; after an interruption the same call goes on where it stopped. A file that was changed adds new
    documents beside the old ones, unless `replace`: then, at the end, those documents of the same sources go that were
    not in these files. What a re-ranking looks up beside the vectors goes into the encoder's cache.

    Raises:
        InvalidDocumentsError: some cannot be read, and not `skip_invalid`.
        DocumentError: none can be read, or a path is not there.
        VectorStoreError: the index cannot be written, or holds vectors of another model.
    """
    started = perf_counter()
    refuse_other_model(store.encoder, encoder.id)
    try:
        files = find_files(paths, source=source, columns=columns, format=format)
    except ValueError as error:
        raise DocumentError(f"These files cannot be indexed so: {error}") from error
    total, invalid_count, invalid = _check(files, skip_invalid=skip_invalid)
    done = new = n_sections = n_passages = since_optimized = 0
    seen: dict[str, set[str]] = {}
    try:
        for batch in _batches(files):
            entries, fresh = _entries(batch, store, encoder)
            store.add(entries, encoder=encoder.id)
            new += fresh
            n_sections += len(entries)
            n_passages += sum(len(entry.vectors) for entry in entries)
            since_optimized += len(entries)
            if since_optimized >= _OPTIMIZE_EVERY:
                store.optimize()
                since_optimized = 0
            if replace:
                for document in batch:
                    seen.setdefault(document.source, set()).add(document.id)
            done += len(batch)
            if progress:
                progress(done, total)
        replaced = sum(store.delete(name, keep=documents) for name, documents in seen.items())
    finally:
        # After an interruption, too: what is stored by then shall be found quickly.
        store.optimize()
    return IndexReport(
        files=len(files),
        documents=done,
        new=new,
        known=done - new,
        replaced=replaced,
        sections=n_sections,
        passages=n_passages,
        seconds=perf_counter() - started,
        invalid_count=invalid_count,
        invalid=tuple(invalid),
    )


def _check(files: Sequence[DocumentFile], *, skip_invalid: bool) -> tuple[int, int, list[Found]]:
    """Read all files once: count the documents and what cannot be read, and list the first of that."""
    documents = count = 0
    invalid: list[Found] = []
    for file in files:
        for found in file:
            if found.document is not None:
                documents += 1
                continue
            count += 1
            if len(invalid) < LISTED:
                invalid.append(found)
    if count and not skip_invalid:
        raise InvalidDocumentsError(count, invalid, documents)
    if not documents:
        reason = f" ({count} invalid, first: {invalid[0].reason})" if invalid else ""
        raise DocumentError(f"There is no document that can be read{reason}. Give other files.")
    return documents, count, invalid


def _batches(files: Sequence[DocumentFile]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for file in files:
        for found in file:
            if found.document is None:
                continue
            batch.append(found.document)
            chars += len(found.document.text)
            if len(batch) >= _BATCH or chars >= _BATCH_CHARS:
                yield batch
                batch, chars = [], 0
    if batch:
        yield batch


def _entries(batch: Sequence[Document], store: VectorStore, encoder: TextEncoder) -> tuple[list[Entry], int]:
    """Cut and embed those documents that are not known; return their sections, and how many documents that are."""
    by_id = {document.id: document for document in batch}
    known = store.known(by_id)
    now = datetime.now(UTC)
    new = [
        _section(name, document, number, text, now)
        for name, document in by_id.items()
        if name not in known
        for number, text in enumerate(sections(document.text))
    ]
    texts = [section.text for section in new]
    vectors = encoder.passages_to_keep(texts)
    # Re-ranking compares a question with each candidate's title, too.
    encoder.encode_whole([lexical.title(text) for text in texts])
    titles = list({section.title for section in new if section.title})
    headings = dict(zip(titles, (matrix[0] for matrix in encoder.passages_to_keep(titles)), strict=True))
    entries = [
        # By its title a document is found once: its later sections have to be found by what they say.
        Entry(section, matrix, headings.get(section.title or "") if section.number == 0 else None)
        for section, matrix in zip(new, vectors, strict=True)
    ]
    return entries, len(by_id) - len(known)


def _section(name: str, document: Document, number: int, text: str, now: datetime) -> Section:
    return Section(
        id=f"{name}-{number}",
        document=name,
        number=number,
        source=document.source,
        text=text,
        title=document.title,
        url=document.url,
        licence=document.licence,
        added_at=now,
    )
