"""Helpers of training: trainable parts, LoRA, packing, callbacks. The trainer is Transformers' own."""
