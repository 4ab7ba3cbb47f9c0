"""Prices of offers from where clouds state them: AWS, Azure, GCP and files."""
