"""What is trained and how: parts, LoRA, packing, callbacks. The trainer is Transformers' own."""
