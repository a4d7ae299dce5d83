"""Which map of a captioner is faithful: images, measures, pointing, sanity checks, leaderboard."""
