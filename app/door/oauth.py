"""Login through an OAuth provider: it says who somebody is, we decide what they may.

Addresses and scopes are those of Panel's providers (``panel.auth``); the flow is ours: a signed state and a
PKCE verifier in one short-lived cookie, no token kept anywhere, and at its end the same session cookie that a
key opens. Panel's own login handlers are never mounted: they would let in whoever has an account.
"""

import base64
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from app.access.identities import name_in
from app.auth import Guard, Refusal, safe_next
from app.door.entrance import PAGE
from app.door.login import DoorHandler, Tell
from app.errors import SettingsError
from app.origins import is_loopback
from app.settings import Settings

log = logging.getLogger("arqscope.oauth")

FLOW_COOKIE: Final = "arqscope_login"
#: s somebody may take at the provider
FLOW_S: Final = 600
#: s the provider may take for one answer, and how long that may be
ANSWER_S: Final = 6.0
MAX_ANSWER_BYTES: Final = 262_144
#: providers of Panel's that redirect; the others want a password typed here
OFFERED: Final[Mapping[str, str]] = {
    "auth0": "Auth0",
    "azure": "Microsoft",
    "azurev2": "Microsoft",
    "bitbucket": "Bitbucket",
    "generic": "your organisation",
    "github": "GitHub",
    "gitlab": "GitLab",
    "google": "Google",
    "okta": "Okta",
}
#: tenants that are everybody's: names in them prove nothing
_ANY_TENANT: Final = frozenset({"", "common", "organizations", "consumers"})
_ANSWER_PAGE: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="refresh" content="0;url={target}"><title>arqscope</title></head>
<body><p><a href="{target}">Go on</a></p></body></html>"""


@dataclass(frozen=True, slots=True)
class Provider:
    """Where to send people, where to ask who they are, and as whom we ask."""

    title: str
    authorize_url: str
    token_url: str
    user_url: str  #: empty: the id token says it
    claim: str  #: what names a person
    scopes: tuple[str, ...]
    key: str
    secret: str = field(repr=False)
    extra: Mapping[str, str]  #: for the provider's page
    headers: Mapping[str, str]


def provider_of(settings: Settings) -> Provider | None:
    """Return the provider of the settings, None when there is none; SettingsError for half a one."""
    name = settings.oauth_provider
    if not name:
        return None
    if name not in OFFERED:
        raise SettingsError(
            f"ARQSCOPE_OAUTH_PROVIDER={name[:40]!r} is not known: {', '.join(sorted(OFFERED))}"
        )
    if not settings.oauth_key or not settings.oauth_roles:
        raise SettingsError(
            "ARQSCOPE_OAUTH_PROVIDER needs ARQSCOPE_OAUTH_KEY, and ARQSCOPE_OAUTH_ROLES for who may come in"
        )
    options = _options(settings.oauth_options)
    if name.startswith("azure") and options.get("tenant", "") in _ANY_TENANT:
        raise SettingsError(
            "ARQSCOPE_OAUTH_OPTIONS: tenant=… must be your own; in a tenant of everybody names prove nothing"
        )
    return _of_panel(name, options, settings)


def _options(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split()]
    wrong = [name for name, _, value in pairs if not name or not value]
    if wrong:
        raise SettingsError(
            f"ARQSCOPE_OAUTH_OPTIONS: {wrong[0][:40]!r} is not NAME=value, separated by spaces"
        )
    return {name: value for name, _, value in pairs}


def _of_panel(name: str, options: Mapping[str, str], settings: Settings) -> Provider:
    # only where somebody logs in this way
    from panel.auth import AUTH_PROVIDERS, RESERVED_OAUTH_PARAMS
    from panel.config import config as panel_config

    config: Any = panel_config

    scope = {"scope": options["scope"].split(",")} if "scope" in options else {}
    config.oauth_extra_params = {**options, **scope}
    kind: Any = AUTH_PROVIDERS[name]
    theirs = kind.__new__(kind)  # its addresses are properties that need no request
    user_url = getattr(theirs, "_OAUTH_USER_URL", "")
    secret = settings.oauth_secret
    made = Provider(
        title=OFFERED[name],
        authorize_url=_address(theirs._OAUTH_AUTHORIZE_URL, "AUTHORIZE_URL"),
        token_url=_address(theirs._OAUTH_ACCESS_TOKEN_URL, "TOKEN_URL"),
        user_url=_address(user_url, "USER_URL") if user_url else "",
        claim=options.get("USER_KEY") or theirs._USER_KEY,
        # a token that outlives the login is of no use here
        scopes=tuple(one for one in theirs._SCOPE or () if one != "offline_access"),
        key=settings.oauth_key,
        secret=secret.get_secret_value() if secret else "",
        extra={n: v for n, v in options.items() if n not in RESERVED_OAUTH_PARAMS},
        headers=dict(theirs._API_BASE_HEADERS),
    )
    config.oauth_extra_params = {}
    return made


def _address(url: str | None, what: str) -> str:
    parts = urlsplit(url or "")
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if not safe or not parts.hostname or "{" in (url or ""):
        raise SettingsError(
            f"ARQSCOPE_OAUTH_OPTIONS: {what}={str(url)[:80]!r} must be an https address"
        )
    # some of Panel's carry the token in the address, where every log would keep it
    return (url or "").removesuffix("?access_token=")


class _Failed(Exception):
    """The provider did not say who somebody is; the text is for the log."""


class OAuthHandler(DoorHandler):
    """Send people to the provider, and let in again who comes back and is listed."""

    def initialize(
        self, guard: Guard, tell: Tell, title: str = "", provider: Provider | None = None
    ) -> None:
        """Take guard and provider (Tornado calls this with the route's arguments)."""
        super().initialize(guard, tell, title)
        self._provider = provider

    async def get(self) -> None:
        """Begin a login, or end the one that was begun."""
        self.set_header("Cache-Control", "no-store")
        if self._provider is None:
            self.redirect(f"{self._prefix}/login", status=303)
            return
        if not any(self.get_query_arguments(name) for name in ("code", "error", "state")):
            self._begin(self._provider)
            return
        flow = self._guard.unseal(self.get_cookie(FLOW_COOKIE, "") or "")
        self.clear_cookie(FLOW_COOKIE, path=self._flow_path)
        await self._end(self._provider, flow)

    @property
    def _flow_path(self) -> str:
        return f"{self._prefix}/login/oauth"

    @property
    def _redirect_uri(self) -> str:
        return f"{self.request.protocol}://{self.request.host}{self._flow_path}"

    def _begin(self, provider: Provider) -> None:
        state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        flow = {
            "s": state,
            "v": verifier,
            "o": nonce,
            "n": safe_next(self.get_query_argument("next", PAGE)),
            "e": int(time.time()) + FLOW_S,
        }
        # Lax: the way back is a navigation that another site begins, where a Strict cookie stays at home.
        self.set_cookie(
            FLOW_COOKIE,
            self._guard.seal(flow),
            path=self._flow_path,
            max_age=FLOW_S,
            httponly=True,
            samesite="Lax",
            secure=self.request.protocol == "https",
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        asked = {
            **provider.extra,
            "response_type": "code",
            "client_id": provider.key,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(provider.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge.decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        mark = "&" if "?" in provider.authorize_url else "?"
        self.redirect(provider.authorize_url + mark + urlencode(asked), status=303)

    async def _end(self, provider: Provider, flow: Any) -> None:
        peer = self.request.remote_ip or ""
        wait_s = self._guard.throttle.wait_s(peer, "")
        if wait_s:
            again = {"Retry-After": str(wait_s)}
            hint = f"wait {wait_s} s"
            self._fail(Refusal(429, "too_many_failures", "too many logins failed", hint, again))
            return
        state = self.get_query_argument("state", "")
        if not _is_ours(flow, state):
            # not counted as a wrong key: any page's <img> may ask this, and a state cannot be guessed
            self._fail(Refusal(403, "not_begun", "this login was not begun here", "begin it again"))
            return
        said = self.get_query_argument("error", "")
        if said:
            word = said if re.fullmatch(r"[a-z_]{1,40}", said) else "error"
            self._fail(Refusal(403, "provider_refused", f"the provider refused: {word}", ""))
            return
        try:
            claims = await self._ask_who(provider, self.get_query_argument("code", ""), flow)
        except _Failed as error:
            log.warning("login failed", extra={"problem": str(error), "peer": peer})
            hint = "try again, or log in with a key"
            self._fail(Refusal(502, "provider", "the provider did not say who you are", hint))
            return
        name = name_in(claims, provider.claim)
        answer = self._guard.welcome(name, peer)
        if isinstance(answer, Refusal):
            log.warning("login not listed", extra={"who": name or "unverified", "peer": peer})
            self._fail(answer)
            return
        await self._tell(name, "login", peer)
        self.set_session(answer)
        # A redirect would still belong to the provider's navigation, and go without the Strict cookie.
        target = escape(self._prefix + safe_next(str(flow["n"])), quote=True)
        self.write(_ANSWER_PAGE.format(target=target))

    def _fail(self, refusal: Refusal) -> None:
        self.refuse(refusal, PAGE, "")

    async def _ask_who(
        self, provider: Provider, code: str, flow: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Exchange *code* for a token, the token for what the provider knows; the token is dropped."""
        if not 1 <= len(code) <= 4_096:
            raise _Failed("no code")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "client_id": provider.key,
            "code_verifier": flow["v"],
        }
        if provider.secret:
            form["client_secret"] = provider.secret
        client = AsyncHTTPClient(force_instance=True, max_body_size=MAX_ANSWER_BYTES)
        try:
            tokens = await _fetched(client, provider.token_url, provider.headers, urlencode(form))
            if provider.user_url:
                token = tokens.get("access_token")
                if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,8192}", token):
                    raise _Failed("no access token")
                bearer = {**provider.headers, "Authorization": f"Bearer {token}"}
                return await _fetched(client, provider.user_url, bearer)
        finally:
            client.close()
        return id_claims(tokens.get("id_token"), provider.key, str(flow["o"]))


def _is_ours(flow: Any, state: str) -> bool:
    """Whether *flow* is of a login that was begun here, with *state*, not long ago."""
    if not isinstance(flow, dict):
        return False
    begun = str(flow.get("s", "")).encode()
    return hmac.compare_digest(begun, state.encode("utf-8", "replace")) and (
        time.time() < int(flow.get("e", 0))
    )


async def _fetched(
    client: AsyncHTTPClient, url: str, headers: Mapping[str, str], form: str | None = None
) -> Mapping[str, Any]:
    """Ask the provider; the answer is an object of JSON, and no redirect."""
    try:
        answer = await client.fetch(
            url,
            method="GET" if form is None else "POST",
            body=form,
            headers={**headers, "Accept": "application/json"},
            connect_timeout=ANSWER_S,
            request_timeout=ANSWER_S,
            follow_redirects=False,
        )
        found = json.loads(answer.body)
    except HTTPClientError as error:
        raise _Failed(f"{urlsplit(url).hostname} answered {error.code}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _Failed(f"{urlsplit(url).hostname}: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise _Failed(f"{urlsplit(url).hostname} answered no object")
    return found


def id_claims(token: Any, audience: str, nonce: str) -> Mapping[str, Any]:
    """Return what an id token says that the provider gave us itself, over TLS, for this very login.

    Its signature would prove who sent it; that it came from the token address does.
    """
    try:
        _, body, _ = str(token).split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        good = (
            audience in audiences
            and time.time() < float(claims["exp"])
            and hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode())
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Failed("the id token is none") from error
    if not good:
        raise _Failed("the id token is not for this login")
    return dict(claims)
