"""Which metadata store a home uses: the PostgreSQL database that its config.json names, else SQLite in the home."""

import json
from pathlib import Path

from kmsfs.errors import MetadataUnavailableError
from kmsfs.keystore.home import config_path, metadata_path, region_names
from kmsfs.keystore.metadata_db import SqliteMetadataStore
from kmsfs.keystore.metadata_pg import PostgresMetadataStore
from kmsfs.keystore.ports import MetadataStore


def open_store(home: Path) -> MetadataStore:
    """Return the home's store; connects to nothing yet."""
    url = _metadata_url(home)
    return SqliteMetadataStore(metadata_path(home)) if url is None else PostgresMetadataStore(url)


def create_store(home: Path) -> None:
    """Make the home's store where there is none; one that configured regions need is never made anew."""
    url, path, fresh = _metadata_url(home), metadata_path(home), not region_names(home)
    if url is not None:
        if fresh:
            PostgresMetadataStore(url).create()
    elif not path.exists():
        if not fresh:
            raise MetadataUnavailableError(
                f"metadata database {path} is missing", hint="restore it from a backup"
            )
        SqliteMetadataStore.create(path)


def _metadata_url(home: Path) -> str | None:
    path = config_path(home)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise MetadataUnavailableError(f"{path} cannot be read", hint="it must be a JSON object") from error
    url = content.get("metadata_url") if isinstance(content, dict) else 0
    if url is not None and not isinstance(url, str):
        raise MetadataUnavailableError(
            f"{path} is not understood", hint='write {"metadata_url": "..."}, or remove it'
        )
    return url
