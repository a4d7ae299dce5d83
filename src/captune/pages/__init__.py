"""Run folders as one self-contained HTML page: no network, no external script."""
