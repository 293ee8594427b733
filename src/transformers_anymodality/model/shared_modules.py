"""One submodule in several aligners: its weights are trained and saved once."""

from __future__ import annotations

from torch import nn


def share(module: str, borrower: tuple[str, nn.Module], lender: tuple[str, nn.Module]) -> list[str]:
    """Gives an aligner the very submodule of another, under PEFT to each of its copies.

    Args:
        module: the submodule's name, the same in both.
        borrower, lender: modality and aligner.

    Returns:
        The names of its weights.

    Raises:
        ValueError: the two have other shapes.
    """
    (name, own), (other, lent) = borrower, lender
    weights = {key: tensor.shape for key, tensor in lent.get_submodule(module).state_dict().items()}
    if weights != {key: tensor.shape for key, tensor in own.get_submodule(module).state_dict().items()}:
        raise ValueError(
            f"The aligner of {name!r} shares `{module}` with that of {other!r}, but they have other shapes. Give both the "
            "same sizes, or share nothing."
        )
    lenders = trained_copies(lent)
    for adapter, copied in trained_copies(own).items():
        copied.set_submodule(module, lenders.get(adapter, lenders[None]).get_submodule(module))
    return list(weights)


def trained_copies(aligner: nn.Module) -> dict[str | None, nn.Module]:
    """The aligner itself (None) and, where PEFT trains it, the copy of each adapter."""
    children = dict(aligner.named_children())
    if "modules_to_save" not in children:
        return {None: aligner}
    return {None: children["original_module"], **dict(children["modules_to_save"].named_children())}
