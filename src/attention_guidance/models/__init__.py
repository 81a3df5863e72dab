"""The paper's encoders that transformers lacks, registered with Auto classes."""

from attention_guidance.models.attention_only import AttentionOnlyConfig, AttentionOnlyForMaskedLM

__all__ = ["AttentionOnlyConfig", "AttentionOnlyForMaskedLM"]
