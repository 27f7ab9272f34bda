"""Indexing of documents into the vector database: each once, in batches, so that a run that was killed can go on.

On a cluster its machines read whole files, and cut and embed the documents of all. Rows of tables are read here, which
takes little beside embedding them; and here alone is known what the index holds, and written to it.
"""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from time import perf_counter

from rlhf_loop.domain import Progress
from rlhf_loop.encoders import TextEncoder, Vectors
from rlhf_loop.encoders.cluster import EncoderCluster
from rlhf_loop.errors import DocumentError, VectorStoreError
from rlhf_loop.reward import lexical
from rlhf_loop.sources.excerpts import sections
from rlhf_loop.sources.index.documents import Document, DocumentFile, ParsedDocument, find_files
from rlhf_loop.sources.index.store import Entry, Section, VectorStore, refuse_other_model
from rlhf_loop.utils.ray_engine import on_cluster
from rlhf_loop.utils.rows import HOPELESS, hopeless
from rlhf_loop.utils.text import clause

#: How many of what cannot be read a report lists; all are counted.
LISTED = 20
#: Documents and characters of a batch, after which no more documents come to it. A kill loses the batch at hand: some
#: seconds of work, or one document, however long, for no document is ever there in part.
_BATCH = 64
_BATCH_CHARS = 100_000
#: Sections that are embedded at a time, so that progress shows inside a long document; the encoder takes as many.
_PART = 128
#: New sections after which a long run makes searches fast again.
_OPTIMIZE_EVERY = 50_000
#: Files that a machine of a cluster reads at a time.
_FILES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """The counts of a run: `documents` = `new` + `renewed` + `known`; what stands twice is known the second time.

    `renewed` ones were there with vectors of another precision. `sections` and `passages` are those of new and renewed
    ones. `replaced` says of each source how many older documents went; nothing went of those in `spared`, because not
    all of them could be read. `invalid` lists the first of the `invalid_count` rows and files that were left out.
    """

    files: int
    documents: int
    new: int
    renewed: int
    known: int
    replaced: Mapping[str, int]
    spared: tuple[str, ...]
    sections: int
    passages: int
    seconds: float
    invalid_count: int
    invalid: tuple[ParsedDocument, ...]


class InvalidDocumentsError(DocumentError):
    """Some rows or files cannot be read, and nothing was indexed; `invalid` lists the first of them."""

    def __init__(self, count: int, invalid: Sequence[ParsedDocument], documents: int) -> None:
        first = invalid[0]
        place = f" line {first.line}" if first.line else ""
        super().__init__(
            f"{count} of {count + documents} documents cannot be read, first {str(first.path)!r}{place}: "
            f"{clause(first.reason)}. Nothing was indexed. Correct them, or leave them out with --skip-invalid."
        )
        self.count = count
        self.invalid = tuple(invalid)


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """Files that were read once and can be indexed; `chars` of their documents are to be embedded."""

    files: Sequence[DocumentFile]
    chars: int


def check_files(
    paths: Sequence[Path],
    *,
    source: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    skip_invalid: bool = False,
    cluster: EncoderCluster | None = None,
    progress: Progress | None = None,
) -> CheckedFiles:
    """Read what files and folders hold, and store nothing; so a mistake is known before an encoder is in memory.

    `progress` gets how many bytes of files are read, and how many there are.

    Raises:
        InvalidDocumentsError: some cannot be read, and not `skip_invalid`.
        DocumentError: none can be read, or a path is not there.
    """
    try:
        files = find_files(paths, source=source, columns=columns, format=format)
    except ValueError as error:
        raise DocumentError(f"These files cannot be indexed so: {error}") from error
    return CheckedFiles(files, _check(files, skip_invalid=skip_invalid, cluster=cluster, progress=progress))


def index_files(
    paths: Sequence[Path] | CheckedFiles,
    *,
    store: VectorStore,
    encoder: TextEncoder,
    source: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    skip_invalid: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
    cluster: EncoderCluster | None = None,
) -> IndexReport:
    """Index what files and folders hold; what is there already, with vectors of this encoder, is skipped.

    All files are read before anything is stored, so that a mistake in the last one costs nothing; where `paths` is what
    `check_files` returned, they have been. Then they are read again, and batches are stored one by one; after an
    interruption the same call goes on where it stopped. A file that was changed adds new documents beside the old ones,
    unless `replace`: then, at the end, those documents of the same sources go that were not in these files. A source of
    which something could not be read keeps them: it may be just that. What a re-ranking looks up beside the vectors
    goes into the encoder's cache; that of `cluster`'s workers, if the documents are embedded there. `progress` gets
    characters that are done, inside a document those that are embedded.

    Raises:
        InvalidDocumentsError: some cannot be read, and not `skip_invalid`.
        DocumentError: none can be read, or a path is not there.
        VectorStoreError: the index cannot be written, or holds vectors of another model.
    """
    started = perf_counter()
    refuse_other_model(store.encoders(), encoder.id)
    if not isinstance(paths, CheckedFiles):
        paths = check_files(
            paths, source=source, columns=columns, format=format, skip_invalid=skip_invalid, cluster=cluster
        )
    files, total = paths.files, paths.chars
    # What is in the files now counts: they may have changed since they were checked.
    reader = _DocumentReader(files, cluster)
    documents = new = renewed = n_sections = n_passages = since_optimized = done = 0
    seen: dict[str, set[str]] = {}
    spared: set[str] = set()
    # Batches that are being embedded, and the ids of what is new in them: a cluster has several at a time.
    waiting: deque[tuple[Sequence[Document], set[str]]] = deque()
    being_embedded: set[str] = set()

    def advance(chars: int) -> None:
        if progress:
            progress(done + chars, total)

    def finish(batch: Sequence[Document]) -> None:
        nonlocal documents, done
        documents += len(batch)
        for document in batch if replace else ():
            seen.setdefault(document.source, set()).add(document.id)
        done += sum(len(document.text) for document in batch)
        advance(0)

    def unknown_documents() -> Iterator[Mapping[str, Document]]:
        for batch in _batches(reader):
            by_id = {document.id: document for document in batch}
            unknown = by_id.keys() - store.known(by_id, encoder=encoder.id) - being_embedded
            if not unknown:
                finish(batch)
                continue
            being_embedded.update(unknown)
            waiting.append((batch, unknown))
            yield {name: by_id[name] for name in by_id if name in unknown}

    try:
        with closing(_embedded(unknown_documents(), encoder, cluster, advance)) as embedded:
            for entries in embedded:
                batch, unknown = waiting.popleft()
                with_other_vectors = len(store.known(unknown))
                store.add(entries, encoder=encoder.id)
                being_embedded -= unknown
                new += len(unknown) - with_other_vectors
                renewed += with_other_vectors
                n_sections += len(entries)
                n_passages += sum(len(entry.vectors) for entry in entries)
                since_optimized += len(entries)
                if since_optimized >= _OPTIMIZE_EVERY:
                    store.optimize()
                    since_optimized = 0
                finish(batch)
        if replace and reader.invalid_count:
            # A row that cannot be read does not tell its source either.
            spared = reader.invalid_sources | (set(seen) if any("source" in file.columns for file in files) else set())
        replaced = {name: store.delete(name, keep=seen[name]) for name in sorted(set(seen) - spared)}
    except BaseException:
        # What is stored by then shall be found quickly; but what stopped the run is what somebody has to know.
        with suppress(VectorStoreError):
            store.optimize()
        raise
    store.optimize()
    return IndexReport(
        files=len(files),
        documents=documents,
        new=new,
        renewed=renewed,
        known=documents - new - renewed,
        replaced=replaced,
        spared=tuple(sorted(spared)),
        sections=n_sections,
        passages=n_passages,
        seconds=perf_counter() - started,
        invalid_count=reader.invalid_count,
        invalid=tuple(reader.invalid),
    )


@dataclass(slots=True)
class _DocumentReader:
    """The documents of files; of rows and files without one it keeps the number, the first, and the sources."""

    files: Sequence[DocumentFile]
    cluster: EncoderCluster | None = None
    progress: Progress | None = None
    invalid_count: int = 0
    invalid: list[ParsedDocument] = field(default_factory=list)
    invalid_sources: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[Document]:
        any_documents = False
        for file, found in self._all():
            if found.document is not None:
                any_documents = True
                yield found.document
                continue
            self.invalid_count += 1
            if self.invalid_count == HOPELESS and not any_documents:
                raise DocumentError(hopeless(found.path, found.reason))
            self.invalid_sources.add(file.source)
            if len(self.invalid) < LISTED:
                self.invalid.append(found)

    def _all(self) -> Iterator[tuple[DocumentFile, ParsedDocument]]:
        advance = self._counter()
        for there, files in groupby(self.files, key=lambda file: self.cluster is not None and file.is_whole):
            if there and self.cluster is not None:
                some = [file.absolute() for file in files]
                for file, found in zip(some, _read_there(some, self.cluster), strict=True):
                    yield file, found
                    advance(file)
            else:
                for file in files:
                    yield from ((file, found) for found in file)
                    advance(file)

    def _counter(self) -> Callable[[DocumentFile], None]:
        if (progress := self.progress) is None:
            return lambda file: None
        total, done = sum(map(_size, self.files)), 0

        def advance(file: DocumentFile) -> None:
            nonlocal done
            done += _size(file)
            progress(min(done, total), total)

        return advance


def _size(file: DocumentFile) -> int:
    try:
        return file.path.stat().st_size
    except OSError:  # whoever reads it says so
        return 0


def _read_there(files: Sequence[DocumentFile], cluster: EncoderCluster) -> Iterator[ParsedDocument]:
    """Read files that are a document each on the machines of a cluster, in order."""
    groups = (files[start : start + _FILES] for start in range(0, len(files), _FILES))
    parsed = on_cluster(_reader, groups, workers=cluster.workers, address=cluster.address)
    return chain.from_iterable(parsed)


def _reader() -> Callable[[Sequence[DocumentFile]], list[ParsedDocument]]:
    def read(files: Sequence[DocumentFile]) -> list[ParsedDocument]:
        if absent := next((file.path for file in files if not file.path.exists()), None):
            raise DocumentError(
                f"The machine {platform.node()!r} of the cluster has no file {str(absent)!r}. Put the files into a "
                "folder that all machines have under the same name, or index them by this one: --engine local."
            )
        return [found for file in files for found in file]

    return read


def _check(
    files: Sequence[DocumentFile], *, skip_invalid: bool, cluster: EncoderCluster | None, progress: Progress | None
) -> int:
    """Read all files once; return how many characters their documents have."""
    reader = _DocumentReader(files, cluster, progress)
    documents = chars = 0
    for document in reader:
        documents += 1
        chars += len(document.text)
    if reader.invalid and not skip_invalid:
        raise InvalidDocumentsError(reader.invalid_count, reader.invalid, documents)
    if not documents:
        reason = (
            f" ({reader.invalid_count} invalid, first: {clause(reader.invalid[0].reason)})" if reader.invalid else ""
        )
        raise DocumentError(f"There is no document that can be read{reason}. Give other files.")
    return chars


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if len(batch) >= _BATCH or chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _embedded(
    batches: Iterable[Mapping[str, Document]],
    encoder: TextEncoder,
    cluster: EncoderCluster | None,
    advance: Callable[[int], None],
) -> Generator[list[Entry], None, None]:
    if cluster is not None:
        yield from cluster.do(_embedder, batches, encoder=encoder.full_id)
    else:
        yield from (_embed(encoder, batch, advance) for batch in batches)


def _embedder(encoder: TextEncoder) -> Callable[[Mapping[str, Document]], list[Entry]]:
    return partial(_embed, encoder)


def _embed(
    encoder: TextEncoder, documents: Mapping[str, Document], advance: Callable[[int], None] = lambda chars: None
) -> list[Entry]:
    """Cut and embed documents, given by their ids; `advance` counts characters."""
    now = datetime.now(UTC)
    cut = [
        Section(
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
        for name, document in documents.items()
        for number, text in enumerate(sections(document.text, encoder.language))
    ]
    vectors: list[Vectors] = []
    chars = 0
    for start in range(0, len(cut), _PART):
        advance(chars)
        texts = [section.text for section in cut[start : start + _PART]]
        vectors += encoder.passages_to_keep(texts)
        # Re-ranking compares a question with each candidate's title, too.
        encoder.encode_whole([], passages=[lexical.title(text, encoder.language) for text in texts])
        chars += sum(map(len, texts))
    titles = list({section.title for section in cut if section.title})
    headings = dict(zip(titles, (matrix[0] for matrix in encoder.passages_to_keep(titles)), strict=True))
    return [
        # By its title a document is found once: its later sections have to be found by what they say.
        Entry(section, matrix, headings.get(section.title or "") if section.number == 0 else None)
        for section, matrix in zip(cut, vectors, strict=True)
    ]
