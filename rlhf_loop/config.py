"""Settings: read once, at the edge, from a mapping of environment variables, to which files may add."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import platformdirs

from rlhf_loop.errors import ConfigError

logger = logging.getLogger(__name__)

PREFIX = "RLHF_"
#: How a variable ends that names a file with the value of a secret.
_FILE = "_FILE"
#: The files with settings that are looked for in the working folder; the first one comes before the second.
ENV_FILE, TOML_FILE = ".env", "rlhf-loop.toml"
#: Characters of the key that signs sessions: as many as 192 random bits have in Base64. And what makes one.
SHORTEST_KEY = 32
NEW_KEY = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
#: How a key begins that the server makes up for one start, on loopback.
MADE_UP = "made-up-"

_NUMBERS: dict[str, tuple[Callable[[str], float], str]] = {"int": (int, "a whole number"), "float": (float, "a number")}
#: What a setting's value may be, by its declared type.
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "Path": (Path,),
    "Path | None": (Path, type(None)),
    "Path | str | None": (Path, str, type(None)),
    "tuple[str, ...]": (tuple,),
}
#: What `Path` makes of an address.
_ADDRESS = re.compile("(s3|gs|gcs|abfss?):/")
_YES_NO = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _setting(
    default: Any, help_text: str, *, least: float | None = None, most: float | None = None, secret: bool = False
) -> Any:
    return field(default=default, repr=not secret, metadata={"help": help_text, "least": least, "most": most})


def _cache_dir() -> Path:
    return Path(platformdirs.user_cache_dir("rlhf-loop"))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """All settings. Field `database_url` is the variable `RLHF_DATABASE_URL`, and so on.

    A path may be given as a text, and a tuple as a list.

    Raises:
        ConfigError: a value of the wrong type.
    """

    database_url: str = _setting(
        "sqlite:///rlhf.db",
        "SQLAlchemy URL of the ratings database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
    )
    model_path: Path = _setting(Path("reward_model.joblib"), "The live reward model file.")
    models_path: Path | str | None = _setting(
        None,
        "Folder of all trained versions, which machines that share a database have to share, too: one that they all "
        "mount, or one in an object store (s3://bucket/folder). Default: reward_models beside the live model.",
    )
    keep_weights: int = _setting(
        5,
        "Newest versions whose tuned layers are kept (recipe transformer; some 21 MB each), beside those of the live "
        "one and of the one before.",
        least=1,
        most=10_000,
    )
    cache_dir: Path = field(
        default_factory=_cache_dir,
        metadata={"help": "Folder of the encoder graph, known vectors and fetched pages. Default: that of the user."},
    )
    cache_max_mb: int = _setting(
        2000, "Megabytes that the vector cache may have; 2,000 hold the passages of some 300,000 answers."
    )
    cache_url: str = _setting(
        "",
        "URL of a Redis or Valkey server whose vectors several machines share, as in redis://HOST:6379/0 or "
        "rediss://USER:PASSWORD@HOST:6379/0; needs the extra [redis]. Default: each machine has its own alone.",
        secret=True,
    )
    cache_timeout_ms: float = _setting(
        50.0,
        "Milliseconds that a lookup of up to 128 texts there may take, more in proportion; then they are embedded.",
        least=1,
        most=10_000,
    )
    cache_days: float = _setting(30.0, "Days for which that server keeps a vector.", least=0.001, most=3650)
    language: str = _setting(
        "en", "Language of questions and answers, as in en or german: its stems, its sentences, its empty words."
    )
    encoder: str = _setting(
        "all-MiniLM-L6-v2",
        "What makes vectors of texts: all-MiniLM-L6-v2 (English), use-multilingual-v3 (16 languages, by the extra "
        "[multilingual]), or the folder or the hub's id of a sentence encoder.",
    )
    encoder_path: Path | None = _setting(
        None, "Local folder with all-MiniLM-L6-v2 (model.safetensors, tokenizer.json); it comes before any package."
    )
    encoder_runtime: str = _setting(
        "onnxruntime", "What runs the encoder: onnxruntime, or sentence-transformers with the extra [torch]."
    )
    encoder_precision: str = _setting(
        "auto", "Its numbers: fp32, int8 (onnxruntime only), or auto: int8 where the processor is made for it."
    )
    cross_encoder: str = _setting(
        "",
        "What reads question and passage together, as a further column of a training: the folder or the hub's id of a "
        "cross-encoder. Default: nothing does.",
    )
    encoder_threads: int = _setting(0, "Threads of the encoder; 0 means one for each core.", most=1024)
    sources: tuple[str, ...] = _setting(
        ("corrections", "index", "wikipedia", "arxiv"),
        "Where candidates come from, in this order: corrections, index, wikipedia, arxiv, or package.module:name of "
        "your own.",
    )
    source_deadline_s: float = _setting(3.0, "Seconds that all sources together have to find candidates.", least=0.001)
    candidates_per_source: int = _setting(5, "Candidates of each source; more are left out.", least=1)
    source_cache_hours: float = _setting(
        24.0, "Hours for which a page of Wikipedia or arXiv is not fetched again.", most=876_000
    )
    contact: str = _setting("", "E-mail or URL by which Wikipedia and arXiv can reach you; sent with each request.")
    index_path: Path = _setting(
        Path("rlhf_index"), "Folder of the vector database; with a PostgreSQL URL it is in that database instead."
    )
    index_language: str = _setting(
        "", "Language of the indexed texts, for the stems of full-text search. Default: RLHF_LANGUAGE."
    )
    wikipedia_url: str = _setting(
        "https://{language}.wikipedia.org/w/api.php", "Address of the MediaWiki action API; {language} is filled in."
    )
    wikipedia_language: str = _setting("", "Language of the Wikipedia that is asked. Default: RLHF_LANGUAGE.")
    arxiv_url: str = _setting("https://export.arxiv.org/api/query", "Address of arXiv's API.")
    llm_url: str = _setting("", "Base URL of an OpenAI-compatible endpoint that drafts answers; empty: none does.")
    llm_model: str = _setting("", "Name of the model that drafts answers.")
    llm_api_key: str = _setting("", "Key for that endpoint, if it wants one.", secret=True)
    llm_drafts: int = _setting(1, "Drafts for each source; the best one wins.")
    best_of: int = _setting(
        4,
        "Drafts that /v1/chat/completions draws where a request does not say; the best one goes out.",
        least=1,
        most=16,
    )
    best_of_models: tuple[str, ...] = _setting(
        (), "Models of that endpoint that draw those drafts in turn, with commas. Default: RLHF_LLM_MODEL."
    )
    best_of_temperatures: tuple[str, ...] = _setting(
        (), "Temperatures of those drafts in turn, as in 0.3,0.7,1.0, where a request names none."
    )
    llm_timeout_s: float = _setting(20.0, "Seconds for all drafts; what is not there by then falls back to passages.")
    outbox_path: Path = _setting(
        Path("rlhf_outbox.db"), "File that keeps what cannot be recorded while the database is down."
    )
    outbox_max: int = _setting(
        10_000, "Answers and ratings that may wait in that file, and recorded rankings in one beside it."
    )
    record_rankings: float = _setting(
        0.0,
        "Share of the rankings by the rerank API, rerank_candidates and the adapters that is recorded, 0 to 1, so that "
        "it can be reviewed and rated; a token may have a share of its own.",
        most=1,
    )
    record_documents: int = _setting(
        10, "Documents of a recorded ranking that are kept, the first ones.", least=1, most=1_000
    )
    record_days: float = _setting(
        0.0, "Days after which the worker deletes recorded rankings of which nothing was rated; 0: never.", most=36_500
    )
    served_days: float = _setting(
        0.0,
        "Days after which the worker deletes how questions were served; their answers stay, and the trends; 0: never.",
        most=36_500,
    )
    secret_key: str = _setting(
        "",
        "Signs sessions and forms, the same for all processes. Beyond loopback the server does not start without one.",
        secret=True,
    )
    session_hours: float = _setting(12.0, "Hours after which who signed in has to do so again.")
    passwords: bool = _setting(
        True, "Let people sign in with a password; no: only by an identity provider or a proxy, and by one-time links."
    )
    second_factor: str = _setting(
        "optional",
        "Who has to enter a code of an authenticator app after the password: optional, admins or everybody; needs the "
        "extra [totp].",
    )
    oidc_issuer: str = _setting(
        "",
        "Address of an OpenID Connect identity provider, as its discovery document has it, by which people sign in; "
        "needs the extra [oidc].",
    )
    oidc_client_id: str = _setting("", "Name by which that provider knows this service.")
    oidc_client_secret: str = _setting("", "Secret that it gave this service; empty: a public client.", secret=True)
    oidc_scopes: tuple[str, ...] = _setting(
        ("openid", "profile", "email"), "Scopes that it is asked for, with commas; some want offline_access."
    )
    oidc_name_claim: str = _setting("preferred_username", "Claim of the name that a new user gets.")
    oidc_roles_claim: str = _setting(
        "groups", "Claim with the values of RLHF_SSO_ADMINS and RLHF_SSO_RATERS; with dots inside of objects."
    )
    oidc_recheck_s: float = _setting(
        60.0,
        "Seconds after which a session asks it whether its user still may be here; 0: at each request, but for "
        "those that come while one asks.",
        most=86_400,
    )
    sso_admins: tuple[str, ...] = _setting(
        (), "Values of the claim, or groups of the proxy's header, that make somebody an admin, with commas."
    )
    sso_raters: tuple[str, ...] = _setting(
        (), "The same for raters; *: everybody who can sign in there. Without both, roles are those of /admin."
    )
    proxy_user_header: str = _setting(
        "", "Header in which a proxy that signs people in names them, as in Remote-User; empty: none does."
    )
    proxy_groups_header: str = _setting("", "Header in which it names their groups, with commas, as in Remote-Groups.")
    proxy_user_from: tuple[str, ...] = _setting(
        (), "Addresses or networks of that proxy, with commas; from elsewhere the header counts for nothing."
    )
    smtp_url: str = _setting(
        "",
        "Mail server for invitations: smtp://USER:PASSWORD@HOST:587 (STARTTLS), smtps://HOST:465, or, in a network of "
        "your own, smtp-plain://HOST:25; empty: admins hand links on themselves.",
        secret=True,
    )
    smtp_from: str = _setting("", "Sender of these mails, as in RLHF Loop <loop@example.org>.")
    proxies: int = _setting(
        0, "Proxies in front of the server whose X-Forwarded-For and X-Forwarded-Proto are to be trusted."
    )
    hosts: tuple[str, ...] = _setting(
        (),
        "Names by which the service is called, with commas, as in rlhf.example.org, *.example.org; unset: on loopback "
        "its own ones, else any.",
    )
    rate_limit: str = _setting(
        "600 per minute", "Requests of one token, user or address, as in 100 per minute; 0: no limit."
    )
    review_blind: bool = _setting(False, "Hide from raters where an answer comes from.")
    review_daily_goal: int = _setting(30, "Ratings a day that the review screen asks of each rater; 0: no goal.")
    review_lease_minutes: float = _setting(
        15.0, "Minutes for which an answer that a rater sees is kept from others.", least=0.001, most=525_600
    )
    review_overlap: float = _setting(
        0.2, "Share of the questions whose answers several raters get, to see if they agree.", most=1
    )
    review_overlap_raters: int = _setting(3, "How many raters get an answer of that share.")
    end_user_scale: str = _setting(
        "stars", "How end users rate on the answers' page: stars (1 to 5) or thumbs (1 or 5)."
    )
    end_user_weight: float = _setting(
        0.25, "How much an end user's rating counts in training where no expert rated; 0: not at all."
    )

    reviewer_weighting: bool = _setting(
        True, "Let experts count in training by how far they agree with the others, as soon as that can be told."
    )
    recipe: str = _setting(
        "auto",
        "What a training goes by where --recipe is not given: auto (the best of passages, quality and joint), one of "
        "these, or transformer, which tunes layers of the encoder for minutes and needs the extra [torch].",
    )
    adapt: str = _setting(
        "", "What recipe transformer adapts its layers to where --adapt is not given: a file, or index; empty: nothing."
    )
    tuning_batch: int = _setting(
        16, "Answers that such a tuning reads at a time; fewer take less memory, to the same result.", least=1, most=32
    )
    retrain_ratings: int = _setting(50, "New ratings by experts from which on a retraining is due.")
    retrain_days: float = _setting(7.0, "Days after which it is due anyway, if there is any new rating.", most=36_500)
    worker_schedule: str = _setting(
        "0 * * * *", "When `rlhf-loop worker` looks whether a retraining is due, as in a crontab, in UTC."
    )
    backup_path: Path | str | None = _setting(
        None,
        "Folder into which the worker writes a backup at the times of RLHF_BACKUP_SCHEDULE, here or in an object store "
        "(s3://bucket/folder); unset: it writes none.",
    )
    backup_schedule: str = _setting("30 2 * * *", "When the worker writes a backup, as in a crontab, in UTC.")
    backup_index: bool = _setting(False, "Whether backups have the index, too.")
    backup_keep: int = _setting(7, "Newest backups of the worker's that are kept.", least=1, most=100_000)
    experiment_share: float = _setting(
        0.0, "Share of the questions, 0 to 1, that the other order answers, to see what the model is worth."
    )
    experiment_against: str = _setting(
        "incoming", "That other order: incoming, or the version of a model, as `rlhf-loop models list` has it."
    )
    experiment_interleave: bool = _setting(
        False, "Show those questions the answers of both orders in turn, in place of the other order alone."
    )
    quality_threshold: float = _setting(
        0.5, "Score of the first answer below which it counts as weak in the trends.", most=1
    )
    answer_threshold: float = _setting(
        0.0, "Score below which no answer is certain enough, and `/data` and its page say so; 0: off.", most=1
    )
    alarm_queue: int = _setting(500, "Answers waiting for a review from which on there is an alarm; 0: never.")
    alarm_webhook: str = _setting("", "URL that gets each alarm as JSON by POST; empty: none does.", secret=True)
    metrics_public: bool = _setting(
        False, "Serve /metrics to everybody; else to loopback, and to tokens with the scope metrics:read."
    )
    rerank_public: bool = _setting(
        False, "Let everybody use the rerank API; else only loopback, and tokens with the scope rerank."
    )
    rerank_batch: bool = _setting(
        False,
        "Have the rerank API score each document whatever the others of a request are, for clients that send a list in "
        "batches; a request (batch) or a token (scope rerank:batch) may ask for it, too.",
    )
    rerank_without_model: str = _setting(
        "error",
        "What the rerank API does while there is no model: error, incoming: keep the incoming order, or prior: rank by "
        "what other data has taught, as the service and rlhf-loop rerank do then.",
    )
    log_format: str = _setting(
        "auto", "What serve and worker log: text, json (a line each), or auto: text at a terminal, json elsewhere."
    )
    telemetry: bool = _setting(
        False, "Send traces by OpenTelemetry, set up by its own OTEL_* variables; needs the extra [otel]."
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            given = getattr(self, setting.name)
            value = _of_kind(setting, given)
            if value is not given:
                object.__setattr__(self, setting.name, value)

    def __repr__(self) -> str:
        """Show what is not the default; of secrets nothing, and of the database all but its password."""
        shown = (f"{setting.name}={_shown(setting, value)}" for setting, value in self._changed())
        return f"{type(self).__name__}({', '.join(shown)})"

    def changed(self) -> dict[str, str]:
        """Return what is not the default, as `shown` has it."""
        shown = self.shown()
        return {setting.name: shown[setting.name] for setting, _ in self._changed()}

    def shown(self) -> dict[str, str]:
        """Return all values as variables have them; of secrets nothing, and of the database all but its password."""
        return {setting.name: _written(setting, getattr(self, setting.name)) for setting in fields(self)}

    def _changed(self) -> Iterator[tuple[Field[Any], Any]]:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value != (setting.default if setting.default is not MISSING else _cache_dir()):
                yield setting, value

    @property
    def models_folder(self) -> Path:
        """The folder of the files of all versions; of those in an object store what is on this machine of them.

        It is beside the outbox, and not in the cache, which may be emptied: what could not be brought into the store
        yet is nowhere else.
        """
        if address := self.models_store:
            return self.outbox_path.parent / "fetched_models" / sha256(address.encode()).hexdigest()[:16]
        return Path(self.models_path or self.model_path.parent / "reward_models")

    @property
    def models_store(self) -> str | None:
        """The address of the folder of all versions in an object store, None where it is on this machine."""
        return self.models_path if isinstance(self.models_path, str) else None

    @property
    def lasting_key(self) -> str:
        """The secret key, empty if there is none that other processes have, too."""
        return "" if self.secret_key.startswith(MADE_UP) else self.secret_key

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from `environ` (default: the process's environment).

        A secret may be in a file: `RLHF_SECRET_KEY_FILE` names that of `RLHF_SECRET_KEY`, which comes before it.

        Raises:
            ConfigError: an unknown `RLHF_*` variable, a value of the wrong type, or a file that cannot be read.
        """
        given = _given(os.environ if environ is None else environ)
        return cls(**{setting.name: _parse(name, text(), setting) for setting, name, text in given})


@dataclass(frozen=True, slots=True)
class Variables:
    """Variables of the environment and of files, and the file of each that is not in the environment."""

    environ: Mapping[str, str]
    files: Mapping[str, Path]

    def by_file(self) -> dict[Path, list[str]]:
        """Return the variables of each file, sorted."""
        return {file: sorted(n for n, f in self.files.items() if f == file) for file in self.files.values()}


def find_variables(environ: Mapping[str, str], *, env_file: Path | None = None, folder: Path = Path()) -> Variables:
    """Return `environ` with what files add: `env_file`, or else `.env` in the folder, and then `rlhf-loop.toml` there.

    Of `env_file` all variables count, as if they had been in the environment; of `.env`, which may be somebody else's,
    only settings.

    Raises:
        ConfigError: a file cannot be read, or what it says of a setting is not valid.
    """
    found = dict(environ)
    files: dict[str, Path] = {}
    lines, toml = env_file or folder / ENV_FILE, folder / TOML_FILE
    for file, variables in ((lines, _of_lines(lines, named=env_file is not None)), (toml, _of_toml(toml))):
        # A secret and the file of a secret are one setting.
        taken = {_without_file(name) for name in found}
        for name, text in variables.items():
            if "\0" in text:
                raise ConfigError(f"{name} in {str(file)!r} has a character NUL. Take it out; values are texts.")
            if _without_file(name) not in taken:
                found[name], files[name] = text, file.absolute()
    return Variables(found, files)


def _without_file(name: str) -> str:
    return name.removesuffix(_FILE) if name.startswith(PREFIX) else name


def _of_lines(file: Path, *, named: bool) -> dict[str, str]:
    """Return the variables of a file of lines NAME=value; of one that nobody has named, settings alone."""
    try:
        # As the environment has it, bytes that are not UTF-8 included.
        text = file.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        said = f"{str(file)!r} cannot be read: {error.strerror}."
        if named:
            raise ConfigError(f"{said} Name a file of lines NAME=value.") from error
        # Somebody's virtual environment may have that name, and what is somebody else's may not be for us to read.
        if not isinstance(error, FileNotFoundError) and not file.is_dir():
            logger.warning("%s Its settings do not count; name another one with --env-file, or /dev/null.", said)
        return {}
    from dotenv.parser import parse_stream

    variables = {}
    for line in parse_stream(StringIO(text)):
        said = line.original.string.strip()
        if (line.error or line.value is None) and said and not said.startswith("#") and (named or PREFIX in said):
            # Without its text: it may have a secret.
            number = line.original.line
            raise ConfigError(f"Line {number} of {str(file)!r} is not of the form NAME=value. Correct it, quotes too.")
        if line.key and line.value is not None and (named or line.key.startswith(PREFIX)):
            variables[line.key] = line.value
    return variables


def _of_toml(file: Path) -> dict[str, str]:
    """Return the settings of a TOML file as variables."""
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{str(file)!r} cannot be read as TOML: {reason}. Correct it, or move it away.") from error
    known = {setting.name: setting for setting in fields(Settings)}
    variables = {}
    for name, value in values.items():
        setting = known.get(name.removesuffix(_FILE.lower()))
        if setting is None or (name not in known and not _may_be_in_file(setting)):
            near = get_close_matches(name.lower().removeprefix(PREFIX.lower()), known, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"Unknown setting {name!r} in {str(file)!r}.{meant} Known settings are those of rlhf-loop settings "
                "--all, in small letters and without RLHF_."
            )
        parts = value if isinstance(value, list) and str(setting.type).startswith("tuple") else [value]
        if not all(isinstance(part, str | bool | int | float) for part in parts):
            kind = "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else "a time"
            raise ConfigError(
                f"{name!r} in {str(file)!r} is {kind}. Give it a text, a number, true or false, or, where the setting "
                "is a list, a list of these."
            )
        variables[PREFIX + name.upper()] = ",".join(str(part) for part in parts)
    return variables


def _may_be_in_file(setting: Field[Any]) -> bool:
    return setting.name == "database_url" or not setting.repr


def origins(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that give settings their values, by the setting's name.

    Raises:
        ConfigError: an unknown `RLHF_*` variable.
    """
    return {setting.name: name for setting, name, _ in _given(environ)}


def _given(environ: Mapping[str, str]) -> Iterator[tuple[Field[Any], str, Callable[[], str]]]:
    known = {PREFIX + setting.name.upper(): setting for setting in fields(Settings)}
    for name, text in environ.items():
        if not name.startswith(PREFIX):
            continue
        if name in known:
            yield known[name], name, partial(str, text)
            continue
        setting = known.get(name.removesuffix(_FILE))
        if setting is None or not _may_be_in_file(setting):
            near = get_close_matches(name, known, 1)
            # Without its value: it may be a secret behind a mistyped name.
            meant = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"Unknown setting {name}.{meant} Known settings: {', '.join(sorted(known))}.")
        if name.removesuffix(_FILE) not in environ:
            yield setting, name, partial(_content, name, text)


def _content(name: str, file: str) -> str:
    try:
        return Path(file).read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise ConfigError(f"{name}={file!r} cannot be read: {reason}. Name a file with the value alone.") from error


def _shown(setting: Field[Any], value: object) -> str:
    if not setting.repr:
        return "'...'"
    return repr(without_secrets(value) if isinstance(value, str) else value)


def _written(setting: Field[Any], value: object) -> str:
    if value is None or value == "":
        return ""
    if not setting.repr:
        return "..."
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else without_secrets(str(value))


def without_secrets(address: str) -> str:
    """Return an address without the password or the keys that may stand in it."""
    # A password may have any character, also a slash, and stand among the parameters, too.
    address = re.sub(r"(?<=://)([^/]*?):.*@", r"\1:***@", address)
    return re.sub(r"(?i)(\w*(?:password|secret|token|key)\w*=)[^&]*", r"\1***", address)


def _of_kind(setting: Field[Any], value: Any) -> Any:
    kind = str(setting.type)
    # Where a text may stay one, it does as the address of an object store.
    if "Path" in kind and isinstance(value, str) and not ("str" in kind and "://" in value):
        return Path(value)
    if kind.startswith("tuple") and isinstance(value, list):
        return tuple(value)
    if isinstance(value, Path) and "str" in kind and _ADDRESS.match(str(value)):
        raise ConfigError(
            f"The setting {setting.name} is the path {str(value)!r}, which was an address of an object store. Give it "
            "as a text."
        )
    if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
        # Of a secret only what it is.
        seen = repr(value) if setting.repr else f"a {type(value).__name__}"
        raise ConfigError(f"The setting {setting.name} is {seen}, not of the type {kind}. Give it such a value.")
    least, most = setting.metadata.get("least"), setting.metadata.get("most")
    # The other way round, as nothing is true of nan.
    if (least is not None and not value >= least) or (most is not None and not value <= most):
        limit = f"at least {least:g}" if least is not None and not value >= least else f"at most {most:g}"
        raise ConfigError(
            f"The setting {setting.name} ({PREFIX}{setting.name.upper()}) is {value:g}, and has to be {limit}. "
            "Change it, or leave it out for the default."
        )
    return value


def _parse(name: str, text: str, setting: Field[Any]) -> Any:
    kind = str(setting.type)
    if not text.strip():
        raise ConfigError(f"{name} is set but empty. Give it a value, or unset it for the default.")
    if kind in _NUMBERS:
        read, what = _NUMBERS[kind]
        try:
            number = read(text)
        except ValueError:
            number = -1
        if not 0 <= number < float("inf"):
            raise ConfigError(f"{name}={text!r} is not {what} from 0 on. Give it one, or unset it.")
        return number
    if kind == "bool":
        if text.strip().lower() not in _YES_NO:
            raise ConfigError(f"{name}={text!r} is neither yes nor no. Give it one of them, or unset it.")
        return _YES_NO[text.strip().lower()]
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return Path(text) if "Path" in kind and "str" not in kind else text
