"""Encoders of the paper that transformers does not have; importing this makes them known to its Auto classes."""

from attention_guidance.models.attention_only import AttentionOnlyConfig, AttentionOnlyForMaskedLM

__all__ = ["AttentionOnlyConfig", "AttentionOnlyForMaskedLM"]
