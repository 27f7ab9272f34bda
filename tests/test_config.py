from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from rlhf_loop.config import Settings, find_variables, origins
from rlhf_loop.errors import ConfigError


def test_defaults() -> None:
    """Without variables everything has a default, and other variables are nobody's business."""
    settings = Settings.from_env({"PATH": "/bin", "MY_RLHF_X": "1", "rlhf_database_url": "x"})
    assert settings == Settings()
    assert settings.database_url == "sqlite:///rlhf.db"
    assert settings.model_path == Path("reward_model.joblib")
    assert settings.cache_dir.name == "rlhf-loop"
    assert settings.encoder_path is None


def test_every_setting_can_be_set() -> None:
    """Each field has its variable, and the value gets the field's type."""
    settings = Settings.from_env(
        {
            "RLHF_DATABASE_URL": "postgresql://me@host/db",
            "RLHF_MODEL_PATH": "models/a.joblib",
            "RLHF_MODELS_PATH": "models/all",
            "RLHF_KEEP_WEIGHTS": "7",
            "RLHF_CACHE_DIR": "/var/cache/rlhf",
            "RLHF_CACHE_MAX_MB": "500",
            "RLHF_CACHE_URL": "rediss://me@cache",
            "RLHF_CACHE_TIMEOUT_MS": "20",
            "RLHF_CACHE_DAYS": "7",
            "RLHF_LANGUAGE": "de",
            "RLHF_ENCODER": "use-multilingual-v3",
            "RLHF_ENCODER_PATH": "/models/minilm",
            "RLHF_CROSS_ENCODER": "/models/cross",
            "RLHF_ENCODER_RUNTIME": "sentence-transformers",
            "RLHF_ENCODER_PRECISION": "fp32",
            "RLHF_ENCODER_THREADS": "4",
            "RLHF_SOURCES": "index, my.own:source",
            "RLHF_SOURCE_DEADLINE_S": "1.5",
            "RLHF_CANDIDATES_PER_SOURCE": "3",
            "RLHF_SOURCE_CACHE_HOURS": "0.5",
            "RLHF_CONTACT": "me@example.org",
            "RLHF_INDEX_PATH": "my_index",
            "RLHF_INDEX_LANGUAGE": "german",
            "RLHF_WIKIPEDIA_URL": "http://localhost/w/api.php",
            "RLHF_WIKIPEDIA_LANGUAGE": "de",
            "RLHF_ARXIV_URL": "http://localhost/arxiv",
            "RLHF_LLM_URL": "http://localhost/v1",
            "RLHF_LLM_MODEL": "small",
            "RLHF_LLM_API_KEY": "sk-1",
            "RLHF_PASSWORDS": "no",
            "RLHF_SECOND_FACTOR": "admins",
            "RLHF_OIDC_ISSUER": "https://login.example.org",
            "RLHF_OIDC_CLIENT_ID": "rlhf",
            "RLHF_OIDC_CLIENT_SECRET": "hush",
            "RLHF_OIDC_SCOPES": "openid, offline_access",
            "RLHF_OIDC_NAME_CLAIM": "login",
            "RLHF_OIDC_ROLES_CLAIM": "realm_access.roles",
            "RLHF_OIDC_RECHECK_S": "0",
            "RLHF_SSO_ADMINS": "chiefs",
            "RLHF_SSO_RATERS": "experts, *",
            "RLHF_PROXY_USER_HEADER": "Remote-User",
            "RLHF_PROXY_GROUPS_HEADER": "Remote-Groups",
            "RLHF_PROXY_USER_FROM": "127.0.0.1, 10.0.0.0/8",
            "RLHF_SMTP_URL": "smtps://me:secret@mail.example.org",
            "RLHF_SMTP_FROM": "loop@example.org",
            "RLHF_LLM_DRAFTS": "2",
            "RLHF_LLM_TIMEOUT_S": "5",
            "RLHF_BEST_OF": "8",
            "RLHF_BEST_OF_MODELS": "small, large",
            "RLHF_BEST_OF_TEMPERATURES": "0.3,0.9",
            "RLHF_OUTBOX_PATH": "waiting.db",
            "RLHF_OUTBOX_MAX": "10",
            "RLHF_RECORD_RANKINGS": "0.5",
            "RLHF_RECORD_DOCUMENTS": "20",
            "RLHF_RECORD_DAYS": "90",
            "RLHF_SERVED_DAYS": "400",
            "RLHF_SECRET_KEY": "a-long-secret",
            "RLHF_SESSION_HOURS": "8",
            "RLHF_PROXIES": "1",
            "RLHF_HOSTS": "rlhf.example.org, *.example.net",
            "RLHF_RATE_LIMIT": "5 per second",
            "RLHF_REVIEW_BLIND": "yes",
            "RLHF_REVIEW_DAILY_GOAL": "50",
            "RLHF_REVIEW_LEASE_MINUTES": "2.5",
            "RLHF_REVIEW_OVERLAP": "0.5",
            "RLHF_REVIEW_OVERLAP_RATERS": "2",
            "RLHF_END_USER_SCALE": "thumbs",
            "RLHF_END_USER_WEIGHT": "0.1",
            "RLHF_REVIEWER_WEIGHTING": "no",
            "RLHF_RECIPE": "transformer",
            "RLHF_ADAPT": "index",
            "RLHF_TUNING_BATCH": "8",
            "RLHF_RETRAIN_RATINGS": "20",
            "RLHF_RETRAIN_DAYS": "1.5",
            "RLHF_BACKUP_PATH": "/srv/backups",
            "RLHF_BACKUP_SCHEDULE": "0 4 * * *",
            "RLHF_BACKUP_INDEX": "yes",
            "RLHF_BACKUP_KEEP": "3",
            "RLHF_WORKER_SCHEDULE": "30 3 * * 1-5",
            "RLHF_EXPERIMENT_SHARE": "0.1",
            "RLHF_EXPERIMENT_AGAINST": "joint-0123456789ab",
            "RLHF_EXPERIMENT_INTERLEAVE": "on",
            "RLHF_ANSWER_THRESHOLD": "0.7",
            "RLHF_QUALITY_THRESHOLD": "0.6",
            "RLHF_ALARM_QUEUE": "40",
            "RLHF_ALARM_WEBHOOK": "http://localhost/alarm",
            "RLHF_METRICS_PUBLIC": "1",
            "RLHF_LOG_FORMAT": "json",
            "RLHF_TELEMETRY": "true",
            "RLHF_RERANK_BATCH": "yes",
            "RLHF_RERANK_PUBLIC": "yes",
            "RLHF_RERANK_WITHOUT_MODEL": "incoming",
        }
    )
    assert settings == Settings(
        database_url="postgresql://me@host/db",
        model_path=Path("models/a.joblib"),
        models_path=Path("models/all"),
        keep_weights=7,
        cache_dir=Path("/var/cache/rlhf"),
        cache_max_mb=500,
        cache_url="rediss://me@cache",
        cache_timeout_ms=20.0,
        cache_days=7.0,
        language="de",
        encoder="use-multilingual-v3",
        encoder_path=Path("/models/minilm"),
        cross_encoder="/models/cross",
        encoder_runtime="sentence-transformers",
        encoder_precision="fp32",
        encoder_threads=4,
        sources=("index", "my.own:source"),
        source_deadline_s=1.5,
        candidates_per_source=3,
        source_cache_hours=0.5,
        contact="me@example.org",
        index_path=Path("my_index"),
        index_language="german",
        wikipedia_url="http://localhost/w/api.php",
        wikipedia_language="de",
        arxiv_url="http://localhost/arxiv",
        llm_url="http://localhost/v1",
        llm_model="small",
        llm_api_key="sk-1",
        passwords=False,
        second_factor="admins",
        oidc_issuer="https://login.example.org",
        oidc_client_id="rlhf",
        oidc_client_secret="hush",
        oidc_scopes=("openid", "offline_access"),
        oidc_name_claim="login",
        oidc_roles_claim="realm_access.roles",
        oidc_recheck_s=0.0,
        sso_admins=("chiefs",),
        sso_raters=("experts", "*"),
        proxy_user_header="Remote-User",
        proxy_groups_header="Remote-Groups",
        proxy_user_from=("127.0.0.1", "10.0.0.0/8"),
        smtp_url="smtps://me:secret@mail.example.org",
        smtp_from="loop@example.org",
        llm_drafts=2,
        llm_timeout_s=5.0,
        best_of=8,
        best_of_models=("small", "large"),
        best_of_temperatures=("0.3", "0.9"),
        outbox_path=Path("waiting.db"),
        outbox_max=10,
        record_rankings=0.5,
        record_documents=20,
        record_days=90.0,
        served_days=400.0,
        secret_key="a-long-secret",
        session_hours=8.0,
        proxies=1,
        hosts=("rlhf.example.org", "*.example.net"),
        rate_limit="5 per second",
        review_blind=True,
        review_daily_goal=50,
        review_lease_minutes=2.5,
        review_overlap=0.5,
        review_overlap_raters=2,
        end_user_scale="thumbs",
        end_user_weight=0.1,
        reviewer_weighting=False,
        recipe="transformer",
        adapt="index",
        tuning_batch=8,
        retrain_ratings=20,
        retrain_days=1.5,
        backup_path=Path("/srv/backups"),
        backup_schedule="0 4 * * *",
        backup_index=True,
        backup_keep=3,
        worker_schedule="30 3 * * 1-5",
        experiment_share=0.1,
        experiment_against="joint-0123456789ab",
        experiment_interleave=True,
        answer_threshold=0.7,
        quality_threshold=0.6,
        alarm_queue=40,
        alarm_webhook="http://localhost/alarm",
        metrics_public=True,
        log_format="json",
        telemetry=True,
        rerank_batch=True,
        rerank_public=True,
        rerank_without_model="incoming",
    )
    # A new setting belongs in the mapping above.
    assert [
        each.name for each in fields(Settings) if getattr(settings, each.name) == getattr(Settings(), each.name)
    ] == []


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RLHF_DATABASE": "x"}, r"Unknown setting RLHF_DATABASE\..*RLHF_DATABASE_URL"),
        ({"RLHF_": "x"}, r"Unknown setting RLHF_\."),
        ({"RLHF_MODEL_PATH": ""}, "RLHF_MODEL_PATH is set but empty"),
        ({"RLHF_DATABASE_URL": "  "}, "RLHF_DATABASE_URL is set but empty"),
        ({"RLHF_ENCODER_THREADS": "many"}, "RLHF_ENCODER_THREADS='many' is not a whole number"),
        ({"RLHF_ENCODER_THREADS": "-3"}, "RLHF_ENCODER_THREADS='-3' is not a whole number from 0"),
        ({"RLHF_ENCODER_THREADS": "2.5"}, "not a whole number"),
        ({"RLHF_SOURCE_DEADLINE_S": "soon"}, "RLHF_SOURCE_DEADLINE_S='soon' is not a number from 0"),
        ({"RLHF_SOURCE_DEADLINE_S": "nan"}, "is not a number from 0"),
        ({"RLHF_SOURCE_DEADLINE_S": "inf"}, "is not a number from 0"),
        ({"RLHF_REVIEW_BLIND": "perhaps"}, "RLHF_REVIEW_BLIND='perhaps' is neither yes nor no"),
    ],
)
def test_what_cannot_be_meant_is_refused(environ: dict[str, str], message: str) -> None:
    """An unknown variable, an empty value or one of the wrong type is an error that shows it."""
    with pytest.raises(ConfigError, match=message):
        Settings.from_env(environ)


def test_every_setting_explains_itself() -> None:
    """Each field has a help text of a sentence."""
    for field in fields(Settings):
        assert field.metadata["help"].endswith(".")


def test_settings_do_not_change() -> None:
    """Settings are values: nobody changes them under another's feet."""
    with pytest.raises(FrozenInstanceError):
        Settings().database_url = "sqlite://"  # type: ignore[misc]


def test_a_secret_is_not_shown() -> None:
    """Neither the settings' text nor the error for a mistyped name gives a key away."""
    assert "sk-1" not in repr(Settings(llm_api_key="sk-1"))
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"RLHF_LLM_KEY": "sk-1"})
    assert "sk-1" not in str(caught.value)


def test_settings_from_python_have_their_types() -> None:
    """A path may be a text and a tuple a list; all else of the wrong type is refused, a secret without its value."""
    given: Any = {"model_path": "m.joblib", "sources": ["index"], "source_deadline_s": 2}
    settings = Settings(**given)
    assert (settings.model_path, settings.models_path, settings.sources) == (Path("m.joblib"), None, ("index",))
    for name, value, seen in (
        ("proxies", "2", "'2', not of the type int"),
        ("model_path", None, "None, not of the type Path"),
        ("rate_limit", 600, "600, not of the type str"),
        ("encoder_threads", True, "True, not of the type int"),
        ("review_blind", 1, "1, not of the type bool"),
        ("sources", "index", "'index', not of the type tuple"),
        ("secret_key", b"secret", "a bytes, not of the type str"),
    ):
        with pytest.raises(ConfigError, match=f"The setting {name} is {seen}"):
            Settings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:S3CRET@h/db",
        "postgresql://ann:S3CRET/@:x@h:5432/db?a=b",
        "postgresql://h/db?user=ann&password=S3CRET&sslmode=require",
        "https://ann:S3CRET@h/wiki?x=1",
    ],
)
def test_settings_are_shown_without_what_is_secret(url: str) -> None:
    """A notebook that shows them may be published: what is set is there, but no password and no key."""
    settings = Settings(database_url=url, wikipedia_url=url, secret_key="S3CRET", llm_api_key="S3CRET", proxies=2)
    shown = repr(settings)
    assert "S3CRET" not in shown
    assert shown.startswith("Settings(database_url='")
    assert "@h" in shown or "//h/db" in shown
    assert "secret_key='...'" in shown
    assert shown.endswith("proxies=2)")
    assert repr(Settings()) == "Settings()"


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("review_overlap", "1.5", "at most 1"),
        ("quality_threshold", "7", "at most 1"),
        ("candidates_per_source", "0", "at least 1"),
        ("source_deadline_s", "0", "at least 0.001"),
        ("review_lease_minutes", "0", "at least 0.001"),
        ("cache_timeout_ms", "0.5", "at least 1"),
        ("cache_days", "0", "at least 0.001"),
    ],
)
def test_numbers_have_limits(name: str, value: str, limit: str) -> None:
    """A share is at most 1, and who looks for nothing at all has made a mistake."""
    variable = f"RLHF_{name.upper()}"
    with pytest.raises(ConfigError, match=rf"\({variable}\) is {float(value):g}, and has to be {limit}\."):
        Settings.from_env({variable: value})


def test_secrets_in_files(tmp_path: Path) -> None:
    """A variable ending in _FILE names the file of a secret; the variable itself comes before, and no other has one."""
    file = tmp_path / "key"
    file.write_text("k" * 32 + "\n")
    environ = {"RLHF_SECRET_KEY_FILE": str(file), "RLHF_LLM_URL": "http://x"}
    settings = Settings.from_env(environ)
    assert settings.secret_key == "k" * 32
    assert origins(environ) == {"secret_key": "RLHF_SECRET_KEY_FILE", "llm_url": "RLHF_LLM_URL"}
    assert (settings.shown()["secret_key"], settings.changed()) == ("...", {"secret_key": "...", "llm_url": "http://x"})
    assert Settings.from_env({**environ, "RLHF_SECRET_KEY": "other"}).secret_key == "other"
    with pytest.raises(ConfigError, match=r"RLHF_DATABASE_URL_FILE='.*none' cannot be read: No such file"):
        Settings.from_env({"RLHF_DATABASE_URL_FILE": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"Unknown setting RLHF_LLM_URL_FILE\. Did you mean RLHF_LLM_URL\?"):
        Settings.from_env({"RLHF_LLM_URL_FILE": str(file)})


def test_files_come_below_the_environment(tmp_path: Path) -> None:
    """The environment comes before the named file or .env, and these before rlhf-loop.toml; a secret with its file."""
    (tmp_path / ".env").write_text('export RLHF_PROXIES=2\nRLHF_HOSTS="a.org, b.org" # both\nPOSTGRES_PASSWORD=x\n')
    (tmp_path / "rlhf-loop.toml").write_text(
        'proxies = 3\nsources = ["index", "wikipedia"]\nreview_blind = true\nalarm_queue = 7\nsecret_key = "low"\n'
        'llm_api_key_file = "key"\n'
    )
    named = tmp_path / "named"
    named.write_text("PGPASSWORD=x\nRLHF_PROXIES=4\nRLHF_SECRET_KEY_FILE=high\n")
    environ = {"RLHF_ALARM_QUEUE": "9", "RLHF_LLM_API_KEY": "own"}

    found = find_variables(environ, folder=tmp_path)
    assert found.by_file() == {
        tmp_path / ".env": ["RLHF_HOSTS", "RLHF_PROXIES"],
        tmp_path / "rlhf-loop.toml": ["RLHF_REVIEW_BLIND", "RLHF_SECRET_KEY", "RLHF_SOURCES"],
    }
    assert Settings.from_env(found.environ) == Settings(
        proxies=2,
        hosts=("a.org", "b.org"),
        sources=("index", "wikipedia"),
        review_blind=True,
        alarm_queue=9,
        secret_key="low",
        llm_api_key="own",
    )
    found = find_variables(environ, env_file=named, folder=tmp_path)
    assert found.by_file()[named] == ["PGPASSWORD", "RLHF_PROXIES", "RLHF_SECRET_KEY_FILE"]
    assert "RLHF_SECRET_KEY" not in found.environ
    assert "RLHF_HOSTS" not in found.environ


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("A=1\nRLHF_PROXIES\n", r"Line 2 of '.*' is not of the form NAME=value\."),
        ("RLHF_SECRET_KEY='S3CRET\n", r"Line 1 of '.*' is not of the form NAME=value\."),
        ("RLHF_PROXIES=1\0\n", r"RLHF_PROXIES in '.*' has a character NUL\."),
    ],
)
def test_lines_that_cannot_be_meant(tmp_path: Path, lines: str, message: str) -> None:
    """They are named by their number, without what they say."""
    (tmp_path / ".env").write_text(lines)
    with pytest.raises(ConfigError, match=message) as caught:
        find_variables({}, folder=tmp_path)
    assert "S3CRET" not in str(caught.value)
    with pytest.raises(ConfigError, match=message):
        find_variables({}, env_file=tmp_path / ".env")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("proxes = 1", r"Unknown setting 'proxes' in '.*'\. Did you mean proxies\?"),
        ("RLHF_PROXIES = 1", r"Unknown setting 'RLHF_PROXIES' in '.*'\. Did you mean proxies\?"),
        ('llm_url_file = "x"', r"Unknown setting 'llm_url_file' in '.*'\. Did you mean llm_url\?"),
        ("proxies = [1]", r"'proxies' in '.*' is a list\. Give it"),
        ("[serve]\nproxies = 1", r"Unknown setting 'serve' in"),
        ("[proxies]\nx = 1", r"'proxies' in '.*' is a table\. Give it"),
        ("proxies = 2026-01-01", r"'proxies' in '.*' is a time\. Give it"),
        ("proxies = ", r"cannot be read as TOML: Invalid value .*\. Correct it"),
        ("contact = '\\\udce4'", r"cannot be read as TOML: 'utf-8' codec"),
        ('contact = "\\u0000"', r"RLHF_CONTACT in '.*' has a character NUL\."),
    ],
)
def test_toml_that_cannot_be_meant(tmp_path: Path, toml: str, message: str) -> None:
    """An unknown name, a value of no setting's kind, and what is no TOML are errors that show it."""
    (tmp_path / "rlhf-loop.toml").write_bytes(toml.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=message):
        find_variables({}, folder=tmp_path)


def test_somebody_elses_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A .env of others breaks nothing and sets nothing: other names, other forms, other encodings, no file at all."""
    (tmp_path / ".env").write_bytes(b"\xff\xfeA=\xe4\nMY_RLHF_X=1\nrubbish here\nQ='open\n\n")
    assert find_variables({}, folder=tmp_path).files == {}
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert find_variables({}, folder=tmp_path).files == {}
    (tmp_path / ".env").rmdir()
    (tmp_path / ".env").symlink_to(".env")
    assert find_variables({}, folder=tmp_path).files == {}
    assert "Its settings do not count" in caplog.text
    with pytest.raises(ConfigError, match=r"cannot be read: .*\. Name a file of lines"):
        find_variables({}, env_file=tmp_path / ".env")
    assert find_variables({}, env_file=Path(os.devnull), folder=tmp_path).files == {}
