"""Export of all ratings as a folder that Hugging Face's `datasets.load_dataset` reads: Parquet by split, and a card.

The layout is that of https://huggingface.co/docs/datasets/repository_structure, with three configurations: `ratings` (a
row for each review), `preference` and `unpaired` (TRL's columns). Questions are split by the hash that also freezes
questions for the comparison of models, with those that ask for the same: frozen ones are always in `test`, and a
question stays in its part, unless a new wording joins it with one that is nearer to `test`.

The card is as https://huggingface.co/docs/hub/datasets-cards has it. The licence is left to whoever publishes it: what
they add to the card stays there in later exports.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Progress
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange import preferences as export_pairs
from rlhf_loop.exchange import transfer
from rlhf_loop.exchange.formats import plain, trl
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import ANONYMOUS
from rlhf_loop.training.data import STEPS, is_frozen, prompt_hash, stored_groups
from rlhf_loop.training.grouping import QuestionGroups
from rlhf_loop.utils.row_writers import Columns, Kind, Row, WriteRows, written_file
from rlhf_loop.utils.rows import parquet_libraries
from rlhf_loop.version import __version__

#: By this an export knows an earlier one.
MARK = "<!-- made by rlhf-loop ratings export -->"
#: What comes after it is somebody's own.
_END = "<!-- end of what rlhf-loop ratings export writes; what you add below stays -->"
#: The first lines that each export writes anew.
_OWN_KEYS = ("dataset_info", "configs")
_KEY = re.compile(r"([\w-]+)\s*:")

_TAGS = ("tags:", "- rlhf", "- human-feedback", "- reward-model")
_DTYPES = {
    Kind.TEXT: "string",
    Kind.WHOLE: "int64",
    Kind.REAL: "float64",
    Kind.TIME: "timestamp[us, tz=UTC]",
    Kind.YES_NO: "bool",
}
_WHAT = {
    "ratings": "one row for each review of an answer, and one for each answer without any",
    "preference": "two answers to a question, the better one `chosen`: as experts compared, corrected and rated them; "
    "TRL's preference columns",
    "unpaired": "each answer that experts rated, with `label` true from a rating of 4; TRL's unpaired columns",
}
_NO_LICENCE = (
    "None is set. Whoever publishes this adds `license: ...` to the first lines, where it stays in later exports, and "
    "regards"
)


@dataclass(frozen=True, slots=True)
class Split:
    """A part of the rows: how many, and their bytes before and after compression."""

    name: str
    rows: int
    size: int
    packed: int


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration of the dataset: its name, its folder, the kinds of its columns, and its splits that have rows."""

    name: str
    folder: str
    columns: Mapping[str, Kind]
    splits: tuple[Split, ...]

    @property
    def rows(self) -> int:
        """The rows of all splits."""
        return sum(split.rows for split in self.splits)


def card(
    configs: Sequence[Config], *, named: bool, test_share: float, validation_share: float, earlier: str = ""
) -> str:
    """Return the README of the folder, with what somebody has added to the `earlier` one.

    Kept are keys of its first lines, such as `license`, and the text after the end of what an export writes.
    """
    filled = [config for config in configs if config.splits]
    kept = _added_keys(earlier)
    header = ["---", *kept, *([] if any(_names(line) == "tags" for line in kept) else _TAGS), *_header(filled), "---"]
    body = _body(filled, named, test_share, validation_share, licensed=any(_names(line) == "license" for line in kept))
    return "\n".join([*header, MARK, "", *body, "", _END]) + (earlier.partition(_END)[2] or "\n")


def _added_keys(earlier: str) -> list[str]:
    lines = earlier.splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return []
    found, own = list[str](), False
    for line in lines[1 : lines.index("---", 1)]:
        if name := _names(line):
            own = name in _OWN_KEYS
        if not own:
            found.append(line)
    return found


def _names(line: str) -> str | None:
    """Return the key that a line of the header begins with, if it begins with one."""
    found = _KEY.match(line)
    return found[1] if found else None


def _header(configs: Sequence[Config]) -> list[str]:
    lines = ["dataset_info:"] if configs else []
    for config in configs:
        lines += [f"- config_name: {config.name}", "  features:"]
        for name, kind in config.columns.items():
            lines += [f"  - name: {name}", *_type(kind)]
        lines += ["  splits:"]
        for split in config.splits:
            lines += [f"  - name: {split.name}", f"    num_bytes: {split.size}", f"    num_examples: {split.rows}"]
        lines += [f"  download_size: {sum(split.packed for split in config.splits)}"]
        lines += [f"  dataset_size: {sum(split.size for split in config.splits)}"]
    lines += ["configs:"] if configs else []
    for number, config in enumerate(configs):
        lines += [f"- config_name: {config.name}", *(["  default: true"] if number == 0 else []), "  data_files:"]
        for split in config.splits:
            lines += [f"  - split: {split.name}", f"    path: {config.folder}/{split.name}-*"]
    return lines


def _type(kind: Kind) -> list[str]:
    if kind is Kind.MESSAGES:
        return ["    list:", *(f"    - name: {name}\n      dtype: string" for name in ("role", "content"))]
    return [f"    dtype: {_DTYPES[kind]}"]


def _body(
    configs: Sequence[Config], named: bool, test_share: float, validation_share: float, *, licensed: bool
) -> list[str]:
    names = list(dict.fromkeys(split.name for config in configs for split in config.splits))
    table = [["configuration", *names], ["---"] * (len(names) + 1)]
    for config in configs:
        rows = {split.name: split.rows for split in config.splits}
        table.append([f"`{config.name}`", *(f"{rows.get(name, 0):,}" for name in names)])
    train_share = 1 - test_share - validation_share
    return [
        "# Ratings of answers",
        "",
        "Answers to questions, and how good people found them, from 1 (wrong) to 5 (exactly right).",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        *(f"- `{config.name}`: {_WHAT[config.name]}." for config in configs),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        *(f'load_dataset("path/of/this/folder", "{config.name}")' for config in configs),
        "```",
        "",
        "## Splits",
        "",
        f"By question: a hash of its words decides, so that about {train_share:.0%} of the questions are `train`, "
        f"{validation_share:.0%} `validation` and {test_share:.0%} `test`. Questions that ask for the same in other "
        "words go with the oldest of them. Each stays where it is in later exports; only where a new wording shows "
        "that two groups ask for the same, both go where the nearer one to `test` is. A split without any row is left "
        "out.",
        "",
        "## How it was made",
        "",
        f"By `rlhf-loop ratings export --format hf-dataset`, version {__version__}. `reviewer_role` says whose word a "
        "review is: `expert` or `end_user`. `preference` and `unpaired` rest on experts alone, and are what "
        "rlhf-loop itself trains on: of several ratings of an answer the lower median counts.",
        "",
        "## Personal data",
        "",
        (
            "Raters, ids and groups are written as they are in the database."
            if named
            else "Raters, ids and groups have pseudonyms; they were made with a key that is not in here."
        )
        + " Questions, answers, comments and corrections are as people wrote them. Read them before you publish this.",
        "",
        "## Licence",
        "",
        ("That of `license` in the first lines; regard" if licensed else _NO_LICENCE)
        + " the terms of the answers (column `licence`), too.",
    ]


SPLITS = ("train", "validation", "test")
#: Of the questions; the frozen ones are never more.
TEST_SHARE = max(share for _, share in STEPS)
VALIDATION_SHARE = 0.10
_CHUNK = 1000
_CARD = "README.md"
#: The configuration that comes first has the folder `data`, as in Hugging Face's own push_to_hub.
_FOLDERS = {"ratings": "data", "preference": "preference", "unpaired": "unpaired"}
_PART = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet")
#: What a table of ratings has that leads back to somebody or something elsewhere, and what stands for it.
_TRACES = {"reviewer": "rater", "external_id": "answer", "candidate_group": "question"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions:
    """The options of an export. `min_gap`, `conversational` and `reviewer_weighting` are as in the TRL formats.

    With `names` raters and ids are written as they are. Else they get pseudonyms, made with the `key`: the same in each
    export with the same key, and without one only in this export.
    """

    min_gap: int = 1
    conversational: bool = False
    names: bool = False
    key: str = ""
    reviewer_weighting: bool = True


def export_dataset(
    engine: Engine,
    folder: Path,
    *,
    options: DatasetOptions | None = None,
    encoder: TextEncoder | None = None,
    progress: Progress | None = None,
) -> tuple[Config, ...]:
    """Write the folder; return its configurations.

    The encoder tells which questions ask for the same; without one, that of the default settings is loaded.

    It replaces a folder of an earlier export only when it is whole, and no other. What somebody has added to that one
    stays: other files and folders, such as `.git` or a licence, and what they wrote into the card.

    Raises:
        ImportFileError: the folder cannot be written, or something else is there.
        DatabaseError: the database cannot be reached.
        EncoderError: there is no encoder.
    """
    options = options or DatasetOptions()
    with _whole_folder(folder) as draft, reading(engine) as connection:
        groups = stored_groups(connection, encoder or load_encoder(Settings()), progress=progress)
        total = transfer.count(connection) if progress else 0
        configs = tuple(
            _written(draft, name, columns, rows, groups, progress=_shown(progress, place, total))
            for place, (name, columns, rows) in enumerate(_tables(connection, options))
        )
        text = card(
            configs,
            named=options.names,
            test_share=TEST_SHARE,
            validation_share=VALIDATION_SHARE,
            earlier=_card_of(folder),
        )
        (draft / _CARD).write_text(text, encoding="utf-8")
    return configs


def split_of(prompts: Iterable[str], groups: QuestionGroups | None = None) -> list[str]:
    """Return the part that each of the questions belongs to, or its group: the same on every machine and always."""
    hashes = np.array([prompt_hash(prompt) for prompt in prompts], dtype=np.int64)
    hashes = hashes if groups is None else groups.of(hashes)
    test, either = is_frozen(hashes, TEST_SHARE), is_frozen(hashes, TEST_SHARE + VALIDATION_SHARE)
    found: list[str] = np.where(test, "test", np.where(either, "validation", "train")).tolist()
    return found


def _tables(
    connection: Connection, options: DatasetOptions
) -> Iterator[tuple[str, Columns, Iterator[tuple[str, Row]]]]:
    """Yield each configuration: its name, its columns, and its rows with the question that each is about."""
    talk, weighting = options.conversational, options.reviewer_weighting
    hidden = _no_change if options.names else _pseudonyms(options.key)
    ratings = transfer.ratings(connection)
    yield "ratings", plain.COLUMNS, ((rating.user_prompt, hidden(plain.cells(rating))) for rating in ratings)
    pairs = export_pairs.pairs(connection, min_gap=options.min_gap, reviewer_weighting=weighting)
    preferences = ((pair.prompt, trl.preference_cells(pair, conversational=talk)) for pair in pairs)
    yield "preference", trl.preference_columns(conversational=talk), preferences
    labelled = (
        (of.prompt, trl.unpaired_cells(of.prompt, of.response, good=of.good, conversational=talk))
        for of in export_pairs.labelled(connection, reviewer_weighting=weighting)
    )
    yield "unpaired", trl.unpaired_columns(conversational=talk), labelled


def _written(
    draft: Path,
    name: str,
    columns: Columns,
    rows: Iterator[tuple[str, Row]],
    groups: QuestionGroups,
    *,
    progress: Callable[[int | None], None] | None,
) -> Config:
    place = draft / _FOLDERS[name]
    place.mkdir()
    counts = dict.fromkeys(SPLITS, 0)
    files = {split: place / f"{split}-00000-of-00001.parquet" for split in SPLITS}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(written_file(file, container="parquet", columns=columns))
            for split, file in files.items()
        }
        while chunk := list(islice(rows, _CHUNK)):
            _write(writers, chunk, counts, groups)
            if progress:
                progress(sum(counts.values()))
    if progress:
        progress(None)
    for split, file in files.items():
        if not counts[split]:
            file.unlink()
    splits = tuple(_split(name, count, files[name]) for name, count in counts.items() if count)
    if not splits:
        place.rmdir()
    return Config(name, place.name, dict(columns), splits)


def _split(name: str, count: int, file: Path) -> Split:
    found = parquet_libraries()[1].read_metadata(file)
    size = sum(found.row_group(number).total_byte_size for number in range(found.num_row_groups))
    return Split(name, count, size, file.stat().st_size)


def _write(
    writers: Mapping[str, WriteRows], chunk: Sequence[tuple[str, Row]], counts: dict[str, int], groups: QuestionGroups
) -> None:
    parts = split_of((prompt for prompt, _ in chunk), groups)
    for split, write in writers.items():
        if rows := [row for part, (_, row) in zip(parts, chunk, strict=True) if part == split]:
            write(rows)
            counts[split] += len(rows)


def _shown(progress: Progress | None, place: int, total: int) -> Callable[[int | None], None] | None:
    """Return what takes how many rows of a table are written, None when all are: nobody knows before how many pairs."""
    if progress is None:
        return None
    return lambda done: progress(place * total + min(total, total if done is None else done), len(_FOLDERS) * total)


def _no_change(row: Row) -> Row:
    return row


def _pseudonyms(key: str) -> Callable[[Row], Row]:
    # With a key: anybody could work out the plain hash of a name that they know.
    secret = key.encode() or secrets.token_bytes(32)
    places = {list(plain.COLUMNS).index(name): word for name, word in _TRACES.items()}

    def hidden(row: Row) -> Row:
        return [
            _pseudonym(secret, places[place], value) if place in places else value for place, value in enumerate(row)
        ]

    return hidden


def _pseudonym(secret: bytes, word: str, name: str | None) -> str | None:
    if name is None or name == ANONYMOUS:
        return name
    said = f"rlhf-loop:pseudonym:{word}:{name}".encode()
    return f"{word}-{hmac.digest(secret, said, 'sha256').hex()[:16]}"


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder that takes the place of this one at the end of the block.

    Raises:
        ImportFileError: it cannot be written, or something else is there.
    """
    folder = folder.resolve()
    if not folder.name:
        raise ImportFileError(f"The folder {str(folder)!r} cannot be replaced. Choose another place.")
    draft, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        _tidy(folder)
        _refuse_others(folder)
        draft.mkdir()
        yield draft
        _take_along(folder, draft)
        _replace(folder, draft, old)
    except (OSError, shutil.Error) as error:
        raise ImportFileError(
            f"The folder {str(folder)!r} cannot be written: {error.strerror or error}. Choose another place."
        ) from error
    finally:
        for rest in (draft, old):
            with suppress(OSError):
                shutil.rmtree(rest)


def _tidy(folder: Path) -> None:
    """Bring back what an export that was killed had put aside, and take away what it had begun."""
    of_ours = re.compile(re.escape(f".{folder.name}.") + r"(\d+)\.(tmp|old)")
    for rest in sorted(folder.parent.iterdir()) if folder.parent.is_dir() else ():
        found = of_ours.fullmatch(rest.name)
        if found is None or _runs(int(found[1])):
            continue
        if found[2] == "old" and not folder.exists():
            rest.rename(folder)
        else:
            shutil.rmtree(rest)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return process != os.getpid()


def _take_along(folder: Path, draft: Path) -> None:
    """Put what others have added to an earlier export into the new one."""
    if not folder.is_dir():
        return
    places = [folder / name for name in _FOLDERS.values()]

    def own(directory: str, names: list[str]) -> set[str]:
        here = Path(directory)
        if here in places:
            return {name for name in names if _PART.fullmatch(name)}
        return {_CARD} & set(names) if here == folder else set()

    shutil.copytree(folder, draft, symlinks=True, ignore=own, copy_function=_linked, dirs_exist_ok=True)
    for place in places:
        # It had only files of an earlier export.
        with suppress(OSError):
            (draft / place.name).rmdir()


def _linked(source: str, target: str) -> None:
    # A clone's objects may be large, and the earlier folder goes anyway.
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _card_of(folder: Path) -> str:
    file = folder / _CARD
    return file.read_text("utf-8", "replace") if file.is_file() else ""


def _replace(folder: Path, draft: Path, old: Path) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    folder.rename(old)
    try:
        draft.rename(folder)
    except BaseException:
        old.rename(folder)
        raise


def _refuse_others(folder: Path) -> None:
    if folder.is_dir():
        if not any(folder.iterdir()) or MARK in _card_of(folder):
            return
        raise ImportFileError(
            f"The folder {str(folder)!r} is there, and not from an earlier export. Choose another name, or empty it."
        )
    if folder.exists():
        raise ImportFileError(f"{str(folder)!r} is a file, and this format is a folder. Choose another name.")
