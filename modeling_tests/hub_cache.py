"""Repositories of the Hub, as if they had been downloaded."""

from pathlib import Path


def publish(cache: Path, name: str, *objects) -> None:
    """Puts a repository into a Hub cache, as if it had been downloaded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for thing in objects:
        thing.save_pretrained(repository / "snapshots" / commit)
