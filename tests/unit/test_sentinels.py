"""Sentinel URLs: read as they are meant, wrong ones refused by name, passwords never shown."""

import pytest

from app.credentials import checked_by_tls
from app.errors import SettingsError
from app.sentinels import watched, watches
from app.settings import Settings, masked_url

URL = "redis+sentinel://ann:p%40ss@s1:26379,s2:26380,[::1]:26381/main/3?sentinel_password=other"


def test_a_sentinel_url_says_it_all():
    of = watched(URL)

    assert of.sentinels == (("s1", 26379), ("s2", 26380), ("::1", 26381))
    assert (of.master, of.database, of.username, of.password) == ("main", 3, "ann", "p@ss")
    assert of.sentinel_password == "other"
    assert "p@ss" not in repr(of)
    assert "other" not in repr(of)


def test_what_it_leaves_out_is_the_usual():
    of = watched("redis+sentinel://s1/main")

    assert (of.sentinels, of.database, of.password) == ((("s1", 26379),), 0, None)
    assert watches("redis+sentinel://s1/main")
    assert not watches("redis://s1/0")


@pytest.mark.parametrize(
    "url", ["redis+sentinel:///main", "redis+sentinel://s1", "redis+sentinel://s1:x/main/0"]
)
def test_a_wrong_one_is_refused_with_the_right_form(url: str):
    with pytest.raises(SettingsError, match="host:26379"):
        watched(url)


def test_settings_take_it_and_show_no_password():
    settings = Settings.load(
        {
            "REDIS_QUEUE_URL": "redis+sentinel://s1:26379,s2:26379/main/0",
            "REDIS_PASSWORD": "planted-one",
            "REDIS_SENTINEL_PASSWORD": "planted-two",
        },
        env_file=None,
    )

    url = settings.url("queue")
    of = watched(url)

    assert (of.password, of.sentinel_password) == ("planted-one", "planted-two")
    assert len(of.sentinels) == 2
    assert "planted" not in masked_url(url)
    assert "planted" not in repr(settings)
    assert {"planted-one", "planted-two"} <= set(settings.secrets())


def test_settings_refuse_a_wrong_one_without_its_password():
    with pytest.raises(SettingsError) as told:
        Settings.load({"REDIS_QUEUE_URL": "redis+sentinel://:planted@s1:26379"}, env_file=None)

    assert "REDIS_QUEUE_URL=redis+sentinel://***@s1" in str(told.value)
    assert "planted" not in str(told.value)


def test_tls_is_checked_by_host_name_behind_sentinels_too():
    of = watched(checked_by_tls("rediss+sentinel://s1/main"))

    assert of.is_tls
    assert of.ssl() == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
