"""
title: Ratings to RLHF Loop
description: Passes each thumb on to RLHF Loop in the moment in which a user gives it.
version: 1.2
required_open_webui_version: 0.10.0
"""

# An event function of Open WebUI (Admin Panel > Functions > +): paste this file, enter address and token among its
# valves, switch it on. Open WebUI's event webhooks tell of a feedback's id and rating alone; here, inside of it,
# question and answer can be read. The token is one of a service named `openwebui` with the scopes interactions:write
# and reviews:write, so that the same users are known as in an import of Open WebUI's export. Ratings from before come
# by that import, and so does what was rated while RLHF Loop could not be reached; both change nothing twice. With the
# filter openwebui_rankings.py beside it, the thumb of an answer by best of n rates the draft that it is; where RLHF
# Loop does not know that draft, or knows it as another application's, the thumb goes there with its texts as any other.

import asyncio
import json
import logging
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from open_webui.models.feedbacks import Feedbacks
from pydantic import BaseModel, Field

log = logging.getLogger(__name__)

# Made for another application, not recorded, deleted since, or not to be rated so.
_NO_DRAFT = (403, 404, 410, 422)


class Event:
    class Valves(BaseModel):
        url: str = Field(default="http://127.0.0.1:8000", description="Where RLHF Loop answers.")
        token: str = Field(default="", description="A token of RLHF Loop, rlhf_...")
        timeout: float = Field(default=10.0, description="Seconds to wait for it.")

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def event(self, event: dict, __event_name__: str = "") -> None:
        if __event_name__ not in ("feedback.created", "feedback.updated"):
            return
        id = (event.get("subject") or {}).get("id")
        feedback = await Feedbacks.get_feedback_by_id(id)
        if feedback is None:
            return
        record = feedback.model_dump()
        # Who rates goes on while this waits.
        await asyncio.to_thread(self._rate, str(event.get("id")), record)

    def _rate(self, key: str, record: dict) -> None:
        kept = _kept(record)
        if kept is None or not self._send(key, *_of_draft(kept, record), record, or_else=True):
            # By a key of its own: under the other one a draft's thumb was sent.
            key = key if kept is None else f"{key}-texts"
            self._send(key, "feedback/openwebui", _without_copies(record), record)

    def _send(self, key: str, path: str, body: dict | None, record: dict, *, or_else: bool = False) -> bool:
        """Send it; return False where there is another way, and this one does not lead to a draft."""
        request = Request(
            f"{self.valves.url.rstrip('/')}/v1/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method="DELETE" if body is None else "POST",
            headers={
                "Authorization": f"Bearer {self.valves.token}",
                "Content-Type": "application/json",
                "Idempotency-Key": f'"{key}"',
            },
        )
        try:
            with urlopen(request, timeout=self.valves.timeout):
                pass
        except HTTPError as error:
            if or_else and error.code in _NO_DRAFT:
                return False
            log.error("RLHF Loop did not take the feedback %s: %s", record.get("id"), error.read().decode()[:500])
        except OSError as error:
            log.error("RLHF Loop cannot be reached at %s: %s. Import the feedback later.", self.valves.url, error)
        return True


def _kept(record: dict) -> dict | None:
    """Return which draft of which ranking the rated message is, as the filter has kept it."""
    chat = ((record.get("snapshot") or {}).get("chat") or {}).get("chat") or {}
    messages = (chat.get("history") or {}).get("messages") or {}
    message = messages.get((record.get("meta") or {}).get("message_id")) or {}
    kept = (message.get("usage") or {}).get("rlhf")
    return kept if isinstance(kept, dict) and {"ranking", "index"} <= set(kept) else None


def _of_draft(kept: dict, record: dict) -> tuple[str, dict | None]:
    """Return path and body of what the record says of that draft; without a thumb, that it is taken back."""
    data = record.get("data") or {}
    if data.get("rating") not in (1, -1):
        named = f"{kept['ranking']}.{kept['index']}"
        return f"interactions/{quote(named)}/reviews?reviewer={quote(record['user_id'])}", None
    comment = ": ".join(str(data[name]) for name in ("reason", "comment") if data.get(name)) or None
    said = {"thumb": "up" if data["rating"] == 1 else "down", "comment": comment, "reviewer": record["user_id"]}
    return "feedback", {**kept, **said}


def _without_copies(record: dict) -> dict:
    """Leave out what the snapshot has twice, and the files: only messages are read, and a request has its limits."""
    chat = ((record.get("snapshot") or {}).get("chat") or {}).get("chat") or {}
    if (chat.get("history") or {}).get("messages"):
        chat.pop("messages", None)
        for message in chat["history"]["messages"].values():
            for name in ("files", "sources", "output", "statusHistory"):
                message.pop(name, None)
    return record
