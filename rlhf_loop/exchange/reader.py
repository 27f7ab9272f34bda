"""Reader of ratings files of any format, row by row: a container holds the rows, a layout knows what they say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.argilla import ArgillaLayout
from rlhf_loop.exchange.formats.base import UNKNOWN, FileRow, Labels, Layout, LeftOutError, refuse_columns, refuse_names
from rlhf_loop.exchange.formats.chats import DifyLayout, LibreChatLayout, RagflowLayout
from rlhf_loop.exchange.formats.label_studio import LabelStudioLayout
from rlhf_loop.exchange.formats.langfuse import LangfuseLayout
from rlhf_loop.exchange.formats.openwebui import OpenWebUILayout
from rlhf_loop.exchange.formats.phoenix import PhoenixLayout
from rlhf_loop.exchange.formats.plain import PlainLayout
from rlhf_loop.exchange.formats.trl import PreferenceLayout, UnpairedLayout
from rlhf_loop.utils.encodings import UTF_8, known_encoding, likely_encoding, recoded
from rlhf_loop.utils.rows import DAMAGED, Record, container_of, open_stream, read_records, refuse_other_kinds
from rlhf_loop.utils.translation import Message

#: The formats of one's own, which are also the ways in which a file can hold rows.
PLAIN = ("csv", "jsonl", "parquet", "xlsx")
_BINARY = ("parquet", "xlsx")
#: What holds no rows; the index reads these.
_DOCUMENTS = (".pdf", ".docx", ".pptx", ".html", ".htm")
#: A file of JSON holds the same objects as one of JSONL, in an array.
_CONTAINERS = (*PLAIN, "json")
#: Those of other tools, with the ways in which such a file can hold its rows; the name's ending tells which.
FOREIGN = {
    "trl-preference": ("jsonl", "json", "parquet", "csv"),
    "trl-unpaired": ("jsonl", "json", "parquet", "csv"),
    "argilla": ("json", "jsonl", "parquet"),
    "langfuse": ("jsonl", "json", "csv", "parquet"),
    "openwebui": ("json", "jsonl"),
    "label-studio": ("json", "jsonl", "csv"),
    "phoenix": ("parquet", "jsonl", "json", "csv"),
    "dify": ("csv", "json", "jsonl"),
    "ragflow": ("json", "jsonl"),
    "librechat": ("json", "jsonl"),
}
FORMATS = (*PLAIN, *FOREIGN)
#: Those that are only read.
INCOMING = ("xlsx", "openwebui", "label-studio", "phoenix", "dify", "ragflow", "librechat")
_FIXED: Mapping[str, Callable[[Labels], Layout]] = {
    "trl-preference": PreferenceLayout,
    "trl-unpaired": UnpairedLayout,
    "langfuse": LangfuseLayout,
    "openwebui": OpenWebUILayout,
    "phoenix": PhoenixLayout,
    "dify": DifyLayout,
    "ragflow": RagflowLayout,
    "librechat": LibreChatLayout,
}
#: What is said of a row whose lists and objects nobody can go through.
TOO_DEEP = "it is nested too deeply"
_ADVICE = {"openwebui": "Open WebUI's CSV has neither questions nor answers; export JSON. "}


class RatingsReader:
    """Reads a ratings file row by row; iterate it once.

    `ignored` lists the columns that no field takes, as far as the file has been read. `position` and `size` are in
    bytes of the file as it lies there, for a progress bar. `role` is whose word it is where no row says so, `advice`
    what to do about two words of one reviewer that contradict each other, `encoding` that of the text: without a given
    one it is told by the file, once reading has begun.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
        labels: Labels | None = None,
        encoding: str | None = None,
    ) -> None:
        self.path = path
        self.format, self._container = chosen_format(path, format)
        self.encoding = None if encoding is None or self._container in _BINARY else known_encoding(encoding)
        self.size = 0
        columns, names, labels = columns or {}, names or {}, labels or Labels()
        if self.format in PLAIN:
            refuse_names(names, format=self.format)
            alone = self.format == "jsonl"
            self._layout: Layout = PlainLayout(
                path, columns=columns, each_alone=alone, labels=labels, again=self._records
            )
        else:
            self._layout = layout_of(self.format, columns=columns, names=names, labels=labels)
        self._ignored: dict[str, None] = {}
        self._file: IO[bytes] | None = None

    @property
    def role(self) -> ReviewerRole:
        return self._layout.role

    @property
    def advice(self) -> str:
        return self._layout.advice

    @property
    def ignored(self) -> tuple[str, ...]:
        return (*self._ignored, *self._layout.unused)

    @property
    def rated_elsewhere(self) -> bool:
        return self._layout.rated_elsewhere

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns that fields take, by field, as far as the file has been read; none in a tool's format."""
        return self._layout.columns

    @property
    def position(self) -> int:
        return self._file.tell() if self._file and not self._file.closed else self.size

    def __iter__(self) -> Iterator[FileRow]:
        """Yield the rows in order.

        Raises:
            ImportFileError: the file cannot be read as a whole: absent, damaged, without the required columns, or of
                another kind.
        """
        matched: set[tuple[str, ...]] = set()
        foreign, any_rows = "", False
        with ExitStack() as stack:
            for record in read_records(self.path, self._open(stack), format=self._container):
                if record.reason:
                    yield FileRow(record.line, None, self._by_name(record.reason))
                    continue
                if record.left_out:
                    self._ignored[record.left_out] = None
                    continue
                if record.names not in matched:
                    matched.add(record.names)
                    self._ignored.update(dict.fromkeys(self._layout.match(record.names)))
                if not record.cells:
                    continue
                try:
                    for row in self._layout.rows(record):
                        any_rows = True
                        yield row
                except LeftOutError as left_out:
                    self._layout.pass_over(left_out.what)
                    foreign = foreign or (left_out.what == UNKNOWN and str(left_out)) or ""
                except RecursionError:
                    yield FileRow(record.line, None, TOO_DEEP)
                except ValueError as error:
                    yield FileRow(record.line, None, self._by_name(str(error)))
        yield from self._layout.finish()
        self._layout.check()
        if foreign and not any_rows:
            raise ImportFileError(
                Message(
                    "Nothing in {path!r} could be read as {format}: {foreign}. Export it as "
                    "docs/RLHF_EXCHANGE.md says, or give the format that it has with --from.",
                    path=str(self.path),
                    format=self.format,
                    foreign=foreign,
                )
            )

    def _by_name(self, reason: str) -> str:
        """Name the encoding that the file has, as its text is in UTF-8 only here."""
        return reason.replace("not UTF-8", f"not {self.encoding}") if self.encoding not in (None, UTF_8) else reason

    def first_names(self) -> tuple[str, ...]:
        """Return the names of the first row's columns."""
        return next((tuple(filter(str.strip, record.names)) for record in self._records() if record.names), ())

    def _records(self) -> Iterator[Record]:
        """Read the rows once more, from the first to the last."""
        with ExitStack() as stack:
            yield from read_records(self.path, self._opened(stack)[1], format=self._container)

    def _open(self, stack: ExitStack) -> IO[bytes]:
        self._file, stream = self._opened(stack)
        self.size = os.fstat(self._file.fileno()).st_size
        return stream

    def _opened(self, stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
        """Return the file as it lies there, and what is in it in UTF-8, if that is a text."""
        file, stream = open_stream(self.path, stack, text=False)
        with suppress(*DAMAGED):  # reading will meet it again
            refuse_other_kinds(self.path, stream.read(100), but=self._container)
            stream.seek(0)
            if self._container not in _BINARY:
                self.encoding = self.encoding or likely_encoding(stream, guess=self._container == "csv")
        stream.seek(0)
        return file, stream if self._container in _BINARY else recoded(stream, self.encoding or UTF_8)


def chosen_format(path: Path, format: str | None) -> tuple[str, str]:
    """Return the format, and how the file holds its rows; without a format the name's ending tells both.

    Raises:
        ImportFileError: the ending tells nothing, or nothing that the format can be held in.
    """
    if path.is_dir():
        raise ImportFileError(Message("{path!r} is a folder. Import the files in it one by one.", path=str(path)))
    if format is None:
        if path.suffix.lower() in _DOCUMENTS:
            raise ImportFileError(
                Message(
                    "The file {file!r} is a document, and ratings are rows of a table, such as .csv or .xlsx. What "
                    "answers are to come from goes into the index: rlhf-loop index add FILE",
                    file=str(path),
                )
            )
        advice = Message("Give the format with --format ({formats}), or: ", formats=", ".join(FORMATS))
        container = container_of(path, _CONTAINERS, advice=advice)
        return ("jsonl" if container == "json" else container), container
    if format in PLAIN:
        return format, format
    return format, container_of(path, FOREIGN[format], advice=_ADVICE.get(format, ""))


def layout_of(format: str, *, columns: Mapping[str, str], names: Mapping[str, str], labels: Labels) -> Layout:
    """Return what reads the rows of another tool's format.

    Raises:
        ImportFileError: columns or tags have a name where the format fixes theirs.
    """
    if format == "label-studio":
        return LabelStudioLayout(labels, columns=columns, names=names)
    refuse_names(names, format=format)
    if format == "argilla":
        return ArgillaLayout(labels, columns=columns)
    refuse_columns(columns, format=format)
    return _FIXED[format](labels)
