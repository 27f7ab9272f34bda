"""
title: Rankings of RLHF Loop
description: Keeps with each answer by best of n which draft of which ranking it is, so that its thumb rates that one.
version: 1.1
required_open_webui_version: 0.10.0
"""

# A filter function of Open WebUI (Admin Panel > Functions > +): paste this file, switch it on, and on for the models
# that RLHF Loop serves (Settings > Connections > OpenAI API, docs/CLIENTS.md), or for all. The function
# openwebui_ratings.py then sends the thumb with the ranking's id. What is kept stands among the answer's usage, which
# Open WebUI stores with the message as it is; so it is there after a restart, and in every process.


class Filter:
    def stream(self, event: dict) -> dict:
        """Take the ranking's id from the piece of a stream that ends a choice; what was not recorded has none."""
        for choice in event.get("choices") or []:
            about = choice.get("rlhf") if isinstance(choice, dict) else None
            if isinstance(about, dict) and choice.get("index") == 0 and about.get("ranking"):
                kept = {"ranking": about["ranking"], "index": about.get("index")}
                event["usage"] = {**(event.get("usage") or {}), "rlhf": kept}
        return event
