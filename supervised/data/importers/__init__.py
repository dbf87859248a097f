"""Importers: from a dataset's own published files to samples and a manifest, one module per dataset."""
