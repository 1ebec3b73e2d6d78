"""The Open Inference Protocol, version 2, over HTTP: what KServe, Triton's clients and others ask.

bytes → `tensors` (no HTTP, no model) → `inference` (no HTTP) → `tensors` → bytes; `routes` is HTTP.
"""
