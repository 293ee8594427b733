"""`anymodality push`."""

from typing import Annotated

from anymodality.commands._base import print_json
from anymodality.commands._options import Import, Json, argument, flag, option


def push(
    folder: Annotated[str, argument("DIR", "Model and processor.")],
    repo_id: Annotated[str, argument("ORG/NAME", "Repository; made if need be.")],
    dry_run: Annotated[bool, flag("--dry-run", "Do everything but upload.")] = False,
    private: Annotated[bool, flag("--private", "Make a new repository private.")] = False,
    revision: Annotated[str | None, option("BRANCH", "Branch; default: main.")] = None,
    create_pr: Annotated[bool, flag("--create-pr", "Open a pull request instead.")] = False,
    message: Annotated[str | None, option("TEXT", "Message of the commit.")] = None,
    token: Annotated[
        str | None, option("TOKEN", "Token; default: `hf auth login`'s.", envvar="HF_TOKEN", show_envvar=True)
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
