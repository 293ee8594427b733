"""The files of this package that run for one image, from a sample to the loss.

A sample with an image file goes through the collator and the model, as in a training step; `sys.setprofile` follows it.
With fewer files, a reader finds out faster what happens to a medium. Runs offline, on a tiny model.

    .venv/bin/python benchmarks/trace.py [--calls]
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

from modeling_tests import tiny  # noqa: E402
from PIL import Image  # noqa: E402

import transformers_anymodality  # noqa: E402
from transformers_anymodality import AnyModalityDataCollator, set_trainable  # noqa: E402


PACKAGE = Path(transformers_anymodality.__file__).parent


def traced(function: Callable[[], Any]) -> tuple[Any, dict[str, dict[str, int]]]:
    """The function's result, and the calls in our files: file -> function -> times, both in order of entry."""
    calls: dict[str, dict[str, int]] = {}

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            file = str(Path(frame.f_code.co_filename).relative_to(PACKAGE))
            functions = calls.setdefault(file, {})
            functions[frame.f_code.co_qualname] = functions.get(frame.f_code.co_qualname, 0) + 1

    sys.setprofile(profile)
    try:
        return function(), calls
    finally:
        sys.setprofile(None)


def way_of_an_image() -> dict[str, dict[str, int]]:
    """The calls in our files in one training step's forward over a sample with an image, from the collator to the loss."""
    model, processor = tiny.composite("llama", tiny.modalities("image"))
    set_trainable(model, "aligners", verbose=False)
    model.train()
    collator = AnyModalityDataCollator(processor)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.png")
        Image.fromarray(tiny.medium("image")).save(path)
        question = [{"type": "image", "path": str(path)}, {"type": "text", "text": "what is this ?"}]
        sample = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "red"}]}

        def step():
            return model(**collator([sample])).loss

        step()  # so that imports and caching on first use do not count
        loss, calls = traced(step)
    assert loss.isfinite()
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", help="List the functions called in each file")
    options = parser.parse_args()
    calls = way_of_an_image()
    for number, (file, functions) in enumerate(calls.items(), 1):
        print(f"{number:>3}  {file}")
        if options.calls:
            for name, times in functions.items():
                print(f"       {times:>3}  {name}")
    print(f"{len(calls)} files, {sum(sum(functions.values()) for functions in calls.values())} calls")


if __name__ == "__main__":
    main()
