"""The paper's claims, reproduced by command: `python -m benchmarks.evidence` (run from the root of the project)."""
