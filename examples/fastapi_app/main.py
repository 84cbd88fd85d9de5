"""Notes, found by their meaning: an API. Start reading at `write`."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import embeddings
from embeddings import (
    EmbeddingsError,
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
    ModelCollection,
    ModelError,
    TooLongError,
)

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


# The vectors of the notes, in the same database. Triggers note which notes change, whoever changes
# them; a note that is deleted takes its vector along.
notes = ModelCollection(
    Note,
    text=[Note.title, Note.text],
    name="notes",
    model_id=os.environ.get("EMBEDDINGS_MODEL", "local"),
)

STORABLE = r"^[^\x00]*$"  # without a NUL, which PostgreSQL keeps in no text


class NewNote(BaseModel):
    """What a client sends."""

    title: str = Field(min_length=1, max_length=200, pattern=STORABLE)
    text: str = Field(min_length=1, pattern=STORABLE)


class SavedNote(BaseModel):
    """What a client gets."""

    id: int
    title: str


class FoundNote(SavedNote):
    """What a search gives."""

    score: float


async def create_tables(engine: AsyncEngine) -> None:
    """Create the tables and triggers, or bring them up to date; several processes may at once."""
    async with engine.begin() as connection:
        await connection.run_sync(embeddings.migrate)
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(notes.install)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Do so before the first request."""
    await create_tables(engine)
    yield
    await engine.dispose()


app = FastAPI(title="Notes", lifespan=lifespan)


@app.exception_handler(InvalidQueryError)
@app.exception_handler(InvalidItemError)
@app.exception_handler(TooLongError)
async def refuse(_: Request, error: EmbeddingsError) -> JSONResponse:
    """Tell the client why it cannot be searched for."""
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(ModelError)
@app.exception_handler(InvalidVectorError)
async def put_off(_: Request, error: EmbeddingsError) -> JSONResponse:
    """Tell the client to come back later, and the log what the model's service did."""
    logging.error("The embedding model failed", exc_info=error)
    return JSONResponse({"detail": "The search is not available at the moment."}, 503)


async def get_session() -> AsyncIterator[AsyncSession]:
    """Give each request a session. What was not committed at its end is rolled back."""
    async with sessions() as session:
        yield session


RequestSession = Annotated[AsyncSession, Depends(get_session)]
Page = Annotated[int, Query(ge=1, le=100)]
Question = Annotated[str, Query(min_length=1)]
Id = Annotated[int, Path(le=2**31 - 1)]


async def save(session: AsyncSession, *changed: Note) -> None:
    """Commit notes, and embed them; no connection is held while the model runs.

    What cannot be embedded now, and what bulk statements or other programs change, is embedded by
    the worker: `embeddings --database ... --from main:notes refresh --forever`.
    """
    session.add_all(changed)
    try:
        await session.flush()  # now each has an id
    except IntegrityError:
        raise HTTPException(409, "There is a note of one of these titles already.") from None
    # Here, and not in the dependency: that ends after the client was told of success.
    await session.commit()
    try:
        await notes.arefresh(session.bind, keys=[note.id for note in changed])
    except Exception:  # whatever it is: the client's notes are saved
        logging.exception("The notes are saved, and found once they are embedded")


@app.post("/notes", status_code=201)
async def write(new: NewNote, session: RequestSession) -> SavedNote:
    """Save a note."""
    note = Note(title=new.title, text=new.text)
    await save(session, note)
    return SavedNote(id=note.id, title=note.title)


@app.put("/notes/{id}")
async def edit(id: Id, new: NewNote, session: RequestSession) -> SavedNote:
    """Change a note."""
    note = await get(session, id)
    note.title, note.text = new.title, new.text
    await save(session, note)
    return SavedNote(id=note.id, title=note.title)


@app.post("/notes/import", status_code=201)
async def import_notes(news: list[NewNote], session: RequestSession) -> int:
    """Save many notes: all of them, or if one of them is refused, none."""
    await save(session, *(Note(title=new.title, text=new.text) for new in news))
    return len(news)


@app.get("/notes/search")
async def search(q: Question, session: RequestSession, page: Page = 1) -> list[FoundNote]:
    """Return a page of the notes nearest in meaning, best first."""
    found = await notes.anearest(
        session, q, number=RESULTS_ON_A_PAGE, offset=(page - 1) * RESULTS_ON_A_PAGE
    )
    return [FoundNote(id=note.id, title=note.title, score=score) for note, score in found]


@app.get("/notes/{id}/similar")
async def similar(id: Id, session: RequestSession) -> list[FoundNote]:
    """Return more notes like this one."""
    found = await notes.arelated(session, await get(session, id), number=3)
    return [FoundNote(id=note.id, title=note.title, score=score) for note, score in found]


@app.delete("/notes/{id}", status_code=204)
async def remove(id: Id, session: RequestSession) -> None:
    """Delete a note, and its vector with it."""
    if await session.scalar(delete(Note).where(Note.id == id).returning(Note.id)) is None:
        raise HTTPException(404, "There is no such note.")
    await session.commit()


async def get(session: AsyncSession, id: int) -> Note:
    """Return a note."""
    note = await session.get(Note, id)
    if note is None:
        raise HTTPException(404, "There is no such note.")
    return note
