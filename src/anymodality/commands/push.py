"""`anymodality push`."""

from typing import Annotated

from anymodality.commands._base import print_json, tell
from anymodality.commands._options import Import, Json, argument, flag, option


def push(
    folder: Annotated[str, argument("DIR", "Folder of model and processor.")],
    repo_id: Annotated[str, argument("ORG/NAME", "Repository on the Hub; created if missing.")],
    dry_run: Annotated[bool, flag("--dry-run", "Dry run: everything except the upload.")] = False,
    private: Annotated[bool, flag("--private", "Make a new repository private.")] = False,
    revision: Annotated[str | None, option("BRANCH", "Branch to push to; default: main.")] = None,
    create_pr: Annotated[bool, flag("--create-pr", "Open a pull request instead.")] = False,
    message: Annotated[str | None, option("TEXT", "Commit message.")] = None,
    token: Annotated[
        str | None,
        option("TOKEN", "Token of the Hub; default: that of `hf auth login`.", envvar="HF_TOKEN", show_envvar=True),
    ] = None,
    json: Json = False,
    module: Import = None,
) -> None:
    """Publish a checkpoint: model, processor and card in one commit.

    First, a new process loads the files and compares logits on a dummy item of
    every modality; if anything is missing, nothing is uploaded. If there is no
    card, one is written (see `anymodality card`). Logs are not uploaded.

    Example:
      anymodality push my-model my-name/my-model --dry-run
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
    print_json(done.to_dict()) if json else tell(done)
