"""Writing to a collection: embedding and storing items, their metadata, deleting them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from .databases.postgresql import index as hnsw
from .errors import InvalidItemError, InvalidQueryError, ModelMismatchError
from .keys import K
from .models import registry
from .models.base import BATCH_SIZE, batches, check_batch_size, check_content, kinds
from .searching.query import where_condition
from .sql import changed, connection_of, delete_rows, dialect_of, is_one_of, starts_with
from .tables.columns import dump_metadata, load_metadata
from .tables.records import now
from .target import Target
from .vectors import ITEM_BYTES, as_vector
from .writing import resolve as ingest
from .writing import rows as upsert
from .writing.items import Item, Prepared, checked_content, fold, unpacked
from .writing.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from .keys import Key
    from .models.base import Content, Kind, SupportsEmbedding
    from .searching.query import Where
    from .sql import Found
    from .tables.columns import Metadata
    from .vectors import Float32
    from .writing.items import ContentKey
    from .writing.resolve import Resolution


class Writable(Target[K]):
    """Everything about a collection that writes items."""

    def embed(
        self,
        id: Key,
        value: Content | Prepared,
        metadata: Metadata | None = None,
        store: bool = False,
        *,
        force: bool = False,
    ) -> None:
        """Embed the value and store its vector under the id.

        The model is called only if no row of the collection has the value's vector. The same
        value under the same id leaves the row as it is, but for metadata and content that are
        given now; another value replaces the row as a whole.

        Args:
            id: In the type of the collection's keys.
            value: Text or bytes, or what `prepare` returned, which calls no model here.
            metadata: A dict of JSON; not given, that of the same value stays.
            store: Store the value itself as well.
            force: Call the model even if the vector is there.

        Raises:
            InvalidItemError: Something cannot be stored; nothing was spent or written.
            InvalidVectorError: The model's vector has another length than the collection's.
            ModelError: The model failed; nothing was written.
            DoesNotExist: The collection was deleted, or does not exist and `create` is false.
        """
        vectors: dict[ContentKey, Float32] = {}
        if isinstance(value, Prepared):
            prepared, value = value, value.content
            item = self._item(id, value, metadata, store)
            with self._session() as session:
                model_id = self._model_id_of(self._find(session))
            if prepared.model_id != model_id:
                raise ModelMismatchError(self._name, model_id, prepared.model_id)
            vectors[item.key] = as_vector(prepared.vector, label="prepared vector")
        else:
            item = self._item(id, value, metadata, store)
        self._embed([item], vectors, force=force)

    def embed_multi(
        self,
        entries: Iterable[tuple[Key, Content]],
        store: bool = False,
        batch_size: int = BATCH_SIZE,
        *,
        force: bool = False,
    ) -> None:
        """Embed and store many values, as `embed` does each.

        Args:
            entries: (id, value) pairs; a generator of any length, read a batch at a time.
            store: Store the values as well.
            batch_size: The most values in one call of the model; a smaller `batch_size` of the
                model goes first. On an engine each batch is a transaction: what was paid for stays.
            force: Call the model even for vectors that are there.

        Raises:
            ValueError: `batch_size` is not a positive integer.

            And what `embed` raises; the batches before the failing one are written.
        """
        pairs = (unpacked(entry, 2, 2) for entry in entries)
        self._embed_batches(((id, value, None) for id, value in pairs), store, batch_size, force)

    def embed_multi_with_metadata(
        self,
        entries: Iterable[tuple[Key, Content, Metadata | None]],
        store: bool = False,
        batch_size: int = BATCH_SIZE,
        *,
        force: bool = False,
    ) -> None:
        """Embed and store many values with metadata, as `embed_multi`.

        Args:
            entries: (id, value, metadata) triples; a generator of any length.
            store: Store the values as well.
            batch_size: As in `embed_multi`.
            force: Call the model even for vectors that are there.
        """
        triples = (unpacked(entry, 3, 3) for entry in entries)
        self._embed_batches(triples, store, batch_size, force)

    def plan(
        self, entries: Iterable[tuple[Any, ...]], store: bool = False, *, force: bool = False
    ) -> Plan[K]:
        """Return what writing these values takes, having read what is there: no model is called.

        On a session the transaction can be ended then, so that none is open while the model runs:

            plan = docs.plan(entries)
            session.commit()
            plan.embed()
            docs.apply(plan)
            session.commit()

        Args:
            entries: (id, value) or (id, value, metadata) tuples. All are held in memory.
            store: Store the values as well.
            force: Call the model even for vectors that are there.

        Raises:
            InvalidItemError: Something cannot be stored.
        """
        unpackeds = ((*unpacked(entry, 2, 3), None)[:3] for entry in entries)
        items = [self._item(id, value, metadata, store) for id, value, metadata in unpackeds]
        return self._planned(items, {}, force=force)

    def apply(self, plan: Plan[K]) -> None:
        """Write what was planned, in one transaction.

        What is there is read again. The model is called here only for items that were unchanged
        when they were planned, and that another writer has changed or deleted since.

        Raises:
            InvalidItemError: The plan is another collection's, or has contents without a vector:
                call its `embed` first. Nothing was written.
            ModelMismatchError: The collection has another model by now.
            InvalidVectorError: The vectors have another length than the collection's.
        """
        if plan.collection not in {self._name, *(name for name, _ in self._renamed)}:
            raise InvalidItemError(
                f"This plan is for the collection {plan.collection!r}, not {self._name!r}"
            )
        if plan.contents:
            raise InvalidItemError(
                f"{len(plan.contents)} contents of this plan have no vector yet: call plan.embed()"
            )
        self._check_model_id(plan.model_id)
        if plan._lists != [[]]:
            self._write(plan)

    def prepare(self, value: Content) -> Prepared:
        """Call the model for a value that `embed` is to store later.

        With `model=` or `model_id=` given to the collection, no database is touched.

        Raises:
            InvalidItemError: The value cannot be embedded.
            ModelError: The model failed.
        """
        checked_content(value)
        model = self._known_model()
        check_content(model, value)
        return Prepared(value, self._vectors(model, [value])[0], model.model_id)

    def embed_query(self, value: Content) -> Float32:
        """Return the vector of a value to search for with `similar_by_vector`, shape (dimensions,).

        As with `prepare`, no database is touched if the collection was given its model.
        """
        return self.prepare(value).vector

    def store_vectors(
        self, entries: Iterable[tuple[Any, ...]], batch_size: int = BATCH_SIZE
    ) -> None:
        """Store vectors that were made elsewhere. No model is called, and none need be known.

        Rows that are there are replaced as a whole.

        Args:
            entries: (id, vector), (id, vector, metadata) or (id, vector, metadata, content)
                tuples; a generator of any length. A vector is a NumPy array or an iterable of
                numbers; metadata may be None; a content is text, and is stored.
            batch_size: Rows written at once; on an engine, in one transaction.

        Raises:
            InvalidItemError: An id, metadata or content cannot be stored.
            InvalidVectorError: A vector is not finite, or not of the collection's length.
        """
        check_batch_size(batch_size)
        for batch in batches(map(self._vector_row, entries), batch_size):
            rows = {row["id"]: row for row in batch}
            with self._session(write=True) as session:
                found = self._find_or_create(session)
                todo = ingest.Resolution([rows[id] for id in sorted(rows)])
                upsert.write(session, self._records, found, todo)

    def set_metadata(self, id: Key, metadata: Metadata | None) -> None:
        """Replace the metadata of an item; None removes it. No model is called.

        Raises:
            DoesNotExist: There is no such item.
            InvalidItemError: The metadata is not JSON.
        """
        text = self._keys.to_text(id)
        # A copy, which the record of a session may keep.
        copy = None if metadata is None else load_metadata(dump_metadata(metadata))
        entity = self._records.embedding
        statement = update(entity).values({entity.metadata_: copy, entity.updated: now()})
        with self._session(write=True) as session:
            found = self._existing(session)
            this = statement.where(entity.collection_id == found.id, entity.id == text)
            if not changed(session, self._records, this):
                raise self.DoesNotExist("ID not found")

    def delete_items(
        self,
        ids: Iterable[Key] | None = None,
        *,
        prefix: str | None = None,
        where: Where | None = None,
    ) -> int:
        """Delete items and return how many there were. What is given has to hold all at once.

        Args:
            ids: These; ids that are not there do not matter.
            prefix: Those whose id begins with it.
            where: Those that a SQL expression or a dict of metadata picks, as in `similar`.

        Raises:
            InvalidQueryError: Nothing was given: to delete everything there is `delete()`.
        """
        entity = self._records.embedding
        conditions: list[ColumnElement[bool]] = []
        if ids is not None:
            if isinstance(ids, str | bytes):
                raise InvalidQueryError("ids must be an iterable of ids, not a single one")
            conditions.append(
                is_one_of(self._records.embeddings.c.id, [self._keys.to_text(id) for id in ids])
            )
        if prefix is not None and prefix != "":
            conditions.append(starts_with(self._records.embeddings.c.id, prefix))
        if where is not None and where != {}:
            conditions.append(where_condition(self._records, where))
        if not conditions:
            raise InvalidQueryError("give ids, prefix= or where=; delete() deletes the collection")
        with self._session(write=True) as session:
            found = self._find(session)
            if found is None:
                return 0
            conditions.append(entity.collection_id == found.id)
            count = delete_rows(session, self._records, conditions)
            upsert.refresh(session, self._records, found.id)
            return count

    @staticmethod
    def content_hash(input: Content) -> bytes:
        """Return what equal contents are recognised by: 16 bytes of MD5. Override to change it."""
        data = input.encode() if isinstance(input, str) else input
        return hashlib.md5(data, usedforsecurity=False).digest()

    # The steps of the operations above

    def _find_or_create(self, session: Session, model_id: str | None = None) -> Found:
        found = super()._find_or_create(session, model_id)
        if found.size is None and dialect_of(session, self._records).name == "postgresql":
            # An index outlives the last row, and takes no others than it was made for.
            index = hnsw.index_info(connection_of(session, self._records), self._records, found.id)
            if index is not None:
                return found._replace(size=index.dimensions * ITEM_BYTES)
        return found

    def _item(self, id: Key, value: object, metadata: Metadata | None, store: bool) -> Item:
        text = self._keys.to_text(id)
        content = checked_content(value)
        described = None if metadata is None else dump_metadata(metadata)
        kind: Kind = "text" if isinstance(content, str) else "binary"
        return Item(text, content, (self.content_hash(content), kind), described, bool(store))

    def _vector_row(self, entry: tuple[Any, ...]) -> dict[str, Any]:
        id, vector, metadata, content = (*unpacked(entry, 2, 4), None, None)[:4]
        text = self._keys.to_text(id)
        if content is not None and not isinstance(checked_content(content), str):
            raise InvalidItemError("the content of a vector from elsewhere must be a str")
        return {
            "id": text,
            # A copy: a generator may hand out one piece of memory again and again.
            "embedding": as_vector(vector, label=f"vector of {text!r}").copy(),
            "content": content,
            "content_blob": None,
            "content_hash": None if content is None else self.content_hash(content),
            "metadata": None if metadata is None else dump_metadata(metadata),
        }

    def _embed_batches(
        self,
        entries: Iterable[tuple[Any, ...]],
        store: bool,
        batch_size: int,
        force: bool,
    ) -> None:
        check_batch_size(batch_size)
        own = getattr(self._read_model(), "batch_size", None)
        items = (self._item(id, value, metadata, store) for id, value, metadata in entries)
        for batch in batches(items, min(batch_size, own or batch_size)):
            self._embed(batch, {}, force=force)

    def _embed(self, given: list[Item], vectors: dict[ContentKey, Float32], *, force: bool) -> None:
        plan = self._planned(given, vectors, force=force)
        if plan._new or plan._written:
            plan.embed(len(given))
            self._write(plan)

    def _planned(
        self, given: list[Item], vectors: dict[ContentKey, Float32], *, force: bool
    ) -> Plan[K]:
        first, *later = lists = fold(given)
        with self._session() as session:
            found = self._find(session)
            if found is None:
                self._refuse_if_deleted()
            model = self._model_of(found)
            for example in {item.key[1]: item.content for item in given}.values():
                check_content(model, example)
            todo = self._resolve(session, found, model, first, vectors, force)
        # What comes later cannot rely on a row that is about to be replaced.
        missing = {item.key: item.content for item in todo.missing}
        missing |= {i.key: i.content for items in later for i in items if i.key not in vectors}
        written = {row["id"] for row in todo.rows + todo.changes}
        return Plan(
            collection=self._name,
            model_id=self._model_id_of(found),
            _model=model,
            _vectors_of=self._vectors,
            _keys=self._keys,
            _force=force,
            _lists=lists,
            _missing=missing,
            _vectors=todo.vectors,
            _new={item.id for items in lists for item in items if item.key in missing},
            _written=written.union(item.id for items in later for item in items),
        )

    def _write(self, plan: Plan[K]) -> None:
        """Read again and write; once more if another writer changed the rows in between."""
        missing: list[Item] = []
        while True:
            if missing:
                made = self._vectors(plan._model, [item.content for item in missing])
                plan._vectors |= zip((item.key for item in missing), made, strict=True)
            with self._session(write=True) as session:
                found = self._find_or_create(session, plan.model_id)
                if found.model_id != plan.model_id and (
                    registry.canonical_id(found.model_id) != registry.canonical_id(plan.model_id)
                ):
                    raise ModelMismatchError(self._name, found.model_id, plan.model_id)
                for position, items in enumerate(plan._lists):
                    if position:
                        found = self._existing(session)
                    todo = self._resolve(
                        session, found, plan._model, items, plan._vectors, plan._force
                    )
                    if missing := todo.missing:
                        break
                    upsert.write(session, self._records, found, todo)
                else:
                    return

    def _resolve(
        self,
        session: Session,
        found: Found | None,
        model: SupportsEmbedding,
        items: list[Item],
        vectors: dict[ContentKey, Float32],
        force: bool,
    ) -> Resolution:
        return ingest.resolve(
            session, self._records, found, items, vectors, kinds(model), force=force
        )
