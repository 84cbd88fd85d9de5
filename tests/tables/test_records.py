"""What the records show of themselves."""

from __future__ import annotations

from embeddings import CollectionRecord, EmbeddingRecord


def test_a_record_shows_its_id_and_the_beginning_of_its_content():
    """As much as tells which one it is; nothing is loaded for it."""
    record = EmbeddingRecord(id="hound", embedding=[1.0], content="my happy\nhound " * 50)
    assert repr(record).startswith("<EmbeddingRecord 'hound': my happy hound my happy")
    assert repr(record).endswith("…>")
    assert len(repr(record)) < 100
    assert repr(EmbeddingRecord(id="a", embedding=[1.0])) == "<EmbeddingRecord 'a'>"
    assert repr(CollectionRecord(name="docs", model="m")) == "<CollectionRecord 'docs'>"
