"""Each shell line of README and documentation, read by the parser of the command that it starts."""

import re
import tomllib

import pytest
import typer
from torch.distributed.run import get_args_parser

from anymodality import cli
from modeling_tests.docs import ROOT, lines


# Those that need what may not be installed, toy data or other processes; the tests of these run most of them.
ELSEWHERE = ("accelerate", "curl", "llama-server", "lmms-eval", "make", "python", "source", "vllm")


def parse(words: list[str]) -> None:
    """By `anymodality` itself, which raises an error for what it does not know."""
    command, name = typer.main.get_command(cli.app), "anymodality"
    while hasattr(command, "resolve_command"):  # a group of commands
        name, command, words = command.resolve_command(typer.Context(command), list(words))
    command.make_context(name, list(words))


def test_every_line_is_read_by_a_test():
    programs = {row[0] for row in lines()}
    assert programs - {*ELSEWHERE} == {"anymodality", "pip", "torchrun"}


@pytest.mark.parametrize("words", lines("anymodality"), ids=" ".join)
def test_our_command_knows_its_lines(words):
    parse(words[1:])


def test_a_line_that_our_command_does_not_know_is_found():
    with pytest.raises(Exception, match="[Nn]o such option"):
        parse(["export", "gguf", "my-llava", "--unknown", "x"])


def test_torchrun_knows_its_lines():
    for words in lines("torchrun"):
        started = get_args_parser().parse_args(words[1:])
        if started.module:
            assert started.training_script == "anymodality.cli"
            parse(started.training_script_args)


def test_extras_that_are_installed_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = [re.findall(r"transformers-anymodality\[(.*)\]", word) for words in lines("pip") for word in words]
    assert sum(named, []) and {extra for found in named for one in found for extra in one.split(",")} <= {*extras}
