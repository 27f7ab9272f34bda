"""The raters' desk: the queue of answers, reviews, pairs, corrections, guidelines, progress and agreement."""

from __future__ import annotations

from rlhf_loop.reviewing.agreement import Agreement, MonthPoint, RaterReport, WeekPoint, agreement, agreement_by_month
from rlhf_loop.reviewing.candidates import OtherAnswer, Unjudged, nobodys_field, other_answers
from rlhf_loop.reviewing.comparisons import PairAnswer, PairItem, next_pair, prefer, skip_pair, undo_pair
from rlhf_loop.reviewing.corrections import (
    MOST_TO_DECIDE,
    ApprovedStamp,
    Correction,
    Flag,
    LastDecisions,
    ToDecide,
    approved_corrections,
    approved_stamp,
    corrections,
    decide,
    decide_all,
    flags,
    last_decisions,
    to_decide,
    undo_decisions,
)
from rlhf_loop.reviewing.guidelines import (
    DEFAULT_GUIDELINES,
    Guidelines,
    Progress,
    guidelines,
    progress,
    save_guidelines,
)
from rlhf_loop.reviewing.items import MAX_COMMENT, MAX_CORRECTION, OwnReview, ReviewItem, own_reviews
from rlhf_loop.reviewing.queue import following_item, item, next_item, previous_item, renew
from rlhf_loop.reviewing.scoring import Scoring, refresh_scores
from rlhf_loop.reviewing.work import SeenReview, is_seen, save_draft, skip, submit, undo

__all__ = [
    "DEFAULT_GUIDELINES",
    "MAX_COMMENT",
    "MAX_CORRECTION",
    "MOST_TO_DECIDE",
    "Agreement",
    "ApprovedStamp",
    "Correction",
    "Flag",
    "Guidelines",
    "LastDecisions",
    "MonthPoint",
    "OtherAnswer",
    "OwnReview",
    "PairAnswer",
    "PairItem",
    "Progress",
    "RaterReport",
    "ReviewItem",
    "Scoring",
    "SeenReview",
    "ToDecide",
    "Unjudged",
    "WeekPoint",
    "agreement",
    "agreement_by_month",
    "approved_corrections",
    "approved_stamp",
    "corrections",
    "decide",
    "decide_all",
    "flags",
    "following_item",
    "guidelines",
    "is_seen",
    "item",
    "last_decisions",
    "next_item",
    "next_pair",
    "nobodys_field",
    "other_answers",
    "own_reviews",
    "prefer",
    "previous_item",
    "progress",
    "refresh_scores",
    "renew",
    "save_draft",
    "save_guidelines",
    "skip",
    "skip_pair",
    "submit",
    "to_decide",
    "undo",
    "undo_decisions",
    "undo_pair",
]
