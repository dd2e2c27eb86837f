"""LoRA adapters in memory: their weights, first values and differences."""
