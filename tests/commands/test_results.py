"""What all results begin with."""

import importlib.metadata

from attention_guidance.commands import results


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    """As where benchmarks run from the source, on a machine of others."""
    version = importlib.metadata.version

    def elsewhere(package):
        if package == "attention-guidance":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(results, "version", elsewhere)
    versions = results.header("kernel")["versions"]
    assert versions["attention-guidance"] is None
    assert versions["torch"]
