"""The published schemas: readable by both Avro libraries, documented, compatible with their past, and in use."""

import json
from copy import deepcopy
from itertools import pairwise
from typing import Any, cast

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from fastavro import parse_schema
from fastavro.schema import to_parsing_canonical_form

import schemas
from pipeline.kafka.topics import TOPICS

Schema = dict[str, Any]
VERSIONS = [(name, number) for name in schemas.names() for number in schemas.versions(name)]


def reads(reader: Schema, writer: Schema) -> list[str]:
    """Why a reader of one schema cannot read what was written with another; nothing: it can."""
    checked = ReaderWriterCompatibilityChecker().get_compatibility(
        avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
    )
    return [] if checked.compatibility is SchemaCompatibilityType.compatible else sorted(checked.messages)


def breaks(old: Schema, new: Schema) -> list[str]:
    """Why two versions cannot live side by side: backward, then forward."""
    return [f"backward: {why}" for why in reads(new, old)] + [f"forward: {why}" for why in reads(old, new)]


def simple(schema: Any) -> Any:
    """`{"type": "long"}` as `"long"`: rule PRIMITIVES of the canonical form, which the avro package forgets."""
    if isinstance(schema, list):
        return [simple(one) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    members = {name: simple(value) for name, value in cast("Schema", schema).items()}
    return members["type"] if members.keys() == {"type"} else members


@pytest.mark.parametrize(("name", "number"), VERSIONS)
def test_both_libraries_read_a_schema_alike_and_it_says_what_it_is(name: str, number: int) -> None:
    schema = schemas.versions(name)[number]
    parsed = avro.schema.parse(json.dumps(schema))
    parse_schema(schema)
    canonical = to_parsing_canonical_form(schema)
    assert simple(json.loads(parsed.canonical_form)) == json.loads(canonical)

    assert (schema["namespace"], bool(schema["doc"])) == ("leadtime", True)
    first = schema["fields"][0]
    assert (first["name"], first["type"], first["default"]) == ("schema_version", "int", number)
    # Columns of numbers are bytes: only their doc says what is in them.
    assert [
        field["name"] for field in schema["fields"] if field["type"] == "bytes" and not field.get("doc")
    ] == []


@pytest.mark.parametrize("name", schemas.names())
def test_versions_have_no_gaps_and_each_lives_with_the_one_before(name: str) -> None:
    versions = schemas.versions(name)
    assert list(versions) == list(range(1, len(versions) + 1))
    for number, (old, new) in enumerate(pairwise(versions.values()), 2):
        assert breaks(old, new) == [], f"{name} {number}"


def changed(**fields: Any) -> Schema:
    """The metric schema with fields put in, or taken out where None."""
    schema = deepcopy(schemas.versions("metric")[1])
    kept = [field for field in schema["fields"] if field["name"] not in fields]
    schema["fields"] = kept + [{"name": name} | field for name, field in fields.items() if field]
    return schema


METRIC = changed()


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (changed(added={"type": "int"}), ["backward"]),  # old records lack it
        (changed(app=None), ["forward"]),  # old readers want it
        (changed(cpu={"type": ["null", "string"], "default": None}), ["backward", "forward"]),
        (changed(cpu={"type": "double", "default": 0.0}), ["backward"]),  # old ones may be null
        (changed(ts={"type": "int"}), ["backward"]),  # an int is read as a long, not the reverse
        (METRIC | {"name": "Sample"}, ["backward", "forward"]),
        (changed(added={"type": "int", "default": 0}), []),
        (changed(cpu=None), []),  # it had a default
    ],
)
def test_what_breaks_is_found(new: Schema, why: list[str]) -> None:
    assert sorted({message.partition(":")[0] for message in breaks(METRIC, new)}) == why


def test_every_topic_has_published_schemas_and_every_schema_a_topic() -> None:
    used = {name for topic in TOPICS.values() for name in topic.schemas}
    assert used == set(schemas.names())
    assert [
        name for name, topic in TOPICS.items() if not topic.schemas and not name.startswith("state.")
    ] == []


def test_full_names_are_of_one_record_each() -> None:
    names = [schema["name"] for name in schemas.names() for schema in [schemas.versions(name)[1]]]
    assert len(set(names)) == len(names)
    for name in schemas.names():
        assert {schema["name"] for schema in schemas.versions(name).values()} == {
            schemas.versions(name)[1]["name"]
        }
