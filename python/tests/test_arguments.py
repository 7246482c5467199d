"""What can be nothing is refused at once, by its name."""

from __future__ import annotations

import pytest
from support import spec

from foreword import _native


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ('address: expected host:port or unix:/path, got "agent"', {"address": "agent"}),
        ("address: expected .*unix:relative", {"address": "unix:relative"}),
        ("address: expected .*http://a:1", {"address": "http://a:1"}),
        ("tenant: expected 1 to 256 bytes, got 0", {"tenant": ""}),
        ("tenant: expected 1 to 256 bytes, got 300", {"tenant": "t" * 300}),
        ("timeout_ms: expected 1 to 600000, got 0", {"timeout_ms": 0}),
        ("token: expected none", {"token": "secret"}),
        ("ca: expected none", {"ca": "/ca.pem"}),
        ("cert: expected none", {"cert": "/cert.pem"}),
        ("key: expected none", {"key": "/key.pem"}),
    ],
)
def test_a_connection_names_what_it_cannot_use(words: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=words):
        _native.Connection(**({"address": "unix:/nonexistent"} | arguments))


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("namespace.page_tokens: expected 1 to 8192, got 0", {"page_tokens": 0}),
        ("namespace.page_tokens: expected an int .*, got -1", {"page_tokens": -1}),
        ("namespace.page_tokens: expected an int .*, got 'many'", {"page_tokens": "many"}),
        ("namespace.model: expected a value, got none", {"model": ""}),
        ("namespace.model: expected a str, got 7", {"model": 7}),
        ("namespace.shard_bytes: expected 1 to 64 sizes, got 0", {"shard_bytes": []}),
        ("namespace.shard_bytes: expected a list of sizes in bytes, got 7", {"shard_bytes": 7}),
        ("namespace.shard_bytes: expected positive sizes", {"shard_bytes": [0]}),
        ("namespace.salt: expected bytes, got 'salt'", {"salt": "salt"}),
        ("namespace.cp_rank: expected a rank below its size 1, got 1", {"cp_rank": 1}),
        ("namespace.draft_revision: expected a value exactly when", {"draft_model": "draft"}),
        ('namespace.tenant: expected the connection.s, "default", got "other"', {"tenant": "other"}),
        ("namespace.colour: expected a field of a namespace", {"colour": "red"}),
    ],
)
def test_a_namespace_names_the_field(words: str, fields: dict) -> None:
    connection = _native.Connection("unix:/nonexistent")
    with pytest.raises(ValueError, match=words):
        connection.namespace(spec("model") | fields)
    connection.close()


OPTIONAL = {"tenant", "draft_model", "draft_revision", "salt"}


@pytest.mark.parametrize("field", sorted(spec("model")))
def test_a_field_that_is_missing_is_named_unless_it_has_a_default(field: str) -> None:
    connection = _native.Connection("unix:/nonexistent", tenant="default")
    fields = spec("model")
    whole = connection.namespace(fields).fingerprint
    del fields[field]
    if field in OPTIONAL:
        assert connection.namespace(fields).fingerprint == whole
    else:
        with pytest.raises(ValueError, match=rf"namespace\.{field}: expected .*, got none"):
            connection.namespace(fields)
    connection.close()


def test_a_spec_is_not_changed() -> None:
    connection = _native.Connection("unix:/nonexistent")
    fields = spec("model")
    connection.namespace(fields)
    assert fields == spec("model")
    connection.close()


def test_a_timeout_that_can_be_none_is_named() -> None:
    connection = _native.Connection("unix:/nonexistent")
    namespace = connection.namespace(spec("model"))
    with pytest.raises(ValueError, match="timeout_ms: expected 1 to 600000, got 0"):
        namespace.lookup(["key"], timeout_ms=0)
    connection.close()
