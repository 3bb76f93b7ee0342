"""The site's part in secure aggregation."""
