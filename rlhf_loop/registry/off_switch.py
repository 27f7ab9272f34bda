"""Off-switch: while it is off no model ranks, whichever version is live.

Ranking heeds a marker beside the live file (`ranking.off_marker`); the database keeps the decision as an open alarm. To
switch off writes the marker first, so that it holds at once and without the database, and whoever looks next notes it
there. To switch on changes the database first. Killed in between, `follow` does the rest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind
from rlhf_loop.errors import DatabaseError, RegistryError
from rlhf_loop.ranking import keep_off_here, off_marker
from rlhf_loop.store import audit
from rlhf_loop.store.alarms import Alarm, alarms, clear_alarm, open_alarms, raise_alarm
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Identity
from rlhf_loop.utils.files import write_whole
from rlhf_loop.utils.text import sentence, visible
from rlhf_loop.utils.translation import Message

logger = logging.getLogger(__name__)

_BY_HAND: Mapping[str, str] = {"actor": "unknown", "reason": "The marker was put there by hand."}
_TARGET = "model"
#: Characters of a reason.
_LONGEST = 2_000
#: What was said last of each marker: once, and not with every look.
_told: dict[Path, str] = {}


def switch_off(open_engine: Callable[[], Engine], settings: Settings, *, actor: str, reason: str) -> str:
    """Have no model rank from now on; return what is still to be done, an empty text where that is nothing.

    Of the marker and the database one is enough: whoever serves brings it to the other.

    Raises:
        RegistryError: the reason is too long, it is off already, or neither the marker nor the database can be written.
    """
    marker = off_marker(settings.model_path)
    said = {"actor": actor, "reason": _one_line(reason), "at": datetime.now(UTC).isoformat()}
    if marker.exists():
        raise RegistryError(
            f"The model is off already: {_said(_read(marker) or _BY_HAND)} To give another reason, switch it on first: "
            "rlhf-loop models on"
        )
    trouble = ""
    try:
        _write(marker, said)
    except OSError as error:
        trouble = (
            f"{marker} cannot be written ({error.strerror}), so only rlhf-loop serve and the worker follow, within a "
            "minute; mend the rights of its folder for the rest."
        )
    try:
        engine = open_engine()
        noted = switched_off(engine)
        if noted is None:
            _note(engine, said)
        else:
            trouble = f"It was so already: {_said({**_BY_HAND, **noted.detail})} {trouble}".rstrip()
        follow(engine, settings)
    except DatabaseError as error:
        if trouble:
            raise RegistryError(f"The model stays on. {trouble} And: {error}") from error
        trouble = (
            "The database cannot be used now, so it and other machines learn of this only from the worker, rlhf-loop "
            f"serve, or rlhf-loop models list on this machine, once it is back. {error}"
        )
    return trouble


def switch_on(engine: Engine, settings: Settings, *, actor: str, reason: str = "") -> None:
    """Let the live model rank again.

    Raises:
        RegistryError: the reason is too long, it is not off, or the marker cannot be deleted, or is that of another
            database.
        DatabaseError: the database cannot be used; it stays off.
    """
    marker, reason = off_marker(settings.model_path), _one_line(reason)
    found, database = _read(marker), _identity(engine)
    if found is not None and found.get("database", database) == database and switched_off(engine) is None:
        # A decision that the log of them does not have yet.
        follow(engine, settings)
        found = _read(marker)
    detail = {"reason": reason} if reason else None
    cleared = clear_alarm(
        engine, AlarmKind.MODEL_OFF, also=lambda connection: audit.note(connection, actor, "model.on", _TARGET, detail)
    )
    keep_off_here(settings.model_path, off=False)
    if found is not None and found.get("database", database) != database:
        raise RegistryError(
            f"The model is switched off in another database, as {marker} says: {_said(found)} Set RLHF_DATABASE_URL to "
            "that one; where there is none any more, delete the file."
        )
    if found is None and not cleared:
        raise RegistryError("The model is not off. To switch it off: rlhf-loop models off --reason TEXT")
    try:
        _delete(marker, found)
    except OSError as error:
        raise RegistryError(
            f"{marker} cannot be deleted ({error.strerror}), so the model stays off on this machine. Delete it, "
            "whatever it is; perhaps the rights of its folder have to be mended before."
        ) from error


def follow(engine: Engine, settings: Settings) -> Alarm | None:
    """Bring marker and database together; return the alarm while the model is off in the database, else None.

    A marker goes only where its own database knows that just this decision is over. One that was restored from before
    it learns of it anew, and another database leaves it alone. A marker that cannot be written or deleted is logged,
    and this process is off without it.

    Raises:
        DatabaseError: the database cannot be used.
    """
    path = settings.model_path
    marker = off_marker(path)
    found, noted = _read(marker), switched_off(engine)
    if found is None and noted is None:
        keep_off_here(path, off=False)
        return None
    database = _identity(engine)
    ours = found is None or found.get("database", database) == database
    if noted is None and found is not None and ours and not _is_over(engine, found["at"]):
        _note(engine, found)
        noted = switched_off(engine)
    trouble = ""
    try:
        if noted is None and ours:
            _delete(marker, found)
        elif noted is not None and ours:
            wanted = {**{name: str(value) for name, value in noted.detail.items()}, "database": database}
            if found != wanted:
                _write(marker, wanted)
    except OSError as error:
        verb = "deleted" if noted is None else "written"
        trouble = f"{marker} cannot be {verb}: {error.strerror}. Mend the rights of its folder."
    if trouble and _told.get(marker) != trouble:
        logger.warning("%s", trouble)
    _told[marker] = trouble
    keep_off_here(path, off=noted is not None and bool(trouble))
    return noted


def switched_off(engine: Engine) -> Alarm | None:
    """Return the alarm by which the database has the model off; None while it is on.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    return next((alarm for alarm in open_alarms(engine) if alarm.kind is AlarmKind.MODEL_OFF), None)


def _is_over(engine: Engine, at: str) -> bool:
    """Tell whether the database knows that what was switched off at that time was switched on again."""
    past = alarms(engine, kind=AlarmKind.MODEL_OFF)
    return any(each.cleared_at is not None and each.detail.get("at") == at for each in past)


def _identity(engine: Engine) -> str:
    with reading(engine) as connection:
        return str(connection.execute(select(Identity.identity)).scalar())


def _note(engine: Engine, said: Mapping[str, str]) -> None:
    detail = {name: said[name] for name in ("actor", "reason", "at")}
    raise_alarm(
        engine,
        AlarmKind.MODEL_OFF,
        Message(
            "No model ranks, and candidates keep their incoming order: switched off by {actor}: {reason} To go on: "
            "rlhf-loop models on",
            actor=said["actor"],
            reason=sentence(said["reason"]),
        ),
        detail=detail,
        also=lambda connection: audit.note(connection, said["actor"], "model.off", _TARGET, {"reason": said["reason"]}),
    )


def _one_line(reason: str) -> str:
    """Return what can be seen of a reason, in one line."""
    seen = " ".join(visible(reason).split())
    if len(seen) > _LONGEST:
        raise RegistryError(
            f"The reason has {len(seen):,} characters; at most {_LONGEST:,} are kept. Nothing was changed. Shorten it."
        )
    return seen


def _said(said: Mapping[str, str]) -> str:
    return f"switched off by {said['actor']}: {sentence(said['reason'])}"


def _read(marker: Path) -> dict[str, str] | None:
    """Return what the marker says, None where there is none; whatever else is there was put there by hand."""
    try:
        at = datetime.fromtimestamp(marker.stat().st_mtime, UTC).isoformat()
        found = json.loads(marker.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in _BY_HAND):
        found = _BY_HAND
    return {"at": at, **{name: str(value) for name, value in found.items()}}


def _delete(marker: Path, found: Mapping[str, str] | None) -> None:
    """Delete the marker that was found, and not one that somebody has put there since."""
    if found is None or _read(marker) != found:
        return
    if marker.is_dir():
        # Put there by hand; one with something in it is left to whoever did.
        marker.rmdir()
    else:
        marker.unlink(missing_ok=True)


def _write(marker: Path, said: Mapping[str, str]) -> None:
    marker.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_whole(marker, json.dumps(said).encode())
    except OSError:
        # On a full disk an empty one may still find room, and says enough; one that is there keeps its time.
        if not marker.exists():
            marker.touch()
