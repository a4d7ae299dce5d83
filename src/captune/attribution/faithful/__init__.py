"""Which map of a captioner is faithful: examples, measures, the layer_head, the results."""
