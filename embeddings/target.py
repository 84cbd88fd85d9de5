"""Which collection is meant: its row, its model, and how its database is reached."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from sqlalchemy import Executable, bindparam, func, literal, select, true, update

from . import errors
from .dialects import SUPPORTED, insert_into
from .errors import BindingError, ModelMismatchError, ModelRequiredError
from .keys import K
from .models import registry
from .models.base import embed_checked
from .sql import Found, dialect_of, index_settings, run, run_kept, stored_size
from .tables.ours import explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Result
    from sqlalchemy.orm import Session

    from .keys import Key, Keys
    from .models.base import Content, SupportsEmbedding
    from .sessions.binding import Binding
    from .tables.records import Records
    from .vectors import Float32


class Target(Generic[K]):
    """What every operation on a collection starts from.

    Of the row nothing is remembered: each operation reads it in the transaction in which it acts,
    or, if it is a search, has a guess confirmed by the statement that answers.
    """

    DoesNotExist: ClassVar[type[errors.DoesNotExist]] = errors.DoesNotExist

    def __init__(
        self,
        name: str,
        binding: Binding,
        *,
        model: SupportsEmbedding | None,
        model_id: str | None,
        create: bool,
        keys: Keys[K],
        records: Records,
    ) -> None:
        self._name = name
        self._binding = binding
        self._model = model if model_id is None else None
        self._model_id = model_id
        self._create = create
        self._keys = keys
        self._records = records
        self._renamed: list[tuple[str, int]] = []  # former names, with the id of the row
        self._deleted = False

    @contextmanager
    def _session(self, *, write: bool = False) -> Iterator[Session]:
        with self._binding.session(write=write) as session:
            if (name := dialect_of(session, self._records).name) not in SUPPORTED:
                raise BindingError(f"{name} is not supported; use {' or '.join(SUPPORTED)}")
            with explained(session, self._records):
                yield session

    def _row_named(self, session: Session, name: str) -> Found | None:
        row = run_kept(session, self._records, _by_name(self._records), {"called": name}).first()
        return None if row is None else Found(*row)  # type: ignore[call-arg]

    def _run_by_name(
        self, session: Session, statement: Executable, name: str
    ) -> Result[*tuple[Any, ...]]:
        return run(session, self._records, statement, {"called": name})

    def _find(self, session: Session) -> Found | None:
        """Return the collection's row, or None where it may be created.

        Raises:
            DoesNotExist: There is none, and the collection is not to be created.
            ModelMismatchError: The row is of another model than was given.
        """
        found = self._row_named(session, self._name)
        if self._renamed and (found is None or found.id != self._renamed[-1][1]):
            found = self._before_renaming(session) or found
        if found is None and not self._create:
            raise self._does_not_exist()
        if found is not None:
            self._model_id_of(found)
        return found

    def _before_renaming(self, session: Session) -> Found | None:
        """Return the row under a former name, and take that name again: it was rolled back."""
        for position, (name, id) in reversed(list(enumerate(self._renamed))):
            found = self._row_named(session, name)
            if found is not None and found.id == id:
                self._name = name
                del self._renamed[position:]
                return found
        return None

    def _existing(self, session: Session) -> Found:
        found = self._find(session)
        if found is None:
            raise self._does_not_exist()
        return found

    def _find_or_create(self, session: Session, model_id: str | None = None) -> Found:
        """Return the row, created if need be, with that model or the collection's own.

        On SQLite other writers are kept out until the end. On PostgreSQL they are while the
        collection is empty: the first vector settles the dimensions of all.
        """
        locks_all = dialect_of(session, self._records).name == "sqlite"
        if locks_all:
            if not self._binding.is_exclusive:
                # Takes the write lock, even where there is no such row.
                self._touch(session)
        else:
            # Keeps the collection from being deleted, and nobody else from writing.
            self._run_by_name(session, _keep(self._records), self._name)
        found = self._find(session)
        if found is None:
            self._refuse_if_deleted()
            _create(session, self._records, self._name, model_id or self._model_id_of(None))
            found = self._existing(session)
        if found.size is None and not locks_all:
            self._touch(session)
            found = self._existing(session)
        return found

    def _touch(self, session: Session) -> None:
        self._run_by_name(session, _touch(self._records), self._name)

    def _refuse_if_deleted(self) -> None:
        if self._deleted:
            raise self._does_not_exist()

    def _does_not_exist(self) -> errors.DoesNotExist:
        return self.DoesNotExist(f"Collection {self._name!r} does not exist")

    def _model_id_of(self, found: Found | None) -> str:
        given = self._given_model_id()
        if found is not None:
            if given is not None and given != found.model_id:
                # Aliases are for names: an object has the id that it has.
                canonical = registry.canonical_id(given) if self._model is None else given
                if canonical not in {found.model_id, registry.canonical_id(found.model_id)}:
                    raise ModelMismatchError(self._name, found.model_id, canonical)
            return found.model_id
        if self._model is not None:
            return self._model.model_id
        name = self._model_id or registry.default_model_name()
        if name is None:
            raise ModelRequiredError
        return registry.canonical_id(name)

    def _given_model_id(self) -> str | None:
        return self._model_id or (self._model.model_id if self._model is not None else None)

    def _check_model_id(self, model_id: str) -> None:
        """Do nothing unless the collection was given another model, or raise ModelMismatchError."""
        given = self._given_model_id()
        if given is not None and registry.canonical_id(given) != registry.canonical_id(model_id):
            raise ModelMismatchError(self._name, registry.canonical_id(given), model_id)

    def _model_of(self, found: Found | None) -> SupportsEmbedding:
        model_id = self._model_id_of(found)
        if self._model is not None:
            return registry.substituted(self._model)
        return registry.get_embedding_model(model_id)

    def _known_model(self) -> SupportsEmbedding:
        """Return the model, without a look at the database where it was given."""
        if self._model is not None:
            return registry.substituted(self._model)
        if self._model_id is not None:
            return registry.get_embedding_model(self._model_id)
        return self._read_model()

    def _read_model(self) -> SupportsEmbedding:
        with self._session() as session:
            found = self._find(session)
        return self._model_of(found)

    def _vectors(self, model: SupportsEmbedding, items: list[Content]) -> list[Float32]:
        """Return the vectors of the items: the one place where a model is called."""
        return embed_checked(model, items)

    def _text_or_none(self, id: Key | None) -> str | None:
        return None if id is None else self._keys.to_text(id)


@functools.cache
def _by_name(records: Records) -> Executable:
    columns = records.collections.c
    return select(
        columns.id, columns.name, columns.model, stored_size(records), index_settings(records)
    ).where(columns.name == bindparam("called"))


@functools.cache
def _keep(records: Records) -> Executable:
    columns = records.collections.c
    statement = select(columns.id).where(columns.name == bindparam("called"))
    return statement.with_for_update(read=True, key_share=True)


@functools.cache
def _touch(records: Records) -> Executable:
    """Return an UPDATE that changes nothing, and keeps other writers out until the end."""
    columns = records.collections.c
    return (
        update(records.collections)
        .where(columns.name == bindparam("called"))
        .values(model=columns.model)
    )


def _create(session: Session, records: Records, name: str, model_id: str) -> None:
    """Insert the collection's row, unless another writer did meanwhile."""
    collections, dialect = records.collections, dialect_of(session, records)
    row: dict[str, ColumnElement[Any]] = {"name": literal(name), "model": literal(model_id)}
    if dialect.name == "sqlite":
        row["id"] = _unused_id(records)
    run(
        session,
        records,
        insert_into(collections, dialect)
        .from_select([*row], select(*row.values()).where(true()))
        .on_conflict_do_nothing(index_elements=["name"]),
    )


def _unused_id(records: Records) -> ColumnElement[int]:
    """Return the SQL of an id above every one that embeddings carry, even orphans.

    SQLite gives the id of a deleted collection again, and a new one must inherit nothing.
    """
    collections, embeddings = records.collections, records.embeddings
    return 1 + func.max(
        func.coalesce(select(func.max(collections.c.id)).scalar_subquery(), 0),
        func.coalesce(select(func.max(embeddings.c.collection_id)).scalar_subquery(), 0),
    )
