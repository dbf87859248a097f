from __future__ import annotations

from supervised.differences import differences


def test_differences_name_nested_keys() -> None:
    assert list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})) == [
        ("a.c", 2, 3),
        ("d", None, 4),
    ]


def test_a_missing_key_reads_as_absent() -> None:
    assert list(differences({"a": None}, {})) == []
    assert list(differences({"a": None}, {"b": {"c": 1}}, absent="?")) == [("a", None, "?"), ("b", "?", {"c": 1})]
