"""How a converted model gives what the original was recorded to give: a module per conversion, found by its name.

Each has `replay(model, recording, ...)`, which yields names and tensors; those that are not recorded are passed over.
"""
