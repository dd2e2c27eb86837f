"""Exports: adapters in the formats of other systems, merged models, quantized adapters."""
