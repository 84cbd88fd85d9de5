"""Articles of several tenants, found by their meaning. Start reading at `create_app`."""

import json
from pathlib import Path

import click
from flask import Flask, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Select, UniqueConstraint, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import embeddings
from embeddings import Collection, Prepared
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


# The vectors, under the ids of the articles, in the same database and the same transaction.
vectors = Collection("articles", db.session, key=Article.id)


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
    # `flask db migrate` leaves the tables of the embeddings alone; `flask db upgrade` makes them:
    # see migrations/versions.
    Migrate(app, db, include_object=embeddings.include_object)
    Embeddings(app)

    app.add_url_rule("/", view_func=home)
    app.add_url_rule("/<tenant>/", view_func=search)
    app.add_url_rule("/<tenant>/<int(max=2147483647):id>", view_func=show)
    app.add_url_rule(
        "/<tenant>/<int(max=2147483647):id>/edit", view_func=edit, methods=["GET", "POST"]
    )
    app.add_url_rule("/<tenant>/write", view_func=write, methods=["GET", "POST"])
    app.add_url_rule("/<tenant>/import", view_func=import_articles, methods=["POST"])
    app.cli.add_command(seed)
    return app


def prepare(title: str, text: str) -> Prepared:
    """Call the model, before there is a transaction: no connection is held meanwhile."""
    return vectors.prepare(f"{title}\n\n{text}")


def add_article(
    tenant: str, title: str, text: str, prepared: Prepared, *, published: bool = True
) -> Article:
    """Add an article and its vector to the transaction that is open."""
    article = Article(tenant=tenant, title=title, text=text, published=published)
    db.session.add(article)
    db.session.flush()  # now it has an id
    vectors.embed(article.id, prepared)
    return article


def readable(tenant: str) -> Select[int]:
    """Return the ids of what may be found: the tenant's own articles that are published."""
    return select(Article.id).where(Article.tenant == tenant, Article.published)


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
    if question:
        found = vectors.matches(question, number=one_more, offset=offset, among=readable(tenant))
        statement = (
            select(Article, found.c.score)
            .join(found, found.c.id == Article.id)
            .order_by(found.c.score.desc(), Article.id)
        )
        results = [(article, score) for article, score in db.session.execute(statement)]
    else:
        newest = (
            select(Article)
            .where(Article.id.in_(readable(tenant)))
            .order_by(Article.id.desc())
            .limit(one_more)
            .offset(offset)
        )
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
    article = db.one_or_404(
        select(Article).where(Article.id == id, Article.id.in_(readable(tenant)))
    )
    found = vectors.matches_by_id(article.id, number=3, among=readable(tenant))
    statement = (
        select(Article)
        .join(found, found.c.id == Article.id)
        .order_by(found.c.score.desc(), Article.id)
    )
    more = db.session.scalars(statement).all()
    return render_template("article.html", tenant=tenant, article=article, more=more)


def write(tenant: str) -> ResponseReturnValue:
    """Show the form; save what it sends."""
    if request.method == "GET":
        return render_template("write.html", tenant=tenant, form={}, error=None)
    title, text = (request.form.get(field, "").strip() for field in ("title", "text"))
    if not title or not text:
        error = "An article needs a title and a text."
        return render_template("write.html", tenant=tenant, form=request.form, error=error), 400
    try:
        published = "published" in request.form
        article = add_article(tenant, title, text, prepare(title, text), published=published)
        db.session.commit()  # the article and its vector, or neither
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
    prepared = vectors.prepare(f"{title}\n\n{text}")  # the model runs before anything is changed
    article = db.one_or_404(own)
    article.title, article.text = title, text
    article.published = "published" in request.form
    try:
        vectors.embed(article.id, prepared)
        db.session.commit()
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
    try:
        texts = [(item["title"], item["text"]) for item in items]
        for item, prepared in zip(items, [prepare(*text) for text in texts], strict=True):
            add_article(tenant, item["title"], item["text"], prepared)
        db.session.commit()
    except IntegrityError:
        # Those before it are in the transaction, and so are their vectors. Both go.
        db.session.rollback()
        return {"error": f"There is an article called {item['title']!r} already."}, 409
    return {"imported": len(items)}, 201


def is_an_article(item: object) -> bool:
    """Return whether a part of a request has what an article needs."""
    return isinstance(item, dict) and all(
        isinstance(item.get(field), str) and item[field].strip() for field in ("title", "text")
    )


@click.command("seed")
def seed() -> None:
    """Add the sample articles."""
    for item in json.loads((Path(__file__).parent / "sample.json").read_text("utf-8")):
        add_article(**item, prepared=prepare(item["title"], item["text"]))
    db.session.commit()
