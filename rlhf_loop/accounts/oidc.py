"""OpenID Connect: people sign in at an identity provider, by the authorization code flow with PKCE.

After OpenID Connect Core 1.0 and Discovery 1.0, RFC 9700 (state, nonce, PKCE, the issuer of RFC 9207), RP-Initiated
Logout 1.0 and Back-Channel Logout 1.0. Tokens are signed by a public key of the provider's, or they are worth nothing.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx2

from rlhf_loop.accounts.identities import Identity
from rlhf_loop.config import Settings
from rlhf_loop.errors import AccountError, ConfigError, ProviderError
from rlhf_loop.utils.addresses import is_loopback
from rlhf_loop.utils.breaker import Breaker
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.timed_transport import EXCHANGE_ERRORS, TimedTransport, all_by
from rlhf_loop.utils.translation import Message

logger = logging.getLogger(__name__)

#: Seconds for each exchange with the provider, and the bytes of an answer.
TIMEOUT_S, _MOST_BYTES = 5.0, 1_000_000
#: Seconds that somebody may take to sign in there.
DEPARTURE_S = 900
#: Seconds for which what the provider says of itself is believed, and within which keys are not fetched once more.
_KNOWN_S, _KEYS_S = 3600.0, 5.0
#: Seconds after which the news that somebody has signed out is none.
_NOTICE_S = 600
#: Seconds by which the clocks of both may differ.
_LEEWAY_S = 60
#: What a public key checks: neither "none", nor a secret that a public key could be taken for (RFC 8725, 3.1).
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
_KEY_TYPES = ("RSA", "EC", "OKP")
_LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
#: Errors of the provider that concern a user, who has to sign in again, and not this service.
_OF_THE_USER = (
    *("invalid_grant", "interaction_required", "login_required", "consent_required", "account_selection_required"),
    "access_denied",
)
_NOT_OURS = Message(
    "This sign-in was not begun in this browser, was begun anew since, or took longer than {n} minutes. Begin again at "
    "/sign-in.",
    n=DEPARTURE_S // 60,
)


@dataclass(frozen=True, slots=True)
class Departure:
    """The way to the provider: its `address`, and what the browser keeps sealed until it comes back."""

    address: str
    sealed: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """Somebody who has come back from the provider, the page to which they wanted, and their sealed tokens."""

    identity: Identity
    way: str | None
    tokens: str
    provider_session: str | None


@dataclass(frozen=True, slots=True)
class LogoutNotice:
    """News of the provider's that sessions have ended: all of a subject, or one."""

    subject: str | None
    provider_session: str | None


@dataclass(frozen=True, slots=True)
class _Pending:
    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    way: str | None


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The tokens of a session; without a `refresh_token` the provider cannot be asked again."""

    refresh_token: str | None
    id_token: str
    issuer: str


class Provider:
    """The identity provider of the settings. Safe to share between threads and across a fork.

    `key` seals what is kept of it, and has to be the same in all processes.

    Raises:
        ConfigError: its address is not https, the client's name is missing, or the scopes lack `openid`.
        MissingExtraError: the extra `[oidc]` is not installed.
    """

    def __init__(self, settings: Settings, *, key: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        for module in ("authlib", "joserfc"):
            require(module, "oidc")
        self._settings = settings
        self.issuer = _checked_issuer(settings)
        self._seal = require("cryptography.fernet", "oidc").Fernet(base64.urlsafe_b64encode(key))
        self._clock = clock
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._metadata_until = 0.0
        self._keys: Any = None
        self._keys_after = 0.0
        #: Pauses `again`, which alone it counts: whoever wants to sign in always asks, and may send what they like.
        self.breaker = Breaker(clock=clock)

    @property
    def host(self) -> str:
        """The name that people are shown."""
        return urlsplit(self.issuer).hostname or self.issuer

    def depart(self, redirect_uri: str, *, way: str | None) -> Departure:
        """Return the way to the provider, which leads back to `redirect_uri`.

        Raises:
            ProviderError: the provider cannot be asked where that is.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        pending = _Pending(state, nonce, verifier, redirect_uri, way)
        with self._asking(), self._client(self._about()) as client:
            address, _ = client.create_authorization_url(
                self._about()["authorization_endpoint"],
                state=pending.state,
                nonce=pending.nonce,
                code_verifier=pending.verifier,
                redirect_uri=redirect_uri,
            )
        return Departure(str(address), self._sealed(asdict(pending)))

    def arrive(self, sealed: str, params: Mapping[str, str]) -> Arrival:
        """Return who has come back with these parameters.

        Raises:
            AccountError: it was not begun here, was refused there, or what the provider says is not valid.
            ProviderError: the provider cannot be asked.
        """
        opened = self._opened(sealed, lasts_s=DEPARTURE_S)
        if opened is None:
            raise AccountError(_NOT_OURS)
        pending = _Pending(**opened)
        if not secrets.compare_digest(params.get("state", "").encode(), pending.state.encode()):
            raise AccountError(_NOT_OURS)
        about = self._about()
        named = params.get("iss")
        if named != about["issuer"] and (named or about.get("authorization_response_iss_parameter_supported")):
            raise AccountError(_invalid(f"it came from the issuer {named!r}"))
        if error := params.get("error"):
            raise AccountError(
                Message(
                    "{host} did not sign you in ({error}). Try again, or ask whoever runs it.",
                    host=self.host,
                    error=params.get("error_description") or error,
                )
            )
        if not params.get("code"):
            raise AccountError(_invalid("there is no code"))
        with self._asking(), self._client(about) as client:
            answer = client.fetch_token(
                about["token_endpoint"],
                grant_type="authorization_code",
                code=params["code"],
                redirect_uri=pending.redirect_uri,
                code_verifier=pending.verifier,
            )
        if not answer.get("id_token"):
            raise AccountError(_invalid("there is no ID token; RLHF_OIDC_SCOPES has to have openid"))
        claims = self._checked(answer["id_token"], nonce=pending.nonce, access_token=answer.get("access_token"))
        identity = self._identity(claims, answer)
        tokens = _Tokens(answer.get("refresh_token"), answer["id_token"], self.issuer)
        return Arrival(identity, pending.way, self._sealed(asdict(tokens)), _text(claims.get("sid")))

    def again(self, sealed: str, *, subject: str, keep: Callable[[str], None]) -> Identity | None:
        """Return what the provider says now of a user; None if it cannot be asked so, or not now.

        `keep` gets the new sealed tokens as soon as they are there: the former ones may be worth nothing from then on.

        Raises:
            AccountError: they may not be here any more.
            ProviderError: the provider cannot be asked.
        """
        opened = self._opened(sealed)
        if opened is None or opened.get("issuer") != self.issuer:
            # Sealed by a key that is not ours any more, or of another provider, and neither is the session then.
            raise AccountError(_NOT_OURS)
        tokens = _Tokens(**opened)
        if not tokens.refresh_token or not self.breaker.may_try():
            return None
        try:
            identity = self._refreshed(tokens, tokens.refresh_token, subject, keep)
        except ProviderError:
            self.breaker.failed()
            raise
        except AccountError:
            self.breaker.succeeded()
            raise
        self.breaker.succeeded()
        return identity

    def _refreshed(self, tokens: _Tokens, refresh_token: str, subject: str, keep: Callable[[str], None]) -> Identity:
        about = self._about()
        with self._asking(), self._client(about) as client:
            answer = client.refresh_token(about["token_endpoint"], refresh_token=refresh_token)
        kept = replace(
            tokens,
            refresh_token=answer.get("refresh_token") or refresh_token,
            id_token=answer.get("id_token") or tokens.id_token,
        )
        keep(self._sealed(asdict(kept)))
        claims: Mapping[str, Any] = {"sub": subject}
        if answer.get("id_token"):
            claims = self._checked(answer["id_token"], nonce=None, access_token=None)
        identity = self._identity(claims, answer, anew=not answer.get("id_token"))
        if identity.subject != subject:
            raise AccountError(_invalid(f"it is of {identity.subject!r} now, and was of {subject!r}"))
        return identity

    def sign_out_address(self, sealed: str | None, *, return_to: str) -> str | None:
        """Return where the browser signs out at the provider, None where that cannot be done."""
        try:
            about = self._about()
        except ProviderError:
            return None
        end = about.get("end_session_endpoint")
        # It becomes a link of our page, where javascript: would be a program.
        if not isinstance(end, str) or not _is_safe(end):
            return None
        params = {"post_logout_redirect_uri": return_to, "client_id": self._settings.oidc_client_id}
        opened = self._opened(sealed) if sealed else None
        if opened is not None:
            params["id_token_hint"] = _Tokens(**opened).id_token
        return str(httpx2.URL(end).copy_merge_params(params))

    def logout_notice(self, token: str) -> LogoutNotice:
        """Return whose sessions a logout token of the provider's ends (Back-Channel Logout 1.0, 2.6).

        Raises:
            AccountError: it is not valid.
            ProviderError: its key cannot be fetched.
        """
        claims = self._verified(token)
        events = claims.get("events")
        if not isinstance(events, dict) or not isinstance(events.get(_LOGOUT_EVENT), dict) or "nonce" in claims:
            raise AccountError(_invalid("the token is not a logout token"))
        registry = require("joserfc.jwt", "oidc").JWTClaimsRegistry(
            leeway=_LEEWAY_S, **self._wanted(), iat={"essential": True}
        )
        try:
            registry.validate(claims)
        except self._invalid_token() as error:
            raise AccountError(_invalid(error)) from error
        if time.time() - claims["iat"] > _NOTICE_S:
            raise AccountError(_invalid("the token is old"))
        notice = LogoutNotice(_text(claims.get("sub")), _text(claims.get("sid")))
        if not notice.subject and not notice.provider_session:
            raise AccountError(_invalid("the token names neither a subject nor a session"))
        return notice

    def check(self) -> str:
        """Ask the provider what it says of itself, for the doctor; return where people would sign in.

        Raises:
            ProviderError: it does not answer, or not as one that can be used.
        """
        return str(self._about()["authorization_endpoint"])

    def _about(self) -> dict[str, Any]:
        """Return what the provider says of itself, an hour old at most while it answers."""
        if self._metadata and self._clock() < self._metadata_until:
            return self._metadata
        try:
            with self._asking(), self._plain() as client:
                answer = client.get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                answer.raise_for_status()
                found = self._checked_metadata(answer.json())
        except ProviderError:
            if not self._metadata:
                raise
            found = self._metadata
        else:
            # A key that the provider has taken back must not be believed for ever.
            self._keys = None
        self._metadata, self._metadata_until = found, self._clock() + _KNOWN_S
        return found

    def _checked_metadata(self, found: object) -> dict[str, Any]:
        if not isinstance(found, dict) or str(found.get("issuer", "")).rstrip("/") != self.issuer.rstrip("/"):
            named = found.get("issuer") if isinstance(found, dict) else found
            raise ProviderError(
                f"The identity provider calls itself {named!r}, and RLHF_OIDC_ISSUER is {self.issuer!r}. Set it to "
                "what its discovery document has as issuer."
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not _is_safe(str(found.get(name, ""))):
                raise ProviderError(
                    f"The identity provider's {name} is {found.get(name)!r}, which is not a valid https address. "
                    "Check RLHF_OIDC_ISSUER, and the provider's own settings."
                )
        return found

    def _checked(self, id_token: object, *, nonce: str | None, access_token: str | None) -> Mapping[str, Any]:
        """Return the claims of a valid ID token (OpenID Connect Core 1.0, 3.1.3.7).

        Raises:
            AccountError: it is not valid, or not for this service, user and moment.
        """
        core = require("authlib.oidc.core", "oidc")
        claims, header = self._verified(id_token, with_header=True)
        params = {"client_id": self._settings.oidc_client_id, "nonce": nonce, "access_token": access_token}
        try:
            checked = core.CodeIDToken(claims, header, self._wanted(), params)
            checked.validate(leeway=_LEEWAY_S)
        except (self._invalid_token(), ValueError, TypeError) as error:
            raise AccountError(_invalid(error)) from error
        if not claims["sub"]:
            raise AccountError(_invalid("the subject is empty"))
        return dict(claims)

    def _wanted(self) -> dict[str, dict[str, Any]]:
        return {
            "iss": {"essential": True, "value": self._about()["issuer"]},
            "aud": {"essential": True, "value": self._settings.oidc_client_id},
        }

    def _verified(self, token: object, *, with_header: bool = False) -> Any:
        """Return the claims of a token that the provider has signed; keys that it has changed are fetched once."""
        jwt, invalid = require("joserfc.jwt", "oidc"), self._invalid_token()
        supported = self._about().get("id_token_signing_alg_values_supported") or ["RS256"]
        algorithms = [each for each in _ALGORITHMS if each in supported]
        for anew in (False, True):
            try:
                # The types of keys and algorithms have to be one another's: the library refuses the rest.
                found = jwt.decode(str(token), self._key_set(anew=anew), algorithms=algorithms)
                return (found.claims, found.header) if with_header else found.claims
            except (invalid, ValueError, TypeError) as error:
                failure = error
        raise AccountError(_invalid(failure)) from failure

    def _key_set(self, *, anew: bool) -> Any:
        with self._lock:
            # Not again within some seconds: anybody can send a token that no key fits.
            if self._keys is not None and not (anew and self._clock() >= self._keys_after):
                return self._keys
        about = self._about()
        jwk = require("joserfc.jwk", "oidc")
        with self._asking(), self._plain() as client:
            answer = client.get(about["jwks_uri"])
            answer.raise_for_status()
            given = answer.json()["keys"]
            # One of a kind that is not known yet must not keep people from signing in by the others.
            usable = [key for key in given if key.get("kty") in _KEY_TYPES and key.get("use", "sig") == "sig"]
            found = jwk.KeySet.import_key_set({"keys": usable})
        with self._lock:
            self._keys, self._keys_after = found, self._clock() + _KEYS_S
        return found

    def _identity(self, claims: Mapping[str, Any], answer: Mapping[str, Any], *, anew: bool = False) -> Identity:
        """Return who it is; what the ID token does not say is asked of the provider."""
        settings, all_claims = self._settings, dict(claims)
        wanted = [settings.oidc_name_claim, "email"]
        if settings.sso_admins or settings.sso_raters:
            wanted.append(settings.oidc_roles_claim)
        endpoint = self._about().get("userinfo_endpoint")
        if endpoint and _is_safe(endpoint) and (anew or any(_claim(claims, name) is None for name in wanted)):
            with self._asking(), self._plain() as client:
                headers = {"Authorization": f"Bearer {answer.get('access_token', '')}"}
                reply = client.get(endpoint, headers=headers)
                if reply.status_code in (400, 401, 403):
                    raise AccountError(_invalid(f"the user's claims are refused with HTTP status {reply.status_code}"))
                reply.raise_for_status()
                more = reply.json()
            # Of somebody else they would be a mix-up (OpenID Connect Core 1.0, 5.3.2).
            if not isinstance(more, dict) or more.get("sub") != claims["sub"]:
                raise AccountError(_invalid("the user's claims are of another subject"))
            all_claims = {**more, **claims}
            if "email" in claims:
                # What one document says of an address says nothing of that in another.
                all_claims["email_verified"] = claims.get("email_verified")
        email = _text(all_claims.get("email"))
        roles = _claim(all_claims, settings.oidc_roles_claim)
        return Identity(
            issuer=self._about()["issuer"],
            subject=claims["sub"],
            name=_text(_claim(all_claims, settings.oidc_name_claim)) or email or claims["sub"],
            display_name=_text(all_claims.get("name")),
            # An address that nobody has verified is what somebody claims who may want another's account.
            email=email if all_claims.get("email_verified") in (True, "true") else None,
            groups=frozenset(str(each) for each in (roles if isinstance(roles, list) else [roles]) if each),
        )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Translate what can go wrong with the provider, and give all of it some seconds."""
        oauth_error = require("authlib.integrations.base_client", "oidc").OAuthError
        failures = (*EXCHANGE_ERRORS, self._invalid_token(), ValueError, KeyError, TypeError, AttributeError)
        try:
            with all_by(time.monotonic() + TIMEOUT_S):
                yield
        except oauth_error as error:
            if error.error in _OF_THE_USER:
                raise AccountError(
                    Message("{host} does not know this sign-in any more. Sign in again at /sign-in.", host=self.host)
                ) from error
            # What it has against this service, such as a secret that was changed, says nothing of a user.
            raise ProviderError(
                f"The identity provider at {self.host} refuses this service ({_short(error)}). Whoever has signed in "
                "goes on; check RLHF_OIDC_CLIENT_ID and RLHF_OIDC_CLIENT_SECRET."
            ) from error
        except failures as error:
            raise ProviderError(
                f"The identity provider at {self.host} does not answer as one ({_short(error)}). Whoever has signed in "
                "goes on; others try again later, or check RLHF_OIDC_ISSUER."
            ) from error

    def _client(self, about: Mapping[str, Any]) -> Any:
        settings = self._settings
        methods = about.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return require("authlib.integrations.httpx_client", "oidc").OAuth2Client(
            client_id=settings.oidc_client_id,
            client_secret=settings.oidc_client_secret or None,
            token_endpoint_auth_method=method if settings.oidc_client_secret else "none",
            scope=" ".join(settings.oidc_scopes),
            code_challenge_method="S256",
            transport=self._transport(),
        )

    def _plain(self) -> httpx2.Client:
        return httpx2.Client(transport=self._transport())

    def _transport(self) -> TimedTransport:
        return TimedTransport(secure=True, max_bytes=_MOST_BYTES)

    def _sealed(self, value: Mapping[str, Any]) -> str:
        return str(self._seal.encrypt(json.dumps(value).encode()).decode())

    def _opened(self, sealed: str, *, lasts_s: int | None = None) -> dict[str, Any] | None:
        try:
            opened: dict[str, Any] = json.loads(self._seal.decrypt(sealed.encode(), ttl=lasts_s))
        except (require("cryptography.fernet", "oidc").InvalidToken, ValueError):
            return None
        return opened

    def _invalid_token(self) -> type[Exception]:
        error: type[Exception] = require("joserfc.errors", "oidc").JoseError
        return error


def _checked_issuer(settings: Settings) -> str:
    issuer = settings.oidc_issuer.strip()
    if not _is_safe(issuer) or urlsplit(issuer).query:
        raise ConfigError(
            f"RLHF_OIDC_ISSUER={issuer!r} is not a valid https address. Give it the issuer of the provider's discovery "
            "document, as in https://login.example.org/realms/clinic."
        )
    if not settings.oidc_client_id:
        raise ConfigError(
            "RLHF_OIDC_ISSUER is set, and RLHF_OIDC_CLIENT_ID is not. Give it the name by which the provider knows "
            "this service."
        )
    if "openid" not in settings.oidc_scopes:
        raise ConfigError(
            f"RLHF_OIDC_SCOPES={','.join(settings.oidc_scopes)!r} has no openid, without which the provider says "
            "nothing of who signs in. Add it."
        )
    return issuer


def _is_safe(address: str) -> bool:
    """Tell whether the address is https, or of this machine, where tests have their providers."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return bool(host) and safe and not parts.username and not parts.fragment


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by its way through objects, as in realm_access.roles."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _invalid(reason: object) -> Message:
    return Message(
        "What the identity provider says is not valid ({reason}). Sign in again at /sign-in; if it happens again, tell "
        "an admin.",
        reason=_short(reason),
    )


def _short(reason: object) -> str:
    return " ".join(str(reason).split())[:200] or type(reason).__name__
