"""Adding, promoting and rolling back versions; the live file is kept as the registry has it.

The registry decides which version is live, the file at `settings.model_path` is what serves. A promotion changes the
one in a transaction and then replaces the other; killed in between, `settle` does the rest, in whichever process comes
first.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from socket import gethostname
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, ModelState
from rlhf_loop.encoders import full_name
from rlhf_loop.errors import EncoderError, ModelFileError, ObjectStoreError, RegistryError
from rlhf_loop.registry import model_store, versions
from rlhf_loop.registry.off_switch import follow
from rlhf_loop.registry.runs import plain
from rlhf_loop.registry.versions import Version, find, live, live_version, named, previous
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import load as load_file
from rlhf_loop.reward.model_file import serialised, verified, version_name
from rlhf_loop.store import audit
from rlhf_loop.store.alarms import clear_alarm, raise_alarm
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import ModelVersion
from rlhf_loop.utils.text import blank, clean_text, sentence
from rlhf_loop.utils.translation import Message, packed, unpacked

logger = logging.getLogger(__name__)
_ADOPTED = Message("It was live before there was a registry.")
_DRAWN = ("calibration", "coverage", "growth")
#: What the log of training runs has as the id of one.
_RUN = re.compile(r"[\w-]{1,36}", re.ASCII)


def add(
    engine: Engine,
    settings: Settings,
    model: RewardModel,
    *,
    state: ModelState,
    reason: str,
    judgement: Mapping[str, Any],
    metrics: Mapping[str, Any],
    fitted: NDArray[np.int64],
    run_id: str | None = None,
    frozen_share: float | None = None,
    actor: str = "training",
) -> Version:
    """Keep a new version: its files first, then its row; with the state live it is promoted.

    Where its files could not be brought into the object store, it is a candidate until they were (`settle`).

    Raises:
        ModelFileError: its files cannot be written. The live model is untouched.
    """
    stored = serialised(model)
    now = datetime.now(UTC)
    new = Version(
        id=0,
        version=version_name(model.recipe, stored.sha256),
        sha256=stored.sha256,
        weights_sha256=stored.weights_sha256,
        state=state,
        reason=reason,
        recipe=model.recipe,
        encoder=model.encoder,
        run_id=run_id,
        frozen_share=frozen_share,
        judgement=judgement,
        metrics=metrics,
        made_at=now,
        changed_at=now,
        live_from=None,
        live_until=None,
    )
    trouble = versions.keep(settings, new, stored, fitted=fitted)
    if trouble and state != ModelState.REJECTED:
        state, new = ModelState.CANDIDATE, replace(new, reason=_waiting(settings, reason, trouble))
    # The same model again: its file already is what it should be.
    with suppress(IntegrityError), transaction(engine) as connection:
        _insert(connection, replace(new, state=ModelState.CANDIDATE if state == ModelState.LIVE else state))
        if state == ModelState.REJECTED:
            audit.note(connection, actor, "model.refused", f"model:{new.version}", {"run": run_id, "reason": reason})
    if trouble:
        logger.warning("The model %s is trained, and is not in the object store yet: %s", new.version, trouble)
    elif state == ModelState.LIVE:
        return _promoted(engine, settings, new, actor=actor, reason=reason, detail={"run": run_id})
    versions.tidy(engine, settings)
    return find(engine, new.version)


def promote(
    engine: Engine, settings: Settings, name: str | int | Version, *, actor: str, force: bool = False, reason: str = ""
) -> Version:
    """Put a version live; `force` does it against the gate, and needs a reason, which is kept.

    Raises:
        ValueError: the actor is blank, or `name` is not a valid name.
        RegistryError: there is no such version, the gate has not let it pass, or a reason is missing.
        ModelFileError: its file is missing or damaged; the live one is untouched.
    """
    _check_actor(actor)
    reason = _seen(reason)
    version = find(engine, name)
    if version.state in (ModelState.CANDIDATE, ModelState.REJECTED):
        if not force:
            raise RegistryError(
                f"The gate has not let {version.version} pass: {version.reason} To promote it all the same: rlhf-loop "
                f'models promote {version.version} --force --reason "..."'
            )
        if not reason:
            raise RegistryError("A promotion against the gate needs a reason, for those who come later: --reason TEXT")
    against = [Message("Against the gate.")] if force else []
    said = Message.joined(Message("Promoted by {actor}.", actor=actor), *against, *_why(reason))
    detail = {"forced": force, "reason": reason, "gate": version.reason if force else None}
    return _promoted(engine, settings, version, actor=actor, reason=said, detail=detail)


def rollback(engine: Engine, settings: Settings, *, actor: str, reason: str = "") -> Version:
    """Put the version live that was live before; the one that is live now counts as rejected from then on.

    Raises:
        ValueError: the actor is blank.
        RegistryError: there is no such version.
        ModelFileError: its file is missing or damaged; the live one is untouched.
    """
    _check_actor(actor)
    reason = _seen(reason)
    with reading(engine) as connection:
        now, before = live_version(connection), previous(connection)
    if now is None or before is None:
        raise RegistryError(
            f"There is nothing to go back to: {now.version if now else 'no model'} is live, and none was before. See "
            "all versions: rlhf-loop models list"
        )
    why = Message.joined(Message("Rolled back by {actor}.", actor=actor), *_why(reason))
    back = Message("Live again: {version} was rolled back by {actor}.", version=now.version, actor=actor)
    detail = {"rolled_back": now.version, "reason": reason}
    fate = (ModelState.REJECTED, why)
    return _promoted(engine, settings, before, actor=actor, reason=back, detail=detail, fate=fate)


def settle(engine: Engine, settings: Settings, *, force: bool = False, restored: bool = False) -> str:
    """Make the live file what the registry has, and return what is wrong with it; nothing is wrong with an empty text.

    Versions that wait for the object store are brought there first, and those that the gate let pass go live then.
    A model that is switched off stays so, and is on all machines that share the database. With `force` a file that
    somebody else has put there is replaced, too; after the database was `restored`, and on a machine that has joined
    others by an object store, nothing is said of a file that was not there yet.

    Finishes a promotion that was killed, restores a file that is damaged or missing, and adopts one from before there
    was a registry. What cannot be mended raises an alarm, and the processes that serve keep the model that they have.

    Raises:
        DatabaseError: the database cannot be used.
    """
    follow(engine, settings)
    _bring_waiting(engine, settings)
    version = live(engine)
    if version is None:
        _adopt(engine, settings)
        return ""
    path, trouble = settings.model_path, ""
    # With an object store, a machine without the file is one that has just joined.
    restored = restored or (bool(settings.models_store) and not path.exists())
    try:
        found = verified(path).sha256
    except ModelFileError as error:
        trouble, found = str(error), None
    if found == version.sha256:
        clear_alarm(engine, AlarmKind.MODEL_FILE)
        return ""
    if found is not None and not force and not is_known(engine, found):
        trouble = Message(
            "{path} is not one of the registry's models; {version} is live there. If it is meant to serve, leave it; "
            "else put the registry's back: rlhf-loop models promote {version}",
            path=str(path),
            version=version.version,
        )
        raise_alarm(engine, AlarmKind.MODEL_FILE, trouble, detail={"file": str(path)})
        return trouble
    try:
        versions.deploy(settings, version)
    except ModelFileError as error:
        kept = Message("The processes that serve keep the model that they have.")
        trouble = Message.joined(*filter(None, (trouble, str(error))), kept)
        raise_alarm(engine, AlarmKind.MODEL_FILE, trouble, detail={"file": str(path), "version": version.version})
        return trouble
    versions.tidy(engine, settings)
    if trouble and not restored:
        # Mended, but somebody should hear of it: the alarm is over with the next look.
        mended = Message("It was restored from {version}.", version=version.version)
        raise_alarm(engine, AlarmKind.MODEL_FILE, Message.joined(trouble, mended))
    logger.info("The live model file is %s now.", version.version)
    return "" if restored else trouble


def is_known(engine: Engine, sha256: str) -> bool:
    """Tell whether a version has a file with this sum.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    with reading(engine) as connection:
        return connection.execute(select(ModelVersion.id).where(ModelVersion.sha256 == sha256)).first() is not None


def _check_actor(actor: object) -> None:
    if not isinstance(actor, str) or blank(actor):
        raise ValueError(f"The actor {actor!r} is not a valid name for the audit log. Pass who decided it.")


def _seen(reason: str) -> str:
    """Return a reason as it is kept, an empty text where there is nothing to see of it."""
    kept = clean_text(reason)
    return "" if blank(kept) else kept


def _why(reason: str) -> list[Message]:
    """Return a reason as a sentence to add, if there is one."""
    return [Message("Reason: {reason}", reason=sentence(reason))] if reason else []


def _promoted(
    engine: Engine,
    settings: Settings,
    wanted: Version,
    *,
    actor: str,
    reason: str,
    detail: Mapping[str, Any],
    fate: tuple[ModelState, str] | None = None,
) -> Version:
    """Make it live and the one that was live something else, in one transaction; then bring its file to its place."""
    # From the look at its files on: what tidies meanwhile does not know yet that its tuned layers are wanted again.
    with versions.weights_lock(engine, settings):
        versions.load(settings, wanted, encoder=wanted.encoder)
        try:
            model_store.ensure(settings, wanted.version, weights=wanted.weights_sha256)
            model_store.arrived(settings, wanted.version)
        except ModelFileError as error:
            if fate is None:
                raise
            # Most machines have the one that they have served; those that have not keep theirs until the store is back.
            logger.warning("It goes live on machines that have its files: %s", error)
        now = datetime.now(UTC)
        with transaction(engine) as connection:
            version, before = named(connection, wanted.version), live_version(connection)
            if before is not None and before.id != version.id:
                state, why = fate or (ModelState.RETIRED, Message("Replaced by {version}.", version=version.version))
                # The clock may have been put back: the one that was live last is still the one to go back to.
                latest = connection.execute(select(func.max(ModelVersion.live_until))).scalar()
                until = max(now, latest + timedelta(microseconds=1)) if latest else now
                gone = {"state": state, "reason": why, "said": packed(why), "changed_at": now, "live_until": until}
                connection.execute(update(ModelVersion).where(ModelVersion.id == before.id).values(gone))
            if before is None or before.id != version.id:
                live_now = {"live_from": now, "live_until": None}
                words = {"reason": reason, "said": packed(reason)}
                came = {"state": ModelState.LIVE, "changed_at": now, **words, **live_now}
                connection.execute(update(ModelVersion).where(ModelVersion.id == version.id).values(came))
                replaced = {"replaces": before.version if before else None}
                audit.note(connection, actor, "model.promoted", f"model:{version.version}", {**detail, **replaced})
            promoted = named(connection, wanted.version)
        versions.deploy(settings, promoted)
    versions.tidy(engine, settings)
    return promoted


def _waiting(settings: Settings, reason: str, trouble: str) -> str:
    """Return the reason of a version whose files are on this machine alone."""
    return Message.joined(
        reason,
        Message(
            "Its files wait in {folder} on {host} for the object store, and are brought there with the next look of "
            "rlhf-loop worker, a training or rlhf-loop models list on that machine: {trouble}",
            folder=str(settings.models_folder),
            host=gethostname(),
            trouble=trouble,
        ),
    )


def _bring_waiting(engine: Engine, settings: Settings) -> None:
    """Bring what waits into the object store; what the gate let pass goes live, unless somebody has decided since."""
    for name in model_store.waiting(settings):
        try:
            model_store.bring(settings, name)
            with suppress(RegistryError):  # one that was killed before it had a row
                _begin_again(engine, settings, find(engine, name))
        except ModelFileError as error:
            logger.warning("The model %s still waits for the object store: %s", name, error)
            if isinstance(error.__cause__, ObjectStoreError):
                return  # each of the others would wait for it as long
            continue
        model_store.arrived(settings, name)
        logger.info("The model %s is in the object store now.", name)


def _begin_again(engine: Engine, settings: Settings, version: Version) -> None:
    """Do with a version that waited what the gate has said of it."""
    before = live(engine)
    replaced = before is not None and before.live_from is not None and before.live_from > version.made_at
    if version.state != ModelState.CANDIDATE or version.changed_at != version.made_at:
        return
    said = " ".join(version.judgement.get("reasons") or ())
    reason = unpacked(said, version.judgement.get("said"))
    if version.judgement.get("state") == ModelState.LIVE and not replaced:
        _promoted(engine, settings, version, actor="registry", reason=reason, detail={"run": version.run_id})
        return
    words = {"reason": reason, "said": packed(reason)}
    with transaction(engine) as connection:
        connection.execute(update(ModelVersion).where(ModelVersion.id == version.id).values(words))


def _adopt(engine: Engine, settings: Settings) -> None:
    try:
        loaded = load_file(settings.model_path, encoder=full_name(settings))
        stored = verified(settings.model_path)
    except (ModelFileError, EncoderError):
        return  # there is no file, or not one that could serve; ranking reports it
    if stored.sha256 != loaded.sha256:
        return  # replaced in between, and looked at again soon
    model, card = loaded.model, loaded.model.card
    now, run = datetime.now(UTC), card.get("run_id")
    version = Version(
        id=0,
        version=loaded.version,
        sha256=stored.sha256,
        weights_sha256=stored.weights_sha256,
        state=ModelState.LIVE,
        reason=_ADOPTED,
        recipe=model.recipe,
        encoder=model.encoder,
        run_id=run if isinstance(run, str) and _RUN.fullmatch(run) else None,
        frozen_share=None,
        judgement={},
        metrics={},
        made_at=_moment(card.get("trained_at")) or now,
        changed_at=now,
        live_from=now,
        live_until=None,
    )
    version = _with_metrics(version, plain(card.get("metrics")))
    try:
        is_there = versions.version_path(settings, version.version).exists()
        if trouble := "" if is_there else versions.keep(settings, version, stored, fitted=None):
            logger.warning("The live model is not in the object store yet: %s", trouble)
        with suppress(IntegrityError), transaction(engine) as connection:  # another process was faster
            _insert(connection, version)
            audit.note(connection, "registry", "model.promoted", f"model:{version.version}", {"reason": _ADOPTED})
    except ModelFileError as error:
        logger.warning("The live model is not in the registry yet: %s", error)


def _with_metrics(version: Version, metrics: object) -> Version:
    """Return the version with what its training measured, as far as a card has it, or without where none can be made.

    What figures are drawn of stays out: it has too many shapes to trust a file that came from elsewhere with.
    """
    if not isinstance(metrics, Mapping):
        return version
    measured = replace(version, metrics={name: metrics[name] for name in metrics if name not in _DRAWN})
    try:
        versions.card(measured)
        measured._repr_html_()
        if not all(_of_numbers(measured.metrics.get(name)) for name in ("overall", "held_out", "pairs")):
            return version
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return version
    return measured


def _of_numbers(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_of_numbers, value.values()))
    return value is None or isinstance(value, int | float)


def _insert(connection: Connection, version: Version) -> None:
    names = [column.name for column in ModelVersion.__table__.columns if column.name not in ("id", "said")]
    values = {name: getattr(version, name) for name in names} | {"said": packed(version.reason)}
    for name in ("judgement", "metrics"):
        values[name] = dict(values[name]) or None
    connection.execute(insert(ModelVersion).values(values))


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
