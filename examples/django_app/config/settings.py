"""The settings. Those about embeddings are the app in INSTALLED_APPS, and EMBEDDINGS."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "for development only")
DEBUG = "SECRET_KEY" not in os.environ
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "").split()

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "embeddings.integrations.django",
    "helpdesk",
]

# The model for new collections: one that runs here, or "3-small" with OPENAI_API_KEY.
EMBEDDINGS = {
    "MODEL": os.environ.get("EMBEDDINGS_MODEL", "local"),
    "OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY"),
}

SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": BASE_DIR / "helpdesk.db",
    "OPTIONS": {
        # Those who read and one who writes do not wait for each other.
        "init_command": "PRAGMA journal_mode = WAL",
        # A transaction that reads first and writes later waits for others that write.
        "transaction_mode": "IMMEDIATE",
        "timeout": 60,  # seconds
    },
}
POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": os.environ.get("PGDATABASE"),  # PGHOST, PGUSER and so on are for the driver
}
DATABASES = {"default": POSTGRESQL if POSTGRESQL["NAME"] else SQLITE}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "helpdesk.middleware.EmbeddingErrors",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "config.urls"
STATIC_URL = "static/"
USE_TZ = True
