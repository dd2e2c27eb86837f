"""Training of LoRA adapters: one, or several on one base together."""
