"""The extra config: what is taken, and what is refused with what to write instead."""

from __future__ import annotations

from dataclasses import fields

import pytest
from pages import EXTRA

from foreword.sglang.config import SGLANG_KEYS, Config, ConfigError, Draft, parse


def test_the_least_that_an_operator_writes_is_enough():
    assert parse(EXTRA) == Config(agent="unix:/run/foreword/node.sock")


def test_every_key_of_ours_is_taken():
    ours = {
        "agent": "10.0.0.7:7500",
        "tenant": "chat",
        "revision": "r7",
        "salt": "blue",
        "draft": "eagle@3",
        "dtype": "fp8_e4m3",
        "rank_group": 4,
        "allow_clear": True,
        "token_file": "/t",
        "ca": "/ca",
        "cert": "/c",
        "key": "/k",
        "timeout_ms": 9000,
    }
    parsed = {**ours, "salt": b"blue", "draft": Draft("eagle", "3")}
    assert parse({**EXTRA, **ours}) == Config(**parsed)
    assert set(parsed) == {field.name for field in fields(Config)}


@pytest.mark.parametrize("key", SGLANG_KEYS)
def test_every_key_of_sglangs_is_known(key):
    parse({**EXTRA, key: EXTRA.get(key, 1)})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"agnet": "unix:/x"}, 'agnet: no such key; write "agent" instead'),
        ({"timeout": 5}, 'timeout: no such key; write "timeout_ms" instead'),
        ({"alow_clear": True}, 'alow_clear: no such key; write "allow_clear" instead'),
        ({"prefetch_treshold": 1}, 'prefetch_treshold: no such key; write "prefetch_threshold" instead'),
        ({"zzzzzz": 1}, "zzzzzz: no such key; ours are agent, allow_clear"),
        ({"interface_v1": 0}, 'interface_v1: expected 1, got 0; write "interface_v1": 1'),
        ({"interface_v1": None}, 'interface_v1: expected 1, got None; write "interface_v1": 1'),
        ({"agent": None}, "agent: expected .*, got nothing; write"),
        ({"agent": ""}, "agent: expected .*, got ''"),
        ({"agent": 7500}, "agent: expected .*, got 7500"),
        ({"agent": "unix:run/node.sock"}, "agent: expected an absolute path after unix:"),
        ({"agent": "/run/foreword/node.sock"}, 'agent: expected "unix:/run/foreword/node.sock" or "HOST:PORT"'),
        ({"agent": "10.0.0.7"}, "agent: expected"),
        ({"agent": "10.0.0.7:0"}, "agent: expected"),
        ({"agent": "10.0.0.7:70000"}, "agent: expected"),
        ({"agent": ":7500"}, "agent: expected"),
        ({"agent": "http://10.0.0.7:7500"}, "agent: expected"),
        ({"tenant": ""}, "tenant: expected a text that is not empty"),
        ({"tenant": 5}, "tenant: expected a text that is not empty, got 5"),
        ({"revision": 5}, "revision: expected a text"),
        ({"salt": b"x"}, "salt: expected a text"),
        ({"draft": "@3"}, 'draft: expected "MODEL" or "MODEL@REVISION"'),
        ({"draft": "eagle@"}, 'draft: expected "MODEL" or "MODEL@REVISION"'),
        ({"rank_group": 0}, "rank_group: expected a whole number from 1 to 64, got 0"),
        ({"rank_group": "8"}, "rank_group: expected a whole number"),
        ({"timeout_ms": 9001}, "timeout_ms: expected a whole number from 1 to 9000, got 9001"),
        ({"timeout_ms": True}, "timeout_ms: expected a whole number"),
        ({"timeout_ms": 0.5}, "timeout_ms: expected a whole number"),
        ({"allow_clear": "yes"}, "allow_clear: expected true or false, got 'yes'"),
        ({"cert": "/c"}, "key: expected the path of a file: cert and key come together"),
        ({"key": "/k"}, "cert: expected the path of a file: cert and key come together"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(wrong, said):
    with pytest.raises(ConfigError, match=said):
        parse({**EXTRA, **wrong})


def test_a_configuration_without_interface_v1_is_refused():
    extra = {key: value for key, value in EXTRA.items() if key != "interface_v1"}
    with pytest.raises(ConfigError, match='interface_v1: expected 1, got nothing; write "interface_v1": 1'):
        parse(extra)


def test_no_configuration_at_all_is_refused():
    with pytest.raises(ConfigError, match="interface_v1"):
        parse(None)


def test_a_draft_without_a_revision_never_changes():
    assert parse({**EXTRA, "draft": "eagle"}).draft == Draft("eagle", "static")


def test_only_the_last_at_sign_begins_a_revision():
    assert parse({**EXTRA, "draft": "hub@eagle@3"}).draft == Draft("hub@eagle", "3")
