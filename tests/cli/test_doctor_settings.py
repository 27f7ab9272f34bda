from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from examined import faults
from own_port import own_port

from rlhf_loop.cli.doctor.finding import with_failures
from rlhf_loop.cli.doctor.machine import (
    CHECKS,
    drafts,
    secret_key,
    settings_in_use,
    sign_in,
    sources,
    telemetry,
    worker,
)
from rlhf_loop.config import Settings

Hide = Callable[[str], None]


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Hide:
    """Take a package away, as if it were not installed."""
    real = importlib.util.find_spec

    def hide(package: str) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith(package) else real(name))

    return hide


def test_settings_are_named_without_their_values() -> None:
    """Which settings differ from the defaults, and nothing of what they are."""
    (found,) = settings_in_use(Settings(llm_api_key="sk-1", outbox_max=5))
    assert (found.ok, found.text) == (True, "set to other than the default: RLHF_LLM_API_KEY and RLHF_OUTBOX_MAX")


def test_values_that_the_commands_would_refuse() -> None:
    """Each is a fault of its own, found by the check of the command that would refuse it."""
    refused = Settings(
        end_user_scale="hearts",
        end_user_weight=2.0,
        recipe="forest",
        experiment_share=3.0,
        rate_limit="lots",
        rerank_without_model="guess",
        alarm_webhook="hooks.example/sk-1",
        smtp_url="mail.example.org",
    )
    said = [fault.text.partition("=")[0].partition(" ")[0] for fault in faults(settings_in_use(refused))]
    assert said == [
        "RLHF_END_USER_SCALE",
        "RLHF_END_USER_WEIGHT",
        "RLHF_RECIPE",
        "RLHF_EXPERIMENT_SHARE",
        "RLHF_RATE_LIMIT",
        "RLHF_RERANK_WITHOUT_MODEL",
        "RLHF_ALARM_WEBHOOK",
        "RLHF_SMTP_URL",
    ]


class _Watched:
    """Settings that note which of them are looked at."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self.seen = settings, set[str]()

    def __getattr__(self, name: str) -> object:
        self.seen.add(name)
        return getattr(self._settings, name)


#: What some checks read besides; what is wrong with these is found elsewhere.
_BESIDE = {"secret_key", "lasting_key", "cache_dir", "database_url"}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {
            "experiment_share": 0.1,
            "oidc_issuer": "https://sso.example.org",
            "oidc_client_id": "rlhf",
            "oidc_client_secret": "s",
            "proxy_user_header": "Remote-User",
            "proxy_groups_header": "Remote-Groups",
            "proxy_user_from": ("127.0.0.1",),
            "second_factor": "admins",
            "secret_key": "k" * 40,
            "smtp_url": "smtp://mail.example.org",
            "smtp_from": "rlhf@example.org",
            "alarm_webhook": "https://hooks.example.org",
            "cache_url": "redis://127.0.0.1:1",
        },
    ],
)
def test_a_check_is_made_for_each_setting_that_it_looks_at(changed: dict[str, object]) -> None:
    """What `CHECKS` says of a check is all that it reads, so that none is left out, and the defaults pass them all."""
    settings = Settings.from_env({}) if not changed else replace(Settings(), **changed)  # type: ignore[arg-type]
    for looks_at, check in CHECKS.items():
        watched = _Watched(settings)
        check(watched)  # type: ignore[arg-type]
        assert watched.seen - _BESIDE <= set(looks_at), check


def test_nothing_is_loaded_for_settings_at_their_defaults() -> None:
    """With nothing changed, `doctor` loads no module for a check that could not find anything."""
    code = (
        "import sys; from rlhf_loop.cli.doctor.machine import settings_in_use, sources, sign_in; "
        "from rlhf_loop.config import Settings; s = Settings(); "
        "[*settings_in_use(s), *sources(s), *sign_in(s)]; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in loaded} & {"flask", "httpx2", "limits", "scipy", "sklearn"} == set()


def test_the_usual_sources_are_fine(tmp_path: Path) -> None:
    """They are named, and an index that is not there yet is no fault."""
    named, index = sources(Settings(index_path=tmp_path / "none"))
    assert "corrections, index, wikipedia, arxiv" in named.text
    assert (index.ok, "rlhf-loop index add" in index.text) == (True, True)


def test_own_sources_are_imported_and_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module of one's own leaves no compiled file, prints into no finding, and its factory does not run."""
    monkeypatch.syspath_prepend(tmp_path)
    made = "print('noise')\ndef make(settings):\n    raise RuntimeError('called')\n"
    (tmp_path / "doctors_own_source.py").write_text(made)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert faults(sources(Settings(sources=("doctors_own_source:make",)))) == []
    assert [file.name for file in tmp_path.iterdir()] == ["doctors_own_source.py"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "entry", "said"),
    [
        ("", "doctors_bad_1:name", "has no 'name'"),
        ("name = 3", "doctors_bad_2:name", "gives int and not a source"),
        ("raise RuntimeError('key sk-1')", "doctors_bad_3:name", "cannot be imported: RuntimeError: key ***"),
        ("raise SystemExit(3)", "doctors_bad_4:name", "cannot be imported: SystemExit: 3"),
        ("import no_such_library", "doctors_bad_5:name", "No module named 'no_such_library'"),
        ("name = (", "doctors_bad_6:name", "SyntaxError"),
        ("", "no_such_module:name", "there is no module 'no_such_module'"),
        ("", "wiki", "names 'wiki', which is unknown"),
    ],
)
def test_a_source_that_cannot_be_had_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, entry: str, said: str
) -> None:
    """Whatever is wrong with it, it is one finding, and the next source is looked at all the same."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{entry.partition(':')[0]}.py").write_text(content)
    if entry.startswith("no_such"):
        (tmp_path / "no_such_module.py").unlink()
    first, second = faults(sources(Settings(sources=(entry, "other"), llm_api_key="sk-1")))
    assert said in first.text
    assert "names 'other'" in second.text


def test_a_source_named_twice_is_a_fault() -> None:
    """The server would not start with it."""
    (fault,) = faults(sources(Settings(sources=("arxiv", "wikipedia", "arxiv"))))
    assert fault.text == "RLHF_SOURCES names 'arxiv' 2 times"


def test_an_address_that_cannot_be_asked_is_a_fault() -> None:
    """That of an encyclopaedia without its scheme, as the server would refuse it."""
    (fault,) = faults(sources(Settings(sources=("arxiv", "wikipedia"), wikipedia_url="wiki.example/{language}")))
    assert "RLHF_WIKIPEDIA_URL" in fault.text


def test_no_sources_at_all_may_be_meant() -> None:
    """Who only ranks needs none."""
    (found,) = sources(Settings(sources=()))
    assert (found.ok, "no question finds an answer" in found.text) == (True, True)


def test_the_index_in_postgresql_needs_pgvector(hide: Hide) -> None:
    """With the driver alone, the extra is not whole."""
    hide("pgvector")
    asked = Settings(sources=("index",), database_url="postgresql://u:p@h/x")
    (fault,) = faults(sources(asked))
    assert "pip install 'rlhf-loop[postgres]'" in fault.advice


@pytest.mark.parametrize("url", ["sqlite:///rlhf.db", "postgresql://u:p@h/x"])
def test_an_index_language_that_there_is_not(url: str) -> None:
    """It is said here, and not with the first document."""
    asked = Settings(sources=("index",), index_language="klingon", database_url=url)
    (fault,) = faults(with_failures("sources", sources(asked), asked))
    assert "RLHF_INDEX_LANGUAGE='klingon'" in fault.text


def test_drafts_need_a_model_and_an_extra(hide: Hide) -> None:
    """An endpoint without either is two faults; its address is shown without what may be a key."""
    hide("openai")
    asked = Settings(llm_url="https://me:hush@models.example/sk-1/v1")
    found = list(drafts(asked))
    model, extra = faults(found)
    assert "RLHF_LLM_MODEL is not" in model.text
    assert "pip install 'rlhf-loop[llm]'" in extra.advice
    assert "at models.example" in found[0].text
    assert not any(word in f"{each.text}{each.advice}" for each in found for word in ("hush", "sk-1"))


def test_what_is_not_configured_needs_no_extra(hide: Hide) -> None:
    """Without the settings that want them, extras may be missing."""
    hide("open")
    assert faults([*drafts(Settings()), *telemetry(Settings())]) == []


def test_telemetry_needs_its_extra(hide: Hide) -> None:
    """Traces that are asked for and cannot be sent are a fault."""
    hide("opentelemetry")
    (fault,) = faults(telemetry(Settings(telemetry=True)))
    assert "pip install 'rlhf-loop[otel]'" in fault.advice


def test_telemetry_that_can_be_sent() -> None:
    """With the extra, and variables that can be used, there is no more to say."""
    (found,) = telemetry(Settings(telemetry=True))
    assert found.ok


@pytest.mark.parametrize(
    ("key", "ok", "said"),
    [
        ("", True, "is not set; it is needed to listen beyond this machine"),
        ("hunter2", False, "has 7 characters"),
        ("abcabcabc" * 5, False, "3 different characters"),
        ("0f1e2d3c4b5a69788796a5b4c3d2e1f0", True, "is set, with 32 characters"),
    ],
)
def test_the_secret_key_is_judged_and_not_shown(key: str, ok: bool, said: str) -> None:
    """One that can be guessed is a fault; none at all is not, and the command that makes one is there."""
    (found,) = secret_key(Settings(secret_key=key))
    assert (found.ok, said in found.text) == (ok, True)
    assert not key or key not in f"{found.text}{found.advice}"
    assert ("secrets.token_urlsafe" in found.advice) == (not (key and ok))


def test_the_next_look_of_the_worker_is_told() -> None:
    """In words, and in UTC."""
    (found,) = worker(Settings(worker_schedule="30 3 * * 1-5"), datetime(2027, 1, 1, 12, tzinfo=UTC))
    assert found.text.endswith("at 03:30 on Monday through Friday, next at 2027-01-04 03:30 UTC")


@pytest.mark.parametrize("extra", ["authlib", "joserfc"])
def test_an_identity_provider_needs_its_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the settings are at fault, and the provider is not asked."""
    monkeypatch.setitem(sys.modules, extra, None)
    settings = Settings(oidc_issuer="https://login.example.org", oidc_client_id="rlhf")
    assert any("rlhf-loop[oidc]" in fault.advice + fault.text for fault in faults(sign_in(settings)))


def test_an_identity_provider_that_is_away() -> None:
    """How people sign in is told, and that the provider does not answer."""
    port = own_port()
    settings = Settings(oidc_issuer=f"http://127.0.0.1:{port}", oidc_client_id="rlhf")
    ways, away = sign_in(settings)
    assert ways.text == f"people sign in with a password and with http://127.0.0.1:{port} (RLHF_OIDC_ISSUER)"
    assert (away.ok, "does not answer" in away.text) == (False, True)
    assert [found.text for found in sign_in(Settings())] == ["people sign in with a password"]
