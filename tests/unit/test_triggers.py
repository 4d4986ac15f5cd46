"""Trigger rules: what fires, what a template makes of an event, what is refused at the start."""

import pytest

from app.errors import InvalidRequest, SettingsError
from app.settings import Settings
from app.streams.events import Event, matches
from app.streams.triggers import dry_run, load_rules, rules_of

SETTINGS = Settings()


def rules(**fields):
    entry = {"name": "sync", "type": "table.changed", "queue": "async-processing"}
    return rules_of([{**entry, "function": "data-sync", **fields}], SETTINGS)


def event(data=None, **fields):
    return Event(id="7-1", type=fields.pop("type", "table.changed"), data=data or {}, **fields)


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("{data.table}", "tasks"),
        ("{data.rows}", 5),
        ("{data.flags}", {"full": True}),
        ("{data.flags.full}", True),
        ("{data.list.1}", "b"),
        ("{data.none}", None),
        ("{id} {type} {userId}", "7-1 table.changed u1"),
        ("{data.rows} rows of {data.table}, {data.list}", '5 rows of tasks, ["a","b"]'),
        ("{data.missing|100}", 100),
        ("{data.missing|}", ""),
        ("{data.missing|many}", "many"),
        ("{workspaceId|none} x", "none x"),
        ("{{data.table}}", "{data.table}"),
        ("plain", "plain"),
        (7, 7),
        ([{"a": "{data.rows}"}, True], [{"a": 5}, True]),
    ],
)
def test_a_template_is_filled_with_typed_values(template, made):
    data = {
        "table": "tasks", "rows": 5, "flags": {"full": True}, "list": ["a", "b"], "none": None,
    }  # fmt: skip
    (rule,) = rules(data=template)

    filled = rule.job_data(event(data, user_id="u1"))

    assert filled == made
    assert type(filled) is type(made)


@pytest.mark.parametrize(
    "template",
    [
        "{data.__class__}", "{data.table.__class__.__mro__}", "{data.list.-1}", "{data.0}",
        "{data.table.0}", "{data.list.999999}", "{userId}",
    ],
)  # fmt: skip
def test_a_part_the_event_lacks_is_named_and_nothing_is_evaluated(template):
    (rule,) = rules(data={"x": template})

    with pytest.raises(InvalidRequest, match=r"trigger 'sync': the event has no"):
        rule.job_data(event({"table": "t", "list": []}))


def test_what_an_event_says_is_never_a_template_itself():
    (rule,) = rules(data="{data.table}/{data.other}")

    assert rule.job_data(event({"table": "{data.secret}", "other": "{{0}}"})) == (
        "{data.secret}/{{0}}"
    )


@pytest.mark.parametrize(
    ("when", "data", "fires"),
    [
        ({"data.plan": "pro"}, {"plan": "pro"}, True),
        ({"data.plan": "pro"}, {"plan": "free"}, False),
        ({"data.plan": "pro"}, {}, False),
        ({"data.plan": ["pro", "team"]}, {"plan": "team"}, True),
        ({"data.rows": 1}, {"rows": 1.0}, True),
        ({"data.rows": 1}, {"rows": True}, False),
        ({"data.rows": "1"}, {"rows": 1}, False),
        ({"data.on": True}, {"on": True}, True),
        ({"data.a.b": 1, "userId": "u1"}, {"a": {"b": 1}}, True),
        ({"data.a.b": 1, "userId": "u2"}, {"a": {"b": 1}}, False),
        ({"data": "x"}, {"x": 1}, False),
    ],
)
def test_a_condition_compares_value_and_kind(when, data, fires):
    (rule,) = rules(when=when)

    assert (rule.why_not(event(data, user_id="u1")) == "") is fires


@pytest.mark.parametrize(
    ("pattern", "event_type", "fits"),
    [
        ("user.created", "user.created", True),
        ("user.created", "user.created.late", False),
        ("user.*", "user.created", True),
        ("user.*", "user.created.late", True),
        ("user.*", "users.created", False),
        ("*", "a.b", True),
    ],
)
def test_a_pattern_is_a_type_or_a_prefix(pattern, event_type, fits):
    assert matches(pattern, event_type) is fits


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Sync!"}, "small letters"),
        ({"name": None}, "name is missing"),
        ({"type": "(a+)+$"}, "not an event pattern"),
        ({"type": "user.*.x"}, "not an event pattern"),
        ({"queue": "nowhere"}, "queue='nowhere' is not declared; there are long-running-jobs"),
        ({"function": "a b"}, "function='a b'"),
        ({"data": "{table}"}, "'table' is no part of an event"),
        ({"data": "{userId.x}"}, "only data has parts"),
        ({"data": "{data.x"}, "single {"),
        ({"data": {"x": ["}"]}}, "single }"),
        ({"data": "{}"}, "is no part"),
        ({"when": "x"}, "when is not a table"),
        ({"when": {"data.x": {"y": 1}}}, "when 'data.x'"),
        ({"when": {"x": 1}}, "'x' is no part"),
        ({"delay_s": -1}, "delay=-1"),
        ({"delay_s": "1"}, "delay='1'"),
        ({"attempts": 0}, "attempts=0"),
        ({"retries": 3}, "no field 'retries'; there are attempts"),
    ],
)
def test_a_wrong_rule_is_refused_naming_it_and_the_field(fields, said):
    with pytest.raises(SettingsError) as refused:
        rules(**fields)

    assert "[[triggers]] 1" in str(refused.value)
    assert said in str(refused.value)


def test_two_rules_cannot_share_a_name():
    entry = {"type": "a.b", "queue": "async-processing", "function": "f"}

    with pytest.raises(SettingsError, match=r"\[\[triggers\]\] 2 \(a_b\): another trigger"):
        rules_of([{"name": "a-b", **entry}, {"name": "a_b", **entry}], SETTINGS)


def test_rules_are_read_from_the_file(tmp_path):
    path = tmp_path / "arqscope.toml"
    path.write_text(
        '[[triggers]]\nname = "sync"\ntype = "airtable.*"\nqueue = "long-running-jobs"\n'
        'function = "data-sync"\ndata = { baseId = "{data.baseId}" }\nwhen = { "data.plan" = "pro" }\n'
        "delay_s = 5\nattempts = 2\n"
    )

    (rule,) = load_rules(Settings(config_file=path))

    assert (rule.delay_s, rule.options, rule.handler) == (5, {"attempts": 2}, "trigger_sync")
    assert load_rules(Settings(config_file=tmp_path / "none.toml")) == ()


def test_a_dry_run_says_what_each_rule_would_do():
    entry = {"queue": "async-processing", "function": "data-sync"}
    found = rules_of(
        [
            {"name": "fires", "type": "table.*", "data": {"t": "{data.table}"}, **entry},
            {"name": "other", "type": "user.created", **entry},
            {"name": "lacks", "type": "*", "data": "{data.nothing}", **entry},
        ],
        SETTINGS,
    )

    said = dry_run(found, event({"table": "tasks"}, correlation_id="c1"))

    assert [(one.rule, one.fires) for one in said] == [
        ("fires", True), ("other", False), ("lacks", False),
    ]  # fmt: skip
    assert said[0].job == {
        "id": "evt-7-1-trigger_fires",
        "queue": "async-processing",
        "name": "data-sync",
        "data": {"t": "tasks"},
        "options": {"delay_s": 0.0},
        "correlationId": "c1",
    }
    assert "dead letter" in said[2].why


def test_a_rule_does_not_feed_on_its_own_jobs():
    (rule,) = rules(type="job.*")

    for job_id in (
        "evt-1-0-trigger_sync",
        "evt-1-0-trigger_sync~r2",
        "evt-1-0-trigger_sync.then-1",
    ):
        about_own = event({"jobId": job_id}, type="job.completed")
        assert "this rule made" in rule.why_not(about_own)
    assert rule.why_not(event({"jobId": "j1"}, type="job.completed")) == ""
