"""`rlhf-loop train`, `retrain`, `models`, `rerank`, `score`, `warm`: the reward model, its versions, and their use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlhf_loop.cli.common import (
    GOES_ON,
    UNCHANGED,
    FilePath,
    check_writable,
    cluster_of,
    columns_option,
    engine_options,
    json_option,
    off_still,
    open_ratings,
    operator,
    print_json,
    progress_bar,
    rated_progress,
    ratings_columns_option,
    read_settings,
)
from rlhf_loop.domain import Progress
from rlhf_loop.utils.extras import require

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from rlhf_loop.config import Settings
    from rlhf_loop.training.learning_curve import CurvePoint
    from rlhf_loop.training.train import TrainingReport

#: What --adapt calls the documents of the index; a file of that name is ./index.
_INDEX = "index"
_TRAINED = "What was live stays live, and vectors that were made are in the cache; the same command begins anew."
_PICTURES = (".png", ".svg", ".pdf")
#: As sysexits.h has it: not now, try again later.
_TRY_LATER = 75
_why = click.option("--reason", default="", help="Why, for those who come later; it is kept.")


@click.command()
@click.option(
    "--recipe",
    type=click.Choice(["auto", "passages", "quality", "joint", "transformer"]),
    default=None,
    help="How answers become features (default: RLHF_RECIPE, else auto). auto tries passages, quality and joint and "
    "keeps the best by cross-validation. transformer tunes layers of the encoder first: it takes minutes, and the "
    "extra [torch].",
)
@click.option(
    "--adapt",
    "corpus",
    metavar="FILE|index",
    callback=lambda ctx, param, name: name if name in (None, _INDEX) else _corpus_file(ctx, param, name),
    help="With --recipe transformer: a file of questions with answers, to adapt the layers to before any rating is "
    "seen (columns question and answer; JSONL, CSV and the other formats of ratings). index: the documents of the "
    "vector database, whose titles stand for questions. Default: RLHF_ADAPT.",
)
@columns_option(
    "With --adapt: which column of that file holds a field, e.g. user_prompt=title, where titles of documents stand "
    "for questions. May be given twice.",
    example="user_prompt=title",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of the split and the folds."
)
@click.option(
    "--min-samples",
    type=click.IntRange(min=2),
    default=50,
    show_default=True,
    help="Rated answers below which nothing is trained.",
)
@click.option(
    "--learning-curve",
    "curve",
    type=FilePath(dir_okay=False),
    is_flag=False,
    flag_value="learning_curve.png",
    metavar="[PNG]",
    callback=lambda ctx, param, path: _picture(path),
    help="Also show what more ratings would bring: a table, and a picture (default: learning_curve.png).",
)
def train(
    recipe: str | None,
    corpus: Path | str | None,
    columns: dict[str, str],
    seed: int,
    min_samples: int,
    curve: Path | None,
) -> None:
    """Train the reward model on the ratings, judge it, and put it live.

    It learns from experts' ratings, corrections and preferences, and a little from what end users say of answers that
    no expert has rated; it is judged by experts' ratings. A model that is not better than the incoming order, or worse
    than the live one, is kept, but does not go live (exit code 3). Too few ratings, or only good or only bad ones: exit
    code 2.
    """
    from rlhf_loop.cli.output import print_curve, print_training
    from rlhf_loop.registry.training_run import run_training

    settings = read_settings()
    tunes = (recipe or settings.recipe) == "transformer"
    if corpus is None and tunes:
        corpus = _set_corpus(settings)
    elif corpus is not None and not tunes:
        raise click.UsageError("--adapt is for recipe transformer alone. Add --recipe transformer, or leave it out.")
    if curve is not None and tunes:
        raise click.UsageError(
            "--learning-curve would tune layers for each of its points. Leave it out, or take another --recipe."
        )
    if corpus == _INDEX and columns:
        raise click.UsageError("--column is for a file of questions with answers. Leave it out with --adapt index.")
    known = _pairs(settings, corpus, columns)
    engine = open_ratings()
    with progress_bar("Training", kept=_TRAINED) as progress:
        outcome = run_training(
            engine,
            settings,
            recipe=recipe,
            seed=seed,
            min_samples=min_samples,
            corpus=known,
            progress=progress,
            actor=operator(),
        )
    print_training(outcome)
    if curve is not None:
        kept = "The model that was trained is kept; there is no picture. The same command trains anew."
        with progress_bar("Drawing the learning curve", kept=kept) as progress:
            points = _learning_curve(engine, settings, outcome.report, seed, curve, progress)
        print_curve(points, curve)
    if not outcome.live:
        sys.exit(3)


def _set_corpus(settings: Settings) -> Path | str | None:
    """Return what RLHF_ADAPT names."""
    return settings.adapt if settings.adapt == _INDEX else Path(settings.adapt) if settings.adapt else None


def _pairs(settings: Settings, corpus: Path | str | None, columns: dict[str, str]) -> Sequence[tuple[str, str]]:
    if isinstance(corpus, Path):
        return _corpus(corpus, columns)
    return [] if corpus is None else _indexed(settings)


def _corpus_file(ctx: click.Context, param: click.Parameter, name: str) -> Path:
    return Path(FilePath(dir_okay=False).convert(name, param, ctx))


def _corpus(file: Path, columns: dict[str, str]) -> list[tuple[str, str]]:
    """Return the questions and answers of a file, each pair once, and say how many rows are left out.

    Of very many only those are kept that a training can read, drawn by their hashes: so the memory is bounded, and the
    same file gives the same pairs.
    """
    from hashlib import sha256
    from heapq import heappush, heapreplace

    from rlhf_loop.domain import GOOD_RATING
    from rlhf_loop.errors import ImportFileError
    from rlhf_loop.exchange.reader import RatingsReader
    from rlhf_loop.training.transformer import MOST_PAIRS
    from rlhf_loop.utils.text import counted

    pairs, unread, first = dict[int, tuple[str, str]](), 0, ""
    highest: list[int] = []
    for row in RatingsReader(file, columns=columns):
        said = row.rating
        if said is None:
            unread, first = unread + 1, first or f"line {row.line}: {row.reason}"
            continue
        # Of rated ones only the good: what is learnt is to find the answer.
        if said.rating is not None and said.rating < GOOD_RATING:
            continue
        drawn = int.from_bytes(sha256(f"{said.user_prompt}\0{said.ai_response}".encode("utf-8", "replace")).digest())
        if drawn in pairs or (len(pairs) == MOST_PAIRS and drawn > -highest[0]):
            continue
        if len(pairs) == MOST_PAIRS:
            del pairs[-heapreplace(highest, -drawn)]
        else:
            heappush(highest, -drawn)
        pairs[drawn] = said.user_prompt, said.ai_response
    if unread:
        click.echo(f"{counted(unread, 'row')} of {file.name} left out, first {first}.", err=True)
    if len(pairs) < 2:
        raise ImportFileError(
            f"The file {str(file)!r} has {len(pairs)} questions with an answer; to adapt takes two at least. Give a "
            "larger one."
        )
    return list(pairs.values())


def _indexed(settings: Settings) -> list[tuple[str, str]]:
    """Return titles of documents in the index, each with one of its sections."""
    from contextlib import closing

    from rlhf_loop.errors import VectorStoreError
    from rlhf_loop.sources.index import open_store
    from rlhf_loop.training.transformer import MOST_PAIRS

    with closing(open_store(settings)) as store:
        pairs = store.texts(limit=MOST_PAIRS, titled=True)
    if len(titles := {title for title, _ in pairs}) < 2:
        raise VectorStoreError(
            f"The index has {len(titles)} titles of documents; to adapt takes two at least. Index documents with "
            "titles (rlhf-loop index add PATH), or give a file of questions with answers."
        )
    return pairs


@click.command()
@click.option(
    "--if-due",
    is_flag=True,
    help="Only if enough ratings are new, or any and enough time has passed, or some and the questions have drifted.",
)
def retrain(if_due: bool) -> None:
    """Train again, and put the model live if the gate lets it pass.

    \b
    Exit codes, for cron and its like:
      0   the new model is live, or nothing was due
      2   it could not be done: too few ratings, or a setting is wrong
      3   trained, but the model waits or is refused; what was live stays live
      75  another training is running
    """
    from rlhf_loop.cli.output import print_training
    from rlhf_loop.errors import TrainingRunningError
    from rlhf_loop.monitoring.checks import drifted_since
    from rlhf_loop.registry.schedule import due
    from rlhf_loop.registry.training_run import run_training

    engine, settings = open_ratings(), read_settings()
    if if_due:
        with progress_bar("Looking whether it is due", kept=UNCHANGED) as progress:
            found = due(engine, settings, drifted=lambda: drifted_since(engine, settings, progress=progress))
        click.echo(f"{'Due' if found.due else 'Not due'}: {found.reason}")
        if not found.due:
            return
    known = _pairs(settings, _set_corpus(settings) if settings.recipe == "transformer" else None, {})
    try:
        with progress_bar("Training", kept=_TRAINED) as progress:
            outcome = run_training(engine, settings, corpus=known, progress=progress, actor=operator())
    except TrainingRunningError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_TRY_LATER)
    print_training(outcome)
    if not outcome.live:
        sys.exit(3)


@click.group()
def models() -> None:
    """See all versions of the reward model, and decide which one is live.

    NAME is a version, the beginning of its name, or its number.
    """


@models.command("list", short_help="Show the versions, the newest first, and what the gate said.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest so many.")
@json_option
def list_models(limit: int, as_json: bool) -> None:
    """Show the versions, the newest first: state, measures, and what the gate said."""
    from rlhf_loop import registry

    engine, settings = open_ratings(), read_settings()
    registry.settle(engine, settings)
    found = registry.versions(engine, limit=limit)
    if as_json:
        print_json(found)
        return
    from rlhf_loop.cli.output import print_versions

    print_versions(found)
    if still := off.message if (off := registry.switched_off(engine)) else off_still().strip():
        click.echo(still)


@models.command("show", short_help="Show the card of the version NAME: data, measures, limits.")
@click.argument("name")
@json_option
def show_model(name: str, as_json: bool) -> None:
    """Show the card of the version NAME: data, measures, limits, in Markdown."""
    from rlhf_loop import registry

    version = registry.find(open_ratings(), name)
    if as_json:
        print_json(version)
    else:
        click.echo(registry.card(version), nl=False)


@models.command("promote")
@click.argument("name")
@click.option("--force", is_flag=True, help="Although the gate has not let it pass; needs --reason.")
@_why
def promote_model(name: str, force: bool, reason: str) -> None:
    """Put the version NAME live. Serving processes follow within seconds."""
    from rlhf_loop import registry
    from rlhf_loop.utils.text import blank

    if force and blank(reason):
        raise click.UsageError("--force needs a reason, for those who come later: --reason TEXT")
    version = registry.promote(open_ratings(), read_settings(), name, actor=operator(), force=force, reason=reason)
    click.echo(f"{version.version} is live.{off_still()}")


@models.command("rollback", short_help="Put the version live again that was live before.")
@_why
def rollback_model(reason: str) -> None:
    """Put the version live that was live before; the one that is live now counts as rejected."""
    from rlhf_loop import registry

    version = registry.rollback(open_ratings(), read_settings(), actor=operator(), reason=reason)
    click.echo(f"{version.version} is live again.{off_still()}")


@models.command("off", short_help="Have no model rank, at once and everywhere, until `models on`.")
@click.option("--reason", required=True, help="Why, for those who come later; it is kept.")
def switch_model_off(reason: str) -> None:
    """Have no model rank: all candidates keep their incoming order, at once and without a restart.

    The processes on this machine heed it with their next ranking, be the database there or not; other machines that
    serve follow within seconds. Trainings and promotions go on, and change nothing about it; a `rlhf-loop score` that
    has begun stops.
    """
    from rlhf_loop import registry
    from rlhf_loop.errors import RegistryError
    from rlhf_loop.store.engine import is_new
    from rlhf_loop.utils.text import blank

    if blank(reason):
        raise click.UsageError("The reason is empty. Say why, for those who come later: --reason TEXT")
    settings = read_settings()
    model = settings.model_path.absolute()
    if not model.exists() and is_new(settings):
        # Whoever types this is in a hurry, and must not believe that it is done.
        raise RegistryError(
            f"Neither the model {model} nor its database is there, so nothing is switched off. Go to the folder of the "
            "service, or set RLHF_MODEL_PATH and RLHF_DATABASE_URL as it has them."
        )
    left = registry.switch_off(open_ratings, settings, actor=operator(), reason=reason)
    click.echo(f"The model at {model} is off: candidates keep their incoming order. To go on: rlhf-loop models on")
    if not model.exists():
        click.echo("No model is there. Where another one serves, set RLHF_MODEL_PATH and RLHF_DATABASE_URL.", err=True)
    if left:
        click.echo(left, err=True)


@models.command("on", short_help="Let the live model rank again.")
@_why
def switch_model_on(reason: str) -> None:
    """Let the live model rank again, where it was switched off."""
    from rlhf_loop import registry

    engine, settings = open_ratings(), read_settings()
    registry.switch_on(engine, settings, actor=operator(), reason=reason)
    live = registry.live(engine)
    click.echo(f"The model is on: {live.version} ranks." if live else "The model is on, and no version is live.")


@models.command("prune", short_help="Delete the tuned layers of old versions.")
@click.option("--keep", type=click.IntRange(1, 10_000), help="Of the newest so many they stay. [RLHF_KEEP_WEIGHTS]")
def prune_models(keep: int | None) -> None:
    """Delete the tuned layers of old versions, which cannot be promoted any more after that.

    Those of the live version and of the one before stay, and files younger than an hour. A training does the same.
    """
    from rlhf_loop import registry

    deleted = registry.tidy(open_ratings(), read_settings(), keep=keep)
    for file in deleted:
        click.echo(f"Deleted {file}.")
    if not deleted:
        click.echo("There is nothing to delete.")


@models.command("compare", short_help="Compare A and B on questions that neither was fitted on.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@json_option
def compare_versions(first: str, second: str, as_json: bool) -> None:
    """Compare the versions A and B on rated questions that neither was fitted on."""
    from rlhf_loop.registry.contest import compare_models

    engine, settings = open_ratings(), read_settings()
    with progress_bar("Comparing", kept=UNCHANGED) as progress:
        found = compare_models(engine, settings, first, second, progress=progress)
    if as_json:
        values = {"a": found.first.version, "b": found.second.version}
        counts = {"questions": found.questions, "answers": found.answers}
        print_json({**values, **counts, **asdict(found.found), "unknown": found.unknown})
        return
    from rlhf_loop.cli.output import print_contest

    print_contest(found)


@models.command("gaming", short_help="See by what the live model can be fooled, before a policy finds it.")
@click.option(
    "--questions", type=click.IntRange(5, 1000), default=60, show_default=True, help="Change an answer to so many."
)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSONL with prompt and completion: answers of a language model in training, to hold against the rated ones.",
)
@json_option
def gaming(questions: int, policy: Path | None, as_json: bool) -> None:
    """See by what the live model can be fooled: rated answers are changed so that none gets better, and scored again.

    With --policy the answers of a policy are compared with the rated ones, too; if they have moved away from these, an
    alarm is raised.
    """
    from rlhf_loop.cli.output import print_gaming, print_policy_drift
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.monitoring.gaming import gaming_report, policy_answers, policy_drift
    from rlhf_loop.ranking import Ranker

    engine, settings = open_ratings(), read_settings()
    encoder = load_encoder(settings, serving=True)
    ranker = Ranker(settings, encoder=encoder, record=0, even_if_off=True)
    with progress_bar("Scoring", kept=UNCHANGED) as progress:
        found = gaming_report(engine, ranker, questions=questions, progress=progress)
    moved = None
    if policy is not None:
        with progress_bar("Comparing the policy's answers", kept=UNCHANGED) as progress:
            answers = policy_answers(policy)
            moved = policy_drift(engine, answers, encoder=encoder, ranker=ranker, progress=progress)
    if as_json:
        print_json({**asdict(found), "summary": found.summary, "policy": moved and asdict(moved)})
        return
    print_gaming(found)
    if moved is not None:
        print_policy_drift(moved)


@click.group()
def encoder() -> None:
    """Encoders: what makes vectors of texts, as RLHF_ENCODER names it."""


@encoder.command("compare", short_help="Compare the encoders A and B on your own ratings.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@json_option
def compare_encoders_(first: str, second: str, as_json: bool) -> None:
    """Compare the encoders A and B on your own ratings: how well a model ranks with each, its speed, its memory.

    They are named as in RLHF_ENCODER: all-MiniLM-L6-v2, use-multilingual-v3, a folder, or an id of the model hub.
    """
    from rlhf_loop.registry.contest import compare_encoders

    engine, settings = open_ratings(), read_settings()
    kept = f"{UNCHANGED} Vectors that were made are in the cache."
    with progress_bar("Training with both", kept=kept) as progress:
        found = compare_encoders(engine, settings, first, second, progress=progress)
    if as_json:
        print_json(asdict(found))
        return
    from rlhf_loop.cli.output import print_encoders

    print_encoders(found)


@click.command()
@click.argument("query", required=False)
@click.argument("candidates", nargs=-1)
def rerank(query: str | None, candidates: tuple[str, ...]) -> None:
    """Put the best of the CANDIDATES for QUERY first. Without arguments: a built-in example.

    For example: rlhf-loop rerank "What helps against hiccups?" "Hold your breath." "Hiccups are short."
    """
    from rlhf_loop import sample
    from rlhf_loop.cli.output import print_ranking
    from rlhf_loop.utils.languages import language_named

    given: list[Any] = list(candidates)
    if query is None:
        language = language_named(read_settings().language).code
        built_in = sample.SAMPLES.get(language, sample.SAMPLES["en"])
        query, given = built_in.question, list(built_in.candidates)
    elif not given:
        raise click.UsageError("There is nothing to rank. Give the candidates after the query.")
    print_ranking(query, given, rank(query, given))


@click.command(short_help="Score the candidates of a file or folder of any size.")
@click.argument("input")
@click.argument("output")
@columns_option(
    "Which column holds a field (question, text, group, candidates), e.g. text=answer. May be given several times.",
    example="text=answer",
)
@engine_options("Where parts are scored", "Processes, or cores of the cluster,")
@click.option(
    "--part-rows", type=click.IntRange(1), default=2000, show_default=True, help="Candidates in a part, about."
)
@json_option
def score(
    input: str,
    output: str,
    columns: dict[str, str],
    engine: str,
    workers: int | None,
    address: str | None,
    part_rows: int,
    as_json: bool,
) -> None:
    """Score and rank all candidates of INPUT by the live model, and write them as Parquet into the folder OUTPUT.

    INPUT is a file or folder of Parquet, JSONL or CSV, or its address in an object store (s3://, gs://, abfs://), as
    OUTPUT may be, too. A row is a candidate, with the columns question, text and, if there is one, group; or a question
    with a list of candidates. The scores are those of rlhf-loop rerank. Stopped or killed, the same command goes on.
    """
    from rlhf_loop.exchange.bulk_scoring import BAD_ROWS_FILE, score_dataset
    from rlhf_loop.utils.object_store import shown
    from rlhf_loop.utils.text import counted

    try:
        with rated_progress(kept=GOES_ON) as progress:
            report = score_dataset(
                input,
                output,
                read_settings(),
                columns=columns,
                engine=engine,
                workers=workers or 0,
                address=address,
                part_rows=part_rows,
                progress=progress,
            )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if report.bad_rows > report.rows:
        click.echo("Most rows were left out. Correct the input, or name its columns by --column.", err=True)
    if as_json:
        print_json(report)
        return
    before = f", {report.known_rows:,} of them before" if report.known_rows else ""
    click.echo(
        f"{counted(report.rows, 'row')} scored by {report.model_version}{before}, in {report.seconds:.1f} s: "
        f"{counted(report.parts, 'part')} in {shown(output)}."
    )
    if report.bad_rows:
        click.echo(
            f"{counted(report.bad_rows, 'bad row')} left out; {shown(output)}/{BAD_ROWS_FILE} says which, and why."
        )


@click.command(short_help="Embed the answers of FILE now, so that nobody has to wait.")
@click.argument("file", type=FilePath())
@ratings_columns_option
@click.option(
    "--format",
    type=click.Choice(["csv", "jsonl", "parquet", "txt"]),
    help="The file's format; txt has one answer a line. Default: by the name's ending.",
)
@engine_options("Where answers are embedded")
def warm(
    file: Path, columns: dict[str, str], format: str | None, engine: str, workers: int | None, address: str | None
) -> None:
    """Embed the answers of FILE now, so that the first request need not wait.

    FILE is a ratings file (CSV, JSONL, Parquet; ratings are not needed) or a text with one answer a line (.txt), also
    gzip-compressed. What is known already is skipped, and Ctrl-C keeps what is done. A cluster fills the cache of
    RLHF_CACHE_URL, which all its machines need to have set.
    """
    from rlhf_loop.cli.warming import warm as embed
    from rlhf_loop.utils.text import counted

    settings = read_settings()
    with (
        cluster_of(settings, engine=engine, workers=workers, address=address) as cluster,
        progress_bar(f"Warming {file.name}", kept=GOES_ON) as progress,
    ):
        report = embed(file, settings, columns=columns, format=format, progress=progress, cluster=cluster)
    for row in report.invalid:
        click.echo(f"line {row.line}: {row.reason}", err=True)
    left_out = f"; {counted(report.invalid_count, 'invalid row')} left out" if report.invalid_count else ""
    click.echo(
        f"{counted(report.answers, 'answer')}: {counted(report.new, 'text')} new, {report.known} known, in "
        f"{report.seconds:.1f} s{left_out}."
    )


def rank(query: str, candidates: list[Any]) -> list[dict[str, Any]]:
    from rlhf_loop.ranking import Ranker, rerank_candidates

    try:
        return rerank_candidates(query, candidates, ranker=Ranker(read_settings()))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _learning_curve(
    engine: Engine, settings: Settings, report: TrainingReport, seed: int, path: Path, progress: Progress | None
) -> list[CurvePoint]:
    from rlhf_loop.domain import ReviewerRole
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.reward import recipe_named
    from rlhf_loop.training.data import training_set
    from rlhf_loop.training.learning_curve import learning_curve, plot

    by_experts = report.judged_by == ReviewerRole.EXPERT
    data = training_set(
        engine,
        end_user_weight=0.0 if by_experts else settings.end_user_weight,
        reviewer_weighting=settings.reviewer_weighting,
    )
    encoder = load_encoder(settings)
    recipe = recipe_named(report.recipe, cross=encoder.crossed)
    points = learning_curve(data, recipe=recipe, encoder=encoder, seed=seed, progress=progress)
    plot(points, path, title=f"Recipe {report.recipe}: quality by number of rated answers")
    return points


def _picture(path: Path | None) -> Path | None:
    # Before the training, not after it: the answer would come too late.
    if path is None:
        return None
    if path.suffix.lower() not in _PICTURES:
        raise click.BadParameter(f"{str(path)!r} is not a picture's name. End it in one of {', '.join(_PICTURES)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"{str(path)!r} cannot be written: {error.strerror}. Choose another place.") from error
    check_writable(path)
    require("matplotlib", "charts")
    return path
