"""Settings of the web server: where it listens, who may come in, which proxies are believed."""

import re

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator


class Web(BaseModel):
    """The dashboard's address, its keys, its logins and its place behind proxies."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    api_key: SecretStr | None = Field(
        default=None, description="key that the HTTP API and the login ask for"
    )
    require_api_key: bool = Field(
        default=False, description="refuse to start without API_KEY even on loopback"
    )
    queue_ui_host: str = Field(default="127.0.0.1", description="address the dashboard listens on")
    queue_ui_port: int = Field(default=8009, ge=0, le=65_535, description="port of the dashboard")
    read_only: bool = Field(
        default=False,
        validation_alias=AliasChoices("ARQSCOPE_READ_ONLY", "read_only"),
        description="refuse every action, show everything",
    )
    demo: bool = Field(
        default=False,
        validation_alias=AliasChoices("ARQSCOPE_DEMO", "demo"),
        description="say on the pages that some jobs fail on purpose; `arqscope up --demo` sets it",
    )
    prefix: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_PREFIX", "prefix"),
        description="path before every address, where a proxy serves it below one: /tools/arqscope",
    )
    trusted_proxies: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_TRUSTED_PROXIES", "trusted_proxies"),
        description="addresses or networks whose X-Forwarded-* headers are believed, comma separated",
    )
    oauth_provider: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_PROVIDER", "oauth_provider"),
        description="a provider of Panel's that people may log in with: github, google, okta, generic …",
    )
    oauth_key: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_KEY", "oauth_key"),
        description="client id at the provider",
    )
    oauth_secret: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_SECRET", "oauth_secret"),
        description="client secret at the provider",
    )
    oauth_options: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_OPTIONS", "oauth_options"),
        description="what else the provider needs: NAME=value, separated by spaces",
    )
    oauth_roles: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_ROLES", "oauth_roles"),
        description="who may come in as what: ann@example.com=admin *@example.com=viewer; nobody else may",
    )
    frame_ancestors: str = Field(
        default="'none'",
        validation_alias=AliasChoices("ARQSCOPE_FRAME_ANCESTORS", "frame_ancestors"),
        description="who may show the pages in a frame, as in Content-Security-Policy: 'self' https://lab",
    )

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_path(cls, prefix: str) -> str:
        plain = "/" + prefix.strip("/") if prefix.strip("/") else ""
        if plain and not re.fullmatch(r"(/[A-Za-z0-9][A-Za-z0-9_.-]*){1,8}", plain):
            raise ValueError("a path such as /tools/arqscope: letters, digits and _.- only")
        return plain

    @field_validator("frame_ancestors")
    @classmethod
    def _ancestors_are_sources(cls, listed: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9'*:/._\[\] -]+", listed):
            raise ValueError("'none', 'self' or origins, separated by spaces")
        return " ".join(listed.split())
