"""What the site takes from elsewhere in the repository: pages of its root, files that pages link to, and the commands."""

import os
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from anymodality.cli import app


ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
COMMANDS = "commands.md"
SOURCE = "source"  # folder of the site that holds files of the repository
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, COMMANDS, content=commands()))
    pages = [file for file in files if file.is_documentation_page()]
    linked = {path for page in pages for path in linked_files(page.src_uri, page.content_string)}
    for path in sorted(linked):
        files.append(File.generated(config, f"{SOURCE}/{path}.txt", content=text_of(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository lead to their copies; all others stay for MkDocs to check."""
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        path = of_repository(here, link[1])
        return f"]({os.path.relpath(f'{SOURCE}/{path}.txt', Path(here).parent)})" if path else link[0]

    return LINK.sub(moved, home(here, markdown))


def home(page: str, markdown: str) -> str:
    """A page of the root links to `docs/x.md`, which is `x.md` here."""
    return markdown.replace("](docs/", "](") if page in PAGES else markdown


def linked_files(page: str, markdown: str) -> list[str]:
    found = (of_repository(page, link[1]) for link in LINK.finditer(home(page, markdown)))
    return [path for path in found if path]


def of_repository(page: str, link: str) -> str | None:
    """The path in the repository of what a page links to, where that is not a page of the site."""
    folder = ROOT if page in PAGES else (ROOT / "docs" / page).parent
    path = Path(os.path.normpath(folder / link))
    if not path.exists() or path.is_relative_to(ROOT / "docs") or path.name in PAGES or not path.is_relative_to(ROOT):
        return None
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    if path.is_dir():
        return (
            "\n".join(sorted(child.name for child in path.iterdir() if not child.name.startswith((".", "_")))) + "\n"
        )
    return path.read_text(encoding="utf-8")


def commands() -> str:
    """The help of each command, as it prints it."""
    rows = [f"# Commands\n\n```text\n{help_of(typer.main.get_command(app), 'anymodality')}\n```\n"]
    for name, command in listed(typer.main.get_command(app), "anymodality"):
        rows.append(f"## {name}\n\n```text\n{help_of(command, name)}\n```\n")
    return "\n".join(rows)


def listed(group: Any, name: str) -> list[tuple[str, Any]]:
    found = []
    for word, command in group.commands.items():
        inner = listed(command, f"{name} {word}") if hasattr(command, "commands") else []
        found += inner or [(f"{name} {word}", command)]
    return found


def help_of(command: Any, name: str) -> str:
    context = typer.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    return command.get_help(context).replace("\b", "").strip()
