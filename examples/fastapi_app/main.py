"""Notes, found by their meaning: an API. Start reading at `write`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import Subquery, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import embeddings
from embeddings import AsyncCollection

MODEL = os.environ.get("EMBEDDINGS_MODEL", "local")
RESULTS_ON_A_PAGE = 5

engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///notes.db"))
embeddings.configure_sqlite(engine)  # requests that write wait for each other
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The base of the application's own tables."""


class Note(Base):
    """A note. In its table there is nothing about embeddings."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(unique=True)
    text: Mapped[str]


class NewNote(BaseModel):
    """What a client sends."""

    title: str = Field(min_length=1, max_length=200)
    text: str = Field(min_length=1)


class SavedNote(BaseModel):
    """What a client gets."""

    id: int
    title: str


class FoundNote(SavedNote):
    """What a search gives."""

    score: float


async def create_tables(engine: AsyncEngine) -> None:
    """Create the tables, or bring them up to date; several processes may do so at once."""
    async with engine.begin() as connection:
        await connection.run_sync(embeddings.migrate)
        await connection.run_sync(Base.metadata.create_all)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Do so before the first request."""
    await create_tables(engine)
    yield
    await engine.dispose()


app = FastAPI(title="Notes", lifespan=lifespan)


async def get_session() -> AsyncIterator[AsyncSession]:
    """Give each request a session. What was not committed at its end is rolled back."""
    async with sessions() as session:
        yield session


RequestSession = Annotated[AsyncSession, Depends(get_session)]


def get_vectors(session: RequestSession) -> AsyncCollection[int]:
    """Give each request the vectors of the notes, in its session and so in its transaction."""
    return AsyncCollection("notes", session, key=Note.id, model_id=MODEL)


Vectors = Annotated[AsyncCollection[int], Depends(get_vectors)]
Page = Annotated[int, Query(ge=1, le=100)]
Question = Annotated[str, Query(min_length=1)]
Id = Annotated[int, Path(le=2**31 - 1)]


@app.exception_handler(embeddings.InvalidItemError)
async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Say what is wrong with a text that no model takes or no database stores."""
    return JSONResponse({"detail": str(error)}, 422)


@app.post("/notes", status_code=201)
async def write(new: NewNote, session: RequestSession, vectors: Vectors) -> SavedNote:
    """Save a note and its vector, or neither."""
    # The model first, which may be slow: no connection is held meanwhile.
    prepared = await vectors.prepare(f"{new.title}\n\n{new.text}")
    note = Note(title=new.title, text=new.text)
    session.add(note)
    try:
        await session.flush()  # now it has an id
    except IntegrityError:
        raise HTTPException(409, "There is a note of this title already.") from None
    await vectors.embed(note.id, prepared)
    # Here, and not in the dependency: that ends after the client was told of success.
    await session.commit()
    return SavedNote(id=note.id, title=note.title)


@app.put("/notes/{id}")
async def edit(id: Id, new: NewNote, session: RequestSession, vectors: Vectors) -> SavedNote:
    """Change a note and its vector, or neither."""
    prepared = await vectors.prepare(f"{new.title}\n\n{new.text}")
    note = await session.get(Note, id)
    if note is None:
        raise HTTPException(404, "There is no such note.")
    note.title, note.text = new.title, new.text
    try:
        await vectors.embed(note.id, prepared)
    except IntegrityError:
        raise HTTPException(409, "There is a note of this title already.") from None
    await session.commit()
    return SavedNote(id=note.id, title=note.title)


@app.post("/notes/import", status_code=201)
async def import_notes(news: list[NewNote], session: RequestSession, vectors: Vectors) -> int:
    """Save many notes: all of them, or if one of them is refused, none."""
    prepared = [await vectors.prepare(f"{new.title}\n\n{new.text}") for new in news]
    for new, content in zip(news, prepared, strict=True):
        note = Note(title=new.title, text=new.text)
        session.add(note)
        try:
            await session.flush()
        except IntegrityError:
            # Those before it are in the transaction, and so are their vectors. Both go.
            raise HTTPException(409, f"There is a note {new.title!r} already.") from None
        await vectors.embed(note.id, content)
    await session.commit()
    return len(news)


@app.get("/notes/search")
async def search(
    q: Question, session: RequestSession, vectors: Vectors, page: Page = 1
) -> list[FoundNote]:
    """Return a page of the notes nearest in meaning, best first."""
    found = await vectors.matches(
        q, number=RESULTS_ON_A_PAGE, offset=(page - 1) * RESULTS_ON_A_PAGE
    )
    return await notes_of(session, found)


@app.get("/notes/{id}/similar")
async def similar(id: Id, session: RequestSession, vectors: Vectors) -> list[FoundNote]:
    """Return more notes like this one."""
    try:
        found = await vectors.matches_by_id(id, number=3)
    except embeddings.DoesNotExist:
        raise HTTPException(404, "There is no such note.") from None
    return await notes_of(session, found)


@app.delete("/notes/{id}", status_code=204)
async def remove(id: Id, session: RequestSession, vectors: Vectors) -> None:
    """Delete a note and its vector."""
    if await session.scalar(delete(Note).where(Note.id == id).returning(Note.id)) is None:
        raise HTTPException(404, "There is no such note.")
    await vectors.delete_items([id])
    await session.commit()


async def notes_of(session: AsyncSession, found: Subquery) -> list[FoundNote]:
    """Return the notes that a search found, in its order."""
    statement = (
        select(Note, found.c.score)
        .join(found, found.c.id == Note.id)
        .order_by(found.c.score.desc(), Note.id)
    )
    return [
        FoundNote(id=note.id, title=note.title, score=score)
        for note, score in await session.execute(statement)
    ]
