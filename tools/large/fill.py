"""Generator of large tables: a year of an installation of PostgreSQL, by statements that the server works through.

For each two interactions five questions were served: a quarter of the interactions are the documents of recorded
rankings, the rest answers of `/data`, three to a question; what else was served are recorded rankings whose documents
were deleted for their age. A fifth of the interactions have an expert's rating, and each 2,000 have a rater.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text

#: What the largest installation here has; smaller ones have as many of each in proportion.
INTERACTIONS, SERVED_OF_ONE, INTERACTIONS_OF_RATER = 2_000_000, 2.5, 2_000
VERSION = "reward-20261101-000000"
TABLES = (
    "rlhf_interactions",
    "rlhf_served_questions",
    "rlhf_reviews",
    "rlhf_answer_scores",
    "rlhf_assignments",
    "rlhf_audit_log",
    "rlhf_correction_decisions",
    "rlhf_preferences",
)
#: Their indices are made anew at the end, which takes a third of what keeping them takes. Constraints stay.
_INDICES = """
SELECT indexname, indexdef FROM pg_indexes JOIN pg_class ON pg_class.relname = indexname
WHERE schemaname = 'public' AND tablename = ANY(:tables)
  AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = pg_class.oid)
"""
#: Moments of a year until now, in the order of n; and a number from 0 to 1 by chance that stays with n.
_MOMENT = "CAST(:now AS timestamptz) - interval '364 days' * (1 - n / CAST(:count AS float))"
_CHANCE = "(('x' || substr(md5(n || {salt!r}), 1, 7))::bit(28)::int / 268435456.0)"
_SOURCES = "(ARRAY['index', 'index', 'index', 'wikipedia', 'wikipedia', 'arxiv', 'corrections', 'own'])[1 + n % 8]"


def _by_chance(salt: str) -> str:
    return _CHANCE.format(salt=salt)


#: Answer n belongs to question n / 3; every fourth question is a recorded ranking. One question in ten is asked again.
_ANSWERS = f"""
INSERT INTO rlhf_interactions (id, user_prompt, ai_response, source, title, candidate_group, shown_rank, score,
  model_version, external_id, created_at)
SELECT n, 'What is known about subject ' || CASE WHEN question % 10 = 9 THEN question - 9 ELSE question END || '?',
  'On subject ' || question || ', in answer ' || n || ': ' || repeat(md5(n::text) || ' ', 12), {_SOURCES},
  'Document ' || n / 50, CASE WHEN question % 4 = 3 THEN 'ranking:' ELSE '' END || md5('group ' || question), 1 + n % 3,
  {_by_chance("score")}, CASE WHEN n > 0.9 * :count THEN :version ELSE 'reward-20260701-000000' END,
  md5('answer ' || n), {_MOMENT}
FROM (SELECT n, n / 3 AS question FROM generate_series(1, CAST(:count AS int)) AS n) AS numbers
"""
_SERVED = """
INSERT INTO rlhf_served_questions (candidate_group, served_at, policy, propensity, experiment, model_version, first_id,
  timings, door, caller, returned)
SELECT md5('group ' || question), at, CASE WHEN question % 20 = 0 THEN 'incoming' ELSE 'live' END,
  CASE WHEN question % 10 = 0 THEN 0.5 ELSE 1 END, CASE WHEN question % 10 = 0 THEN 'incoming' END,
  :version, first_id,
  json_build_object('total', 20 + question % 50, 'source:index', 5 + question % 30, 'source:wikipedia', 10, 'rank', 4),
  NULL, NULL, NULL
FROM (SELECT id / 3 AS question, min(created_at) AS at, (array_agg(external_id ORDER BY score DESC))[1] AS first_id
  FROM rlhf_interactions WHERE candidate_group NOT LIKE 'ranking:%' GROUP BY 1) AS answered
"""
_RANKED = f"""
INSERT INTO rlhf_served_questions (candidate_group, served_at, policy, model_version, first_id, timings, door, caller,
  returned)
SELECT 'ranking:' || md5('group ' || question), at, 'live', :version, first_id, '{{"rank": 3.1}}'::json, '/v1/rerank',
  'service' || question % 5, 10
FROM (SELECT id / 3 AS question, min(created_at) AS at, min(external_id) AS first_id FROM rlhf_interactions
  WHERE candidate_group LIKE 'ranking:%' GROUP BY 1) AS ranked
UNION ALL
SELECT 'ranking:' || md5('deleted ' || n), {_MOMENT.replace(":count", ":served")}, 'live', :version,
  md5('gone ' || n), '{{"rank": 3.1}}'::json, '/v1/rerank', 'service' || n % 5, 10
FROM generate_series(1, CAST(:served AS int)) AS n
"""
#: The first review of each fifth answer, and two more of every tenth of those.
_REVIEWS = f"""
INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment, correction, reviewed_at, role, harmful)
SELECT n,
  CASE WHEN {_by_chance("who")} < 0.9 OR again > 0 THEN 'rater' || (n / 5 + again) % :raters ELSE 'visitor:' || n END,
  1 + (n / 5 + again * (n / 50 % 3)) % 5, CASE WHEN n % 20 = 0 THEN 'Because of line ' || n END,
  CASE WHEN n % 50 = 0 AND again = 0 THEN 'Better is what line ' || n || ' says.' END,
  least({_MOMENT} + interval '1 hour', :now), CASE WHEN {_by_chance("who")} < 0.9 OR again > 0 THEN 'expert' ELSE
    'end_user' END, n % 5000 = 0 AND again = 0
FROM generate_series(5, CAST(:count AS int), 5) AS n, generate_series(0, 2) AS again
WHERE again = 0 OR n % 50 = 0
ORDER BY n
"""
#: What triggers do, which are set aside, or they would do it a row at a time.
_CONSENSUS = """
UPDATE rlhf_interactions AS answer SET rating = said.expert, end_user_rating = said.end_user, rated_at = said.at,
  feedback_comment = said.comment, corrected_response = said.correction, review_changes = 1
FROM (SELECT interaction_id,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY rating) FILTER (WHERE role = 'expert') AS expert,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY rating) FILTER (WHERE role = 'end_user') AS end_user,
    max(reviewed_at) FILTER (WHERE role = 'expert') AS at, max(comment) AS comment, max(correction) AS correction
  FROM rlhf_reviews GROUP BY 1) AS said
WHERE answer.id = said.interaction_id
"""
_SCORES = """
INSERT INTO rlhf_answer_scores (interaction_id, model_version, score, margin, scored_at)
SELECT id, :version, score, CASE WHEN shown_rank < 3 THEN abs(score - 0.5) END, :now FROM rlhf_interactions
WHERE rating IS NULL
"""
_ASSIGNED = """
INSERT INTO rlhf_assignments (reviewer, interaction_id, state, assigned_at, leased_until, handled_at)
SELECT reviewer, interaction_id, 'reviewed', reviewed_at - interval '1 minute', reviewed_at + interval '1 hour',
  reviewed_at FROM rlhf_reviews WHERE role = 'expert'
"""
_SKIPPED = """
INSERT INTO rlhf_assignments (reviewer, interaction_id, state, assigned_at, leased_until, handled_at, not_my_field)
SELECT 'rater' || n % :raters, n, 'skipped', created_at, created_at, created_at, n % 3 = 0
FROM (SELECT id AS n, created_at FROM rlhf_interactions WHERE id % 100 = 1 AND rating IS NULL) AS waiting
"""
_AUDITED = """
INSERT INTO rlhf_audit_log (happened_at, actor, action, target)
SELECT reviewed_at, reviewer, 'review.added', 'interaction:' || interaction_id FROM rlhf_reviews ORDER BY id
"""
_DECIDED = """
INSERT INTO rlhf_correction_decisions (review_id, correction, approved, decided_by, decided_at)
SELECT id, correction, id % 5 > 0, 'admin', :now - interval '1 day' * (id % 300) FROM rlhf_reviews
WHERE correction IS NOT NULL AND id % 97 > 0
"""
_NOTED = """
UPDATE rlhf_reviews SET decided = decision.correction FROM rlhf_correction_decisions AS decision
WHERE rlhf_reviews.id = decision.review_id
"""
_PREFERRED = """
INSERT INTO rlhf_preferences (first_id, second_id, reviewer, preferred, preferred_at)
SELECT id, id + 1, 'rater' || id % :raters, 'first', created_at FROM rlhf_interactions
WHERE id % 100 = 0 AND id < :count
"""
_MODEL = """
INSERT INTO rlhf_models (version, sha256, state, reason, recipe, encoder, made_at, live_from)
VALUES (:version, :version, 'live', 'The first one.', 'passages', 'all-MiniLM-L6-v2', :now - interval '36 days',
  :now - interval '36 days')
"""
_TRAINED = """
INSERT INTO rlhf_reward_model_training (run_id, started_at, finished_at, status, metrics)
SELECT :version, :now - interval '3 days', :now - interval '3 days', 'succeeded',
  json_build_object('last_review', max(id) FILTER (WHERE reviewed_at < :now - interval '3 days')) FROM rlhf_reviews
"""
_USERS = "INSERT INTO rlhf_users (name, role) SELECT 'rater' || n, 'rater' FROM generate_series(0, :raters - 1) AS n"
_SEQUENCE = "SELECT setval(pg_get_serial_sequence('rlhf_interactions', 'id'), CAST(:count AS int))"
_STEPS: Mapping[str, str] = {
    "interactions": _ANSWERS,
    "their sequence": _SEQUENCE,
    "served questions": _SERVED,
    "recorded rankings": _RANKED,
    "users": _USERS,
    "reviews": _REVIEWS,
    "consensus": _CONSENSUS,
    "scores": _SCORES,
    "assignments": _ASSIGNED,
    "skipped answers": _SKIPPED,
    "audit log": _AUDITED,
    "decisions": _DECIDED,
    "what they are about": _NOTED,
    "preferences": _PREFERRED,
    "model": _MODEL,
    "training": _TRAINED,
}


def fill(engine: Engine, interactions: int, *, now: datetime | None = None) -> None:
    """Fill an empty database with so many interactions and all that belongs to them."""
    values = {
        "now": now or datetime.now(UTC),
        "count": interactions,
        # Besides a question for three interactions.
        "served": round(interactions * (SERVED_OF_ONE - 1 / 3)),
        "raters": max(3, interactions // INTERACTIONS_OF_RATER),
        "version": VERSION,
    }
    with engine.begin() as connection:
        # No triggers, and no foreign keys: all of it is as they would have it.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        indices = connection.execute(text(_INDICES), {"tables": list(TABLES)}).all()
        for index in indices:
            connection.exec_driver_sql(f"DROP INDEX {index.indexname}")
        for name, statement in _STEPS.items():
            _step(connection, name, statement, values)
            if name == "reviews":
                connection.exec_driver_sql("ANALYZE rlhf_reviews, rlhf_interactions")
        for index in indices:
            connection.exec_driver_sql(index.indexdef)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _step(connection: Connection, name: str, statement: str, values: Mapping[str, object]) -> None:
    wanted = text(statement)
    needed = {each: values[each] for each in wanted._bindparams}
    connection.execute(wanted, needed)
