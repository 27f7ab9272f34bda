"""Reader of ratings files of any format, row by row: a container holds the rows, a layout knows what they say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.exchange.formats.argilla import ArgillaLayout
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout, LeftOutError, refuse_columns
from rlhf_loop.exchange.formats.label_studio import LabelStudioLayout
from rlhf_loop.exchange.formats.langfuse import LangfuseLayout
from rlhf_loop.exchange.formats.openwebui import OpenWebUILayout
from rlhf_loop.exchange.formats.phoenix import PhoenixLayout
from rlhf_loop.exchange.formats.plain import PlainLayout
from rlhf_loop.exchange.formats.trl import PreferenceLayout, UnpairedLayout
from rlhf_loop.utils.rows import container_of, open_stream, read_records

#: The formats of one's own, which are also the ways in which a file can hold rows.
PLAIN = ("csv", "jsonl", "parquet")
#: Those of other tools, with the ways in which such a file can hold its rows; the name's ending tells which.
FOREIGN = {
    "trl-preference": ("jsonl", "json", "parquet", "csv"),
    "trl-unpaired": ("jsonl", "json", "parquet", "csv"),
    "argilla": ("json", "jsonl"),
    "langfuse": ("jsonl", "json", "csv", "parquet"),
    "openwebui": ("json", "jsonl"),
    "label-studio": ("json", "jsonl", "csv"),
    "phoenix": ("parquet", "jsonl", "json", "csv"),
}
FORMATS = (*PLAIN, *FOREIGN)
#: Those that are only read.
INCOMING = ("openwebui", "label-studio", "phoenix")
#: What is said of a row whose lists and objects nobody can go through.
TOO_DEEP = "it is nested too deeply"
_ADVICE = {"openwebui": "Open WebUI's CSV has neither questions nor answers; export JSON. "}


class RatingsReader:
    """Reads a ratings file row by row; iterate it once.

    `ignored` lists the columns that no field takes, as far as the file has been read. `position` and `size` are in
    bytes of the file as it lies there, for a progress bar. `role` is whose word it is where no row says so.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        labels: Labels | None = None,
    ) -> None:
        self.path = path
        self.format, self._container = chosen_format(path, format)
        self.size = 0
        columns, labels = columns or {}, labels or Labels()
        if self.format in PLAIN:
            alone = self.format == "jsonl"
            self._layout: Layout = PlainLayout(path, columns=columns, each_alone=alone, labels=labels)
        else:
            self._layout = layout_of(self.format, columns=columns, labels=labels)
        self._ignored: dict[str, None] = {}
        self._passed_over = Counter[str]()
        self._file: IO[bytes] | None = None

    @property
    def role(self) -> ReviewerRole:
        return self._layout.role

    @property
    def ignored(self) -> tuple[str, ...]:
        layout = self._layout
        others = layout.left_out if isinstance(layout, LangfuseLayout | LabelStudioLayout | PhoenixLayout) else ()
        passed_over = (f"{what} ({count:,})" for what, count in self._passed_over.items())
        return (*self._ignored, *others, *passed_over)

    @property
    def position(self) -> int:
        return self._file.tell() if self._file and not self._file.closed else self.size

    def __iter__(self) -> Iterator[FileRow]:
        """Yield the rows in order.

        Raises:
            ImportFileError: the file cannot be read as a whole: absent, damaged, or without the required columns.
        """
        matched: set[tuple[str, ...]] = set()
        with ExitStack() as stack:
            stream = self._open(stack)
            for record in read_records(self.path, stream, format=self._container):
                if record.reason:
                    yield FileRow(record.line, None, record.reason)
                    continue
                if record.names not in matched:
                    matched.add(record.names)
                    self._ignored.update(dict.fromkeys(self._layout.match(record.names)))
                if not record.cells:
                    continue
                try:
                    yield from self._layout.rows(record)
                except LeftOutError as left_out:
                    self._passed_over[left_out.what] += 1
                except RecursionError:
                    yield FileRow(record.line, None, TOO_DEEP)
                except ValueError as error:
                    yield FileRow(record.line, None, str(error))

    def _open(self, stack: ExitStack) -> IO[bytes]:
        self._file, stream = open_stream(self.path, stack, text=self._container != "parquet")
        self.size = os.fstat(self._file.fileno()).st_size
        return stream


def chosen_format(path: Path, format: str | None) -> tuple[str, str]:
    """Return the format, and how the file holds its rows; without a format the name's ending tells both.

    Raises:
        ImportFileError: the ending tells nothing, or nothing that the format can be held in.
    """
    if format is None:
        format = container_of(path, PLAIN, advice=f"Give the format with --format ({', '.join(FORMATS)}), or: ")
    if format in PLAIN:
        return format, format
    return format, container_of(path, FOREIGN[format], advice=_ADVICE.get(format, ""))


def layout_of(format: str, *, columns: Mapping[str, str], labels: Labels) -> Layout:
    """Return what reads the rows of another tool's format.

    Raises:
        ImportFileError: columns have a name where the format fixes theirs.
    """
    if format == "argilla":
        return ArgillaLayout(labels, columns=columns)
    if format == "label-studio":
        return LabelStudioLayout(labels, columns=columns)
    refuse_columns(columns, format=format)
    if format == "trl-preference":
        return PreferenceLayout()
    named: Mapping[str, type[LangfuseLayout | OpenWebUILayout | PhoenixLayout | UnpairedLayout]]
    named = {"langfuse": LangfuseLayout, "openwebui": OpenWebUILayout, "phoenix": PhoenixLayout}
    return named.get(format, UnpairedLayout)(labels)
