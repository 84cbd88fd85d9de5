"""Articles of several tenants, found by their meaning. Start reading at `create_app`."""

import json
from pathlib import Path

import click
from flask import Flask, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Select, UniqueConstraint, select
from sqlalchemy.exc import IntegrityError
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
from embeddings.integrations.flask import Embeddings

RESULTS_ON_A_PAGE = 5
LAST_PAGE = 100


class Base(DeclarativeBase):
    """The base of the application's own tables."""


db = SQLAlchemy(model_class=Base)


class Article(Base):
    """What a tenant writes. In its table there is nothing about embeddings."""

    __tablename__ = "articles"
    __table_args__ = (UniqueConstraint("tenant", "title", name="one_title_per_tenant"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    title: Mapped[str]
    text: Mapped[str]
    published: Mapped[bool]


# The vectors of the published articles, in the same database. Triggers note which articles change,
# whoever changes them: see migrations/versions. An article that is deleted takes its vector along.
articles = ModelCollection(
    Article, text=[Article.title, Article.text], where=Article.published, name="articles"
)


def create_app(config: dict[str, object] | None = None) -> Flask:
    """Return the application. Variables such as FLASK_EMBEDDINGS_MODEL change its settings."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///articles.db"
    app.config["EMBEDDINGS_MODEL"] = "local"
    app.config.from_prefixed_env()
    app.config.update(config or {})
    db.init_app(app)
    with app.app_context():
        embeddings.configure_sqlite(db.engine)  # requests that write wait for each other
    # `flask db migrate` leaves the tables of the embeddings alone, and writes the triggers of what
    # is declared; `flask db upgrade` makes both: see migrations/versions.
    Migrate(app, db, include_object=embeddings.include_object)
    Embeddings(app, collections=[articles])

    app.add_url_rule("/", view_func=home)
    app.add_url_rule("/<tenant>/", view_func=search)
    app.add_url_rule("/<tenant>/<int(max=2147483647):id>", view_func=show)
    app.add_url_rule(
        "/<tenant>/<int(max=2147483647):id>/edit", view_func=edit, methods=["GET", "POST"]
    )
    app.add_url_rule("/<tenant>/write", view_func=write, methods=["GET", "POST"])
    app.add_url_rule("/<tenant>/import", view_func=import_articles, methods=["POST"])
    app.cli.add_command(seed)
    app.register_error_handler(InvalidQueryError, refuse)
    app.register_error_handler(InvalidItemError, refuse)
    app.register_error_handler(TooLongError, refuse)
    app.register_error_handler(ModelError, put_off)
    app.register_error_handler(InvalidVectorError, put_off)
    return app


def refuse(error: EmbeddingsError) -> ResponseReturnValue:
    """Tell the visitor why it cannot be searched for."""
    return render_template("error.html", message=str(error)), 400


def put_off(error: EmbeddingsError) -> ResponseReturnValue:
    """Tell the visitor to come back later, and the log what the model's service did."""
    current_app.logger.error("The embedding model failed", exc_info=error)
    message = "The search is not available at the moment."
    return render_template("error.html", message=message), 503


def save(*changed: Article) -> None:
    """Commit articles, and embed them; no connection is held while the model runs.

    What cannot be embedded now, and what bulk statements or other programs change, is embedded by
    the worker: `flask embeddings refresh --forever`.
    """
    db.session.add_all(changed)
    db.session.flush()
    keys = [article.id for article in changed]  # after the commit they would be read again
    db.session.commit()
    try:
        articles.refresh(db.engine, keys=keys)
    except Exception:  # whatever it is: the visitor's articles are saved
        current_app.logger.exception("The articles are saved, and found once they are embedded")


def readable(tenant: str) -> Select[Article]:
    """Return what may be found: the tenant's own articles that are published."""
    return select(Article).where(Article.tenant == tenant, Article.published)


def home() -> ResponseReturnValue:
    """Let the visitor choose a tenant. Another application would know it from the login."""
    tenants = db.session.scalars(select(Article.tenant).distinct().order_by(Article.tenant))
    return render_template("home.html", tenants=tenants.all())


def search(tenant: str) -> ResponseReturnValue:
    """Show a page of what is nearest in meaning to the question, or the newest articles."""
    question = request.args.get("q", "").strip()
    page = min(max(1, request.args.get("page", 1, type=int)), LAST_PAGE)
    offset = (page - 1) * RESULTS_ON_A_PAGE
    one_more = RESULTS_ON_A_PAGE + 1  # to tell whether there is another page
    results: list[tuple[Article, float | None]]
    if question:
        found = articles.nearest(
            db.session, question, readable(tenant), number=one_more, offset=offset
        )
        results = [(article, score) for article, score in found]
    else:
        newest = readable(tenant).order_by(Article.id.desc()).limit(one_more).offset(offset)
        results = [(article, None) for article in db.session.scalars(newest)]
    return render_template(
        "search.html",
        tenant=tenant,
        question=question,
        page=page,
        results=results[:RESULTS_ON_A_PAGE],
        has_more=len(results) > RESULTS_ON_A_PAGE and page < LAST_PAGE,
    )


def show(tenant: str, id: int) -> ResponseReturnValue:
    """Show an article, and more like this."""
    article = db.one_or_404(readable(tenant).where(Article.id == id))
    more = articles.related(db.session, article, readable(tenant), number=3)
    return render_template("article.html", tenant=tenant, article=article, more=more)


def write(tenant: str) -> ResponseReturnValue:
    """Show the form; save what it sends."""
    if request.method == "GET":
        return render_template("write.html", tenant=tenant, form={}, error=None)
    title, text = (request.form.get(field, "").strip() for field in ("title", "text"))
    if not title or not text:
        error = "An article needs a title and a text."
        return render_template("write.html", tenant=tenant, form=request.form, error=error), 400
    published = "published" in request.form
    article = Article(tenant=tenant, title=title, text=text, published=published)
    try:
        save(article)
    except IntegrityError:
        db.session.rollback()
        error = "There is an article of this title already."
        return render_template("write.html", tenant=tenant, form=request.form, error=error), 409
    if not article.published:
        return redirect(url_for("search", tenant=tenant))
    return redirect(url_for("show", tenant=tenant, id=article.id))


def edit(tenant: str, id: int) -> ResponseReturnValue:
    """Show an article in the form; save what it sends."""
    own = select(Article).where(Article.id == id, Article.tenant == tenant)
    if request.method == "GET":
        return render_template("write.html", tenant=tenant, form=db.one_or_404(own), error=None)
    title, text = (request.form.get(field, "").strip() for field in ("title", "text"))
    if not title or not text:
        error = "An article needs a title and a text."
        return render_template("write.html", tenant=tenant, form=request.form, error=error), 400
    article = db.one_or_404(own)
    article.title, article.text = title, text
    article.published = "published" in request.form
    try:
        save(article)
    except IntegrityError:
        db.session.rollback()
        error = "There is an article of this title already."
        return render_template("write.html", tenant=tenant, form=request.form, error=error), 409
    return redirect(url_for("search", tenant=tenant))


def import_articles(tenant: str) -> ResponseReturnValue:
    """Save a JSON list of articles: all of them, or if one of them is refused, none."""
    items = request.get_json()
    if not isinstance(items, list) or not all(map(is_an_article, items)):
        return {"error": "Send a list of objects with a title and a text."}, 400
    new = [
        Article(tenant=tenant, title=item["title"], text=item["text"], published=True)
        for item in items
    ]
    try:
        save(*new)
    except IntegrityError:
        db.session.rollback()  # and what triggers have noted
        return {"error": "There is an article of one of these titles already."}, 409
    return {"imported": len(items)}, 201


def is_an_article(item: object) -> bool:
    """Return whether a part of a request has what an article needs."""
    return isinstance(item, dict) and all(
        isinstance(item.get(field), str) and item[field].strip() for field in ("title", "text")
    )


@click.command("seed")
def seed() -> None:
    """Add the sample articles."""
    items = json.loads((Path(__file__).parent / "sample.json").read_text("utf-8"))
    save(*(Article(**{"published": True} | item) for item in items))
