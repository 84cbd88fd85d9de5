"""The column types. How each is stored is the database's own (`databases`).

On SQLite a vector is a BLOB and metadata a TEXT, as `llm` has them. On PostgreSQL the vectors are
pgvector's, and the metadata is JSONB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Float, LargeBinary, Text, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from .. import databases
from ..values import Metadata, dump_metadata, load_metadata
from ..vectors import Float32, VectorLike, as_vector, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Dialect
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.types import TypeEngine


class CosineSimilarity(FunctionElement[float]):
    """The cosine similarity of a column of vectors and a parameter of its type, in SQL."""

    inherit_cache = True
    type = Float()


@compiles(CosineSimilarity)
def _compiled(element: CosineSimilarity, compiler: SQLCompiler, **options: Any) -> str:
    database = databases.of(compiler.dialect)
    vector, other = element.clauses
    return compiler.process(database.cosine_similarity(vector, other), **options)


class Vector(TypeDecorator[Float32]):
    """A float32 array of shape (dimensions,).

    On SQLite it is a BLOB of little-endian float32, on PostgreSQL a `vector`.
    """

    impl = LargeBinary
    cache_ok = True

    class comparator_factory(TypeDecorator.Comparator[Float32]):  # noqa: N801  SQLAlchemy's name
        """What can be asked of a column of vectors in SQL."""

        def cosine_similarity(self, vector: VectorLike) -> ColumnElement[float]:
            """Return the cosine similarity to a vector, -1 to 1, as an expression.

            It is the database that computes it: on PostgreSQL. NULL where the dimensions differ.
            On SQLite, compiling it raises CompileError: there `Collection.matches` searches.

            Args:
                vector: Shape (dimensions,).

            Raises:
                InvalidVectorError: The vector is empty or not finite.
            """
            return CosineSimilarity(self.expr, literal(as_vector(vector), self.type))

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type on a database."""
        return dialect.type_descriptor(databases.of(dialect).vector_type())

    def process_bind_param(self, value: VectorLike | None, dialect: Dialect) -> Any:
        """Return the vector as the database takes it, refusing values that are not finite."""
        return None if value is None else databases.of(dialect).encode_vector(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Float32 | None:
        """Return a read-only array."""
        return None if value is None else databases.of(dialect).decode_vector(value)

    def compare_values(self, x: Any, y: Any) -> bool:
        """Return whether two vectors are equal as stored."""
        return x is y or (x is not None and y is not None and encode(x) == encode(y))


class JSONObject(TypeDecorator[Metadata]):
    """A dict of JSON; on SQLite a TEXT, on PostgreSQL a JSONB. None is SQL's NULL."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type on a database."""
        return dialect.type_descriptor(databases.of(dialect).json_type())

    def process_bind_param(self, value: Mapping[str, Any] | None, dialect: Dialect) -> str | None:
        """Return the JSON text, refusing what is not JSON."""
        if value is None:
            return None
        return databases.of(dialect).encode_json(dump_metadata(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Metadata | None:
        """Return the dict."""
        return None if value is None else load_metadata(value)


class JSONText(TypeDecorator[str]):
    """A parameter that is the JSON text of metadata already."""

    impl = Text
    cache_ok = True
    load_dialect_impl = JSONObject.load_dialect_impl

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text as the database takes it."""
        return value and databases.of(dialect).encode_json(value)


class BinaryText(TypeDecorator[str]):
    """A text that is compared by code points, as Python compares, on every database."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type on a database."""
        # Not its descriptor, which on PostgreSQL is a VARCHAR.
        return databases.of(dialect).text_type()
