"""`anymodality push`."""

from __future__ import annotations

from typing import Annotated

import typer

from anymodality.commands._base import Import, Json, print_json


def push(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Model and processor.", show_default=False)],
    repo_id: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Repository; made if need be.", show_default=False)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but upload.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Branch; default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="Message of the commit.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="HF_TOKEN", show_envvar=True, help="Token; default: that of `hf auth login`.")
    ] = None,
    json: Json = False,
    module: Import = None,
) -> None:
    """Publish a checkpoint: model, processor and card in one commit.

    \b
      anymodality push my-anymal org/anymal --dry-run
      anymodality push my-anymal org/anymal --private

    First a process that does not import the package loads what is to be uploaded, and compares logits on a dummy item of
    every modality: if anything is missing, nothing is uploaded. A card is made where there is none; write your own by
    `anymodality card`. Optimizer states, checkpoints within and logs stay here. A light checkpoint uploads what was
    trained, and refers to the rest.
    """
    from transformers_anymodality.hub.publish import publish

    done = publish(
        folder,
        repo_id,
        module=module,
        dry_run=dry_run,
        private=private or None,
        token=token,
        revision=revision,
        create_pr=create_pr,
        commit_message=message,
    )
    print_json(done.to_dict()) if json else print(done)
