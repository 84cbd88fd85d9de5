"""What the records show of themselves."""

from __future__ import annotations

from embeddings import CollectionRecord, EmbeddingRecord


def test_a_record_shows_its_name_and_nothing_of_its_content():
    """A repr may end up in a log, where contents have no place."""
    record = EmbeddingRecord(id="hound", embedding=[1.0], content="secret")
    assert repr(record) == "<EmbeddingRecord 'hound'>"
    assert repr(CollectionRecord(name="docs", model="m")) == "<CollectionRecord 'docs'>"
