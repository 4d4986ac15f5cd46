"""Who may come in through a provider: rules read, names judged, providers' settings refused in halves."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.identities import Identities, name_in
from app.auth import Guard, Visit
from app.door.oauth import _is_ours, id_claims, provider_of
from app.errors import SettingsError
from app.settings import Settings

GENERIC = {
    "oauth_provider": "generic",
    "oauth_key": "client",
    "oauth_roles": "ann@example.com=admin",
    "oauth_options": "AUTHORIZE_URL=https://id.example/a TOKEN_URL=https://id.example/t "
    "USER_URL=https://id.example/u",
}


def test_the_first_rule_that_fits_decides_and_none_lets_nobody_in() -> None:
    rules = Identities.parse("ann@example.com=admin, *@example.com=viewer octocat=operator")

    roles = {n: rules.role_of(n) for n in ("Ann@Example.com", "bob@example.com", "octocat", "eve")}

    assert roles == {
        "Ann@Example.com": "admin",
        "bob@example.com": "viewer",
        "octocat": "operator",
        "eve": None,
    }
    assert Identities().role_of("ann@example.com") is None
    assert rules.role_of("eve@sub.example.com") is None
    assert rules.role_of("*@example.com") == "viewer"  # no provider's name: name_in refuses it
    assert name_in({"login": "*@example.com"}, "login") == ""


@pytest.mark.parametrize(
    "text", ["*=viewer", "ann", "ann=root", "=admin", "a b=viewer", "*@*=viewer"]
)
def test_a_rule_that_is_none_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match="ARQSCOPE_OAUTH_ROLES"):
        Identities.parse(text)


@given(
    st.dictionaries(
        st.sampled_from(["email", "email_verified", "login"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.text())),
    )
)
def test_whatever_a_provider_claims_a_name_is_plain_or_none(claims: dict[str, Any]) -> None:
    for claim in ("email", "login"):
        name = name_in(claims, claim)
        assert name.isascii()
        assert not set(name) & set(" *=,\n\"'<>")
    if claims.get("email_verified") is not True and claims.get("email_verified") != "true":
        assert name_in(claims, "email") == ""


def test_one_is_not_true() -> None:
    assert name_in({"email": "a@b.c", "email_verified": True}, "email") == "a@b.c"
    assert name_in({"email": "a@b.c", "email_verified": 1}, "email") == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"oauth_provider": "pam"}, "not known"),
        ({"oauth_key": ""}, "ARQSCOPE_OAUTH_KEY"),
        ({"oauth_roles": ""}, "ARQSCOPE_OAUTH_ROLES"),
        ({"oauth_options": ""}, "AUTHORIZE_URL"),
        ({"oauth_options": GENERIC["oauth_options"].replace("https://id.example/t", "http://id.example/t")}, "TOKEN_URL"),
        ({"oauth_options": "AUTHORIZE_URL"}, "NAME=value"),
        ({"oauth_provider": "azurev2", "oauth_options": "tenant=common"}, "tenant"),
        ({"oauth_provider": "azure", "oauth_options": ""}, "tenant"),
    ],
)  # fmt: skip
def test_half_a_provider_is_refused_with_what_to_set(change: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        provider_of(Settings(**(GENERIC | change)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "host", "claim"),
    [
        ("github", "", "github.com", "login"),
        ("google", "", "accounts.google.com", "email"),
        ("gitlab", "", "gitlab.com", "username"),
        ("okta", "url=dev-1.okta.com", "dev-1.okta.com", "email"),
        ("auth0", "subdomain=ours", "ours.auth0.com", "email"),
        ("azurev2", "tenant=0f1e-ours USER_KEY=oid", "login.microsoftonline.com", "oid"),
        ("bitbucket", "", "bitbucket.org", "username"),
    ],
)
def test_panels_providers_give_their_addresses(
    name: str, options: str, host: str, claim: str
) -> None:
    asked = {**GENERIC, "oauth_provider": name, "oauth_options": options}

    made = provider_of(Settings(**asked))  # type: ignore[arg-type]

    assert made is not None
    assert f"//{host}/" in made.authorize_url
    assert made.claim == claim
    assert "access_token" not in made.user_url
    assert "offline_access" not in made.scopes


def test_a_session_of_a_provider_ends_with_its_rule() -> None:
    asked: Any = {**GENERIC, "oauth_roles": "ann=operator"}
    guard = Guard(Settings(**asked))
    cookie = guard.welcome("ann", "10.0.0.1")
    assert isinstance(cookie, str)
    visit = guard.session_of(f"arqscope_session={cookie}")
    assert isinstance(visit, Visit)

    guard.identities = Identities.parse("ann=viewer")

    assert visit.actor.role == "operator"
    assert not guard.is_live(visit)
    assert guard.session_of(f"arqscope_session={cookie}") is None
    assert not guard.is_open


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "other"},
        {"exp": 1},
        {"nonce": "other"},
        {"nonce": None},
        {"aud": None},
        {"exp": "x"},
    ],
)
def test_an_id_token_for_somebody_else_is_refused(change: dict[str, Any]) -> None:
    good = {"aud": ["client"], "exp": 9_999_999_999, "nonce": "n", "sub": "ann"}
    assert id_claims(_token(good), "client", "n")["sub"] == "ann"

    with pytest.raises(Exception, match="id token"):
        id_claims(_token(good | change), "client", "n")
    with pytest.raises(Exception, match="id token"):
        id_claims("no.token", "client", "n")


def _token(claims: dict[str, Any]) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@pytest.mark.parametrize("state", ["", "x", "²", "\udcff", "b" * 43])
def test_a_state_nobody_gave_out_is_not_ours_whatever_its_letters(state: str) -> None:
    """
    ``compare_digest`` raises TypeError for texts with letters beyond ASCII: an answer of 500.
    """
    flow = {"s": "a" * 43, "e": 9_999_999_999}

    assert not _is_ours(flow, state)
    assert not _is_ours(None, state)
    assert _is_ours(flow, "a" * 43)
