"""Output of the command line: tables and sentences, no logic."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from rlhf_loop.domain import MIN_SAMPLES, ModelState, ReviewerRole
from rlhf_loop.exchange.fields import FIELDS
from rlhf_loop.exchange.imports import PastImport
from rlhf_loop.exchange.transfer import ImportReport, Preview
from rlhf_loop.monitoring.gaming import GamingReport, PolicyDrift
from rlhf_loop.registry import Version
from rlhf_loop.registry.contest import Contest, EncoderContest
from rlhf_loop.registry.gate import LEAST_QUESTIONS
from rlhf_loop.registry.training_run import TrainingOutcome
from rlhf_loop.store.interactions import RatingStats
from rlhf_loop.training.comparison import Comparison
from rlhf_loop.training.evaluation import Evaluation
from rlhf_loop.training.learning_curve import TARGET, CurvePoint
from rlhf_loop.training.relevance import in_words
from rlhf_loop.training.train import AUTO, TrainingReport
from rlhf_loop.utils.text import counted, verb

_LISTED_ROWS = 20
#: Of what is not a terminal, and the most that a table of texts takes of one.
_WIDTH, _WIDEST = 80, 140
_MEASURES = {
    "accuracy": "Accuracy",
    "auc": "AUC-ROC",
    "precision": "Precision",
    "recall": "Recall",
    "brier": "Brier score",
    "calibration_error": "Calibration",
}
_ORDERS = {"model": "this model", "incoming": "incoming order", "random": "random order", "oracle": "best possible"}
#: Answers of a class below which no interval means much; the AUC above which nobody has to learn anything.
_RARE, _TOO_EASY = 10, 0.99
_STYLES = {"live": "bold green", "rejected": "red", "candidate": "yellow"}


def headline(text: str) -> None:
    """Print the title of a section."""
    _console().print(f"\n[bold]{text}[/bold]\n")


def print_training(outcome: TrainingOutcome) -> None:
    """Print what was trained and how good it is; the first line says whether it is any use."""
    report, console = outcome.report, _console()
    console.print(_verdict(outcome))
    if report.judged_by != ReviewerRole.EXPERT:
        console.print(
            "[bold yellow]No experts stand behind these numbers[/bold yellow]: end users' ratings are counted and "
            f"judged by, too, as experts rated only {report.experts} of the {report.rated} answers."
        )
    console.print(
        f"\n{report.rated} rated answers ({report.positive} good, {report.rated - report.positive} not) to "
        f"{counted(report.questions, 'question')}{_in_groups(report)}, {report.unrated} unrated ones as context. "
        f"Fitted on {report.trained_on}, judged on {report.held_out.answers} of other questions (seed "
        f"{report.seed})."
    )
    for line in _besides(report):
        console.print(line)
    console.print(_choice(report))
    if report.sampled:
        console.print(
            f"Not every recipe had all ratings: of a random sample of the questions {report.sampled} rated answers."
            + (" All were compared on those of it that are not held out." if report.requested == AUTO else "")
        )
    if report.cut:
        console.print(f"Recipe joint read only the first 256 tokens of {report.cut} texts; passages reads all.")
    console.print()
    console.print(_measure_table(report))
    if said := _documents(report):
        console.print(said)
    console.print()
    console.print(_order_table(report.overall))
    if len(report.coverage) > 1:
        console.print(
            "\nAnswers that are not certain enough can be held back, by RLHF_ANSWER_THRESHOLD. What it would leave:"
        )
        console.print(_coverage_table(report))
    console.print(
        "\n[dim]In brackets: 95 % intervals by a bootstrap over questions. The Brier score and the calibration error "
        "are best at 0. Time: "
        f"{', '.join(f'{name} {value:.2f} s' for name, value in report.seconds.items())}.[/dim]"
    )


def print_curve(points: Sequence[CurvePoint], path: Path) -> None:
    """Print a learning curve as a table."""
    table = Table(*_numbers("rated answers", "accuracy", "AUC-ROC", "P@1"))
    for point in points:
        table.add_row(
            str(point.rated),
            _spread(point.accuracy, point.accuracy_deviation),
            _spread(point.auc, point.auc_deviation),
            _spread(point.precision_at_1, point.precision_at_1_deviation),
        )
    console = _console()
    console.print("\nLearning curve: mean ± standard deviation over five folds of questions.")
    console.print(table)
    reached = next((point.rated for point in points if point.accuracy >= TARGET), None)
    goal = f"reached with {reached} ratings" if reached else "not reached yet"
    console.print(f"Accuracy of {TARGET:.0%}: {goal}. Picture: {escape(str(path))}")


def print_ranking(query: str, given: Sequence[Any], ranked: Sequence[Mapping[str, Any]]) -> None:
    """Print a question with its candidates before and after re-ranking."""
    texts = [candidate if isinstance(candidate, str) else candidate["text"] for candidate in given]
    places = {id(entry): place for entry, place in zip(ranked, _places(texts, ranked), strict=True)}
    console = _console()
    width = min(console.width, _WIDEST)
    table = Table(*_numbers("now", "before", "score"), Column("answer", ratio=1), show_lines=True, width=width)
    for entry in ranked:
        score = "-" if entry["score"] is None else f"{entry['score']:.2f}"
        text = textwrap.shorten(_printable(entry["text"]), 220, placeholder=" ...")
        style = "bold" if entry["rank"] == 1 else ""
        table.add_row(str(entry["rank"]), str(places[id(entry)]), score, Text(text), style=style)
    console.print(Text(_printable(query), style="bold"))
    console.print(table)


def print_next_steps() -> None:
    """Print what a newcomer may want to type next."""
    steps = Table(Column(no_wrap=True), Column(), box=None, show_header=False, padding=(0, 1))
    steps.add_row("rlhf-loop ratings import FILE", "bring your own ratings in (CSV, XLSX, JSONL, Parquet)")
    steps.add_row("rlhf-loop train --learning-curve", "train on them, and see what more would bring")
    steps.add_row("rlhf-loop rerank QUESTION ANSWER ANSWER", "try the model on any question")
    steps.add_row("rlhf-loop serve", "answer questions at http://127.0.0.1:8000/data-html")
    steps.add_row("from rlhf_reranker import rerank_candidates", "use it in your application")
    folder, here = Path(sys.executable).parent, Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    console = _console()
    console.print(steps)
    console.print(
        f"\nThe commands are in {shown}. The database holds the sample now: start your own with a new "
        "one, e.g. RLHF_DATABASE_URL=sqlite:///my.db. docs/RLHF_QUICKSTART.md goes on from here."
    )


def print_preview(found: Preview, *, reviewer: str, unrated: bool, skip_invalid: bool) -> bool:
    """Print what an import would read; return whether it would take it. `reviewer` speaks where no row says."""
    console, report = _console(), found.report
    if found.columns:
        names = (f"{column} → {field}" if column != field else field for field, column in found.columns.items())
        console.print(Text(f"Columns: {', '.join(names)}."))
    table = Table("question", "answer", "rating", "comment", "by", box=SIMPLE_HEAD)
    for each in found.first:
        if (said := each.rating) is None:
            continue
        grade = "better" if each.worse else str(said.rating or "") if each.label is None else f"{each.label:.2f}"
        by = said.reviewer or (reviewer if grade else "")
        texts = (said.user_prompt, said.ai_response, grade, said.feedback_comment, by)
        table.add_row(*(Text(textwrap.shorten(_printable(text or ""), 40, placeholder="…")) for text in texts))
    console.print(table)
    print_invalid(report)
    click.echo(f"{counted(report.rows, 'row')}: {report.unrated} unrated, {report.invalid_count} invalid.")
    for line in report.said():
        click.echo(line)
    others = [name for name in report.ignored if not name.startswith("sheet ")]
    if found.columns and others:
        field = next((each for each in ("rating", "reviewer") if each not in found.columns), "feedback_comment")
        shown = f"--column {field}={shlex.quote(others[0])}"
        console.print(Text(f"A field takes another column by e.g. {shown}. The fields are: {', '.join(FIELDS)}."))
    refused = bool(found.unrated and not unrated)
    if refused:
        click.echo(found.unrated)
    if report.invalid_count and not skip_invalid:
        click.echo("As it is, nothing of the file would be stored: mend these rows, or say --skip-invalid.")
        refused = True
    onward = "" if refused else " Import it without --dry-run."
    click.echo(f"Nothing was stored, and no row compared with another one.{onward}")
    return not refused


def print_invalid(report: ImportReport) -> None:
    """Print the bad rows, the first of them only if there are many."""
    for row in report.invalid[:_LISTED_ROWS]:
        click.echo(f"line {row.line}: {row.reason}", err=True)
    if report.invalid_count > _LISTED_ROWS:
        click.echo(f"... and {report.invalid_count - _LISTED_ROWS} more", err=True)


def print_import(report: ImportReport) -> None:
    """Print what an import changed."""
    for line in report.lines():
        click.echo(line)
    if report.added or report.updated:
        click.echo(f"To take it back: rlhf-loop ratings undo {report.import_id}")


def print_imports(found: Sequence[PastImport]) -> None:
    """Print the imports as a table."""
    console = _console()
    if not found:
        console.print("There is no import yet. Import a file: rlhf-loop ratings import FILE")
        return
    columns = [*_numbers("#"), Column("imported (UTC)", no_wrap=True), Column("file", overflow="fold")]
    columns += [Column("by", overflow="fold"), Column("format"), *_numbers("added", "updated", "refused")]
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for each in found:
        numbers = [f"{number:,}" for number in (each.added, each.updated, each.refused)]
        texts = [Text(_printable(text)) for text in (each.file, each.actor, each.format)]
        table.add_row(str(each.id), f"{each.imported_at:%Y-%m-%d %H:%M}", *texts, *numbers)
    console.print(table)
    for each in found:
        if each.undone_at:
            said = f"{each.id}: taken back on {each.undone_at:%Y-%m-%d %H:%M} by {_printable(each.undone_by or '')}"
            console.print(said, markup=False)


def print_stats(stats: RatingStats) -> None:
    """Print how many ratings there are and how they are spread."""
    console = _console()
    console.print(
        f"{counted(stats.interactions, 'answer')} to {counted(stats.questions, 'question')}: "
        f"{stats.rated} rated, {stats.unrated} unrated; "
        f"{counted(stats.reviews, 'review')} by {counted(stats.reviewers, 'reviewer')}."
    )
    table = Table(box=None, show_header=False)
    most = max(stats.distribution.values())
    for rating, count in sorted(stats.distribution.items(), reverse=True):
        length = max(1, round(40 * count / most)) if count else 0
        table.add_row(str(rating), "█" * length, str(count))
    console.print(table)
    if stats.positive_share is not None:
        console.print(
            f"{stats.positive_share:.0%} are good (4 or 5). "
            f"{counted(stats.comparable_questions, 'question')} with two or more rated answers."
        )
    if stats.end_user_reviews:
        console.print(
            f"Apart from these, end users gave {counted(stats.end_user_reviews, 'rating')} to "
            f"{counted(stats.end_user_rated, 'answer')}."
        )
    if stats.rated >= MIN_SAMPLES:
        console.print(f"{stats.rated} rated, enough to train.")
    else:
        console.print(f"{stats.rated} of {MIN_SAMPLES} rated answers that training needs.")


def print_versions(versions: Sequence[Version]) -> None:
    """Print a table of versions, and for each why it has its state."""
    console = Console(highlight=False, soft_wrap=True)
    if not versions:
        console.print("There is no version yet. Train one: rlhf-loop train")
        return
    # Without its frame the table fits into 80 columns, also with state "candidate".
    columns = [*_numbers("#"), *map(Column, ("version", "state", "made (UTC)")), *_numbers("accuracy", "AUC", "P@1")]
    table = Table(
        *[replace(column, no_wrap=True) for column in columns], box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for each in versions:
        overall = each.metrics.get("overall") or {}
        first = ((overall.get("orders") or {}).get("model") or {}).get("precision_at_1")
        measures = [_value(overall.get(name)) for name in ("accuracy", "auc")] + [_value(first)]
        style = _STYLES.get(each.state, "")
        table.add_row(str(each.id), each.version, each.state, f"{each.made_at:%Y-%m-%d %H:%M}", *measures, style=style)
    console.print(table)
    for each in versions:
        said = [each.served, each.reason, each.judged and f"The gate said: {each.judged}"]
        console.print(f"{each.id}: {' '.join(filter(None, said))}", markup=False)


def print_contest(contest: Contest) -> None:
    """Print what a comparison of two versions found."""
    console = Console(highlight=False, soft_wrap=True)
    first, second = contest.first.version, contest.second.version
    console.print(
        f"{first} against {second} on {contest.answers} answers to {contest.questions} questions that neither was "
        "fitted on.",
        markup=False,
    )
    for name in contest.unknown:
        console.print(f"Nobody knows what {name} was fitted on: it may have seen some of them.", markup=False)
    table = Table("", *_numbers(first, second, "difference (95 %)"))
    found = contest.found
    for label, each in found.named().items():
        table.add_row(label, *_cells(each))
    console.print(table)
    if found.precision_at_1 is None:
        console.print("No question has two or more rated answers, so P@1 cannot be told.")


def print_gaming(report: GamingReport) -> None:
    """Print by what a model can be fooled."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table("rated answers, changed: no better", *_numbers("answers", "gain", "rises", "overtakes"))
    for each in report.changes:
        overtakes = "-" if each.overtakes is None else f"{each.overtakes:.0%}"
        name = f"{each.name} (pays)" if each.pays else each.name
        table.add_row(name, f"{each.answers}", f"{each.gain:+.2f}", f"{each.rises:.0%}", overtakes)
    console.print(table)
    console.print("gain: log-odds; overtakes: bad answers that so pass a good one that they were behind.")
    for trend in report.trends:
        console.print(
            f"{trend.name.capitalize()} goes with the score by {trend.with_score:+.2f}, and with experts' ratings by "
            f"{trend.with_rating:+.2f} (rank correlation, {trend.answers} answers)."
        )
    console.print(report.summary, markup=False)


def print_policy_drift(found: PolicyDrift) -> None:
    """Print how far the answers of a policy are from the rated ones."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(f"{found.answers:,} answers, {found.reference:,} rated", *_numbers("index", "p"))
    for name, shift in found.shifts.items():
        table.add_row(f"{name} (moved)" if name in found.moved else name, f"{shift.index:.2f}", f"{shift.p:.3g}")
    console.print(table)
    console.print("An alarm is raised: rlhf-loop alarms." if found.moved else "They are as the rated ones are.")


def print_encoders(contest: EncoderContest) -> None:
    """Print what two encoders are worth, in 80 columns."""
    console = Console(highlight=False, soft_wrap=True)
    both = contest.first, contest.second
    console.print(
        f"A is {both[0].name}, B is {both[1].name}: recipe passages trained with each on {contest.answers} rated\n"
        f"answers to {contest.questions} questions, and judged on questions that it was not fitted on.",
        markup=False,
    )
    table = Table("", *_numbers("A", "B", "A less B (95 %)"))
    for label, each in (("P@1", contest.found.precision_at_1), ("AUC", contest.found.auc)):
        table.add_row(label, *_cells(each))
    table.add_row("ms a text, new", *(f"{each.ms:.2f}" for each in both), "")
    table.add_row("MB of memory", *(f"{each.megabytes:.0f}" if each.megabytes else "-" for each in both), "")
    table.add_row("numbers a vector", *(str(each.dimension) for each in both), "")
    console.print(table)
    for letter, of in zip("AB", both, strict=True):
        if of.foreign:
            console.print(f"{letter} does not know the language of these texts: {of.foreign}.", markup=False)


def _verdict(outcome: TrainingOutcome) -> str:
    path, why = escape(str(outcome.path)), _comparison(outcome)
    name, said = escape(outcome.version.version), escape(outcome.judgement.reason)
    if outcome.live:
        return f"[bold green]LIVE[/bold green] in {path}: {why}.\n[dim]{name}. {said}[/dim]"
    if outcome.judgement.state == ModelState.REJECTED:
        return (
            f"[bold red]NOT LIVE: this model ranks worse than doing nothing[/bold red]: {why}. "
            f"It is kept in {path}; what was live stays live."
        )
    return (
        f"[bold yellow]NOT LIVE: this model waits[/bold yellow]: {why}. {said} It is kept in {path}; what was live "
        f"stays live. To promote it all the same: rlhf-loop models promote {name} --force --reason TEXT"
    )


def _comparison(outcome: TrainingOutcome) -> str:
    """Return what decided whether the model goes live: P@1 beside the incoming order's, or AUC beside chance."""
    found, overall = outcome.judgement.incoming, outcome.report.overall
    if found is not None and found.questions >= LEAST_QUESTIONS:
        gain = found.difference
        return (
            f"a good answer first for {found.ours:.0%} of {found.questions} questions, "
            f"{100 * gain.value:+.0f} points against the incoming order "
            f"({100 * gain.low:+.0f} to {100 * gain.high:+.0f})"
        )
    if overall.ranked_questions < LEAST_QUESTIONS:
        reason = f"two or more answers are rated for only {counted(overall.ranked_questions, 'question')}"
    else:
        count = overall.incoming_questions
        known = f"only {counted(count, 'question')}" if count else "no question"
        reason = f"the incoming order is known for {known}"
    return f"AUC {_number(overall.auc.value)}, chance has 0.500 ({reason}, too few to compare orders)"


def _besides(report: TrainingReport) -> Iterator[str]:
    """Give sentences about the language, whose ratings count less, and what was fitted on beside those that count."""
    if report.foreign:
        name = report.encoder.partition("/")[0]
        yield (
            f"[bold yellow]The encoder {escape(name)} does not know the language of these texts[/bold yellow]: "
            f"{report.foreign}. Choose one that does, and set their language: RLHF_ENCODER=use-multilingual-v3 "
            "RLHF_LANGUAGE=de rlhf-loop train (docs/RLHF_LANGUAGES.md)."
        )
    rare, kind = min((report.positive, "good"), (report.rated - report.positive, "not good"))
    if rare < _RARE:
        yield (
            f"[bold yellow]Only {rare} of the rated answers {verb(rare, 'is', 'are')} {kind}[/bold yellow]: the "
            "numbers below hang on these few, and so do their intervals. Have more such answers rated."
        )
    elif report.overall.auc.value > _TOO_EASY:
        yield (
            "[bold yellow]These ratings look too easy[/bold yellow]: hardly any good answer scores below a bad one. If "
            "the bad ones were made on purpose, or come from another program, the model may have learned that, and not "
            "what a good answer is."
        )
    if report.prior is not None:
        yield (
            f"Shrunk to the prior, {report.prior:g} times as strongly as to nothing: what other data has taught."
            if report.prior
            else "Without the prior: by these ratings, what other data has taught is not true here."
        )
    if report.relevance:
        yield in_words(report.relevance.accuracy.value, report.relevance.before)
    if report.raters:
        counts = verb(len(report.raters), "counts", "count")
        named = ", ".join(
            f"{escape(_printable(each.reviewer))} ({each.weight:.2g}, by {counted(each.overlapping, 'shared answer')})"
            for each in report.raters
        )
        lost = (
            f" {counted(report.disregarded, 'answer')} that nobody else rated left out." if report.disregarded else ""
        )
        yield f"{counted(len(report.raters), 'rater')} {counts} less, being at odds with the others: {named}.{lost}"
    if report.end_users and report.end_user_weight is not None:
        yield (
            f"Besides, {counted(report.end_users, 'answer')} that only end users rated: a hint that weighs "
            f"{report.end_user_weight:.2g} of an expert's rating each, and enters no number here."
        )
    if report.judge_labels:
        yield f"The layers were tuned on {counted(report.judge_labels, 'answer')} with labels of judges besides."
    pairs = report.pairs
    if pairs.corrections or pairs.preferences:
        held = f"; {pairs.held_out} of them, to held-out questions, were not fitted on" if pairs.held_out else ""
        order = ""
        if pairs.accuracy is not None:
            order = (
                f" Of {pairs.judged} by experts, a model that had not seen the question puts "
                f"{pairs.accuracy} in the right order."
            )
        yield (
            f"Besides, pairs of answers of which one is better: {counted(pairs.corrections, 'correction')} and "
            f"{counted(pairs.preferences, 'preference')}{held}.{order}"
        )


def _choice(report: TrainingReport) -> str:
    if report.requested != AUTO:
        return f"Recipe {report.recipe}, as asked."
    tried = "; ".join(
        f"{name} AUC {_number(evaluation.auc.value)}, P@1 {_number(evaluation.orders['model'].precision_at_1.value)}"
        for name, evaluation in report.cross_validated.items()
    )
    return f"Recipe {report.recipe}: the best by cross-validation over the training questions ({tried})."


def _in_groups(report: TrainingReport) -> str:
    if report.groups in (None, report.questions):
        return ""
    return f" ({report.groups}, if those that ask for the same count as one; they are never split)"


def _documents(report: TrainingReport) -> str | None:
    of, inside = report.documents, report.cross_validated[report.recipe]
    if of is None or not of.recurring:
        return None
    said = f"{of.recurring} of the {inside.answers} answers are rated for other questions, too"
    if of.unseen is None and report.recipe == "transformer":
        return f"{said}; its layers have seen them, so nothing is said of unseen ones."
    if of.unseen is None:
        return f"{said}; without them there is too little to judge unseen documents by."
    return (
        f"{said}. Cross-validated is what happens in use, where documents recur, and what the gate goes by; in the "
        f"last column questions with an answer in common stay together ({of.linked} parts): so good it is on new ones."
    )


def _coverage_table(report: TrainingReport) -> Table:
    table = _plain_table(*_numbers("threshold", "questions answered", "of these a good answer first"))
    for each in report.coverage:
        kept, of = f"{each.answered / each.questions:.0%}", each.precision
        table.add_row(
            f"{each.threshold:g}" if each.threshold else "none", kept, f"{of.value:.0%} ({of.low:.0%} to {of.high:.0%})"
        )
    return table


def _measure_table(report: TrainingReport) -> Table:
    inside = report.cross_validated[report.recipe]
    columns = {
        f"held out\n({report.held_out.answers})": report.held_out,
        f"cross-validated\n({inside.answers})": inside,
    }
    if report.documents and report.documents.recurring and report.documents.unseen:
        columns["on unseen\ndocuments"] = report.documents.unseen
    table = _plain_table("answers", *_numbers(*columns))
    # Answers to one question hang together: so many things were seen, and the intervals go by them.
    table.add_row("of questions", *(str(of.questions) for of in columns.values()))
    for name, label in _MEASURES.items():
        table.add_row(label, *(str(getattr(of, name)) for of in columns.values()))
    return table


def _order_table(evaluation: Evaluation) -> Table:
    table = _plain_table(counted(evaluation.ranked_questions, "question"), *_numbers("P@1", "NDCG", "MRR"))
    for name, label in _ORDERS.items():
        if name in evaluation.orders:
            order = evaluation.orders[name]
            if name == "incoming" and evaluation.incoming_questions < evaluation.ranked_questions:
                label = f"incoming ({evaluation.incoming_questions})"
            table.add_row(label, *map(str, (order.precision_at_1, order.ndcg, order.mrr)))
    return table


def _plain_table(*columns: str | Column) -> Table:
    """Make a table without its frame: so three measures with their intervals fit into 80 columns."""
    return Table(*columns, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def _numbers(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]


def _number(value: float) -> str:
    return f"{value:.3f}" if isfinite(value) else "-"


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.3f} ± {deviation:.3f}" if isfinite(mean) else "-"


def _printable(text: str) -> str:
    """Leave out what a terminal would obey instead of showing."""
    return "".join(character for character in text if character.isprintable() or character.isspace())


def _places(texts: Sequence[str], ranked: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return where each ranked entry came from, equal texts in order."""
    free = list(enumerate(texts, start=1))
    places = []
    for entry in ranked:
        found = next(pair for pair in free if pair[1] == entry["text"])
        free.remove(found)
        places.append(found[0])
    return places


def _console() -> Console:
    # A fixed width where the output is not a terminal: a log should not depend on who writes it.
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def _cells(of: Comparison | None) -> tuple[str, str, str]:
    if of is None:
        return "-", "-", "-"
    by = of.difference
    return f"{of.ours:.3f}", f"{of.theirs:.3f}", f"{by.value:+.3f} ({by.low:+.3f} to {by.high:+.3f})"


def _value(measure: Mapping[str, Any] | None) -> str:
    return "-" if not measure or measure.get("value") is None else f"{measure['value']:.3f}"
