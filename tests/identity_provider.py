"""A real OpenID Connect provider on loopback, which can be away, change its keys, and say what it must not say."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx2
import pytest
from authlib.deprecate import AuthlibDeprecationWarning
from flask import g
from joserfc import jwt
from joserfc.jwk import RSAKey
from patience import PATIENCE_S
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request

from rlhf_loop.accounts import oidc

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CLIENT, SECRET = "rlhf", "the client's secret"
#: It uses its own library in older ways, which that complains of.
THE_PROVIDERS_OWN = [
    pytest.mark.filterwarnings("ignore::authlib.deprecate.AuthlibDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning"),
]


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        pass


class IdentityProvider:
    """oidc-provider-mock behind a socket; `seen` has the paths and forms of what it was asked.

    `tamper` may change the answer to a path. It has no redirect of its own, so a test plays the person there.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # Its own way of signing is an older one of its library.
            warnings.simplefilter("ignore", AuthlibDeprecationWarning)
            from oidc_provider_mock import app

            self._app = app(require_nonce=True)
        self.seen: list[tuple[str, Mapping[str, str]]] = []
        self.tamper: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda path, answer: answer
        self._server: BaseWSGIServer | None = None
        self.port = 0
        self.start()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """The settings of a service that trusts it, where the claim `groups` has the roles."""
        given = {"oidc_issuer": self.issuer, "oidc_client_id": CLIENT, "oidc_client_secret": SECRET}
        return {**given, "sso_admins": ("chiefs",), "sso_raters": ("experts",), "oidc_recheck_s": 0.0, **more}

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True, request_handler=_Quiet)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Be away, until `start`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def person(self, subject: str, **claims: Any) -> None:
        """Have an account, or change its claims."""
        httpx2.put(f"{self.issuer}/users/{subject}", json=claims, timeout=PATIENCE_S).raise_for_status()

    def revoke(self, subject: str) -> None:
        """Take back all that was given for an account."""
        httpx2.post(f"{self.issuer}/users/{subject}/revoke-tokens", timeout=PATIENCE_S).raise_for_status()

    def signed_in(self, address: str, subject: str) -> str:
        """Sign in at the address to which the service led, and return that to which the provider leads back."""
        answer = httpx2.post(address, data={"sub": subject}, timeout=PATIENCE_S)
        assert answer.status_code == 302, answer.text
        return str(answer.headers["Location"])

    def change_keys(self) -> None:
        """Sign by another key from now on; the former one is not published any more."""
        self._storage().jwk = self._new_key()

    def sign(self, claims: Mapping[str, Any], *, alg: str = "RS256", key: Any = None, **header: Any) -> str:
        """Return a token of the provider's, or by another key or algorithm."""
        own = RSAKey.import_key(self._storage().jwk.as_dict(is_private=True))
        head = {"alg": alg, "kid": own.kid or own.thumbprint(), **header}
        return jwt.encode(head, dict(claims), key or own, algorithms=[alg])

    def confused(self, claims: Mapping[str, Any]) -> str:
        """Return a token that is signed by the public key, as if that were a secret, which libraries refuse to do."""
        pem = RSAKey.import_key(self._storage().jwk.as_dict(is_private=True)).as_pem(private=False)
        parts = ({"alg": "HS256", "typ": "JWT"}, dict(claims))
        signed = b".".join(_coded(json.dumps(part).encode()) for part in parts)
        return (signed + b"." + _coded(hmac.digest(pem, signed, "sha256"))).decode()

    def claims(self, subject: str, **more: Any) -> dict[str, Any]:
        """The claims of a token for the service, by now."""
        now = int(time.time())
        base = {"iss": self.issuer, "aud": CLIENT, "sub": subject, "iat": now, "exp": now + 300}
        return {name: value for name, value in {**base, **more}.items() if value is not None}

    def asked(self, path: str) -> list[Mapping[str, str]]:
        return [form for seen, form in self.seen if seen == path]

    def _new_key(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AuthlibDeprecationWarning)
            return type(self._storage().jwk).generate_key(is_private=True)

    def _storage(self) -> Any:
        with self._app.test_request_context():
            self._app.preprocess_request()
            return g.oidc_provider_mock_storage

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        path, form = request.path, dict(parse_qsl(request.get_data(cache=True).decode("latin-1")))
        self.seen.append((path, {**dict(request.args), **form}))
        environ["wsgi.input"] = request.stream if request.method == "GET" else _again(request)
        found: list[Any] = []
        body = b"".join(self._app.wsgi_app(environ, lambda status, headers, *_: found.append((status, headers))))
        status, headers = found[0]
        if "json" in dict(headers).get("Content-Type", ""):
            body = json.dumps(self.tamper(path, json.loads(body))).encode()
            headers = [(name, value) for name, value in headers if name != "Content-Length"]
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]


def _again(request: Request) -> Any:
    from io import BytesIO

    return BytesIO(request.get_data(cache=True))


def _coded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def query(address: str) -> dict[str, str]:
    """The parameters of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


def with_query(address: str, **changes: str | None) -> str:
    """The address with other parameters."""
    values = {**query(address), **changes}
    given = {name: value for name, value in values.items() if value is not None}
    return urlsplit(address)._replace(query=urlencode(given)).geturl()


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    with pytest.MonkeyPatch.context() as patch:
        # The provider's own, which would want TLS.
        patch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
        patch.setattr(oidc, "TIMEOUT_S", PATIENCE_S)
        provider = IdentityProvider()
        try:
            yield provider
        finally:
            provider.stop()
