"""The report page: samples in a browser, and its templates."""
