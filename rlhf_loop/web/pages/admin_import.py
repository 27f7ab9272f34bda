"""Import of a ratings file by an admin: upload, look at how it would be read, map columns, store, take back.

The server keeps nothing between these steps: the page brings the file along, so that any process can go on with it.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import Blueprint, Response, make_response, redirect, request, url_for
from werkzeug.exceptions import RequestEntityTooLarge

from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.fields import FIELDS
from rlhf_loop.exchange.formats.base import SCORE_NAME, Labels, NumberScale
from rlhf_loop.exchange.imports import past_imports, undo_import
from rlhf_loop.exchange.reader import FOREIGN
from rlhf_loop.exchange.staging import RowError
from rlhf_loop.exchange.transfer import InvalidRowsError, Preview, column_names, import_ratings, preview_ratings
from rlhf_loop.store.tables import ANONYMOUS, LARGEST_ID
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.api.answers import whole_body
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.localization import translator
from rlhf_loop.web.pages import people
from rlhf_loop.web.pages.people import Flash, moment, page
from rlhf_loop.web.problems import html_errors
from rlhf_loop.web.process import Database

#: A larger file, or one of more rows, would hold up a thread of the server for too long.
MAX_FILE_BYTES, MAX_ROWS = 4 * 1024 * 1024, 20_000
#: The file is text in the page's form, and the form has other fields.
_MAX_BODY_BYTES = MAX_FILE_BYTES * 4 // 3 + 64 * 1024
_BY_COMMAND = Message("Import it on the command line: rlhf-loop ratings import FILE")
_NUMBERS = {
    "": Message("ratings from 1 to 5"),
    "thumbs": Message("thumbs: 1 is up, 0 or -1 is down"),
    "0,1": Message("from 0 to 1"),
    "0,5": Message("from 0 to 5"),
    "0.5,5": Message("from 0.5 to 5"),
    "1,10": Message("from 1 to 10"),
    "0,100": Message("from 0 to 100"),
}
#: What a message says to do on the command line, and how it is done on the page.
_HERE: Mapping[str, Message] = {
    "Name the right ones: {options}; with others, such as rating, in the same way.": Message(
        "Choose the right ones below."
    ),
    "Choose one with --column {field}={column}.": Message("Choose one below."),
    "Correct them, or leave them out with --skip-invalid.": Message(
        "Correct them, or leave them out by the box below."
    ),
    "; if that is right, import it with --scale {scale}": Message(
        '; if that is right, choose "Numbers are: from {scale}" below'
    ),
    "; if that is right, import it with --scale {scale}, or with --thumbs if 1 is a thumb up": Message(
        '; if that is right, choose "Numbers are: from {scale}" below, or "thumbs" if 1 is a thumb up'
    ),
    "Say which it is: --thumbs or --scale 1,5.": Message('Choose which it is at "Numbers are" below.'),
    "; if the file has another encoding, give its name with --encoding": Message(
        "; if the file has another encoding, give its name below"
    ),
    "If letters are wrong in it, give another --encoding.": Message(
        "If letters are wrong in it, name another one below."
    ),
    "If one of those below is it, import it again with --score-name NAME.": Message(
        "If one of those is it, import it again with its name in the field below."
    ),
    "Give the format with --format ({formats}), or: ": Message("Choose by whom it was made. Or: "),
    "Make it anew, or give --format.": Message("Make it anew."),
    "Nothing in {path!r} could be read as {format}: {foreign}. Export it as docs/RLHF_EXCHANGE.md says, or give the "
    "format that it has with --from.": Message(
        "Nothing in {path!r} could be read as {format}: {foreign}. Export it as docs/RLHF_EXCHANGE.md says, or choose "
        "below by whom it was made."
    ),
    "The file is not in {encoding}: {error}. Give the encoding that it has with --encoding (utf-16-le, if it is UTF-16 "
    "without a mark), or save it as UTF-8.": Message(
        "The file is not in {encoding}: {error}. Name the encoding that it has below (utf-16-le, if it is UTF-16 "
        "without a mark), or save it as UTF-8."
    ),
}
#: The same, in what is said of other tools' files.
_OPTIONS = (
    (r"--from", '"Made by"'),
    (r"--score-name NAME", "the name of the score below"),
    (r"--encoding( NAME)?", "the field for it below"),
)
#: The fields of a row, as the page names them.
_FIELDS = {
    "user_prompt": Message("Question"),
    "ai_response": Message("Answer"),
    "rating": Message("Rating"),
    "feedback_comment": Message("Comment"),
    "corrected_response": Message("Correction"),
    "reviewer": Message("Who rated"),
    "source": Message("Source"),
    "candidate_group": Message("Answers that were offered together"),
    "shown_rank": Message("Rank in the incoming order"),
    "rated_at": Message("Time of the rating"),
    "external_id": Message("Id of the answer"),
}
_LISTED, _SHOWN_ERRORS, _LONGEST_FLASH = 20, 20, 1_500


@dataclass(frozen=True, slots=True)
class _Upload:
    """A file and how it shall be read, as the form has it."""

    name: str
    content: bytes
    options: Mapping[str, Any]
    reviewer: str
    columns: Mapping[str, str]
    skip_invalid: bool
    unrated: bool

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Give the file a place until the block ends."""
        with TemporaryDirectory(prefix="rlhf-") as folder:
            path = Path(folder) / self.name
            path.write_bytes(self.content)
            yield path

    @property
    def packed(self) -> str:
        """The content, for a field of a form."""
        return base64.urlsafe_b64encode(zlib.compress(self.content)).decode()


@dataclass(slots=True)
class _Reading:
    """Result of reading a file, for the page: its columns, its first rows, and what is wrong."""

    names: tuple[str, ...] = ()
    preview: Preview | None = None
    errors: tuple[RowError, ...] = ()
    error: str = ""
    found: dict[str, str] = field(default_factory=dict)


def add_routes(web: Blueprint, database: Database, guard: Guard) -> None:
    """Give the blueprint these routes."""

    @web.get("/import")
    @html_errors
    def admin_import() -> Response:
        guard.signed_in(UserRole.ADMIN)
        return _page(database, guard)

    @web.post("/import")
    @html_errors
    def admin_import_file() -> Response:
        user = _posting(guard)
        try:
            sent = _sent()
        except ImportFileError as error:
            return _page(database, guard, shown=_Reading(error=str(error)), status=422)
        shown = _look(sent)
        if request.form.get("do") == "store" and not shown.error:
            try:
                with sent.file() as path:
                    report = import_ratings(
                        database.engine(),
                        path,
                        **sent.options,
                        skip_invalid=sent.skip_invalid,
                        unrated=sent.unrated,
                        actor=user.name,
                    )
                said = Message(
                    "{name} is imported as number {id}. {report}",
                    name=sent.name,
                    id=report.import_id,
                    report=_in_page(Message.joined(*report.lines()), sent.name),
                )
                return _onward(guard, said)
            except InvalidRowsError as error:
                shown.errors, shown.error = error.report.invalid, _in_page(str(error), sent.name)
            except ImportFileError as error:
                shown.error = _in_page(str(error), sent.name)
        return _page(database, guard, sent=sent, shown=shown, status=422 if shown.error else 200)

    @web.post(f"/import/<int(max={LARGEST_ID}):id>/undo")
    @html_errors
    def admin_import_undo(id: int) -> Response:
        user = _posting(guard)
        trying = request.form.get("do") == "try"
        try:
            undone = undo_import(database.engine(), id, actor=user.name, dry_run=trying)
        except ImportFileError as error:
            return _page(database, guard, shown=_Reading(error=str(error)), status=422)
        said = Message.joined(*undone.lines())
        if trying:
            said = Message("If import {id} were taken back: {said}", id=id, said=said)
        return _onward(guard, said)


def _posting(guard: Guard) -> User:
    request.max_content_length = request.max_form_memory_size = _MAX_BODY_BYTES
    user = guard.signed_in(UserRole.ADMIN)
    try:
        whole_body()
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(
            Message(
                "The file is larger than {bytes:,} bytes, which is the most here. {advice}",
                bytes=MAX_FILE_BYTES,
                advice=_BY_COMMAND,
            )
        ) from error
    guard.check_form()
    return user


def _sent() -> _Upload:
    upload, form = request.files.get("file"), request.form
    if upload is not None and upload.filename:
        name, content = upload.filename, upload.read()
    else:
        name, content = form.get("name", ""), _unpacked(form.get("content", ""))
    if not name or not content:
        raise ImportFileError(Message("No file was sent, or an empty one. Choose one, or drop it onto the field."))
    if len(content) > MAX_FILE_BYTES:
        raise ImportFileError(
            Message(
                "The file is larger than {bytes:,} bytes, the most here. {advice}",
                bytes=MAX_FILE_BYTES,
                advice=_BY_COMMAND,
            )
        )
    # Of a path only the last part, and nothing that no file may be called.
    name = re.sub(r"[^\w.\- ]", "_", re.split(r"[/\\]", name)[-1])
    # A name may have 255 bytes, and its end says what it is.
    name = name.encode()[-200:].decode(errors="ignore").lstrip(".") or "file"
    if name.lower().endswith(".gz"):
        raise ImportFileError(
            Message("The file {name!r} is compressed. Unpack it. Or: {advice}", name=name, advice=_BY_COMMAND)
        )
    columns = {name: chosen for name in FIELDS if (chosen := form.get(f"column_{name}", ""))}
    numbers, reviewer = form.get("numbers", ""), form.get("reviewer", "").strip() or ANONYMOUS
    scale = None
    if numbers in _NUMBERS and "," in numbers:
        lowest, _, highest = numbers.partition(",")
        scale = NumberScale(float(lowest), float(highest))
    score_name = form.get("score_name", "").strip() or SCORE_NAME
    labels = Labels(thumbs=numbers == "thumbs", scale=scale, score_name=score_name)
    format = form.get("format", "")
    foreign = format if format in FOREIGN else None
    options: dict[str, Any] = {
        "format": foreign,
        "reviewer": reviewer,
        "labels": labels,
        "columns": {} if foreign else columns,
    }
    if encoding := form.get("encoding", "").strip():
        options["encoding"] = encoding
    return _Upload(
        name, content, options, reviewer, columns, skip_invalid="skip_invalid" in form, unrated="unrated" in form
    )


def _unpacked(packed: str) -> bytes:
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(base64.urlsafe_b64decode(packed), MAX_FILE_BYTES + 1)
        whole = unpacking.eof or len(content) > MAX_FILE_BYTES or not packed
    except (ValueError, zlib.error):
        whole = False
    if not whole:
        raise ImportFileError(Message("The page brought back another file than it had. Choose the file again."))
    return content


def _look(sent: _Upload) -> _Reading:
    shown = _Reading()
    try:
        with sent.file() as path:
            shown.names = column_names(path, format=sent.options["format"], encoding=sent.options.get("encoding"))
            shown.preview = preview_ratings(path, **sent.options, most=MAX_ROWS)
    except ImportFileError as error:
        shown.error = _in_page(str(error), sent.name)
        return shown
    shown.found, shown.errors = dict(shown.preview.columns), shown.preview.report.invalid
    if shown.preview.report.rows > MAX_ROWS:
        shown.error = Message(
            "The file has more than {most:,} rows, the most here. {advice}", most=MAX_ROWS, advice=_BY_COMMAND
        )
    return shown


def _in_page(said: str, name: str) -> str:
    """Say it without the place that the file had for a moment, and with the page's fields for a command's options."""
    if isinstance(said, Message):
        instead = _HERE.get(said.words[0], said)
        values = {key: _in_page(value, name) if isinstance(value, str) else value for key, value in said.values.items()}
        return instead.with_values(values)
    said = (
        name
        if said.endswith(f"/{name}") and "'" not in said
        else re.sub(rf"'[^']*/{re.escape(name)}'", f"'{name}'", said)
    )
    for option, here in _OPTIONS:
        said = re.sub(option, here, said)
    return said


def _onward(guard: Guard, said: str) -> Response:
    said = translator()(said)
    if len(said) > _LONGEST_FLASH:
        said = said[:_LONGEST_FLASH] + "..."
    return people.leave(guard, make_response(redirect(url_for(".admin_import"), code=303)), Flash(said))


def _page(
    database: Database, guard: Guard, *, sent: _Upload | None = None, shown: _Reading | None = None, status: int = 200
) -> Response:
    shown = shown or _Reading()
    return page(
        "admin_import.html",
        guard,
        status=status,
        sent=sent,
        shown=shown,
        error=shown.error,
        errors=shown.errors[:_SHOWN_ERRORS],
        given=request.form,
        fields={name: _FIELDS.get(name, name) for name in FIELDS if name in _FIELDS or name in shown.found},
        formats=FOREIGN,
        numbers=_NUMBERS,
        anonymous=ANONYMOUS,
        score_name=SCORE_NAME,
        max_bytes=MAX_FILE_BYTES,
        imports=past_imports(database.engine(), limit=_LISTED),
        moment=moment,
        in_page=_in_page,
    )
