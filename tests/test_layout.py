"""The house stays in order: each module has its place, and imports only from above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlhf_loop

PACKAGE = Path(rlhf_loop.__file__).parent

#: The house, top to bottom: a module imports only from those above it, inside its functions too.
#: A folder's own name is its `__init__.py`, which comes after what it re-exports.
HOUSE = """
    version
    errors
    html_table
    domain
    plain_text
    storable
    wording
    config
    extras
    threads
    memory
    worker
    turns
    tracing
    recent
    client.failures
    client.values
    client.sending
    client.api
    client
    sqlite_connection

    tables.columns
    tables.ratings
    tables.review
    tables.people
    tables.training
    tables.models
    tables.operation
    tables
    db
    migrations
    migrations.env
    migrations.versions
    migrations.versions.r0001_ratings
    migrations.versions.r0002_reviews
    migrations.versions.r0003_people
    migrations.versions.r0004_improvement
    migrations.versions.r0005_index_of_groups
    migrations.versions.r0006_index_of_audit
    audit
    alarms
    served
    accounts
    accounts.passwords
    accounts.users
    accounts.sessions
    accounts.throttle
    accounts.signing_in
    accounts.tokens
    accounts.links
    interactions
    preferences
    browsing
    answered_requests
    training_log
    rating_fields
    row_files
    row_writers
    formats.layout
    formats.plain
    formats.messages
    formats.values
    formats.trl
    formats.argilla
    formats.langfuse
    formats.openwebui_chat
    formats.openwebui
    formats.label_studio_task
    formats.label_studio
    formats.label_studio_events
    formats.phoenix
    formats
    ratings_file
    import_tables
    import_pairs
    import_stage
    export_rows
    export_pairs
    exchange
    feedback

    encoders.processor
    encoders.runtime
    encoders.weights
    encoders.passages
    encoders.vector_cache
    encoders.text_encoder
    encoders.onnx_graph
    encoders.calibration
    encoders.int8_graph
    encoders.graph_file
    encoders.batches
    encoders.onnx_runtime
    encoders.torch_runtime
    encoders

    metrics
    splitting
    frozen
    calibration
    extrapolation
    reward.recipe
    reward.joint
    reward.lexical
    reward.term_index
    reward.passages
    reward.recipes
    reward.scorer
    reward.classifier
    reward.model
    reward.model_file
    reward
    learning_points

    evaluation
    reliability
    consensus
    training_data
    examples
    pair_data
    pairs
    dataset_card
    dataset_folder
    features
    fitting
    training
    comparing
    gate
    training_lock
    registry.versions
    registry.cards
    registry.files
    registry.promotion
    registry.contests
    registry
    retraining
    training_run
    learning_curve
    ranking
    document_ranking
    adapters
    adapters.ranked
    adapters.langchain
    adapters.llama_index
    adapters.haystack
    adapters.rerankers
    warming

    reviewing.servings
    reviewing.items
    reviewing.priority
    reviewing.candidates
    reviewing.queue
    reviewing.work
    reviewing.pair_candidates
    reviewing.pairs
    reviewing.corrections
    reviewing.flags
    reviewing.guidelines
    reviewing.progress
    reviewing.agreement
    reviewing.scoring
    reviewing

    excerpts
    index.store
    index.fusion
    index.lancedb_store
    index.pgvector_tables
    index.pgvector_store
    index
    index.prose_files
    index.documents
    index.indexing

    sources.source
    sources.timed_transport
    sources.http
    sources.page_cache
    sources.courtesy
    sources.markup
    sources.search_words
    sources.best_parts
    sources.wikipedia
    sources.arxiv
    sources.langchain
    sources.vector_database
    sources.same_question
    sources.corrections
    sources.chosen
    sources

    answering.breaker
    answering.stages
    answering.extracts
    answering.gathering
    answering.drafting
    answering.outbox
    answering.recording
    answering.interleaving
    answering.policies
    answering.rows
    answering.service
    answering

    monitoring.figure
    monitoring.effect
    monitoring.experiment
    monitoring.shifts
    monitoring.asked
    monitoring.drift
    monitoring.fresh_accuracy
    monitoring.source_health
    monitoring.backlog
    monitoring.census
    monitoring.checks
    monitoring.webhook
    monitoring.chart_words
    monitoring.chart_axes
    monitoring.chart_brush
    monitoring.chart_over
    monitoring.chart_rows
    monitoring.charts
    monitoring.figure_table
    monitoring.panel
    monitoring.overview
    monitoring.weekly
    monitoring.view
    monitoring.rating_figures
    monitoring.model_figures
    monitoring.service_figures
    monitoring.figures
    monitoring

    chores
    report

    web.logs
    web.catalogue
    web.instruments
    web.schemas
    web.problems
    web.operations
    web.v1_schemas
    web.v1_operations
    web.feedback_schemas
    web.feedback_operations
    web.rerank_schemas
    web.rerank_operations
    web.openapi
    web.visitors
    web.database
    web.audience
    web.limiter
    web.ways
    web.guard
    web.navigation
    web.warmup
    web.api
    web.pages
    web.flashes
    web.people
    web.admin
    web.differences
    web.desk
    web.drafts
    web.guidelines
    web.corrections
    web.flagged
    web.agreement
    web.compare
    web.review
    web.board
    web.dashboard
    web.idempotency
    web.speakers
    web.v1
    web.feedback
    web.rerank_errors
    web.rerank
    web.reference
    web.metrics
    web.app
    web
    web.traces
    web.shared_counts
    web.worker
    web.watch
    web.server

    doctor.finding
    doctor.software
    doctor.settings
    doctor.database
    doctor.storage
    doctor.state
    doctor.models
    doctor.examining
    doctor
    rlhf_loop

    sample
    console
    console_models
    console_doctor
    cli.common
    cli.alarms
    cli.ratings
    cli.model
    cli.models
    cli.retrain
    cli.report
    cli.index
    cli.people
    cli.serve
    cli.worker
    cli.setup
    cli
    __main__
""".split()  # noqa: SIM905  one name a line is easier to edit


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "rlhf_loop"


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Give the line and the module of every import from this package, wherever in the file it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}:{node.lineno} is a relative import. Write the whole name."
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "rlhf_loop":
                inside = rest if rest in FILES else rest.rpartition(".")[0]
                yield node.lineno, inside or "rlhf_loop"


def test_every_module_has_its_place() -> None:
    """The list in this test names each module once, and none that is gone."""
    missing, gone = sorted(set(FILES) - set(HOUSE)), sorted(set(HOUSE) - set(FILES))
    assert not missing, f"Not in the house: {', '.join(missing)}. Add them to HOUSE, below all that they import."
    assert not gone, f"No such modules: {', '.join(gone)}. Take them out of HOUSE."
    assert len(HOUSE) == len(set(HOUSE)), "HOUSE names a module twice."


@pytest.mark.parametrize("name", HOUSE)
def test_a_module_imports_only_from_above(name: str) -> None:
    """No import goes downwards, so that the package can be read from the top and has no circles."""
    above = HOUSE[: HOUSE.index(name)]
    downwards = [f"line {line}: {found}" for line, found in imports(FILES[name]) if found not in above]
    assert not downwards, f"{name} imports from below ({'; '.join(downwards)}). Move one of them, or the code."
