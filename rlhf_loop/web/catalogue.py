"""The catalogue of metrics at /metrics: the server, docs/METRICS.md and deploy/ name no other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of metrics, as Prometheus calls them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric; `buckets` are the upper ends of those of a histogram."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


#: From a file that is there to an answer with drafts that took all the time it had.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TENTHS = tuple(tenth / 10 for tenth in range(1, 10))

HTTP_REQUESTS = MetricInfo(
    "rlhf_http_requests_total",
    Kind.COUNTER,
    "Requests, by the route's template; what no route knows is 'other'.",
    ("method", "route", "status"),
)
HTTP_SECONDS = MetricInfo(
    "rlhf_http_request_seconds", Kind.HISTOGRAM, "How long requests took.", ("route",), buckets=_SECONDS
)
ANSWERS = MetricInfo(
    "rlhf_answers_total",
    Kind.COUNTER,
    "Questions answered, by what ordered the answers, and whether anything was found.",
    ("policy", "result"),
)
STAGE_SECONDS = MetricInfo(
    "rlhf_answer_stage_seconds",
    Kind.HISTOGRAM,
    "How long each stage of an answer took, each source as 'source:NAME', all of it as 'total'.",
    ("stage",),
    buckets=_SECONDS,
)
SOURCE_FAILURES = MetricInfo(
    "rlhf_source_failures_total", Kind.COUNTER, "Questions that a source failed, or was paused for.", ("source",)
)
DEGRADED = MetricInfo(
    "rlhf_degraded_total", Kind.COUNTER, "Questions answered without a part other than a source.", ("part",)
)
TOP_SCORE = MetricInfo(
    "rlhf_top_score", Kind.HISTOGRAM, "Score of the answer that came first, where a model scored it.", buckets=_TENTHS
)
RATINGS = MetricInfo(
    "rlhf_ratings_total",
    Kind.COUNTER,
    "Ratings taken over HTTP, changed ones too, by the role of the reviewer.",
    ("role",),
)
WORKERS = MetricInfo("rlhf_workers", Kind.GAUGE, "Processes that answer.")
MODEL = MetricInfo(
    "rlhf_model_info", Kind.GAUGE, "1 for each version of the model that a process serves now.", ("version",)
)
BUILD = MetricInfo("rlhf_build_info", Kind.GAUGE, "1 for the version of RLHF Loop.", ("version",))
OUTBOX_WAITING = MetricInfo("rlhf_outbox_waiting", Kind.GAUGE, "Answers and ratings that wait for the database.")
OUTBOX_REFUSED = MetricInfo("rlhf_outbox_refused", Kind.GAUGE, "Those that the database has refused for good.")
DATABASE_UP = MetricInfo(
    "rlhf_database_up", Kind.GAUGE, "Whether the database answers; without it, what comes from it is left out."
)
INTERACTIONS = MetricInfo(
    "rlhf_interactions", Kind.GAUGE, "Recorded answers, rated by an expert or waiting for one.", ("state",)
)
ALARMS = MetricInfo("rlhf_alarms_open", Kind.GAUGE, "Alarms that are open.", ("kind",))
TRAININGS = MetricInfo("rlhf_training_runs_total", Kind.COUNTER, "Trainings that have ended, by how.", ("status",))
TRAINING = MetricInfo("rlhf_training_running", Kind.GAUGE, "Trainings that run now.")
LIVE_MODEL = MetricInfo(
    "rlhf_live_model_info", Kind.GAUGE, "1 for the version that is live by the registry.", ("version",)
)
PROMOTED = MetricInfo(
    "rlhf_model_promoted_timestamp_seconds", Kind.GAUGE, "When the live version became live, in Unix time."
)
ACCURACY = MetricInfo(
    "rlhf_live_model_accuracy", Kind.GAUGE, "Accuracy of the live version, on questions it was not fitted on."
)
AUC = MetricInfo("rlhf_live_model_auc", Kind.GAUGE, "The same for its AUC.")

#: Counted by each process itself.
COUNTED = (
    HTTP_REQUESTS,
    HTTP_SECONDS,
    ANSWERS,
    STAGE_SECONDS,
    SOURCE_FAILURES,
    DEGRADED,
    TOP_SCORE,
    RATINGS,
    WORKERS,
    MODEL,
)
#: Looked up with each request for the metrics.
LOOKED_UP = (
    BUILD,
    OUTBOX_WAITING,
    OUTBOX_REFUSED,
    DATABASE_UP,
    INTERACTIONS,
    ALARMS,
    TRAININGS,
    TRAINING,
    LIVE_MODEL,
    PROMOTED,
    ACCURACY,
    AUC,
)
CATALOGUE = (*COUNTED, *LOOKED_UP)
