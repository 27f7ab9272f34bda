"""Versions of the reward model: their rows in the database, and their files, all in one folder or object store.

These are the model with its checksum, the questions that it was fitted on, and a card for people in Markdown.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from sqlalchemy import func, select, text
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Interval, ModelState
from rlhf_loop.errors import ModelFileError, RegistryError
from rlhf_loop.registry import model_store
from rlhf_loop.reward.model_file import (
    READABLE,
    WEIGHTS_ENDING,
    LoadedModel,
    StoredModel,
    is_version_name,
    put,
    verified,
    weights_of,
)
from rlhf_loop.reward.model_file import load as load_file
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import ModelVersion
from rlhf_loop.utils.files import write_whole
from rlhf_loop.utils.text import counted, html_table
from rlhf_loop.utils.translation import Message, unpacked

#: Seconds in which a file that nobody names is not deleted.
_YOUNG_S = 3600
_LOCK_TIMEOUT_S = 30
#: "RLHW": the key of PostgreSQL's advisory lock.
_WEIGHTS_KEY = 0x524C4857


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A trained model: `version` is its name, `reason` says in words why it has its `state`.

    `judgement` is what the gate saw, `metrics` what the training measured (its `TrainingReport`), both as plain
    values; empty for a model from before the registry. `live_from` and `live_until` are of the last time it was live.
    `weights_sha256` is the name of its tuned layers, if it has any.
    """

    id: int
    version: str
    sha256: str
    state: ModelState
    reason: str
    recipe: str
    encoder: str
    run_id: str | None
    frozen_share: float | None
    judgement: Mapping[str, Any]
    metrics: Mapping[str, Any]
    made_at: datetime
    changed_at: datetime
    live_from: datetime | None
    live_until: datetime | None
    weights_sha256: str | None = None

    def measured(self, name: str) -> Interval | None:
        """Return `accuracy` or `auc` on questions that it was not fitted on; None if the training measured none."""
        of = (self.metrics.get("overall") or {}).get(name) or {}
        if of.get("value") is None:
            return None
        low, high = (of["value"] if of.get(end) is None else of[end] for end in ("low", "high"))
        return Interval(of["value"], low, high)

    @property
    def judged(self) -> str:
        """The words of the gate, where its state has another reason since: a promotion, a rollback."""
        said = " ".join(self.judgement.get("reasons") or ())
        return "" if said in self.reason else unpacked(said, self.judgement.get("said"))

    @property
    def served(self) -> str:
        """The time in which it was live last, in words; empty if it never was."""
        if self.live_from is None:
            return ""
        begin = f"{self.live_from:%Y-%m-%d %H:%M}"
        end = self.live_until and f"{self.live_until:%Y-%m-%d %H:%M}"
        return f"Live from {begin} to {end} UTC." if end else f"Live since {begin} UTC."

    def __repr__(self) -> str:
        return f"Version({self.id}, {self.version}, {self.state}, made {self.made_at:%Y-%m-%d %H:%M}: {self.reason})"

    def _repr_html_(self) -> str:
        rows = [
            ("state", f"{self.state}. {self.reason}"),
            ("made (UTC)", f"{self.made_at:%Y-%m-%d %H:%M}"),
            *([("served", self.served)] if self.served else []),
            ("recipe", self.recipe),
            ("encoder", self.encoder),
            *self._measured(),
        ]
        return html_table(("version", self.version), rows)

    def _measured(self) -> Iterator[tuple[str, str]]:
        overall = self.metrics.get("overall") or {}
        first = ((overall.get("orders") or {}).get("model") or {}).get("precision_at_1")
        for label, of in (("accuracy", overall.get("accuracy")), ("AUC", overall.get("auc")), ("P@1", first)):
            if of and None not in of.values():
                yield label, str(Interval(**of))


def versions(engine: Engine, *, limit: int = 100) -> list[Version]:
    """Return the latest versions, the newest first."""
    with reading(engine) as connection:
        newest = select(ModelVersion.__table__).order_by(ModelVersion.id.desc()).limit(limit)
        return [_version(row) for row in connection.execute(newest).mappings()]


def live(engine: Engine) -> Version | None:
    """Return the version that is live, None if there is none."""
    with reading(engine) as connection:
        return live_version(connection)


def find(engine: Engine, name: str | int | Version) -> Version:
    """Return a version by its number, its name, or the beginning of its name that no other one has.

    Raises:
        ValueError: it is not a valid name.
        RegistryError: there is none, or several begin like that.
    """
    if isinstance(name, Version):
        name = name.version
    elif isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    elif not isinstance(name, str):
        raise ValueError(f"{name!r} is not a valid version. Pass its name, its number, or one of model_versions().")
    with reading(engine) as connection:
        return named(connection, name)


def frozen_before(engine: Engine) -> float:
    """Return the largest share of the questions that a version was kept from."""
    with reading(engine) as connection:
        return float(connection.execute(select(func.max(ModelVersion.frozen_share))).scalar() or 0.0)


def live_version(connection: Connection) -> Version | None:
    """Return the version that is live, as this transaction sees it."""
    wanted = select(ModelVersion.__table__).where(ModelVersion.state == ModelState.LIVE)
    row = connection.execute(wanted).mappings().first()
    return _version(row) if row else None


def named(connection: Connection, name: str) -> Version:
    """Do what `find` does, in this transaction."""
    if not is_version_name(name):
        raise RegistryError(
            f"{name[:60]!r} is not a valid name of a version: these are letters, digits and hyphens. Give one, its "
            "beginning, or its number. See them all: rlhf-loop models list"
        )
    table = ModelVersion
    wanted = select(table.__table__)
    if name.isdecimal() and len(name) < 10:
        wanted = wanted.where((table.id == int(name)) | (table.version == name))
    else:
        escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        wanted = wanted.where(table.version.like(f"{escaped}%", escape="\\"))
    rows = connection.execute(wanted.order_by(table.id.desc()).limit(6)).mappings().all()
    found = [_version(row) for row in rows]
    exact = [each for each in found if each.version == name]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    if not found:
        raise RegistryError(f"There is no version {name!r} of the reward model. See them all: rlhf-loop models list")
    several = ", ".join(each.version for each in found)
    raise RegistryError(f"{name!r} may be {several}. Give more of the name, or the number.")


def previous(connection: Connection) -> Version | None:
    """Return the version that was live before the live one, None if there is none."""
    wanted = (
        select(ModelVersion.__table__)
        .where(ModelVersion.state == ModelState.RETIRED, ModelVersion.live_until.is_not(None))
        .order_by(ModelVersion.live_until.desc(), ModelVersion.id.desc())
        .limit(1)
    )
    row = connection.execute(wanted).mappings().first()
    return _version(row) if row else None


def _version(row: Mapping[Any, Any]) -> Version:
    values = {field.name: row[field.name] for field in fields(Version)}
    values["state"] = ModelState(values["state"])
    values["reason"] = unpacked(row["reason"], row["said"])
    values["judgement"] = values["judgement"] or {}
    values["metrics"] = values["metrics"] or {}
    return Version(**values)


def version_path(settings: Settings, version: str, *, ending: str = ".joblib") -> Path:
    """Return where the model file of a version is on this machine, or the one beside it with another ending.

    Raises:
        ModelFileError: no version has such a name.
    """
    if not is_version_name(version):
        raise ModelFileError(
            f"{version[:60]!r} is not a valid name of a version, so it has no file. Promote another one: rlhf-loop "
            "models promote"
        )
    return settings.models_folder / f"{version}{ending}"


def card_path(settings: Settings, version: str) -> Path:
    """Return where the card of a version is."""
    return version_path(settings, version, ending=".md")


def load(settings: Settings, version: Version, *, encoder: str) -> LoadedModel:
    """Read the model of a version, for use with the encoder of that id.

    Raises:
        ModelFileError: the file is missing, altered, of another version, or in a store that cannot be reached.
    """
    path = version_path(settings, version.version)
    model_store.fetch(settings, version.version, sha256=version.sha256)
    loaded = load_file(path, encoder=encoder)
    _check(path, loaded.sha256, version)
    return loaded


def fitted_questions(settings: Settings, version: str) -> NDArray[np.int64] | None:
    """Return the questions that the version was fitted on, None where that is not known."""
    try:
        found = np.load(_fitted_path(settings, version), allow_pickle=False)
    except (OSError, ValueError, ModelFileError):
        return None
    return found if found.dtype == np.int64 and found.ndim == 1 else None


def keep(settings: Settings, version: Version, stored: StoredModel, *, fitted: NDArray[np.int64] | None) -> str:
    """Write the files of a version; its model file last, so that where it is the others are, too.

    Where they could not be brought into the object store, they wait on this machine, and why is what is returned.

    Raises:
        ModelFileError: they cannot be written.
    """
    path = version_path(settings, version.version)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fitted is not None:
            buffer = io.BytesIO()
            np.save(buffer, fitted, allow_pickle=False)
            write_whole(_fitted_path(settings, version.version), buffer.getvalue(), mode=READABLE)
        write_whole(card_path(settings, version.version), card(version).encode(), mode=READABLE)
        if settings.models_store:
            model_store.set_waiting(settings, version.version)
    except OSError as error:
        setting = "RLHF_OUTBOX_PATH" if settings.models_store else "RLHF_MODELS_PATH"
        raise ModelFileError(
            f"Cannot write the files of the model {version.version} to {path.parent}: {error.strerror or error}. Make "
            f"space there, or set {setting} to another place."
        ) from error
    put(stored, path)
    if settings.models_store:
        try:
            model_store.bring(settings, version.version)
        except ModelFileError as error:
            return str(error)
        model_store.arrived(settings, version.version)
    return ""


def deploy(settings: Settings, version: Version) -> None:
    """Put the version's file where serving processes look for the live model.

    Raises:
        ModelFileError: the version's file is missing or altered, in a store that cannot be reached, or the live one
            cannot be written.
    """
    path = version_path(settings, version.version)
    model_store.fetch(settings, version.version, sha256=version.sha256)
    stored = verified(path)
    _check(path, stored.sha256, version)
    put(stored, settings.model_path)


@contextmanager
def weights_lock(engine: Engine, settings: Settings) -> Iterator[None]:
    """Keep others from deleting the tuned layers of versions, and from making these live, for as long as it is open.

    Where this process may write nothing into the folder of all versions, it has no such lock, and deletes nothing. An
    object store has no locks; there PostgreSQL keeps machines apart.

    Raises:
        ModelFileError: another process holds it for long.
        DatabaseError: another machine does, or the database cannot be used.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(settings.models_folder / ".weights.lock", timeout=_LOCK_TIMEOUT_S))
        except Timeout:
            raise ModelFileError(
                f"Another process makes a model live, or deletes tuned layers, in {settings.models_folder} for more "
                f"than {_LOCK_TIMEOUT_S} s. Try again when it has ended."
            ) from None
        except OSError:
            pass
        if settings.models_store and engine.dialect.name == "postgresql":
            connection = stack.enter_context(transaction(engine))
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WEIGHTS_KEY})
        yield


def tidy(engine: Engine, settings: Settings, *, keep: int | None = None) -> list[str]:
    """Delete tuned layers that nobody will ask for, and return their files or addresses.

    Those of the live version stay, of the one before, to roll back to, of the newest so many (`RLHF_KEEP_WEIGHTS`),
    of the one that an experiment is against, and whatever is younger than an hour: a training or a promotion may be
    about to name it. The model files themselves stay; they are small.

    Raises:
        DatabaseError: the database cannot be used.
    """
    count = settings.keep_weights if keep is None else keep
    live_path, folder = settings.model_path, settings.models_folder
    if not settings.models_store and not folder.is_dir():
        return []
    deleted: list[str] = []
    # Whoever holds the lock for long tidies as well; while the store is away, the next one does.
    with suppress(ModelFileError), weights_lock(engine, settings):
        with reading(engine) as connection:
            serving = [version for version in (live_version(connection), previous(connection)) if version]
            newest = connection.execute(
                select(ModelVersion.version, ModelVersion.weights_sha256).order_by(ModelVersion.id.desc())
            ).all()
        against = settings.experiment_against
        wanted = {version.weights_sha256 for version in serving} | {weights_of(live_path)}
        wanted |= {
            weights for number, (name, weights) in enumerate(newest) if number < count or name.startswith(against)
        }
        # Versions of another database, or of this one as it is in no backup of it, may be in the same folder.
        names = {name for name, _ in newest}
        wanted |= {weights_of(file) for file in folder.glob("*.joblib") if file.stem not in names}
        # Where all versions are in the folder of the live one, only what no version wants goes.
        for place in {folder, live_path.parent}:
            for file in sorted(place.glob(f"{'[0-9a-f]' * 64}{WEIGHTS_ENDING}")):
                with suppress(OSError):
                    if file.stem not in wanted and time() - file.stat().st_mtime > _YOUNG_S:
                        file.unlink()
                        deleted.append(str(file))
        if settings.models_store:
            known = {name: weights for name, weights in newest}
            deleted += model_store.delete_weights(settings, wanted=wanted, known=known, young_s=_YOUNG_S)
    return deleted


def _check(path: Path, found: str, version: Version) -> None:
    if found != version.sha256:
        raise ModelFileError(
            Message(
                "{path} is not the model {version}: its sha256 is {found}, the registry has {sha256}. Restore the file "
                "from a copy, or promote another version: rlhf-loop models promote",
                path=str(path),
                version=version.version,
                found=found,
                sha256=version.sha256,
            )
        )


def _fitted_path(settings: Settings, version: str) -> Path:
    return version_path(settings, version, ending=".fitted.npy")


# --- The card --------------------------------------------------------------------------------------------------------

_MEASURES = {"accuracy": "Accuracy", "auc": "AUC", "precision": "Precision", "recall": "Recall", "brier": "Brier score"}
_ORDERS = {"model": "this model", "incoming": "incoming order", "random": "random order", "oracle": "best possible"}
_LIMITS = """\
- It has learned from the ratings above and from nobody else's: on other subjects, languages or kinds of answers its
  scores may mean little. Watch drift and fresh accuracy on the dashboard.
- It compares answers by their texts with the question. It does not check facts, and knows no sources.
- A score is the probability that an expert of this team would rate the answer 4 or 5, calibrated on the ratings above.
- Questions that ask for the same never stand on both sides of a comparison, as far as the encoder knows them again;
  documents do, as they do in use. What it is worth on new documents is said apart where it was measured."""


def card(version: Version) -> str:
    """Return the card in Markdown: what the version is, learned from, how good it is, and what it is not good for.

    What was not measured is left out.
    """
    return "\n".join(_card_lines(version)) + "\n"


def _card_lines(version: Version) -> Iterator[str]:
    measured = version.metrics
    yield f"# Reward model {version.version}"
    yield ""
    yield f"- State: {version.state}. {version.reason}"
    if version.served:
        yield f"- {version.served}"
    yield f"- Made: {version.made_at:%Y-%m-%d %H:%M} UTC" + (f", by run {version.run_id}" if version.run_id else "")
    encoder, _, cross = version.encoder.partition("+")
    yield f"- Recipe: {version.recipe}; encoder: {encoder}" + (f"; cross-encoder: {cross}" if cross else "")
    yield f"- File: {version.version}.joblib, sha256 {version.sha256}"
    if version.weights_sha256:
        yield f"- Tuned layers: {version.weights_sha256}{WEIGHTS_ENDING}, of the encoder above; the name is the sha256"
    yield ""
    yield "## Data"
    yield ""
    if not measured:
        yield "Not known: it is older than the registry."
    else:
        yield from _data(version, measured)
    if overall := measured.get("overall"):
        yield ""
        yield "## Quality"
        yield ""
        crossed = (measured.get("cross_validated") or {}).get(measured.get("recipe"))
        recurring = measured.get("documents") or {}
        unseen = recurring.get("unseen") if recurring.get("recurring") else None
        yield from _quality(overall, measured.get("held_out") or {}, crossed, unseen)
        if relevance := measured.get("relevance"):
            # Imported here: whatever serves does without all that trains.
            from rlhf_loop.training.relevance import in_words

            yield ""
            yield in_words(relevance["accuracy"]["value"], relevance["before"])
    if version.judgement:
        yield ""
        yield "## What the gate said"
        yield ""
        yield from (f"- {reason}" for reason in version.judgement.get("reasons", ()))
    yield ""
    yield "## Limits"
    yield ""
    yield _LIMITS


def _data(version: Version, measured: Mapping[str, Any]) -> Iterator[str]:
    overall, held_out, pairs = (measured.get(name) or {} for name in ("overall", "held_out", "pairs"))
    yield (
        f"- {overall.get('answers', 0)} rated answers to {overall.get('questions', 0)} questions, judged by "
        f"ratings of {'experts' if measured.get('judged_by') == 'expert' else 'end users'}; fitted on "
        f"{measured.get('trained_on', 0)} of them, {held_out.get('answers', 0)} held out"
    )
    if version.frozen_share:
        yield f"- {version.frozen_share:.0%} of all questions are frozen: no version is fitted on them"
    if measured.get("end_users"):
        yield f"- {measured['end_users']} answers that only end users rated, weight {measured['end_user_weight']:.2f}"
    if measured.get("judge_labels"):
        labels = counted(measured["judge_labels"], "answer")
        yield f"- {labels} with labels of judges, on which its layers were tuned besides"
    if pairs.get("corrections") or pairs.get("preferences"):
        yield f"- {pairs.get('corrections', 0)} corrections and {pairs.get('preferences', 0)} preferences"


def _quality(
    overall: Mapping[str, Any],
    held_out: Mapping[str, Any],
    crossed: Mapping[str, Any] | None,
    unseen: Mapping[str, Any] | None,
) -> Iterator[str]:
    yield "Each question judged by a model that was not fitted on it; in brackets 95 % intervals, by questions."
    yield ""
    yield "| | all questions | held out, this very model |"
    yield "|---|---|---|"
    yield f"| Questions behind it | {overall.get('questions', '-')} | {held_out.get('questions', '-')} |"
    for name, label in _MEASURES.items():
        yield f"| {label} | {_interval(overall.get(name))} | {_interval(held_out.get(name))} |"
    if unseen:
        known, new = (_interval((of or {}).get("auc")) for of in (crossed, unseen))
        yield ""
        yield f"Cross-validated AUC: {known} with documents as they come, {new} on documents that were not fitted on."
    yield ""
    yield "| Order of the answers | P@1 | NDCG | MRR |"
    yield "|---|---|---|---|"
    for name, label in _ORDERS.items():
        if order := (overall.get("orders") or {}).get(name):
            values = (_interval(order.get(measure)) for measure in ("precision_at_1", "ndcg", "mrr"))
            yield f"| {label} | {' | '.join(values)} |"


def _interval(value: Mapping[str, Any] | None) -> str:
    if not value or value.get("value") is None:
        return "-"
    if value.get("low") is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
