"""
title: Ratings to RLHF Loop
description: Passes each thumb on to RLHF Loop in the moment in which a user gives it.
version: 1.0
required_open_webui_version: 0.10.0
"""

# An event function of Open WebUI (Admin Panel > Functions > +): paste this file, enter address and token among its
# valves, switch it on. Open WebUI's event webhooks tell of a feedback's id and rating alone; here, inside of it,
# question and answer can be read. The token is one of a service named `openwebui` with the scopes interactions:write
# and reviews:write, so that the same users are known as in an import of Open WebUI's export. Ratings from before come
# by that import, and so does what was rated while RLHF Loop could not be reached; both change nothing twice.

import asyncio
import json
import logging
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from open_webui.models.feedbacks import Feedbacks
from pydantic import BaseModel, Field

log = logging.getLogger(__name__)


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
        # Who rates goes on while this waits.
        await asyncio.to_thread(self._send, str(event.get("id")), _without_copies(feedback.model_dump()))

    def _send(self, key: str, record: dict) -> None:
        request = Request(
            f"{self.valves.url.rstrip('/')}/v1/feedback/openwebui",
            data=json.dumps(record).encode(),
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
            log.error("RLHF Loop did not take the feedback %s: %s", record.get("id"), error.read().decode()[:500])
        except OSError as error:
            log.error("RLHF Loop cannot be reached at %s: %s. Import the feedback later.", self.valves.url, error)


def _without_copies(record: dict) -> dict:
    """Leave out what the snapshot has twice, and the files: only messages are read, and a request has its limits."""
    chat = ((record.get("snapshot") or {}).get("chat") or {}).get("chat") or {}
    if (chat.get("history") or {}).get("messages"):
        chat.pop("messages", None)
        for message in chat["history"]["messages"].values():
            for name in ("files", "sources", "output", "statusHistory"):
                message.pop(name, None)
    return record
